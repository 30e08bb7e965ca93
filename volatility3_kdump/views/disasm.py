"""Rows of ``kdump.disasm``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3.framework.renderers import format_hints

from volatility3_kdump.analysis.code import instructions_before, instructions_from
from volatility3_kdump.cpu.instruction import Instruction
from volatility3_kdump.target import Target
from volatility3_kdump.text.disasm import listing
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address, text

_COLUMNS = [
    ("Address", format_hints.Hex),
    ("Symbol", str),
    ("Bytes", str),
    ("Mnemonic", str),
    ("Operands", str),
    ("Target", format_hints.Hex),
    ("Target Symbol", str),
]


def disasm_grid(target: Target, start: int, count: int, before: bool) -> KdumpGrid:
    """``count`` instructions from an address, or those that end at it."""
    found = instructions_before(target, start, count) if before else instructions_from(target, start, count)
    return instructions_grid(target, start, found, len(found) if before and found else count)


def instructions_grid(target: Target, start: int, found: Sequence[Instruction], wanted: int) -> KdumpGrid:
    """Instructions that were decoded from ``start`` on; where they are fewer than ``wanted``, the text says so."""

    def rows() -> Iterator[Row]:
        for instruction in found:
            goal = instruction.target if instruction.target is not None else instruction.indirect
            yield (
                0,
                (
                    format_hints.Hex(instruction.address),
                    text(target.name_of(instruction.address)),
                    instruction.raw.hex(),
                    instruction.mnemonic,
                    instruction.operands,
                    absent() if goal is None else address(goal),
                    absent() if goal is None else text(target.name_of(goal)),
                ),
            )
        if not found:
            why = target.memory.why_unreadable(start) if target.memory.read(start, 1) is None else "no instruction"
            yield 0, (format_hints.Hex(start), text(target.name_of(start)), *(absent(),) * 2, why, absent(), absent())

    return KdumpGrid(_COLUMNS, rows(), lambda: listing(target, start, found, wanted))
