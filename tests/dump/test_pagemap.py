"""Page maps of every type against models that look at one page at a time."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.archives import packing
from volatility3_kdump.dump import (
    BytesSource,
    CrashDump,
    FileSource,
    PageMap,
    extents,
    open_dump,
    parse_header,
    read_pagemap,
)
from volatility3_kdump.dump.pagemap import BitmapPageMap
from volatility3_kdump.dump.read_pagemap import build_page_map
from volatility3_kdump.errors import CorruptDump, UnsupportedDump

#: A page map by its definition: the file offset of each page frame that the file holds.
Model = dict[int, int]

SPAN = 1 << 40


def opened(data: bytes) -> CrashDump:
    return open_dump(BytesSource(bytes(data)))


def pages_of(data: bytes) -> PageMap:
    pages = opened(data).pages
    assert pages is not None
    return pages


def probes(model: Model) -> list[int]:
    near = {pfn + step for pfn in model for step in (-1, 0, 1)}
    return sorted({0, 1, 7, 8, 63, 64, 511, 512, SPAN} | {pfn for pfn in near if pfn >= 0})


def check(pages: PageMap, model: Model) -> None:
    """Every question that a page map answers, against the model."""
    stored = sorted(model)
    assert pages.present == len(model)
    assert pages.highest == (stored[-1] if stored else None)
    for pfn in probes(model):
        assert pages.offset_of(pfn) == model.get(pfn)
        assert pages.next_present(pfn) == next((other for other in stored if other >= pfn), None)
        for limit in (1, 3, 1000):
            found = pages.extent(pfn, limit)
            assert (found.pfn, found.offset) == (pfn, model.get(pfn))
            assert 1 <= found.count <= limit
            for step in range(min(found.count, 80)):
                expected = None if found.offset is None else found.offset + step * 0x1000
                assert model.get(pfn + step) == expected
            if found.count < limit:
                # The stretch does not end early, except that runs of one table may lie side by side.
                following, here = model.get(pfn + found.count), model.get(pfn + found.count - 1)
                assert (following is None) != (here is None) or (following is not None and here is not None)
    assert pages.offset_of(-1) is None
    asked = [-1, *reversed(probes(model)), 1 << 51]
    assert pages.offsets_of(np.array(asked, np.int64)).tolist() == [model.get(pfn, -1) for pfn in asked]
    collected: Model = {}
    for found in extents(pages, 0, SPAN):
        assert found.offset is not None
        collected.update({found.pfn + step: found.offset + step * 0x1000 for step in range(found.count)})
    assert collected == model


def packed(runs: Iterable[tuple[int, int]], first: int, size: int) -> Model:
    """Pages of runs lie one after another; the first claim to a page counts; whole pages within the file only."""
    model: Model = {}
    offset = first
    for base, count in runs:
        for pfn in range(base, base + count):
            if offset + 0x1000 <= size:
                model.setdefault(pfn, offset)
            offset += 0x1000
    return model


def set_bits(pfns: Iterable[int], first: int, size: int) -> Model:
    offsets = {pfn: first + 0x1000 * index for index, pfn in enumerate(sorted(set(pfns)))}
    return {pfn: offset for pfn, offset in offsets.items() if offset + 0x1000 <= size}


def test_the_helpers_disagree_with_a_wrong_map() -> None:
    pages = pages_of(packing.full([(1, 3)]))
    with pytest.raises(AssertionError):
        check(pages, packed([(1, 2)], 0x2000, 1 << 20))


# runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [64, 32])
def test_runs_are_packed_in_table_order(bits: int) -> None:
    runs = [(1, 3), (0x100, 2), (0x20, 1), (0x50000, 4)]
    data = packing.full(runs, bits)
    first = packing.HEADER_SIZE[bits]
    pages = pages_of(data)
    check(pages, packed(runs, first, len(data)))
    assert (pages.declared, pages.end, pages.warnings) == (10, first + 0xA000, ())
    for pfn in (1, 3, 0x101, 0x20, 0x50003):
        offset = pages.offset_of(pfn)
        assert offset is not None and data[offset : offset + 0x1000] == packing.page(pfn)


def test_page_frame_zero_is_legal_in_runs_and_bitmaps() -> None:
    assert pages_of(packing.full([(0, 2)])).offset_of(0) == 0x2000
    assert pages_of(packing.bitmap([0, 1], 64)).offset_of(0) == 0x3000


run_lists = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), min_size=1, max_size=10)


@settings(max_examples=part(100), deadline=None)
@given(run_lists, st.integers(0, 60), st.integers(0, 0xFFF), st.sampled_from([64, 32]))
def test_any_runs_at_any_truncation(runs: list[tuple[int, int]], kept: int, extra: int, bits: int) -> None:
    data = packing.full(runs, bits)
    first = packing.HEADER_SIZE[bits]
    data = data[: min(len(data), first + kept * 0x1000 + extra)]
    pages = pages_of(data)
    total = sum(count for _, count in runs)
    stored = min(total, (len(data) - first) // 0x1000)
    model = packed(runs, first, len(data))
    check(pages, model)
    # Missing pages are those behind the end of the file; a page that is claimed twice is not missing.
    assert pages.declared - pages.present == total - stored
    assert any("truncated" in warning for warning in pages.warnings) == (stored < total)
    assert any("more than one run" in warning for warning in pages.warnings) == (len(model) < stored)
    assert pages.end == first + total * 0x1000


def test_a_truncated_dump_says_how_many_pages_are_missing() -> None:
    data = packing.full([(1, 5), (0x10, 7)])[: 0x2000 + 4 * 0x1000 + 0x800]
    dump = opened(data)
    assert dump.pages is not None and (dump.pages.declared, dump.pages.present) == (12, 4)
    assert dump.warnings == ["the file is truncated: 8 of 12 pages lie behind its end at 0x6800"]


def test_a_dump_of_a_header_alone_opens_with_all_pages_missing() -> None:
    dump = opened(packing.full([(1, 5)])[:0x2000])
    assert dump.pages is not None and (dump.pages.declared, dump.pages.present, dump.pages.highest) == (5, 0, None)
    assert "5 of 5 pages" in dump.warnings[0]


def test_run_counts_that_contradict_each_other() -> None:
    data = packing.full([(1, 5)])
    packing.put(data, 64, "NumberOfPages", 6)
    assert opened(data).warnings == ["NumberOfPages is 0x6 but the runs add up to 0x5"]


@pytest.mark.parametrize(
    "run",
    [
        (0, (1 << 64) - 1),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 1, (1 << 64) - 1),
        ((1 << 52) - 1, 2),
        (0x4547415045474150, 0x4547415045474150),
    ],
)
def test_a_run_beyond_all_memory_is_left_out(run: tuple[int, int]) -> None:
    data = packing.full([(1, 2), (0x10, 1), (0x20, 2)])
    # The second run is damaged: what lies behind it in the file cannot be located any more.
    struct.pack_into("<QQ", data, 0xA8, *run)
    pages = pages_of(data)
    assert any("end of physical memory" in warning for warning in pages.warnings)
    assert (pages.offset_of(1), pages.offset_of(2)) == (0x2000, 0x3000)
    assert pages.offset_of(0) is None and pages.offset_of(run[0]) is None
    assert sum(found.count for found in extents(pages, 0, 1 << 64)) == pages.present


def test_a_run_as_long_as_memory_is_cut_to_the_file() -> None:
    data = packing.full([(1, 2)])
    struct.pack_into("<Q", data, 0xA0, (1 << 52) - 1)
    pages = pages_of(data)
    assert (pages.present, pages.highest, pages.declared) == (2, 2, (1 << 52) - 1)
    assert "truncated" in pages.warnings[-1]


def test_no_runs_at_all() -> None:
    data = packing.full([(1, 2)])
    packing.put(data, 64, "NumberOfRuns", 0)
    with pytest.raises(CorruptDump, match="NumberOfRuns 0 at offset 0x88"):
        opened(data)


# bitmaps ----------------------------------------------------------------------------------------------------------


def bitmap_first(size: int, bits: int = 64) -> int:
    return (packing.HEADER_SIZE[bits] + 0x38 + (size + 7) // 8 + 0xFFF) // 0x1000 * 0x1000


@settings(max_examples=part(100), deadline=None)
@given(st.data())
def test_any_bitmap_at_any_truncation(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 1400), "bits")
    dense = data.draw(st.booleans(), "dense")
    some = data.draw(st.sets(st.integers(0, size - 1), max_size=40), "page frames")
    pfns = sorted(set(range(size)) - some if dense else some)
    bits = data.draw(st.sampled_from([64, 32]), "header")
    summary = data.draw(st.booleans(), "summary")
    if summary:
        blob = packing.summary(pfns, size, bits)
        first = struct.unpack_from("<I", blob, packing.HEADER_SIZE[bits] + 0xC)[0]
    else:
        first = packing.HEADER_SIZE[bits] + 0x38 + (size + 7) // 8 + data.draw(st.integers(0, 9000), "gap")
        blob = packing.bitmap(pfns, size, data.draw(st.sampled_from([5, 6])), bits, first, padding=1)
    kept = data.draw(st.integers(0, len(pfns) + 1), "pages kept")
    blob = blob[: min(len(blob), first + kept * 0x1000 + data.draw(st.integers(0, 0xFFF), "part of a page"))]
    pages = pages_of(blob)
    model = set_bits(pfns, first, len(blob))
    check(pages, model)
    assert (pages.declared, pages.end) == (len(pfns), first + 0x1000 * len(pfns))
    assert any("truncated" in warning for warning in pages.warnings) == (len(model) < len(pfns))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 511, 512, 513, 4097])
@pytest.mark.parametrize("kind", ["bitmap", "summary"])
def test_tail_bits_are_kept_and_the_rest_of_the_byte_is_not(size: int, kind: str) -> None:
    pfns = [size - 1] if size > 1 else [0]
    data = packing.bitmap(pfns, size, padding=1) if kind == "bitmap" else packing.summary(pfns, size)
    pages = pages_of(data)
    first = len(data) - 0x1000
    check(pages, {size - 1: first})
    assert pages.warnings == ()


@pytest.mark.parametrize("magic", [b"SDMP", b"FDMP"])
@pytest.mark.parametrize("dump_type", [5, 6])
@pytest.mark.parametrize("bits", [64, 32])
def test_both_magics_occur_with_both_bitmap_types(magic: bytes, dump_type: int, bits: int) -> None:
    data = packing.bitmap([3, 9], 20, dump_type, bits, magic=magic)
    check(pages_of(data), set_bits([3, 9], bitmap_first(20, bits), len(data)))


def test_pages_need_not_begin_at_a_page_boundary() -> None:
    # A dump written by a debugger: 0x8000 bytes of bitmap at 0x2038, pages from 0xa038.
    pfns = [0, 5, 0x3FFFF]
    data = packing.bitmap(pfns, 0x40000, first=0xA038)
    pages = pages_of(data)
    assert [pages.offset_of(pfn) for pfn in pfns] == [0xA038, 0xB038, 0xC038]
    assert data[0xB038:0xC038] == packing.page(5)


def test_a_summary_dump_is_told_by_its_type_not_by_its_magic() -> None:
    # Both begin with 'SDMP' 'DUMP': read as a bitmap dump, its HeaderSize would be the buffer pointer.
    data = packing.summary([1, 2], 64)
    assert data[0x2000:0x2008] == b"SDMPDUMP"
    assert pages_of(data).offset_of(2) == 0x4000


def test_a_wrong_number_of_pages_is_a_warning() -> None:
    data = packing.bitmap([1, 2, 3], 64, declared=9)
    assert opened(data).warnings == ["the bitmap has 3 set bits but its header says 9 pages"]


@pytest.mark.parametrize("value", [0, 0x45474150, 0x4547415045474150, (1 << 64) - 1, 1 << 40])
@pytest.mark.parametrize("offset, name", [(0x2030, "BitmapSize"), (0x2020, "HeaderSize")])
def test_a_bitmap_header_that_contradicts_the_file(value: int, offset: int, name: str) -> None:
    data = packing.bitmap([1, 2, 3], 64)
    struct.pack_into("<Q", data, offset, value)
    if name == "HeaderSize":
        pages = pages_of(data)
        # The bitmap of 8 bytes ends at 0x2040, and the pages begin at the next page of the file.
        assert (pages.present, pages.declared) == (3, 3) and pages.offset_of(1) == 0x3000
        assert f"HeaderSize in the bitmap header at offset 0x2000 is {value:#x}" in pages.warnings[0]
        assert pages.warnings[0].endswith("begin where the bitmap's end says, at 0x3000")
    else:
        with pytest.raises(CorruptDump, match=f"{name} in the bitmap header at offset 0x2000 is {value:#x}"):
            opened(data)


def test_header_size_inside_the_bitmap() -> None:
    data = packing.bitmap([1, 2, 3], 0x8000)
    struct.pack_into("<Q", data, 0x2020, 0x3000)
    pages = pages_of(data)
    assert (
        "HeaderSize in the bitmap header at offset 0x2000 is 0x3000, inside the bitmap that ends at 0x3038"
        in pages.warnings[0]
    )
    assert pages.offset_of(2) == 0x5000


def test_header_size_that_leaves_no_page() -> None:
    data = packing.bitmap([1, 2, 3], 0x8000)[:0x3900]
    struct.pack_into("<Q", data, 0x2020, 0x3000)
    with pytest.raises(CorruptDump, match="HeaderSize in the bitmap header at offset 0x2000 is 0x3000, inside the bi"):
        opened(data)


@pytest.mark.parametrize("bits", [64, 1000, 4096 * 8, 1 << 17, (1 << 17) + 5])
def test_numpy_counts_as_python_does(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bitmap = random.Random(bits).randbytes((bits + 7) // 8)
    slow = BitmapPageMap(bitmap, bits, 0x3000, 1 << 40)
    monkeypatch.setattr(BitmapPageMap, "_LARGE", 4096)
    quick = BitmapPageMap._count_quickly(bitmap, bits)
    assert quick == slow._rank


def test_a_bitmap_beyond_every_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packing.bitmap([1], 64)
    struct.pack_into("<Q", data, 0x2030, 1 << 33)
    source = BytesSource(bytes(data))
    monkeypatch.setattr(source, "size", 2 << 30)
    with pytest.raises(UnsupportedDump, match="0x200000000 bits, 32 TB of memory: more than the 8 TB"):
        build_page_map(source, parse_header(source))


def test_many_ranges_out_of_order_take_little(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = [(16 * number, 3) for number in range(300)]
    random.Random(1).shuffle(ranges)
    with monkeypatch.context() as patched:
        patched.setattr(read_pagemap, "disjoint", None)
        data = bytes(packing.ranges(ranges))
        pages = pages_of(data)
    for number in range(300):
        first = pages.offset_of(16 * number)
        assert first is not None and data[first : first + 0x1000] == packing.page(16 * number)
        assert pages.offset_of(16 * number + 2) == first + 0x2000 and pages.offset_of(16 * number + 3) is None
    monkeypatch.setattr(read_pagemap, "_MOST_OVERLAPPING", 10)
    with pytest.raises(CorruptDump, match="20 page ranges overlap each other"):
        opened(packing.ranges([(number, 2) for number in range(20)]))


@pytest.mark.parametrize("offset, what", [(0x2000, "bitmap header"), (0x2004, "bitmap header")])
def test_no_bitmap_magic(offset: int, what: str) -> None:
    data = packing.bitmap([1], 64)
    data[offset : offset + 4] = b"\0\0\0\0"
    with pytest.raises(CorruptDump, match=f"no {what} .* at offset 0x2000"):
        opened(data)


@pytest.mark.parametrize(
    "make, ends",
    [
        (
            lambda: packing.bitmap([1, 2], 0x8000),
            {0x2000: "bitmap header", 0x2037: "bitmap header", 0x2100: "BitmapSize"},
        ),
        (lambda: packing.summary([1, 2], 0x8000), {0x2001: "summary header", 0x2027: "summary header"}),
        (lambda: packing.summary([1, 2], 0x8000), {0x2100: "BitmapSize"}),
        (lambda: packing.ranges([(1, 2), (4, 5)]), {0x2000: "range header", 0x202F: "range header"}),
        (lambda: packing.ranges([(1, 2), (4, 5)]), {0x2048: "FirstPageOffset"}),
    ],
)
def test_a_file_that_ends_in_the_description_of_its_pages(make: Callable[[], bytearray], ends: dict[int, str]) -> None:
    for size, words in ends.items():
        with pytest.raises(CorruptDump, match=words) as failure:
            opened(make()[:size])
        assert f"{size:#x}" in str(failure.value)


# ranges -----------------------------------------------------------------------------------------------------------


@settings(max_examples=part(100), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=10),
    st.integers(0, 3),
    st.integers(0, 60),
    st.integers(0, 0xFFF),
    st.sampled_from([8, 9, 0xA]),
)
def test_any_ranges_at_any_truncation(
    table: list[tuple[int, int]], spare: int, kept: int, extra: int, dump_type: int
) -> None:
    data = packing.ranges(table, dump_type, spare=spare)
    first = 0x2030 + 16 * (len(table) + spare)
    data = data[: min(len(data), first + kept * 0x1000 + extra)]
    pages = pages_of(data)
    total = sum(count for _, count in table)
    model = packed(table, first, len(data))
    check(pages, model)
    assert pages.declared - pages.present == total - min(total, (len(data) - first) // 0x1000)
    assert pages.end == first + 0x1000 * total


def test_the_number_of_ranges_excludes_the_header_that_metadata_size_counts() -> None:
    # kdmp-parser issue 27: six ranges of a 3.3 GB dump in 0x70 bytes of metadata; a seventh entry is page data.
    table = [(0x1, 0x9F), (0x100, 0x91E), (0xAE3, 0x940D), (0xA001, 0x1FF), (0xA20D, 0xAD0ED), (0xBCFFE, 0x1002)]
    total = sum(count for _, count in table)
    data = packing.header(64, 0xA)
    data += struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, 0x70, 0x2090) + struct.pack("<IIQ", 6, 0, total)
    data += b"".join(struct.pack("<QQ", *entry) for entry in table)
    assert len(data) == 0x2090
    data += struct.pack("<QQ", 0xF000EEF3F000EEC3, 0xF000EEC3F000E2C3) * 256
    pages = pages_of(data)
    assert pages.declared == total
    assert pages.present == 1 and pages.offset_of(1) == 0x2090
    assert pages.end == 0x2090 + 0x1000 * total
    assert pages.warnings == (f"the file is truncated: {total - 1:,} of {total:,} pages lie behind its end at 0x3090",)


@pytest.mark.parametrize("dump_type", [8, 9, 0xA])
def test_page_frame_zero_is_legal_in_ranges(dump_type: int) -> None:
    data = packing.ranges([(0, 2), (8, 1)], dump_type)
    check(pages_of(data), packed([(0, 2), (8, 1)], 0x2050, len(data)))


def test_a_total_that_contradicts_the_ranges_is_a_warning() -> None:
    assert opened(packing.ranges([(1, 2)], 0xA, total=3)).warnings == [
        "TotalNumberOfPages is 0x3 but the ranges add up to 0x2"
    ]
    assert opened(packing.ranges([(1, 2)], 8, total=0)).warnings == []


def test_metadata_size_that_contradicts_the_first_page() -> None:
    data = packing.ranges([(1, 2), (5, 1)])
    struct.pack_into("<Q", data, 0x2010, 0x18)
    dump = opened(data)
    assert dump.pages is not None
    check(dump.pages, packed([(1, 2), (5, 1)], 0x2050, len(data)))
    assert "contradict" in dump.warnings[0]


@pytest.mark.parametrize("value", [0, 0x2000, 0x202F, 1 << 40, (1 << 64) - 1, 0x4547415045474150])
def test_the_first_page_lies_in_the_file_behind_the_header(value: int) -> None:
    data = packing.ranges([(1, 2)])
    struct.pack_into("<Q", data, 0x2018, value)
    with pytest.raises(CorruptDump, match=f"FirstPageOffset at offset 0x2018 is {value:#x}"):
        opened(data)


@pytest.mark.parametrize("offset", [0x2004, 0x2008])
def test_no_range_magic(offset: int) -> None:
    data = packing.ranges([(1, 2)])
    data[offset] ^= 0xFF
    with pytest.raises(CorruptDump, match=r"no range header .* at offset 0x2004"):
        opened(data)


def test_page_data_taken_for_ranges_gives_one_warning() -> None:
    data = packing.ranges([(1, 200)])
    # FirstPageOffset points into the middle of the pages.
    struct.pack_into("<Q", data, 0x2018, 0x2000 + 100 * 0x1000)
    dump = opened(data)
    assert len(dump.warnings) <= 4


# bounds -----------------------------------------------------------------------------------------------------------


def test_many_overlapping_ranges_are_resolved_in_order() -> None:
    table = [(index * 2, 5) for index in range(3000, 0, -1)]
    data = packing.header(64, 8)
    first = 0x2030 + 16 * len(table)
    data += struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, first - 0x2020, first) + struct.pack("<IIQ", 0, 0, 0)
    data += b"".join(struct.pack("<QQ", *entry) for entry in table)

    class Sparse(BytesSource):
        """Reads as if 5 pages for each range followed."""

        def __init__(self) -> None:
            super().__init__(bytes(data))
            self.size = first + 0x5000 * len(table)

    pages = open_dump(Sparse()).pages
    assert pages is not None
    model: Model = {}
    position = first
    for base, count in table:
        for pfn in range(base, base + count):
            model.setdefault(pfn, position)
            position += 0x1000
    assert pages.present == len(model)
    assert all(pages.offset_of(pfn) == offset for pfn, offset in model.items())
    assert pages.declared == pages.present


@pytest.mark.parametrize(
    "make",
    [
        lambda: (packing.bitmap([1], 64), 0x2030, "<Q", (1 << 64) - 1),
        lambda: (packing.bitmap([1], 64), 0x2030, "<Q", 1 << 40),
        lambda: (packing.bitmap([1], 64), 0x2028, "<Q", (1 << 64) - 1),
        lambda: (packing.summary([1], 64), 0x2010, "<I", 0xFFFFFFFF),
        lambda: (packing.ranges([(1, 2)]), 0x2010, "<Q", (1 << 64) - 1),
        lambda: (packing.ranges([(1, 2)]), 0x2020, "<I", 0xFFFFFFFF),
        lambda: (packing.ranges([(1, 2)]), 0x2038, "<Q", 1 << 40),
        lambda: (packing.full([(1, 2)]), 0xA0, "<Q", 1 << 40),
        lambda: (packing.full([(1, 2)]), 0xA0, "<Q", (1 << 64) - 1),
        lambda: (packing.full([(1, 2)]), 0x88, "<I", 0xFFFFFFFF),
    ],
)
def test_a_huge_count_allocates_nothing(make: Callable[[], tuple[bytearray, int, str, int]]) -> None:
    data, offset, code, value = make()
    struct.pack_into(code, data, offset, value)
    source = BytesSource(bytes(data))
    tracemalloc.start()
    try:
        open_dump(source)
    except CorruptDump:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_map_of_64_gb_needs_no_memory_per_page(tmp_path: Path) -> None:
    # 16 M page frames, every second one stored; the file is sparse.
    size = 1 << 24
    first = 0x2038 + size // 8
    path = tmp_path / "sparse.dmp"
    with path.open("wb") as stream:
        stream.write(packing.header(64, 5))
        head = packing.fill(0x38)
        head[0:8] = b"FDMPDUMP"
        struct.pack_into("<QQQ", head, 0x20, first, size // 2, size)
        stream.write(head + b"\x55" * (size // 8))
        stream.truncate(first + 0x1000 * (size // 2))
    source = FileSource(path)
    tracemalloc.start()
    pages = open_dump(source).pages
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pages is not None and pages.present == pages.declared == size // 2
    assert pages.offset_of(size - 2) == first + 0x1000 * (size // 2 - 1)
    assert pages.offset_of(size - 1) is None
    assert pages.highest == size - 2
    assert peak < 8 << 20
