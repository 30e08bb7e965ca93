"""Code around an address: forwards, and backwards from a point that must be met."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.cpu.disasm import decode_many
from volatility3_kdump.cpu.instruction import Instruction

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_LONGEST = 15
_MOST_BACK = 4096


def instructions_from(target: Target, address: int, count: int) -> list[Instruction]:
    """Up to ``count`` instructions from an address; fewer where the code is not in the dump or does not decode."""
    return decode_many(target.memory.read, address, count, target.header.architecture, name_of=target.name_of)


def instructions_before(target: Target, address: int, count: int) -> list[Instruction]:
    """Up to ``count`` instructions that end at an address.

    Instructions of x86 and x64 cannot be decoded backwards. Decoding starts at the nearest symbol where that is close,
    else at the farthest start within reach from which decoding meets the address exactly.
    """
    if target.header.architecture == "arm64":
        found = []
        for back in range(count, 0, -1):
            found += instructions_from(target, address - 4 * back, 1)
        return found
    name = target.lookup(address)
    if name is not None and name.symbol is not None and 0 < name.offset <= _MOST_BACK:
        found = _until(target, address - name.offset, address)
        if found:
            return found[-count:]
    for start in range(address - _LONGEST * count, address):
        found = _until(target, start, address)
        if len(found) >= count:
            return found[-count:]
    starts = range(address - _LONGEST * count, address)
    return max((_until(target, start, address) for start in starts), key=len)[-count:]


def _until(target: Target, start: int, end: int) -> list[Instruction]:
    """The instructions from ``start`` to ``end``, empty unless one ends exactly there."""
    found: list[Instruction] = []
    position = start
    while position < end:
        step = instructions_from(target, position, 1)
        if not step:
            return []
        found += step
        position += step[0].size
    return found if position == end else []
