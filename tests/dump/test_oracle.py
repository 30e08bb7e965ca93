"""kdmp-parser, an independent reader, against the page maps: the same pages, the same bytes.

It does not know ranges with page frame 0, takes one range too many where the pages follow at once, forgets the bits
behind the last whole byte of a bitmap, and reads no type 2 dump; the dumps here stay clear of that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archives import packing
from volatility3_kdump.dump import extents, open_dump

kdmp_parser = pytest.importorskip("kdmp_parser", reason="the independent reader is not installed")

PFNS = [1, 2, 3, 9, 0x10, 0x11, 0x3F, 0x40, 0x41, 0x1FE, 0x1FF, 0x200, 0x7F0, 0x7FF]
SIZE = 0x800
RUNS = packing.runs_of(PFNS)


def context() -> bytes:
    """A CONTEXT that kdmp-parser accepts: both copies of MXCSR are the same."""
    block = bytearray(3000)
    struct.pack_into("<I", block, 0x30, 0x10001F)
    struct.pack_into("<I", block, 0x34, 0x1F80)
    struct.pack_into("<I", block, 0x118, 0x1F80)
    struct.pack_into("<Q", block, 0xF8, 0xFFFFF80000001000)
    return bytes(block)


MADE: dict[int, Callable[[], bytearray]] = {
    1: lambda: packing.full(RUNS, ContextRecord=context()),
    5: lambda: packing.bitmap(PFNS, SIZE, 5, magic=b"FDMP", ContextRecord=context()),
    6: lambda: packing.bitmap(PFNS, SIZE, 6, magic=b"SDMP", ContextRecord=context()),
    8: lambda: packing.ranges(RUNS, 8, spare=1, ContextRecord=context()),
    9: lambda: packing.ranges(RUNS, 9, spare=1, ContextRecord=context()),
    0xA: lambda: packing.ranges(RUNS, 0xA, spare=1, ContextRecord=context()),
}


@pytest.mark.parametrize("dump_type", MADE)
def test_an_independent_reader_finds_the_same_pages(dump_type: int, tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(MADE[dump_type]())
    oracle = kdmp_parser.KernelDumpParser(path)
    assert int(oracle.type) == dump_type
    dump = open_dump(path)
    assert dump.pages is not None
    ours = [found.pfn + step for found in extents(dump.pages, 0, SIZE) for step in range(found.count)]
    theirs = [pfn for pfn in range(SIZE) if oracle.read_physical_page(pfn << 12) is not None]
    assert ours == theirs == PFNS
    for pfn in PFNS:
        offset = dump.pages.offset_of(pfn)
        assert offset is not None
        assert dump.source.read(offset, 0x1000) == bytes(oracle.read_physical_page(pfn << 12)) == packing.page(pfn)
    assert dump.warnings == []
