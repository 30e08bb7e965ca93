"""What a reader of a container gives, and the page map of ranges of bytes that every container comes to."""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.cpu.state import ProcessorState
from volatility3_kdump.dump import PageMap, Segment, Source
from volatility3_kdump.dump.pagemap import PAGE_SHIFT, RunPageMap
from volatility3_kdump.dump.segments import disjoint
from volatility3_kdump.errors import CorruptDump

_PAGE_MASK = (1 << PAGE_SHIFT) - 1
#: Physical addresses have at most 52 bits.
_HIGHEST = 1 << 52


@dataclass(frozen=True)
class Capture:
    """An opened memory image.

    ``container`` names its kind in words. ``source`` has the bytes of the pages: the file, or what it is unpacked to.
    ``processors`` is empty where the container holds no registers; ``why_no_registers`` then says so. ``header`` is
    the crash-dump header that the container itself carries, as the driver in a guest of QEMU prepares it.
    """

    container: str
    source: Source
    pages: PageMap
    processors: tuple[ProcessorState, ...] = ()
    why_no_registers: str = ""
    warnings: tuple[str, ...] = ()
    header: bytes | None = None


def range_header(source: Source, position: int, layout: struct.Struct, warnings: list[str]) -> tuple[Any, ...] | None:
    """The fields of the header in front of a range; ``None``, and a warning, where the file ends inside of it."""
    data = source.read(position, layout.size)
    if len(data) < layout.size:
        warnings.append(f"the file ends inside the header of a range at {position:#x}: the copy is truncated")
        return None
    return layout.unpack(data)


def no_range_here(what: str, position: int, ranges: Sequence[Segment]) -> str:
    """The warning where no header of a range is. Raises :class:`CorruptDump` where no range was read before."""
    message = f"no header of {what} at offset {position:#x}"
    if not ranges:
        raise CorruptDump(f"{message}: the image is damaged")
    return f"{message}: what follows is left out"


def page_map(source: Source, ranges: Iterable[Segment], what: str, warnings: Sequence[str] = ()) -> RunPageMap:
    """The page map of ranges of physical addresses: address, offset in the source, bytes.

    Whole pages only: a part of a page is left out, and said. Ranges behind the end of the file are cut, and said; of
    ranges that overlap, the first wins. Raises :class:`CorruptDump` where no page is left.
    """
    told = list(warnings)
    whole: list[Segment] = []
    parts = wrong = missing = declared = 0
    end = 0
    for entry in ranges:
        address, offset, size = entry.address, entry.offset, entry.size
        if size <= 0:
            continue
        if address + size > _HIGHEST or offset < 0:
            wrong += 1
            continue
        skip = -address & _PAGE_MASK
        count = (size - skip) >> PAGE_SHIFT if size > skip else 0
        parts += bool(skip or size & _PAGE_MASK)
        end = max(end, offset + size)
        declared += count
        room = max(0, (source.size - offset - skip) >> PAGE_SHIFT)
        missing += max(0, count - room)
        count = min(count, room)
        if count:
            whole.append(Segment((address + skip) >> PAGE_SHIFT, offset + skip, count))
    if wrong:
        told.append(f"{wrong:,} {what} pass the end of physical memory; ignored")
    if missing:
        told.append(f"the file is truncated: {missing:,} of {declared:,} pages lie behind its end at {source.size:#x}")
    if not whole:
        raise CorruptDump(f"the {what} hold no page: the image is damaged, or cut short at {source.size:#x}")
    ordered = sorted(whole, key=lambda segment: segment.address)
    pairs = list(itertools.pairwise(ordered))
    if any(low.address + low.size > high.address for low, high in pairs):
        # Containers that list mappings name a page as often as it is mapped, each time at the same place.
        if any(
            low.address + low.size > high.address
            and low.offset - (low.address << PAGE_SHIFT) != high.offset - (high.address << PAGE_SHIFT)
            for low, high in pairs
        ):
            told.append(f"{what} overlap each other; of pages that are there twice the first counts")
        ordered = _disjoint(whole)
        declared -= sum(entry.size for entry in whole) - sum(entry.size for entry in ordered)
    if parts:
        told.append(f"{parts:,} {what} begin or end within a page; that page is left out")
    starts, counts, offsets = (array("Q", column) for column in zip(*map(_columns, ordered), strict=True))
    pages = RunPageMap(starts, counts, offsets, 0, declared, tuple(told))
    # An image is of the whole machine: what it does not list is not memory.
    pages.covered = (pages.highest or 0) + 1
    return pages


def _columns(entry: Segment) -> tuple[int, int, int]:
    return entry.address, entry.size, entry.offset


def _disjoint(ranges: list[Segment]) -> list[Segment]:
    """Ranges of page frames without what earlier ones have; their offsets are bytes, all else pages."""
    scaled = [Segment(entry.address << PAGE_SHIFT, entry.offset, entry.size << PAGE_SHIFT) for entry in ranges]
    return [
        Segment(entry.address >> PAGE_SHIFT, entry.offset, entry.size >> PAGE_SHIFT)
        for entry in sorted(disjoint(scaled), key=lambda segment: segment.address)
    ]
