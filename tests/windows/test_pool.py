"""Pool blocks by address: classic pages, big pages, the segment heap, and what is damaged or absent."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from volatility3_kdump.target import Target
from volatility3_kdump.windows.pool import ALLOCATED, NONPAGED, PoolBlock, Unplaced, find_block, walk_page

Sample = Callable[..., Path]
POOL_PAGE = 0xFFFF91894EF70000
KERNEL, TRIAGE = 6, 4


@pytest.fixture(scope="module")
def overrun(sample: Sample) -> Target:
    """A machine with a classic page on which one block was written beyond its end."""
    return volatility3_kdump.open(sample(KERNEL, None, "pool-overrun"))


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_block_of_a_page_of_headers(sample: Sample, dump_type: int) -> None:
    target = volatility3_kdump.open(sample(dump_type, None, "pool-overrun"))
    found = find_block(target, POOL_PAGE + 0x1D8)
    assert isinstance(found, PoolBlock)
    assert (found.address, found.size, found.header, found.data) == (
        POOL_PAGE + 0x1C0,
        0x70,
        POOL_PAGE + 0x1C0,
        POOL_PAGE + 0x1D0,
    )
    assert (found.tag, found.state, found.kind, found.big) == ("MyfB", ALLOCATED, NONPAGED, False)
    assert found.problem is not None and "written beyond its end" in found.problem


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (0x1000, "not a kernel address"),
        (0xFFFFF80060DA1981, "image of myfault.sys"),
        (0xFFFFBD0000000000, "page tables"),
        (POOL_PAGE + 0x230, "is damaged: it says that the block before it has 0x410 bytes, which has 0x70"),
        (POOL_PAGE + 0x100000, "cannot be read"),
    ],
)
def test_the_reason_why_there_is_none(overrun: Target, address: int, words: str) -> None:
    found = find_block(overrun, address)
    assert isinstance(found, Unplaced) and words in found.reason


def header(previous: int, size: int, kind: int, tag: bytes) -> bytes:
    """A POOL_HEADER of x64, sizes in bytes."""
    return struct.pack("<BBBB4sQ", previous // 16, 0, size // 16, kind, tag, 0)


def test_a_page_laid_out_by_hand(overrun: Target) -> None:
    page = bytearray(0x1000)
    page[0x000:0x010] = header(0, 0x40, 2, b"Abcd")
    page[0x040:0x050] = header(0x40, 0xFA0, 3, b"Efgh")
    page[0xFE0:0xFF0] = header(0xFA0, 0x20, 0, b"Free")
    walk = walk_page(overrun, POOL_PAGE, bytes(page))
    assert [(item.header.address & 0xFFF, item.header.block_size, item.header.tag) for item in walk.headers] == [
        (0, 0x40, "Abcd"),
        (0x40, 0xFA0, "Efgh"),
        (0xFE0, 0x20, "Free"),
    ]
    assert walk.problem is None and walk.convincing
    page[0xFE0] = 0x10
    walk = walk_page(overrun, POOL_PAGE, bytes(page))
    assert len(walk.headers) == 2 and walk.headers[-1].problem is not None
    assert walk.problem is not None and "0xffff91894ef70fe0 is damaged" in walk.problem


def test_the_walk_goes_on_behind_the_damage(overrun: Target) -> None:
    page = bytearray(0x1000)
    page[0x000:0x010] = header(0, 0x40, 2, b"Abcd")
    page[0x040:0x050] = b"\xff" * 16
    page[0x100:0x110] = header(0xC0, 0xF00, 2, b"Ijkl")
    walk = walk_page(overrun, POOL_PAGE, bytes(page))
    assert [(item.header.address & 0xFFF, item.behind_damage) for item in walk.headers] == [(0, False), (0x100, True)]
