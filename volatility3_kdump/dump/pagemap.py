"""Where the bytes of a physical page lie in the file, for every layout of page data.

A page map answers three questions in constant or logarithmic time and stores nothing per page: the file offset of a
page frame, how far a stretch of pages is stored contiguously (or absent), and the next stored page.

Runs (DumpType 1) and ranges (8, 9, 0xA) are packed one after another, so with runs ``[0x1 +0x9f, 0x100 +0x91e]`` page
frame 0x100 is page 0x9f of the file's data. Bitmaps (2, 5, 6) store one bit per page frame; the file offset of a set
bit is the number of set bits below it, found from a running count per 64 bytes (512 pages).
"""

from __future__ import annotations

import bisect
import functools
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_SHIFT = 12


@dataclass(frozen=True)
class Extent:
    """A stretch of page frames: stored contiguously from ``offset`` in the file, or absent when that is ``None``."""

    pfn: int
    count: int
    offset: int | None


class PageMap(Protocol):
    """What the layers need to know of the physical pages in a dump file."""

    #: File offset just behind the last page that the dump declares: where tagged data begins.
    end: int
    #: Different pages that the dump declares, and those of them that lie within the file.
    declared: int
    present: int
    #: Up to which page frame (exclusive) the map says of every page whether it is stored; 0 where it lists some only.
    covered: int
    #: Contradictions found while building the map, one line each.
    warnings: tuple[str, ...]

    def offset_of(self, pfn: int) -> int | None:
        """File offset of a page frame, ``None`` when the dump does not hold it."""
        ...

    def extent(self, pfn: int, limit: int) -> Extent:
        """The stretch of at most ``limit`` pages from ``pfn`` that is stored contiguously or absent."""
        ...

    def next_present(self, pfn: int) -> int | None:
        """The first stored page frame at or above ``pfn``."""
        ...

    def offsets_of(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """As :meth:`offset_of` for an array of page frames of any order, -1 where the dump does not hold one."""
        ...

    @property
    def highest(self) -> int | None:
        """The highest stored page frame number, ``None`` when no page is stored."""
        ...


def extents(page_map: PageMap, start: int, stop: int) -> Iterator[Extent]:
    """The stored stretches of page frames in ``[start, stop)``, in order."""
    pfn = page_map.next_present(start)
    while pfn is not None and pfn < stop:
        stretch = page_map.extent(pfn, stop - pfn)
        yield stretch
        pfn = page_map.next_present(pfn + stretch.count)


class RunPageMap:
    """Packed runs of pages, sorted by page frame; overlaps were resolved when it was built."""

    def __init__(
        self,
        starts: array[int],
        counts: array[int],
        offsets: array[int],
        end: int,
        declared: int,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """First page frame, number of pages and file offset of runs within the file, sorted and disjoint."""
        self._starts = starts
        self._counts = counts
        self._offsets = offsets
        self.end = end
        self.declared = declared
        self.present = sum(counts)
        self.covered = 0
        self.warnings = warnings

    def offset_of(self, pfn: int) -> int | None:
        if pfn < 0:
            return None
        index = bisect.bisect_right(self._starts, pfn) - 1
        if index < 0:
            return None
        delta = pfn - self._starts[index]
        return self._offsets[index] + (delta << PAGE_SHIFT) if delta < self._counts[index] else None

    def extent(self, pfn: int, limit: int) -> Extent:
        index = bisect.bisect_right(self._starts, pfn) - 1
        if index >= 0:
            delta = pfn - self._starts[index]
            left = self._counts[index] - delta
            if left > 0:
                return Extent(pfn, min(left, limit), self._offsets[index] + (delta << PAGE_SHIFT))
        following = self._starts[index + 1] if index + 1 < len(self._starts) else pfn + limit
        return Extent(pfn, min(following - pfn, limit), None)

    def next_present(self, pfn: int) -> int | None:
        index = bisect.bisect_right(self._starts, pfn) - 1
        if index >= 0 and pfn < self._starts[index] + self._counts[index]:
            return pfn
        return self._starts[index + 1] if index + 1 < len(self._starts) else None

    def offsets_of(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        import numpy as np

        if not self._starts:
            return np.full(pfns.shape, -1, np.int64)
        # Page frames and file offsets have at most 63 bits, so that the sign does not matter.
        starts, counts, offsets = (
            np.frombuffer(column, np.int64) for column in (self._starts, self._counts, self._offsets)
        )
        index = np.searchsorted(starts, pfns, side="right") - 1
        delta = pfns - starts[index]
        offsets_in_file: NDArray[np.int64] = np.where(
            (index >= 0) & (delta < counts[index]), offsets[index] + (delta << PAGE_SHIFT), -1
        )
        return offsets_in_file

    @property
    def highest(self) -> int | None:
        return self._starts[-1] + self._counts[-1] - 1 if self._starts else None


class BitmapPageMap:
    """A bitmap of page frames, least significant bit first, with a running count of set bits per 64 bytes."""

    _BLOCK = 64
    #: Bytes of a bitmap beyond which numpy counts it, as for machines of more than 1 TB: importing numpy takes longer
    #: than counting the bitmap of a smaller one.
    _LARGE = 32 << 20
    _NOT_FULL = re.compile(rb"[^\xff]")
    _NOT_EMPTY = re.compile(rb"[^\x00]")

    def __init__(
        self, bitmap: bytes, bits: int, first_page: int, file_size: int, warnings: tuple[str, ...] = ()
    ) -> None:
        """``bits`` of ``bitmap`` count; pages lie packed from file offset ``first_page``."""
        self._bits = bits
        # Not a copy where the length is right. What the last byte holds past the last bit is ignored by every method,
        # not cleared: that would copy the bitmap, 16 MB for a machine of 512 GB.
        self._bitmap = bitmap[: (bits + 7) >> 3]
        self._first_page = first_page
        self._rank = self._count(self._bitmap, bits)
        self.declared = self._rank[-1]
        room = max(0, (file_size - first_page) >> PAGE_SHIFT)
        self.present = min(self.declared, room)
        self.end = first_page + (self.declared << PAGE_SHIFT)
        self.covered = bits
        self.warnings = warnings

    @classmethod
    def _count(cls, bitmap: bytes, bits: int) -> array[int]:
        """Set bits before each block, and their total at the end."""
        if len(bitmap) > cls._LARGE:
            return cls._count_quickly(bitmap, bits)
        from_bytes = int.from_bytes
        rank = array("Q", bytes(8 * ((len(bitmap) + cls._BLOCK - 1) // cls._BLOCK + 1)))
        total = 0
        step = cls._BLOCK
        index = 0
        full = b"\xff" * step
        empty = bytes(step)
        for start in range(0, len(bitmap), step):
            rank[index] = total
            block = bitmap[start : start + step]
            if block == full:
                total += step * 8
            elif block != empty:
                total += from_bytes(block, "little").bit_count()
            index += 1
        if bits & 7:
            total -= (bitmap[-1] >> (bits & 7)).bit_count()
        rank[index] = total
        return rank

    @classmethod
    def _count_quickly(cls, bitmap: bytes, bits: int) -> array[int]:
        """As :meth:`_count` by numpy, which small dumps need not wait for."""
        import numpy as np

        counts = np.zeros((len(bitmap) + cls._BLOCK - 1) // cls._BLOCK, np.int64)
        # A large machine's bitmap is worked through in pieces, so that its words are never all in memory.
        for start in range(0, len(bitmap), cls._LARGE):
            piece = bitmap[start : start + cls._LARGE]
            quadwords = np.zeros(-(-len(piece) // cls._BLOCK) * (cls._BLOCK // 8), np.uint64)
            quadwords.view(np.uint8)[: len(piece)] = np.frombuffer(piece, np.uint8)
            first = start // cls._BLOCK
            sums = _set_bits(quadwords).reshape(-1, cls._BLOCK // 8).sum(axis=1)
            counts[first : first + len(sums)] = sums
        if bits & 7:
            counts[-1] -= (bitmap[-1] >> (bits & 7)).bit_count()
        rank = array("Q", bytes(8))
        rank.frombytes(np.cumsum(counts).astype(np.uint64).tobytes())
        return rank

    def _index_of(self, pfn: int) -> int | None:
        """How many stored pages precede a page frame whose bit is set; ``None`` when it is clear."""
        if not 0 <= pfn < self._bits:
            return None
        byte, bit = pfn >> 3, pfn & 7
        value = self._bitmap[byte]
        if not value >> bit & 1:
            return None
        block = byte // self._BLOCK
        whole_bytes = int.from_bytes(self._bitmap[block * self._BLOCK : byte], "little").bit_count()
        return self._rank[block] + whole_bytes + (value & ((1 << bit) - 1)).bit_count()

    def offset_of(self, pfn: int) -> int | None:
        index = self._index_of(pfn)
        return None if index is None or index >= self.present else self._first_page + (index << PAGE_SHIFT)

    def offsets_of(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        import numpy as np

        bitmap, rank = self._words
        inside = (pfns >= 0) & (pfns < self._bits)
        bits = np.where(inside, pfns, 0)
        word = bitmap[bits >> 6]
        bit = (bits & 63).astype(np.uint64)
        present = inside & (word >> bit & np.uint64(1) != 0)
        index = rank[bits >> 6] + _set_bits(word & ((np.uint64(1) << bit) - np.uint64(1)))
        present &= index < self.present
        offsets: NDArray[np.int64] = np.where(present, self._first_page + (index << PAGE_SHIFT), -1)
        return offsets

    @functools.cached_property
    def _words(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The bitmap in words of 64 bits, and how many bits are set before each."""
        import numpy as np

        bitmap = np.zeros(len(self._bitmap) + 7 >> 3, np.uint64)
        bitmap.view(np.uint8)[: len(self._bitmap)] = np.frombuffer(self._bitmap, np.uint8)
        rank = np.zeros(len(bitmap), np.int64)
        np.cumsum(_set_bits(bitmap[:-1]), out=rank[1:])
        return bitmap, rank

    def extent(self, pfn: int, limit: int) -> Extent:
        index = self._index_of(pfn)
        if index is None or index >= self.present:
            following = self.next_present(pfn)
            return Extent(pfn, limit if following is None else min(following - pfn, limit), None)
        count = min(self._first(pfn, limit, self._NOT_FULL, 0xFF) - pfn, limit, self.present - index)
        return Extent(pfn, count, self._first_page + (index << PAGE_SHIFT))

    def next_present(self, pfn: int) -> int | None:
        next_set = self._first(max(pfn, 0), self._bits, self._NOT_EMPTY, 0)
        if next_set >= self._bits:
            return None
        # The bits of pages behind the end of the file are set, but their pages are not there.
        index = self._index_of(next_set)
        return next_set if index is not None and index < self.present else None

    def _first(self, pfn: int, limit: int, pattern: re.Pattern[bytes], skip: int) -> int:
        """The first page frame from ``pfn`` on, within ``limit`` pages, whose bit differs from the bits of ``skip``."""
        if pfn >= self._bits:
            return pfn
        byte = pfn >> 3
        changed = (self._bitmap[byte] ^ skip) >> (pfn & 7)
        if changed:
            return min(self._bits, pfn + (changed & -changed).bit_length() - 1)
        match = pattern.search(self._bitmap, byte + 1, min(len(self._bitmap), ((pfn + limit) >> 3) + 1))
        if match is None:
            return min(self._bits, pfn + limit)
        changed = self._bitmap[match.start()] ^ skip
        return min(self._bits, match.start() * 8 + (changed & -changed).bit_length() - 1)

    @property
    def highest(self) -> int | None:
        if not self.present:
            return None
        block = bisect.bisect_left(self._rank, self.present) - 1
        wanted = self.present - self._rank[block]
        start = block * self._BLOCK
        bits = int.from_bytes(self._bitmap[start : start + self._BLOCK], "little")
        for _ in range(wanted - 1):
            bits &= bits - 1
        return start * 8 + (bits & -bits).bit_length() - 1


def _set_bits(counts: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits of each word are set."""
    import numpy as np

    two, four, eight, ones = (np.uint64(pattern * 0x0101010101010101) for pattern in (0x55, 0x33, 0x0F, 0x01))
    counts = counts - (counts >> np.uint64(1) & two)
    counts = (counts & four) + (counts >> np.uint64(2) & four)
    counts = counts + (counts >> np.uint64(4)) & eight
    return (counts * ones >> np.uint64(56)).astype(np.int64)
