"""YMM registers of a CONTEXT record in memory that was written with its extended state.

``CONTEXT_EX`` stands behind the CONTEXT (``winnt.h``): three pairs of offset, from itself, and length; the third is the
XSAVE area without its legacy part. Its header (64 bytes) says which components were written, and the upper halves of
YMM0 to YMM15 are the first component behind it in both forms of the area (Intel's manual, volume 1, 13.4).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from volatility3_kdump.cpu.context import context_size
from volatility3_kdump.errors import KdumpError, Unreadable

if TYPE_CHECKING:
    from volatility3_kdump.cpu.context import Context
    from volatility3_kdump.memory import Memory

_FLAGS_OFFSET, _CLASS, _XSTATE = 0x30, 0x100000, 0x40
_CHUNKS = struct.Struct("<iIiIiI")
_HEADER = struct.Struct("<QQ")
_HEADER_SIZE, _AVX, _COMPACTED = 64, 4, 1 << 63
_REGISTERS, _WIDTH = 16, 16
#: With every component that there is an XSAVE area has less.
_MOST_BYTES = 1 << 16


def upper_halves(memory: Memory, context: Context) -> tuple[int, ...]:
    """The upper 128 bits of YMM0 to YMM15. Raises :class:`KdumpError` where the context has none, with the reason."""
    if context.architecture != "x64":
        raise KdumpError(f"contexts of {context.architecture} hold no YMM registers")
    address = context.address
    if address is None:
        raise KdumpError(f"{context.source} holds no extended state: contexts in dumps' headers are written without it")
    flags = memory.unsigned(address + _FLAGS_OFFSET, 4)
    if flags is None or not flags & _CLASS or not flags & _XSTATE:
        raise KdumpError(f"{context.source} holds no extended state: CONTEXT_XSTATE is not set in its ContextFlags")
    place = address + context_size("x64")
    chunks = memory.read(place, _CHUNKS.size)
    if chunks is None:
        raise Unreadable.at(place, "CONTEXT_EX", memory.why_unreadable(place))
    offset, length = _CHUNKS.unpack(chunks)[4:]
    if not 0 < offset <= _MOST_BYTES or not _HEADER_SIZE <= length <= _MOST_BYTES:
        raise KdumpError(f"CONTEXT_EX at {place:#x} cannot be one: {length:#x} bytes of extended state at {offset:#x}")
    area = place + offset
    header = memory.read(area, _HEADER.size)
    if header is None:
        raise Unreadable.at(area, "the extended state", memory.why_unreadable(area))
    written, compaction = _HEADER.unpack(header)
    if compaction & _COMPACTED and not compaction & _AVX:
        raise KdumpError(f"the extended state at {area:#x} has no room for YMM registers")
    if not written & _AVX:
        # In their initial state, which XSAVE leaves out: zero.
        return (0,) * _REGISTERS
    size = _REGISTERS * _WIDTH
    data = memory.read(area + _HEADER_SIZE, size) if length >= _HEADER_SIZE + size else None
    if data is None:
        raise KdumpError(f"the extended state at {area:#x} is cut off")
    return tuple(int.from_bytes(data[start : start + _WIDTH], "little") for start in range(0, size, _WIDTH))
