"""SMBIOS tables in the words of KD's ``!sysinfo smbios``."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator

from volatility3_kdump.dump.smbios import MachineInformation
from volatility3_kdump.dump.smbios_details import SmbiosField, SmbiosStructure

_NO_HANDLE, _NO_ERROR = 0xFFFF, 0xFFFE
_UNKNOWN_SIZE, _EXTENDED = 0xFFFF, 0x7FFF
_COLUMN = 30


def field_text(field: SmbiosField) -> str:
    """A field's value as the debugger writes it; empty for a string that the firmware leaves out."""
    value = field.value
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes_le=value))
    return _number(field, value)


def _number(field: SmbiosField, value: int) -> str:
    kind = field.kind
    if kind.startswith("enum"):
        return f"{value:02x}h - {field.named or 'Undefined Value'}"
    if kind.startswith("hex"):
        return f"{value:0{2 * int(kind[-1])}x}h"
    if kind in ("handle", "optional"):
        absent = value == _NO_HANDLE or (kind == "optional" and value == _NO_ERROR)
        return "[Not Provided]" if absent else f"{value:04x}h"
    if kind == "rom":
        return "[Extended]" if value == 0xFF else f"{(value + 1) << 16:x}h"
    if kind == "voltage":
        return f"{value & 0x7F:02x}h - {(value & 0x7F) / 10:.1f} V" if value & 0x80 else f"{value:02x}h"
    if kind == "size":
        return _memory_size(value)
    if kind == "cache":
        return f"{(value & 0x7FFF) * (64 if value & 0x8000 else 1)}K"
    units = {"mhz": "MHz", "bits": " bits", "millivolts": "mV", "capacity": "KB", "megabytes": "MB"}
    if kind in units and kind != "megabytes" and value in (0, _UNKNOWN_SIZE):
        return "[Unknown]"
    return f"{value}{units.get(kind, '')}"


def _memory_size(value: int) -> str:
    if not value:
        return "[Not Populated]"
    if value == _UNKNOWN_SIZE:
        return "[Unknown]"
    if value == _EXTENDED:
        return "[Extended]"
    return f"{value & 0x7FFF}{'KB' if value & 0x8000 else 'MB'}"


def smbios_lines(
    machine: MachineInformation, structures: Iterable[SmbiosStructure], verbose: bool = False
) -> Iterator[str]:
    """``!sysinfo smbios``: the structures with their fields; ``verbose`` with those of unknown types, in bytes."""
    yield f"[SMBIOS Data Tables v{'.'.join(map(str, machine.smbios_version))}]"
    yield f"[DMI Version - {machine.dmi_revision}]"
    yield f"[Table Size - {machine.tables_size} bytes]"
    for structure in structures:
        if structure.title is None and not verbose:
            continue
        title = structure.title or "Other"
        yield ""
        yield f"[{title} (Type {structure.kind}) - Length {structure.length} - Handle {structure.handle:04x}h]"
        for field in structure.fields:
            yield f"  {field.name:<{_COLUMN}}{field_text(field)}".rstrip()
        if structure.title is None:
            yield f"  {structure.body[4:].hex(' ')}"
        if structure.title is None or structure.kind == _OEM_STRINGS:
            yield from (f"   {number:2d}  {string}" for number, string in enumerate(structure.strings, 1))


_OEM_STRINGS = 11
