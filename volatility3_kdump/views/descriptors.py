"""Rows of ``kdump.cpu --idt``, and KD's ``!idt`` and ``dg``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.target import Target
from volatility3_kdump.text import descriptors as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.table import FLAG, HEX, NUMBER, POINTER, Column, table
from volatility3_kdump.windows.machine.descriptors import descriptor_tables, interrupt_gates, segments

GATES = table(
    "kdump.cpu --idt",
    keys.PROCESSOR(),
    Column("Vector", HEX, "the interrupt vector", lambda gate: gate.vector),
    keys.ADDRESS(lambda gate: gate.handler, "of the handler"),
    keys.SYMBOL(lambda gate: gate.symbol),
    Column("Interrupt", POINTER, "the KINTERRUPT", lambda gate: gate.interrupt),
    Column("InterruptStack", NUMBER, "its entry of the interrupt stack table, 0 for none", lambda gate: gate.stack),
    Column("OutsideKernel", FLAG, "whether the handler is not in the kernel's image", lambda gate: gate.foreign),
)


def idt_grid(target: Target, number: int, everything: bool = True) -> KdumpGrid:
    """The interrupt gates of a processor (``!idt``). Raises :class:`KdumpError`.

    Without ``everything`` only vectors that have an interrupt object, or a handler outside of the kernel.
    """
    tables = descriptor_tables(target, number)
    gates = interrupt_gates(target, tables)
    shown = [gate for gate in gates if everything or gate.interrupt or gate.foreign]
    rows = (GATES.row(0, gate, Processor=number) for gate in shown)
    return GATES.grid(rows, lambda: words.idt_lines(tables, shown))


def segment_lines(target: Target, number: int, first: int | None, last: int | None) -> Iterator[str]:
    """``dg`` and ``!gdt``; all of the table without a selector. Raises :class:`KdumpError`."""
    tables = descriptor_tables(target, number)
    if first is None:
        first, last = 0, tables.gdt_size - 8
    return words.segment_lines(segments(target, tables, first, first if last is None else last))
