"""Rows of ``kdump.disasm``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.analysis.code import file_of_code, instructions_before, instructions_from, names_of, why_no_code
from volatility3_kdump.cpu.instruction import Instruction
from volatility3_kdump.target import Target
from volatility3_kdump.text.disasm import listing
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, POINTER, TEXT, Column, Part, Table
from volatility3_kdump.windows.user.seen import architecture_at


def _goal(instruction: Instruction) -> int | None:
    """Where it branches to, or what it reads the address from."""
    return instruction.target if instruction.target is not None else instruction.indirect


_CODE = Part[Instruction](
    "",
    keys.ADDRESS(lambda instruction: instruction.address),
    keys.SYMBOL(),
    keys.BYTES(lambda instruction: instruction.raw.hex()),
    Column("Mnemonic", TEXT, "the instruction", lambda instruction: instruction.mnemonic),
    Column(
        "Operands",
        TEXT,
        "its operands as the debugger writes them; where there is no instruction, why",
        lambda instruction: instruction.operands,
    ),
    Column(
        "Target",
        POINTER,
        "where it branches to; of an indirect branch, where that address stands",
        lambda instruction: BLANK if _goal(instruction) is None else _goal(instruction),
    ),
    Column("TargetSymbol", TEXT, "the name of the target"),
)
CODE = Table("kdump.disasm", _CODE)


def disasm_grid(target: Target, start: int, count: int, before: bool) -> KdumpGrid:
    """``count`` instructions from an address, or those that end at it."""
    decoded = instructions_before(target, start, count) if before else instructions_from(target, start, count)
    return instructions_grid(target, start, decoded, len(decoded) if before and decoded else count)


def instructions_grid(target: Target, start: int, decoded: Sequence[Instruction], wanted: int) -> KdumpGrid:
    """Instructions that were decoded from ``start`` on; where they are fewer than ``wanted``, the text says so."""

    def rows() -> Iterator[Row]:
        places = {instruction.address for instruction in decoded} | {start}
        names = names_of(target, places | {goal for goal in map(_goal, decoded) if goal is not None})
        for instruction in decoded:
            goal = _goal(instruction)
            yield CODE.row(
                0,
                instruction,
                Symbol=names[instruction.address],
                TargetSymbol=BLANK if goal is None else names[goal],
            )
        if not decoded:
            yield CODE.row(0, Address=start, Symbol=names[start], Operands=why_no_code(target, start))

    first = decoded[0].address if decoded else start
    name = names_of(target, [first])[first]
    architecture = architecture_at(target, first)
    size = 4 if architecture == "x86" else target.memory.pointer_size

    def lines() -> Iterator[str]:
        yield from listing(start, name, decoded, wanted, architecture, size)
        file = file_of_code(target, first) if decoded else None
        if file is not None:
            yield f"NOTE: the dump does not hold this code; it is that of {file}"

    return CODE.grid(rows(), lines)
