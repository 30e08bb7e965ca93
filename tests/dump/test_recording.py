"""Which pages are read, by file offsets and page maps of every kind."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.archives import packing
from volatility3_kdump.dump import BytesSource, open_dump
from volatility3_kdump.dump.recording import Recorder, RecordingSource, recorded

RUNS = [(1, 0x9F), (0x100, 0x40)]
FRAMES = [*range(1, 0xA0), *range(0x100, 0x140)]


@pytest.mark.parametrize(
    "data",
    [packing.full(RUNS), packing.bitmap(FRAMES, 0x140), packing.summary(FRAMES, 0x140), packing.ranges(RUNS, spare=3)],
    ids=["runs", "bitmap", "summary", "ranges"],
)
def test_pages_that_are_read(data: bytearray) -> None:
    dump = open_dump(BytesSource(bytes(data)))
    assert dump.pages is not None
    recorder = Recorder()
    source = recorder.over(dump.source, dump.pages)
    generator = random.Random(5)
    expected = set()
    for _ in range(20):
        pfn = generator.choice([generator.randrange(1, 0xA0), generator.randrange(0x100, 0x140)])
        offset = dump.pages.offset_of(pfn)
        assert offset is not None
        within = generator.randrange(0xFF0)
        source.read(offset + within, 0x10)
        expected.add(pfn)
    marked = set(np.flatnonzero(recorder.pages(dump.pages)).tolist())
    assert marked == expected


def test_a_read_over_several_pages() -> None:
    dump = open_dump(BytesSource(bytes(packing.full([(4, 8)], 64))))
    assert dump.pages is not None
    recorder = Recorder()
    start = dump.pages.offset_of(5)
    assert start is not None
    recorder.over(dump.source, dump.pages).read(start + 0xFFF, 0x1002)
    assert np.flatnonzero(recorder.pages(dump.pages)).tolist() == [5, 6, 7]


def test_only_while_somebody_records() -> None:
    dump = open_dump(BytesSource(bytes(packing.full([(4, 8)], 64))))
    assert dump.pages is not None
    assert recorded(dump.source, dump.pages) is dump.source
    recorder = Recorder()
    with recorder.active():
        assert isinstance(recorded(dump.source, dump.pages), RecordingSource)
    assert recorded(dump.source, dump.pages) is dump.source
