"""Searching memory: every place where bytes stand, or a string, in what the dump holds of a range."""

from __future__ import annotations

import re
from collections.abc import Iterator

from volatility3_kdump.memory import Memory

#: A string longer than this is given in parts.
_LONGEST_STRING = 0x8000


def find_bytes(memory: Memory, start: int, length: int, pattern: bytes, step: int = 1) -> Iterator[int]:
    """The addresses in a range where ``pattern`` stands, a multiple of ``step`` bytes behind its start, ascending.

    Matches may overlap and may reach from one page into the next, but not beyond the range, nor over what is absent.
    One page is held at a time.
    """
    if not pattern:
        return
    tail, behind = b"", None
    for address, data in memory.present(start, length):
        buffer = tail + data if behind == address else data
        base = address + len(data) - len(buffer)
        at = buffer.find(pattern)
        while at >= 0:
            if (base + at - start) % step == 0:
                yield base + at
            at = buffer.find(pattern, at + 1)
        behind = address + len(data)
        tail = buffer[len(buffer) - len(pattern) + 1 :] if len(pattern) > 1 else b""


def find_strings(memory: Memory, start: int, length: int, width: int, least: int = 3) -> Iterator[tuple[int, str]]:
    """The strings in a range: at least ``least`` printable ASCII characters of ``width`` bytes (2: UTF-16)."""
    character = rb"[\x20-\x7e]" if width == 1 else rb"[\x20-\x7e]\x00"
    pattern = re.compile(rb"(?:%s){%d,}" % (character, least))
    # What may go on in the next page, from its end: whole characters, and the first byte of one.
    pending = re.compile(rb"[\x20-\x7e]*" if width == 1 else rb"[\x20-\x7e]?(?:\x00[\x20-\x7e])*")
    tail, behind = b"", None
    for address, data in memory.present(start, length):
        if tail and behind != address:
            yield from _strings(pattern, tail, (behind or 0) - len(tail), width)
            tail = b""
        buffer = tail + data
        base = address + len(data) - len(buffer)
        behind = address + len(data)
        unfinished = pending.match(buffer[::-1])
        cut = len(buffer) - (unfinished.end() if unfinished else 0)
        if len(buffer) - cut > _LONGEST_STRING:
            cut = len(buffer)
        yield from _strings(pattern, buffer[:cut], base, width)
        tail = buffer[cut:]
    yield from _strings(pattern, tail, (behind or 0) - len(tail), width)


def _strings(pattern: re.Pattern[bytes], data: bytes, base: int, width: int) -> Iterator[tuple[int, str]]:
    for match in pattern.finditer(data):
        yield base + match.start(), match[0][::width].decode("ascii")
