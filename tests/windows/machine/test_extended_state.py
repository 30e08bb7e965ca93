"""YMM registers of a CONTEXT with its extended state, laid out as ``winnt.h`` and Intel's manual have it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.cpu.context import Context, parse_context
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.windows.machine.extended_state import upper_halves

#: A page of the stack that crashed.
_AT = 0xFFFFD48F77AF9000
_HIGH = [bytes([number + 1]) * 16 for number in range(16)]


def _record(flags: int = 0x10005F, written: int = 7, compaction: int = 0, halves: bytes = b"".join(_HIGH)) -> bytes:
    """CONTEXT (0x4D0 bytes, XMM at 0x1A0), CONTEXT_EX (24 bytes, padded to 32), XSAVE header, first component."""
    context = bytearray(0x4D0)
    struct.pack_into("<I", context, 0x30, flags)
    struct.pack_into("<Q", context, 0xF8, 0xFFFFF80060DA1981)
    struct.pack_into("<Q", context, 0x98, _AT)
    for number in range(16):
        struct.pack_into("<QQ", context, 0x1A0 + 16 * number, 0x1000 + number, 0)
    area = struct.pack("<QQ", written, compaction).ljust(64, b"\0") + halves
    chunks = struct.pack("<iIiIiI", -0x4D0, 0x4D0 + 32 + len(area), -0x4D0, 0x4D0, 32, len(area))
    return bytes(context) + chunks.ljust(32, b"\0") + area


def _parsed(data: bytes) -> tuple[Memory, Context]:
    def read(address: int, size: int) -> bytes | None:
        start = address - _AT
        return data[start : start + size] if start >= 0 and start + size <= len(data) else None

    context = parse_context(data, "x64", "context record", _AT)
    assert context is not None
    return Memory(read, 8, lambda address: "not in the record"), context


@pytest.mark.parametrize("compaction", [0, 1 << 63 | 7])
def test_upper_halves(compaction: int) -> None:
    """Standard and compacted form: the first component stands at the same place."""
    memory, context = _parsed(_record(compaction=compaction))
    assert upper_halves(memory, context) == tuple(int.from_bytes(half, "little") for half in _HIGH)


def test_registers_in_their_initial_state_are_zero() -> None:
    """XSAVE does not write them; what lies there is not theirs."""
    memory, context = _parsed(_record(written=3))
    assert upper_halves(memory, context) == (0,) * 16


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_record(flags=0x10001F), "CONTEXT_XSTATE is not set"),
        (_record(compaction=1 << 63 | 3), "no room for YMM"),
        (_record(halves=bytes(200)), "cut off"),
        (_record()[:0x4D8], "CONTEXT_EX at 0xffffd48f77af94d0"),
        (_record()[:0x4F8], "the extended state at 0xffffd48f77af94f0"),
        (_record()[:0x4E0] + b"\xff" * 32 + _record()[0x500:], "cannot be one"),
    ],
    ids=["no flag", "no room", "cut off", "no chunks", "no header", "no sense"],
)
def test_what_is_not_there(data: bytes, words: str) -> None:
    memory, context = _parsed(data)
    with pytest.raises(KdumpError, match=words):
        upper_halves(memory, context)
    with pytest.raises(KdumpError, match="contexts in dumps' headers are written without it"):
        upper_halves(memory, replace(context, address=None))


def test_at_the_prompt(scene: Callable[[str], Target]) -> None:
    session = session_on(patched(scene("myfault"), {_AT: _record()}))
    assert "without it" in answer(session, "r ymm0")[0]
    answer(session, f".cxr {_AT:x}")
    assert answer(session, "r ymm3:4uq") == ["ymm3=0404040404040404 0404040404040404 0000000000000000 0000000000001003"]
    rows = [line for line in answer(session, "rYI") if line.startswith("ymm")]
    assert rows[1] == f"ymm1={' '.join(['33686018'] * 4)} 0 0 0 4097" and len(rows) == 16
    assert answer(session, "rM 200")[:16] == answer(session, "rY")[:16]
