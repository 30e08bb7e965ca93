"""SMBIOS tables that the kernel adds to a dump as tagged data: who made the machine, and which firmware it runs.

The blob starts with the header that ``GetSystemFirmwareTable`` uses (RawSMBIOSData: method, version, length), then come
structures as the DMTF's SMBIOS reference specification lays them out (DSP0134, section 6.1.2). Checked on real
small memory dumps, x64 and ARM64.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from volatility3_kdump.dump.source import Source
from volatility3_kdump.dump.tagged import TaggedBlob

TAG = uuid.UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758")

_HEADER_SIZE = 8
_BIOS, _SYSTEM, _BASEBOARD, _PROCESSOR, _MEMORY_DEVICE, _END = 0, 1, 2, 4, 17, 127
_UNKNOWN_SIZE, _EXTENDED_SIZE, _IN_KILOBYTES = 0xFFFF, 0x7FFF, 0x8000
_LARGEST = 1 << 20
#: Digits of the digest that tells machines apart.
_DIGEST = 16
_MOST_STRUCTURES = 4096

#: What firmware holds where nobody has filled a string in.
_UNFILLED = frozenset(
    {
        *("to be filled by o.e.m.", "to be filled by oem", "default string", "o.e.m.", "oem", "not specified", "none"),
        *("not applicable", "n/a", "not available", "unknown", "undefined", "empty", "invalid", "type1productconfigid"),
        *("system manufacturer", "system product name", "system version", "base board product name"),
        *("base board manufacturer", "product name", "sku", "chassis manufacturer", "x.x", "-"),
    }
)

#: Words in the maker's or the product's name, and the debugger's name for that virtual machine.
_VIRTUAL_MACHINES = (
    ("vmware", "VMware"),
    ("virtualbox", "VirtualBox"),
    ("innotek", "VirtualBox"),
    ("qemu", "QEMU"),
    ("kvm", "KVM"),
    ("parallels", "Parallels"),
    ("xen", "Xen"),
    ("bochs", "Bochs"),
    ("amazon ec2", "Amazon EC2"),
    ("google compute engine", "Google Compute Engine"),
)


@dataclass(frozen=True)
class MemoryModule:
    """A memory device that is installed (type 17): slot, size in bytes, speed in megatransfers a second, maker and part
    number, bank; ``None`` for what the firmware leaves out. ``configured`` is the speed that it runs at."""

    slot: str | None
    size: int | None
    speed: int | None
    configured: int | None
    manufacturer: str | None
    part: str | None
    bank: str | None = None

    @property
    def text(self) -> str:
        """The module in one line."""
        size = f"{self.size >> 20} MB" if self.size else "size not known"
        speed = None if self.speed is None else f"{self.speed} MT/s"
        if speed and self.configured and self.configured != self.speed:
            speed += f", runs at {self.configured}"
        return ", ".join(part for part in (self.slot, size, speed, self.manufacturer, self.part) if part)


def filled_in(text: str | None) -> bool:
    """Whether a string of the firmware says anything: not one that stands for "nobody has filled this in"."""
    return bool(text and text.strip()) and (text or "").strip().lower() not in _UNFILLED


@dataclass(frozen=True)
class MachineInformation:
    """What the firmware says of itself and the machine; ``None`` for what it leaves out.

    ``processor`` is the processor's name as the firmware has it, ``memory`` the modules that are installed,
    ``digest`` the tables themselves in 16 hexadecimal digits: dumps of one machine have the same.
    ``smbios_version`` is the specification's (major, minor), ``dmi_revision`` as the header has it, ``tables_size`` in
    bytes.
    """

    bios_vendor: str | None
    bios_version: str | None
    bios_date: str | None
    manufacturer: str | None
    product: str | None
    version: str | None
    baseboard_manufacturer: str | None
    baseboard_product: str | None
    smbios_version: tuple[int, int] = (0, 0)
    dmi_revision: int = 0
    tables_size: int = 0
    processor: str | None = None
    memory: tuple[MemoryModule, ...] = ()
    digest: str = ""

    @property
    def installed_memory(self) -> int | None:
        """Bytes of all memory modules together; ``None`` where no module tells its size."""
        return sum(module.size for module in self.memory if module.size) or None

    @property
    def virtual_machine(self) -> str | None:
        """The debugger's name of the hypervisor that the machine's name betrays, ``None`` for a physical machine."""
        makers = f"{self.manufacturer or ''} {self.product or ''}".lower()
        if "microsoft" in makers and "virtual machine" in makers:
            return "HyperV"
        return next((name for word, name in _VIRTUAL_MACHINES if word in makers), None)


def smbios_structures(source: Source, blobs: list[TaggedBlob]) -> Iterator[tuple[int, bytes, list[str]]]:
    """(type, formatted area, strings) of each structure of the dump's SMBIOS blob, as far as it is sound."""
    data = _table(source, blobs)
    if data is not None:
        yield from _structures(data[_HEADER_SIZE : _HEADER_SIZE + int.from_bytes(data[4:8], "little")])


