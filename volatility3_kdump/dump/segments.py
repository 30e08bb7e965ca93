"""A sparse virtual address space made of pieces of a file, as a small memory dump holds it.

Pieces abut and overlap. Where two overlap, the one added first keeps the range, so that data blocks win over copies.
Abutting pieces are stitched: a read may cross any number of them.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from volatility3_kdump.dump.source import Source


@dataclass(frozen=True)
class Segment:
    """``size`` bytes at virtual ``address`` that lie at file offset ``offset``."""

    address: int
    offset: int
    size: int


class SegmentMap:
    """Sorted, disjoint segments with logarithmic lookup."""

    def __init__(self, segments: list[Segment]) -> None:
        """Segments in order of precedence; zero-sized ones are dropped."""
        self.segments = disjoint([segment for segment in segments if segment.size > 0])
        self._starts = [segment.address for segment in self.segments]

    def find(self, address: int) -> Segment | None:
        """The segment that holds an address."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        segment = self.segments[index]
        return segment if address < segment.address + segment.size else None

    def pieces(self, address: int, length: int) -> Iterator[Segment]:
        """The parts of ``[address, address + length)`` that the dump holds, in order."""
        index = max(0, bisect.bisect_right(self._starts, address) - 1)
        end = address + length
        while index < len(self.segments) and self.segments[index].address < end:
            segment = self.segments[index]
            start = max(address, segment.address)
            stop = min(end, segment.address + segment.size)
            if start < stop:
                yield Segment(start, segment.offset + start - segment.address, stop - start)
            index += 1

    def read(self, source: Source, address: int, length: int) -> bytes | None:
        """``length`` bytes at ``address``, ``None`` unless the dump holds all of them."""
        parts = []
        position = address
        for piece in self.pieces(address, length):
            if piece.address != position:
                return None
            data = source.read(piece.offset, piece.size)
            if len(data) < piece.size:
                return None
            parts.append(data)
            position += piece.size
        return b"".join(parts) if position == address + length else None


def disjoint(segments: list[Segment]) -> list[Segment]:
    """Sort by address; the part of a segment that an earlier one in the list covers is cut away.

    Any unit will do, as long as addresses, offsets and sizes are in the same one.
    """
    order = sorted(range(len(segments)), key=lambda index: (segments[index].address, index))
    if all(
        segments[order[k]].address + segments[order[k]].size <= segments[order[k + 1]].address
        for k in range(len(order) - 1)
    ):
        return [segments[index] for index in order]
    # Precedence is list order, and overlaps are rare: a sweep over boundaries keeps the lowest index active.
    boundaries = sorted({edge for segment in segments for edge in (segment.address, segment.address + segment.size)})
    active: list[int] = []
    pieces: list[Segment] = []
    following = 0
    for left, right in itertools.pairwise(boundaries):
        while following < len(order) and segments[order[following]].address <= left:
            heapq.heappush(active, order[following])
            following += 1
        while active and segments[active[0]].address + segments[active[0]].size <= left:
            heapq.heappop(active)
        if not active:
            continue
        winner = segments[active[0]]
        offset = winner.offset + left - winner.address
        last = pieces[-1] if pieces else None
        if last and last.address + last.size == left and last.offset + last.size == offset:
            pieces[-1] = Segment(last.address, last.offset, last.size + right - left)
        else:
            pieces.append(Segment(left, offset, right - left))
    return pieces
