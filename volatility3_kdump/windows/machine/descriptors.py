"""A processor's descriptor tables: interrupt gates and segments.

Their layout is the processor's own (Intel SDM volume 3, chapters 3 and 6; AMD64 volume 2, chapter 4). Where they lie is
in KPCR; how long they are, in KPRCB.ProcessorState.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import find_module
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.structures import read_fields, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_VECTORS, _GATE = 256, struct.Struct("<HHHHII")
_LARGEST_TABLE = 0x10000
#: As documented for ``dg``.
_MOST_SELECTORS = 256
_PRESENT = 0x8000


@dataclass(frozen=True)
class Gate:
    """An entry of the IDT: its handler with its name, and the KINTERRUPT that the processor has for the vector.

    ``foreign`` says that the handler lies in no module, or in another than the kernel.
    """

    vector: int
    handler: int
    symbol: str | None
    selector: int
    stack: int
    level: int
    interrupt: int | None
    foreign: bool


@dataclass(frozen=True)
class SegmentDescriptor:
    """An entry of the GDT, with the upper half of its base where it is a system segment."""

    selector: int
    base: int | None
    limit: int | None
    access: int
    flags: int

    @property
    def system(self) -> bool:
        return not self.access & 0x10


@dataclass(frozen=True)
class Tables:
    """Where the tables of a processor lie, and how many bytes they have."""

    processor: int
    prcb: int
    idt: int
    idt_size: int
    gdt: int
    gdt_size: int
    tss: int


def descriptor_tables(target: Target, number: int) -> Tables:
    """The tables of a processor. Raises :class:`KdumpError`."""
    if target.header.architecture != "x64":
        raise KdumpError(f"{target.name}: descriptor tables are read of x64 machines only")
    nt = require_symbols(target, "descriptor tables", "_KPCR.IdtBase", "_KPCR.Prcb")
    prcb = next((processor.prcb for processor in processors(target) if processor.number == number), None)
    if prcb is None:
        raise KdumpError(f"{target.name}: no control block of a processor {number} is in the dump")
    pcr = prcb - nt.offset("_KPCR", "Prcb")
    bases = read_fields(target, "_KPCR", pcr, {"idt": "IdtBase", "gdt": "GdtBase", "tss": "TssBase"})
    if None in bases.values():
        raise KdumpError(f"{target.name}: where the tables of processor {number} are is not in the dump")
    path = "ProcessorState.SpecialRegisters"
    limits = read_fields(target, "_KPRCB", prcb, {"idt": f"{path}.Idtr.Limit", "gdt": f"{path}.Gdtr.Limit"})
    sizes = [(limit or default) + 1 for limit, default in ((limits["idt"], 0xFFF), (limits["gdt"], 0x57))]
    return Tables(number, prcb, bases["idt"], sizes[0], bases["gdt"], sizes[1], bases["tss"])


def interrupt_gates(target: Target, tables: Tables) -> list[Gate]:
    """The gates that are present. Raises :class:`KdumpError` where the table is not in the dump."""
    size = min(tables.idt_size, _VECTORS * _GATE.size)
    data = target.memory.read(tables.idt, size)
    if data is None:
        why = target.memory.why_unreadable(tables.idt)
        raise KdumpError(f"{target.name}: the IDT of processor {tables.processor} at {tables.idt:x}: {why}")
    nt = target.nt
    objects = nt.find("_KPRCB", "InterruptObject") if nt is not None else None
    kernel = target.kernel
    gates = []
    for vector in range(size // _GATE.size):
        low, selector, attributes, middle, high, _ = _GATE.unpack_from(data, vector * _GATE.size)
        if not attributes & _PRESENT:
            continue
        handler = low | middle << 16 | high << 32
        interrupt = target.memory.pointer(tables.prcb + objects.offset + 8 * vector) if objects is not None else None
        module = find_module(target.modules, handler)
        foreign = module is None or (kernel is not None and module.base != kernel.base)
        gates.append(
            Gate(
                vector,
                handler,
                target.name_of(handler),
                selector,
                attributes & 7,
                attributes >> 13 & 3,
                interrupt,
                foreign,
            )
        )
    return gates


def segments(target: Target, tables: Tables, first: int, last: int) -> Iterator[SegmentDescriptor]:
    """The descriptors of some selectors; one alone keeps the privilege level that it asks for.

    Beyond the end of the table they have no base.

    Raises :class:`KdumpError` where they are not in the dump.
    """
    asked = first & 7 if first == last else 0
    end = min(tables.gdt_size, _LARGEST_TABLE)
    if (last >> 3) - (first >> 3) >= _MOST_SELECTORS:
        raise KdumpError(f"no more than {_MOST_SELECTORS} selectors are shown at once")
    for selector in range(first & ~7, (last & ~7) + 8, 8):
        if selector + 8 > end:
            yield SegmentDescriptor(selector | asked, None, None, 0, 0)
            continue
        data = target.memory.read(tables.gdt + selector, 8)
        if data is None:
            why = target.memory.why_unreadable(tables.gdt + selector)
            raise KdumpError(f"{target.name}: the GDT of processor {tables.processor}: {why}")
        limit_low, base_low, base_middle, access, flags, base_high = struct.unpack("<HHBBBB", data)
        base = base_low | base_middle << 16 | base_high << 24
        limit = limit_low | (flags & 15) << 16
        if flags & 8:
            limit = limit << 12 | 0xFFF
        if not access & 0x10 and access & 15:
            base |= (target.memory.unsigned(tables.gdt + selector + 8, 4) or 0) << 32
        yield SegmentDescriptor(selector | asked, base, limit, access, flags >> 4)
