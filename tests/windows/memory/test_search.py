"""Searching memory, against brute force over the same bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.memory import PAGE_SIZE, Memory
from volatility3_kdump.windows.memory.search import find_bytes, find_strings

BASE = 0x10000


def memory_of(pages: Mapping[int, bytes]) -> Memory:
    """Memory that holds some pages, by number from ``BASE``."""

    def read(address: int, size: int) -> bytes | None:
        page = pages.get((address - BASE) // PAGE_SIZE)
        offset = (address - BASE) % PAGE_SIZE
        return None if page is None or offset + size > PAGE_SIZE else page[offset : offset + size]

    return Memory(read, 8, lambda address: "absent")


def page(content: Mapping[int, bytes], fill: bytes = b"\0") -> bytes:
    data = bytearray(fill * PAGE_SIZE)
    for offset, piece in content.items():
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def brute_force(pages: Mapping[int, bytes], start: int, length: int, pattern: bytes, step: int) -> list[int]:
    """Every address of the range is tried, byte by byte."""
    held = {BASE + number * PAGE_SIZE + i: byte for number, data in pages.items() for i, byte in enumerate(data)}
    return [
        address
        for address in range(start, start + length - len(pattern) + 1, step)
        if all(held.get(address + i) == byte for i, byte in enumerate(pattern))
    ]


# Patterns that overlap themselves, near the ends of pages.
places = st.lists(st.sampled_from([0, 1, 5, PAGE_SIZE - 6, PAGE_SIZE - 3, PAGE_SIZE - 2, PAGE_SIZE - 1]), max_size=4)


@given(
    st.dictionaries(
        st.integers(0, 3),
        st.builds(lambda at: page({offset: b"aba"[: PAGE_SIZE - offset] for offset in at}), places),
        max_size=4,
    ),
    st.integers(0, 9),
    st.integers(1, 3 * PAGE_SIZE),
    st.sampled_from([b"a", b"ab", b"aba", b"ba", b"\0a", b"abab"]),
    st.sampled_from([1, 2, 4, 8]),
)
def test_every_place(pages: dict[int, bytes], offset: int, length: int, pattern: bytes, step: int) -> None:
    found = list(find_bytes(memory_of(pages), BASE + offset, length, pattern, step))
    assert found == brute_force(pages, BASE + offset, length, pattern, step)


def test_over_pages_but_not_over_a_gap() -> None:
    pages = {0: page({PAGE_SIZE - 2: b"My"}), 1: page({0: b"Fault"}), 3: page({0: b"Fault"})}
    assert list(find_bytes(memory_of(pages), BASE, 4 * PAGE_SIZE, b"MyFault")) == [BASE + PAGE_SIZE - 2]
    assert list(find_bytes(memory_of(pages), BASE, 4 * PAGE_SIZE, b"")) == []


@given(
    st.dictionaries(
        st.integers(0, 3), st.lists(st.sampled_from([b"abc", b"\0", b"ab", b"d\0e\0f\0", b"\xff"]), max_size=30)
    ),
    st.integers(0, 9),
    st.sampled_from([1, 2]),
)
def test_strings(parts: dict[int, list[bytes]], offset: int, width: int) -> None:
    pages = {number: page({}, b"x")[: -len(b"".join(some)) or None] + b"".join(some) for number, some in parts.items()}
    pages = {number: data[:PAGE_SIZE] for number, data in pages.items() if len(data) >= PAGE_SIZE}
    found = list(find_strings(memory_of(pages), BASE + offset, 4 * PAGE_SIZE - offset, width))
    expected = []
    pattern = re.compile(rb"[\x20-\x7e]{3,}" if width == 1 else rb"(?:[\x20-\x7e]\0){3,}")
    number = 0
    while number < 4:
        # Neighbouring pages are one text.
        first, data = number, b""
        while number in pages:
            data += pages[number]
            number += 1
        start = max(offset - first * PAGE_SIZE, 0)
        expected += [
            (BASE + first * PAGE_SIZE + match.start(), match[0][::width].decode())
            for match in pattern.finditer(data, start)
        ]
        number += 1
    assert found == expected


@pytest.mark.parametrize("width", (1, 2))
def test_a_string_without_end_is_given_in_parts(width: int) -> None:
    text = b"ab" if width == 1 else b"a\0"
    pages = dict.fromkeys(range(32), text * (PAGE_SIZE // 2))
    found = list(find_strings(memory_of(pages), BASE, 32 * PAGE_SIZE, width))
    assert sum(len(part) for _, part in found) == 32 * PAGE_SIZE // width
    assert max(len(part) for _, part in found) <= 0x9000
