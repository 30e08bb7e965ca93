"""Rows of ``kdump.smbios``, and the parts of ``!sysinfo``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator

from volatility3_kdump.dump.cpuid import ProcessorIdentity, processor_identity
from volatility3_kdump.dump.smbios import MachineInformation, machine_information
from volatility3_kdump.dump.smbios_details import SmbiosField, SmbiosStructure, smbios_details
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text import machine as words
from volatility3_kdump.text.smbios import field_text, smbios_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, HEX, NUMBER, TEXT, Column, Part, Table
from volatility3_kdump.windows.machine.processors import ProcessorModel, processor_models
from volatility3_kdump.windows.machine.special_registers import machine_registers

_STRUCTURE = Part[SmbiosStructure](
    "",
    Column("SmbiosType", NUMBER, "the type of the structure", lambda structure: structure.kind),
    Column("Title", TEXT, "what the specification calls it", lambda structure: structure.title or BLANK),
    Column("SmbiosHandle", HEX, "its handle", lambda structure: structure.handle),
)
_FIELD = Part[SmbiosField](
    "",
    keys.NAME(lambda field: field.name, "of a field"),
    keys.TEXT(lambda field: field_text(field) or BLANK, "null for a string that the firmware leaves out"),
)
SMBIOS = Table("kdump.smbios", _STRUCTURE, _FIELD)


def _machine(target: Target) -> MachineInformation:
    machine = machine_information(target.dump.source, target.dump.tagged)
    if machine is None:
        raise KdumpError(f"{target.name}: no SMBIOS tables, which are in tagged data of crash dumps")
    return machine


def smbios_grid(target: Target, groups: Collection[str] = (), verbose: bool = False) -> KdumpGrid:
    """The structures of the SMBIOS tables, or those of some ``groups``. Raises :class:`KdumpError` without tables."""
    machine = _machine(target)
    every = smbios_details(target.dump.source, target.dump.tagged)
    structures = [structure for structure in every if not groups or structure.group in groups]

    def rows() -> Iterator[Row]:
        for structure in structures:
            for field in structure.fields:
                yield SMBIOS.row(0, {_STRUCTURE: structure, _FIELD: field})
            if not structure.fields:
                yield SMBIOS.row(0, {_STRUCTURE: structure})

    return SMBIOS.grid(rows(), lambda: smbios_lines(machine, structures, verbose))


def _identity(target: Target) -> tuple[list[ProcessorModel], ProcessorIdentity | None]:
    models = processor_models(target)
    identity = processor_identity(target.dump.source, target.dump.tagged)
    if not models and identity is None:
        raise KdumpError(f"{target.name}: processors need the kernel's symbols: {target.symbol_status}")
    return models, identity


def _processor_pairs(target: Target) -> Iterable[tuple[str, str]]:
    return words.processor_pairs(*_identity(target))


def _microcode_pairs(target: Target) -> Iterable[tuple[str, str]]:
    return words.microcode_pairs(*_identity(target))


def _speed_pairs(target: Target) -> Iterable[tuple[str, str]]:
    models, identity = _identity(target)
    details = smbios_details(target.dump.source, target.dump.tagged)
    fields = {field.name: field for structure in details if structure.kind == 4 for field in structure.fields}
    return words.speed_pairs(models, identity, fields.get("Max Speed"))


def _machine_pairs(target: Target) -> Iterable[tuple[str, str]]:
    return words.machine_pairs(_machine(target))


#: What ``!sysinfo`` shows as names with values: its heading, and the pairs.
_PARTS: dict[str, tuple[str, Callable[[Target], Iterable[tuple[str, str]]]]] = {
    "cpuinfo": ("[CPU Information]", _processor_pairs),
    "cpumicrocode": ("", _microcode_pairs),
    "cpuspeed": ("", _speed_pairs),
    "machineid": ("", _machine_pairs),
}


def sysinfo_lines(target: Target, part: str) -> Iterator[str]:
    """A part of ``!sysinfo``. Raises :class:`KdumpError` where the dump does not hold it."""
    if part == "machineid":
        yield from words.machine_lines(_machine(target))
        return
    heading, pairs = _PARTS[part]
    if heading:
        yield heading
    separator = " = " if part == "cpuinfo" else ": "
    yield from (f"{name}{separator}{value}" for name, value in pairs(target))


def sysinfo_csv(target: Target, part: str, headers: bool, groups: Collection[str] = ()) -> Iterator[str]:
    """The same as comma-separated values: a line of names, which ``headers`` asks for, and lines of values."""
    if part == "smbios":
        if headers:
            yield "Type,Handle,Name,Value"
        for structure in smbios_details(target.dump.source, target.dump.tagged):
            for field in structure.fields if not groups or structure.group in groups else ():
                yield _csv(str(structure.kind), f"{structure.handle:04x}", field.name, field_text(field))
        return
    pairs = list(_PARTS[part][1](target))
    if headers:
        yield _csv(*(name for name, _ in pairs))
    yield _csv(*(value for _, value in pairs))


def _csv(*cells: str) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(cells)
    return written.getvalue()


def register_lines(target: Target, processor: int | None) -> Iterator[str]:
    """``!sysinfo registers``. Raises :class:`KdumpError` where the dump holds none."""
    saved = machine_registers(target, processor)
    identity = processor_identity(target.dump.source, target.dump.tagged)
    recorded = {} if identity is None else identity.registers
    if not saved and not recorded:
        raise KdumpError(f"{target.name}: no model-specific register is in the dump")
    return words.register_lines(saved, recorded)
