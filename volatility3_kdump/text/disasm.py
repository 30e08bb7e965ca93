"""Disassembly in the layout of KD's ``u`` and ``ub``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from volatility3_kdump.cpu.instruction import Instruction
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.registers import absent_code_line, code_line


def listing(
    address: int,
    name: str | None,
    instructions: Sequence[Instruction],
    wanted: int,
    architecture: str,
    size: int,
) -> Iterator[str]:
    """The symbol line and one line an instruction; a line of question marks where the code ends early.

    ``name`` is that of the first instruction, or of ``address`` where there is none; ``size`` a pointer's, in bytes.
    """
    first = instructions[0].address if instructions else address
    yield f"{name or pointer(first, size)}:"
    for instruction in instructions:
        yield code_line(instruction)
    if len(instructions) < wanted:
        following = instructions[-1].address + instructions[-1].size if instructions else address
        yield absent_code_line(following, architecture)


def is_call(instruction: Instruction) -> bool:
    """Whether an instruction calls."""
    return instruction.mnemonic.split()[-1] in ("call", "bl", "blr", "blraa", "blraaz", "blrab", "blrabz")


def goal_of(instruction: Instruction) -> int | None:
    """Where a call leads; ``None`` where a register or memory decides that."""
    return instruction.target if instruction.target is not None else instruction.indirect


def calls(
    start: int, instructions: Sequence[Instruction], names: Mapping[int, str | None], size: int = 8
) -> Iterator[str]:
    """The calls of a function, as ``uf /c`` lists them; ``names`` are those of all places."""
    yield f"{names.get(start) or pointer(start, size)} ({pointer(start, size)})"
    for instruction in instructions:
        if not is_call(instruction):
            continue
        place = names.get(instruction.address) or pointer(instruction.address, size)
        yield f"  {place} ({pointer(instruction.address, size)}):"
        goal = goal_of(instruction)
        if goal is None:
            yield f"    unresolvable call: {instruction.mnemonic:<7} {instruction.operands}"
        else:
            yield f"    call to {names.get(goal) or pointer(goal, size)} ({pointer(goal, size)})"
