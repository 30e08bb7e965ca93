"""Disassembly in the layout of KD's ``u`` and ``ub``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
