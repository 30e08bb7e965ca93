"""Reads the page map of a dump from its file: physical memory runs, bitmaps of both kinds, tables of page ranges."""

from __future__ import annotations

import bisect
import itertools
import operator
from array import array
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables
from volatility3_kdump.dump.header import DumpHeader, DumpType
from volatility3_kdump.dump.segments import Segment, disjoint
from volatility3_kdump.dump.source import Source
from volatility3_kdump.errors import CorruptDump, UnsupportedDump

if TYPE_CHECKING:
    pass

#: Page frames of the largest bitmap that is read at once: 8 TB of memory, 256 MB of bitmap.
from volatility3_kdump.dump.pagemap import PAGE_SHIFT, BitmapPageMap, PageMap, RunPageMap

_MOST_BITS = 1 << 31
#: Ranges that overlap are taken apart one by one, which takes time and memory for each.
_MOST_OVERLAPPING = 1 << 18
#: Bytes between a bitmap and its pages; beyond, HeaderSize is wrong rather than the file cut short.
_MOST_GAP = 1 << 20
#: Page frames that 64-bit physical addresses can name.
_HIGHEST = 1 << (64 - PAGE_SHIFT)
#: Debuggers write one range for each stretch of physical memory; even filtered memory stays far below this many.
_MOST_RANGES = 1 << 21
_RANGES_AT_ONCE = 1 << 16


def build_page_map(source: Source, header: DumpHeader) -> PageMap:
    """The page map of a dump that holds physical pages.

    Raises :class:`UnsupportedDump` for types that hold none and :class:`CorruptDump` when the map cannot be trusted at
    all. A map that reaches behind the end of the file is cut and warned about, not refused.
    """
    builders = {
        DumpType.FULL: _from_runs,
        DumpType.SUMMARY: _from_summary,
        DumpType.BITMAP_FULL: _from_bitmap,
        DumpType.BITMAP_KERNEL: _from_bitmap,
        DumpType.KERNEL_RANGES: _from_ranges,
        DumpType.USER_RANGES: _from_ranges,
        DumpType.FULL_RANGES: _from_ranges,
    }
    builder = builders.get(header.dump_type or 0)
    if builder is None:
        raise UnsupportedDump(f"dump type {header.dump_type} holds no physical pages")
    return builder(source, header)


def _from_runs(source: Source, header: DumpHeader) -> PageMap:
    runs = header.runs()
    if not runs:
        state = "never set" if header.number_of_runs is None else f"{header.number_of_runs} at offset "
        state += "" if header.number_of_runs is None else "0x88" if header.bits == 64 else "0x64"
        raise CorruptDump(
            f"a complete dump without a physical memory descriptor (NumberOfRuns {state}): no page can be located"
        )
    warnings = []
    total = sum(run.page_count for run in runs)
    if header.number_of_pages != total:
        warnings.append(f"NumberOfPages is {header.number_of_pages:#x} but the runs add up to {total:#x}")
    bases = array("Q", (run.base_page for run in runs))
    counts = array("Q", (run.page_count for run in runs))
    return _packed(source, bases, counts, header.header_size, warnings)


