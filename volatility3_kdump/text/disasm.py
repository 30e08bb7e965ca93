"""Disassembly in the layout of KD's ``u`` and ``ub``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.cpu.instruction import Instruction
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.registers import absent_code_line, code_line

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


def listing(target: Target, address: int, instructions: Sequence[Instruction], wanted: int) -> Iterator[str]:
    """The symbol line and one line an instruction; a line of question marks where the code ends early."""
    first = instructions[0].address if instructions else address
    yield f"{target.name_of(first) or pointer(first, target.memory.pointer_size)}:"
    for instruction in instructions:
        yield code_line(instruction)
    if len(instructions) < wanted:
        following = instructions[-1].address + instructions[-1].size if instructions else address
        yield absent_code_line(following, target.header.architecture)
