"""A sparse address space against a model that holds one byte at a time."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.dump import BytesSource, Segment, SegmentMap

FILE = bytes((index * 7 + index // 256) & 0xFF for index in range(1024))
SOURCE = BytesSource(FILE)

segments = st.lists(st.builds(Segment, st.integers(0, 200), st.integers(0, 900), st.integers(0, 60)), max_size=12)


def model(pieces: list[Segment]) -> dict[int, int]:
    """Address to file offset; the first segment in the list that has an address keeps it."""
    held: dict[int, int] = {}
    for piece in pieces:
        for step in range(piece.size):
            held.setdefault(piece.address + step, piece.offset + step)
    return held


@settings(max_examples=part(150), deadline=None)
@given(segments, st.integers(0, 270), st.integers(1, 90))
def test_reads_and_pieces(pieces: list[Segment], address: int, length: int) -> None:
    held = model(pieces)
    memory = SegmentMap(pieces)
    expected = [held.get(position) for position in range(address, address + length)]
    read = memory.read(SOURCE, address, length)
    if None in expected:
        assert read is None
    else:
        assert read == bytes(FILE[offset] for offset in expected if offset is not None)
    found = {}
    last = address
    for piece in memory.pieces(address, length):
        assert piece.size > 0 and piece.address >= last
        last = piece.address + piece.size
        found.update({piece.address + step: piece.offset + step for step in range(piece.size)})
    assert last <= address + length
    assert found == {position: offset for position, offset in held.items() if address <= position < address + length}


@settings(max_examples=part(100), deadline=None)
@given(segments)
def test_segments_are_sorted_and_disjoint_and_cover_the_same_bytes(pieces: list[Segment]) -> None:
    memory = SegmentMap(pieces)
    for before, after in itertools.pairwise(memory.segments):
        assert before.address + before.size <= after.address
    held = model(pieces)
    assert model(memory.segments) == held
    for address in range(-2, 270):
        found = memory.find(address)
        assert (found is None) == (address not in held)
        if found is not None:
            assert found.offset + address - found.address == held[address]


def test_bytes_behind_the_end_of_the_file_are_not_there() -> None:
    memory = SegmentMap([Segment(0x1000, 1020, 8)])
    assert memory.read(SOURCE, 0x1000, 4) == FILE[1020:]
    assert memory.read(SOURCE, 0x1000, 5) is None


def test_an_empty_map() -> None:
    memory = SegmentMap([])
    assert memory.find(0) is None and memory.read(SOURCE, 0, 1) is None and list(memory.pieces(0, 10)) == []


def test_many_overlapping_segments_are_resolved_quickly() -> None:
    # Quadratic work would take minutes.
    memory = SegmentMap([Segment(3 * index, 0, 1000) for index in range(20000, 0, -1)])
    assert memory.find(3 * 20000 + 999) is not None
    assert sum(segment.size for segment in memory.segments) == 3 * 19999 + 1000
