"""Disassembly of single instructions in KD's style, with memory operands evaluated.

* :func:`decode` - the instruction at an address, evaluated with the registers of a context where one is given.
* :func:`decode_many` - consecutive instructions.

Capstone decodes the bytes; the operand text, the effective address, the kind of access and the branch condition are
worked out here. Capstone is imported when the first instruction is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping

from volatility3_kdump.cpu import NameOf, Read
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.instruction import Instruction, MemoryOperand, Operand

__all__ = ["Instruction", "MemoryOperand", "Operand", "decode", "decode_many"]

#: The longest instruction in bytes.
_LONGEST = {"x64": 15, "x86": 15, "arm64": 4}


def decode(
    read: Read,
    address: int,
    architecture: str,
    context: Context | None = None,
    *,
    name_of: NameOf | None = None,
    segment_bases: Mapping[str, int] | None = None,
) -> Instruction | None:
    """The instruction at a virtual address; ``None`` when its bytes are not in the dump or are no instruction.

    An instruction whose bytes are present is decoded even when those after it are not. ``context`` gives the
    registers for memory operands and branch conditions; without it they stay unknown, but for addresses relative to
    the instruction. ``name_of`` gives the names of addresses that appear in operands. ``segment_bases`` gives the
    bases of ``fs`` and ``gs`` where known (in the kernel on x64 the KPCR of the processor is at ``gs``).
    """
    if architecture not in _LONGEST:
        return None
    address &= 0xFFFFFFFF if architecture == "x86" else 0xFFFFFFFFFFFFFFFF
    code = _code(read, address, _LONGEST[architecture])
    if not code:
        return None
    if context is not None and context.architecture != architecture:
        context = None
    if architecture == "arm64":
        from volatility3_kdump.cpu.disasm_arm64 import decode_arm64

        return decode_arm64(code, read, address, context, name_of)
    from volatility3_kdump.cpu.disasm_x86 import decode_x86

    return decode_x86(code, read, address, architecture, context, name_of, segment_bases or {})


def decode_many(
    read: Read, address: int, count: int, architecture: str, *, name_of: NameOf | None = None
) -> list[Instruction]:
    """Up to ``count`` consecutive instructions from an address; fewer where one is absent or does not decode."""
    instructions: list[Instruction] = []
    while len(instructions) < count:
        instruction = decode(read, address, architecture, name_of=name_of)
        if instruction is None:
            break
        instructions.append(instruction)
        address += instruction.size
    return instructions


def _code(read: Read, address: int, longest: int) -> bytes:
    """The longest run of present bytes at an address, up to ``longest``."""
    code = read(address, longest)
    if code is not None:
        return code
    present = b""
    while len(present) < longest:
        byte = read(address + len(present), 1)
        if not byte:
            break
        present += byte
    return present