def _from_ranges(source: Source, header: DumpHeader) -> PageMap:
    layouts = tables.structures()
    size = layouts.size_of("_RANGE_DUMP")
    start = header.header_size
    data = _read_exact(source, start, size, "range header")
    row = layouts.reader(
        "_RANGE_DUMP",
        signature="Signature",
        valid="ValidDump",
        metadata="MetadataSize",
        first="FirstPageOffset",
        pages="TotalNumberOfPages",
    ).unpack(data)
    if row.signature.to_bytes(4, "little") != b"RDMP" or row.valid.to_bytes(4, "little") != b"DUMP":
        raise CorruptDump(f"no range header ('RDMP' 'DUMP') at offset {start + 4:#x}: the copy is damaged")
    table = start + size
    warnings = []
    if start + 0x20 + row.metadata != row.first:
        warnings.append(
            f"MetadataSize {row.metadata:#x} and FirstPageOffset {row.first:#x} contradict each other; "
            "the offset is used"
        )
    if row.first < table or row.first > source.size:
        raise CorruptDump(
            f"FirstPageOffset at offset {start + 0x18:#x} is {row.first:#x}, outside the file of {source.size:#x} bytes"
        )
    # The table ends where the pages begin: reading an entry more would take page data for a range.
    bases, counts = _range_table(source, table, (row.first - table) // 16)
    total = sum(counts)
    if row.pages and row.pages != total:
        warnings.append(f"TotalNumberOfPages is {row.pages:#x} but the ranges add up to {total:#x}")
    return _packed(source, bases, counts, row.first, warnings)


def _range_table(source: Source, table: int, entries: int) -> tuple[array[int], array[int]]:
    """First page frames and page counts of at most ``entries`` ranges; one without pages ends the table."""
    raw = array("Q")
    while entries:
        if len(raw) > 2 * _MOST_RANGES:
            raise CorruptDump(
                f"the range table at offset {table:#x} has more than {_MOST_RANGES:,} entries: "
                "FirstPageOffset is damaged"
            )
        at_once = min(entries, _RANGES_AT_ONCE)
        chunk = array("Q", source.read(table + 8 * len(raw), 16 * at_once))
        counts = chunk[1::2]
        if 0 in counts:
            raw.extend(chunk[: 2 * counts.index(0)])
            break
        raw.extend(chunk)
        entries -= at_once
    return raw[0::2], raw[1::2]


def _packed(source: Source, bases: array[int], counts: array[int], first: int, warnings: list[str]) -> PageMap:
    """A map of page ranges that follow each other in the file, in table order."""
    # A page index within the file's data; Python integers, because counts from a damaged table overflow 64 bits.
    positions = list(itertools.accumulate(counts, initial=0))
    end = first + (positions.pop() << PAGE_SHIFT)
    room = max(0, (source.size - first) >> PAGE_SHIFT)
    if any(map(_HIGHEST.__lt__, map(operator.add, bases, counts))):
        good = [index for index, base in enumerate(bases) if base + counts[index] <= _HIGHEST]
        worst = next(index for index, base in enumerate(bases) if base + counts[index] > _HIGHEST)
        warnings.append(
            f"{len(bases) - len(good):,} of {len(bases):,} runs pass the end of physical memory (the first has "
            f"{counts[worst]:#x} pages at page frame {bases[worst]:#x}); ignored"
        )
        positions = [positions[index] for index in good]
        bases, counts = (array("Q", (column[index] for index in good)) for column in (bases, counts))
    declared = sum(counts)
    inside = bisect.bisect_left(positions, room)
    del positions[inside:], bases[inside:], counts[inside:]
    if counts:
        counts[-1] = min(counts[-1], room - positions[-1])
    located = sum(counts)
    missing = declared - located
    # A run of no pages would hide the ones before it from a search.
    if not all(counts) or not all(map(operator.le, map(operator.add, bases, counts), itertools.islice(bases, 1, None))):
        bases, positions, counts = _sorted_apart(bases, positions, counts)
        declared -= located - sum(counts)
        if located != sum(counts):
            warnings.append(f"{located - sum(counts):,} pages are claimed by more than one run; the first run wins")
    if missing:
        warnings.append(_truncated(source, missing, declared))
    offsets = array("Q", (first + (position << PAGE_SHIFT) for position in positions))
    return RunPageMap(bases, counts, offsets, end, declared, tuple(warnings))


def _sorted_apart(
    bases: array[int], positions: list[int], counts: array[int]
) -> tuple[array[int], list[int], array[int]]:
    """Ranges by page frame, without those of no pages; where some overlap, the first of them in the table wins."""
    import numpy as np

    first = np.frombuffer(bases, np.uint64)
    size = np.frombuffer(counts, np.uint64)
    order = np.argsort(first, kind="stable")
    order = order[size[order] > 0]
    if not (first[order][:-1] + size[order][:-1] > first[order][1:]).any():
        where = np.array(positions, np.int64)[order]
        return array("Q", first[order].tobytes()), where.tolist(), array("Q", size[order].tobytes())
    if len(bases) > _MOST_OVERLAPPING:
        raise CorruptDump(f"{len(bases):,} page ranges overlap each other: the range table is damaged")
    parts = disjoint([part for part in map(Segment, bases, positions, counts) if part.size])
    columns = (array("Q", (getattr(part, name) for part in parts)) for name in ("address", "size"))
    apart_bases, apart_counts = columns
    return apart_bases, [part.offset for part in parts], apart_counts


def _truncated(source: Source, missing: int, declared: int) -> str:
    return f"the file is truncated: {missing:,} of {declared:,} pages lie behind its end at {source.size:#x}"


def _from_summary(source: Source, header: DumpHeader) -> PageMap:
    layouts = tables.structures()
    type_name = f"_SUMMARY_DUMP{header.bits}"
    start = header.header_size
    size = layouts.size_of(type_name)
    row = layouts.reader(
        type_name, signature="Signature", valid="ValidDump", first="HeaderSize", bits="BitmapSize", pages="Pages"
    ).unpack(_read_exact(source, start, size, "summary header"))
    return _bitmap(source, start, start + size, row)


def _from_bitmap(source: Source, header: DumpHeader) -> PageMap:
    layouts = tables.structures()
    start = header.header_size
    size = layouts.size_of("_BITMAP_DUMP")
    row = layouts.reader(
        "_BITMAP_DUMP", signature="Signature", valid="ValidDump", first="HeaderSize", bits="BitmapSize", pages="Pages"
    ).unpack(_read_exact(source, start, size, "bitmap header"))
    return _bitmap(source, start, start + size, row)


def _bitmap(source: Source, start: int, bitmap_start: int, row: Any) -> PageMap:
    first, bits, pages = int(row.first), int(row.bits), int(row.pages)
    if row.signature.to_bytes(4, "little") not in (b"SDMP", b"FDMP") or row.valid.to_bytes(4, "little") != b"DUMP":
        raise CorruptDump(f"no bitmap header ('SDMP' or 'FDMP', 'DUMP') at offset {start:#x}: the copy is damaged")
    length = (bits + 7) >> 3
    if bits > _MOST_BITS and bitmap_start + length <= source.size:
        raise UnsupportedDump(
            f"BitmapSize in the bitmap header at offset {start:#x} is {bits:#x} bits, {bits >> 28:,} TB of memory: "
            f"more than the {_MOST_BITS >> 28:,} TB that are supported, or the header is damaged"
        )
    if bits == 0 or bitmap_start + length > source.size:
        raise CorruptDump(
            f"BitmapSize in the bitmap header at offset {start:#x} is {bits:#x} bits: the bitmap would end at "
            f"{bitmap_start + length:#x}, but the file ends at {source.size:#x}: the copy is truncated or the header "
            "damaged"
        )
    first, warnings = _first_page(source, start, bitmap_start + length, first, pages)
    bitmap = _read_exact(source, bitmap_start, length, "bitmap")
    page_map = BitmapPageMap(bitmap, bits, first, source.size)
    if page_map.declared != pages:
        warnings.append(f"the bitmap has {page_map.declared:,} set bits but its header says {pages:,} pages")
    missing = page_map.declared - page_map.present
    if missing:
        warnings.append(_truncated(source, missing, page_map.declared))
    page_map.warnings = tuple(warnings)
    return page_map


def _first_page(source: Source, start: int, end: int, first: int, pages: int) -> tuple[int, list[str]]:
    """Where the pages behind a bitmap that ends at ``end`` begin: at HeaderSize, unless that cannot be.

    Windows writes the first page at the next page of the file behind the bitmap.
    """
    begin = -(-end >> PAGE_SHIFT) << PAGE_SHIFT
    if first < end:
        place = f"inside the bitmap that ends at {end:#x}"
    elif first >= source.size and first - begin >= _MOST_GAP and begin + (pages << PAGE_SHIFT) <= source.size:
        place = f"behind the end of the file at {source.size:#x}"
    else:
        return first, []
    complaint = f"HeaderSize in the bitmap header at offset {start:#x} is {first:#x}, {place}"
    if begin + (1 << PAGE_SHIFT) > source.size:
        raise CorruptDump(f"{complaint}: the copy is truncated and holds no page")
    return begin, [f"{complaint}: the pages are taken to begin where the bitmap's end says, at {begin:#x}"]


def _read_exact(source: Source, offset: int, length: int, what: str) -> bytes:
    data = source.read(offset, length)
    if len(data) < length:
        raise CorruptDump(
            f"the file ends at offset {source.size:#x}, inside the {what} at {offset:#x}: the copy is truncated "
            "and holds no page"
        )
    return data