def _table(source: Source, blobs: list[TaggedBlob]) -> bytes | None:
    blob = next((blob for blob in blobs if blob.tag == TAG and _HEADER_SIZE < blob.size <= _LARGEST), None)
    return None if blob is None else source.read(blob.offset, blob.size)


def machine_information(source: Source, blobs: list[TaggedBlob]) -> MachineInformation | None:
    """The machine by the dump's SMBIOS blob, ``None`` when it has none or it is damaged from the start."""
    data = _table(source, blobs)
    if data is None:
        return None
    length = int.from_bytes(data[4:8], "little")
    first: dict[int, tuple[bytes, list[str]]] = {}
    modules: list[MemoryModule] = []
    for kind, body, strings in _structures(data[_HEADER_SIZE : _HEADER_SIZE + length]):
        first.setdefault(kind, (body, strings))
        module = _memory_module(body, strings) if kind == _MEMORY_DEVICE else None
        if module is not None:
            modules.append(module)
    if not first:
        return None

    def text(kind: int, offset: int) -> str | None:
        body, strings = first.get(kind, (b"", []))
        return _string(body, strings, offset)

    return MachineInformation(
        text(_BIOS, 4),
        text(_BIOS, 5),
        text(_BIOS, 8),
        text(_SYSTEM, 4),
        text(_SYSTEM, 5),
        text(_SYSTEM, 6),
        text(_BASEBOARD, 4),
        text(_BASEBOARD, 5),
        (data[1], data[2]),
        data[3],
        min(length, len(data) - _HEADER_SIZE),
        text(_PROCESSOR, 0x10),
        tuple(modules),
        hashlib.sha256(data[_HEADER_SIZE : _HEADER_SIZE + length]).hexdigest()[:_DIGEST],
    )


def _string(body: bytes, strings: list[str], offset: int) -> str | None:
    """The string that a structure's field names by its number; ``None`` where it names none."""
    number = body[offset] if offset < len(body) else 0
    return (strings[number - 1].strip() or None) if 0 < number <= len(strings) else None


def _memory_module(body: bytes, strings: list[str]) -> MemoryModule | None:
    """A memory device (DSP0134, 7.18); ``None`` for an empty slot."""

    def number(offset: int, size: int) -> int | None:
        field = body[offset : offset + size]
        return int.from_bytes(field, "little") if len(field) == size else None

    size = number(0x0C, 2)
    if not size:
        return None
    amount = None
    if size == _EXTENDED_SIZE:
        amount = ((number(0x1C, 4) or 0) & 0x7FFFFFFF) << 20
    elif size != _UNKNOWN_SIZE:
        amount = (size & 0x7FFF) << (10 if size & _IN_KILOBYTES else 20)
    speed, configured = (number(offset, 2) or None for offset in (0x15, 0x20))
    return MemoryModule(
        _string(body, strings, 0x10),
        amount or None,
        None if speed == _UNKNOWN_SIZE else speed,
        None if configured == _UNKNOWN_SIZE else configured,
        _string(body, strings, 0x17),
        _string(body, strings, 0x1A),
        _string(body, strings, 0x11),
    )


def _structures(data: bytes) -> Iterator[tuple[int, bytes, list[str]]]:
    """(type, formatted area, strings) of each structure, up to the first that does not fit."""
    position = 0
    for _ in range(_MOST_STRUCTURES):
        if position + 4 > len(data):
            return
        kind, length = data[position], data[position + 1]
        end = data.find(b"\0\0", position + length)
        if length < 4 or end < 0 or kind == _END:
            return
        strings = data[position + length : end].split(b"\0")
        yield kind, data[position : position + length], [part.decode("latin-1") for part in strings if part]
        position = end + 2
