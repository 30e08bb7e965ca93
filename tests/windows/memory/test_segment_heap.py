"""Segment heaps laid out by hand, and damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from tests.patched import patched
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory.pool import (
    ALLOCATED,
    FREE,
    NONPAGED,
    NONPAGED_NX,
    PAGED,
    PoolBlock,
    Unplaced,
    find_block,
    pool,
)
from volatility3_kdump.windows.memory.segment_heap import USER_RANGE, SegmentHeaps

Sample = Callable[..., Path]
#: A segment of the made machine, whose last pages are free: pages 0xc0 to 0xff are laid out here.
SEGMENT, FIRST, PAGES = 0xFFFF91894D600000, 0xC0, 4
RANGE = SEGMENT + FIRST * 0x1000
PAGE = 0x1000


@pytest.fixture(scope="module")
def heap(sample: Sample) -> Target:
    """A machine whose pool is in segment heaps (Windows 10 19041)."""
    return volatility3_kdump.open(sample())


@pytest.fixture(scope="module")
def roomy(heap: Target) -> Target:
    """The same with the pages of the range present: in the made dump they are not mapped."""
    whole = heap.memory.read
    target = patched(heap)
    inside = range(RANGE, RANGE + PAGES * PAGE)

    def read(address: int, size: int) -> bytes | None:
        return bytes(size) if address in inside and address + size - 1 in inside else whole(address, size)

    target.memory.read = read
    return target


def keys(target: Target) -> tuple[int, int]:
    """HeapKey and LfhKey, which stand at the start of nt!RtlpHpHeapGlobals."""
    where = target.symbol("RtlpHpHeapGlobals")
    assert where is not None
    data = target.memory.read(where, 16)
    assert data is not None
    return struct.unpack("<QQ", data)


def descriptors(kind: int, count: int = PAGES, first: int = FIRST) -> dict[int, bytes]:
    """_HEAP_PAGE_RANGE_DESCRIPTORs: 32 bytes, RangeFlags at 0x18, UnitSize or UnitOffset at 0x1f."""
    made = {}
    for index in range(count):
        flags = kind << 2 | (1 if index else 3)
        content = bytes(0x18) + bytes((flags, 1, 0, 0, 0, 0, 0, index or count))
        made[SEGMENT + 0x20 * (first + index)] = content
    return made


def pool_header(size: int, kind: int, tag: bytes, previous: int = 0) -> bytes:
    return struct.pack("<BBBB4sQ", previous // 16, 0, size // 16, kind, tag, 0)


def chunk(target: Target, address: int, size: int, previous: int, used: bool) -> bytes:
    """A _HEAP_VS_CHUNK_HEADER: sizes in units of 16 bytes, encoded with HeapKey and the header's address."""
    plain = (size // 16) << 16 | (previous // 16) << 32 | used << 48
    return struct.pack("<QQ", plain ^ keys(target)[0] ^ address, 0)


def vs_subsegment(target: Target, chunks: list[tuple[int, bool, bytes]]) -> dict[int, bytes]:
    """A variable size subsegment of so many bytes, in use or not, each with what its chunk begins with."""
    units = PAGES * PAGE // 16
    made = {RANGE: struct.pack("<QQQQHH", RANGE, RANGE, 0xF, 0, units, (units ^ 0x2BED) & 0x7FFF | 0x8000)}
    position, previous = RANGE + 0x30, 0
    for size, used, content in chunks:
        made[position] = chunk(target, position, size, previous, used) + content
        position, previous = position + size, size
    return made


def at(target: Target, address: int) -> PoolBlock:
    found = find_block(target, address)
    assert isinstance(found, PoolBlock), found.reason
    return found


def why(target: Target, address: int) -> str:
    found = find_block(target, address)
    assert isinstance(found, Unplaced), found.text
    return found.reason


def test_variable_size_blocks_by_hand(roomy: Target) -> None:
    sizes = [
        (0x80, True, pool_header(0x70, 2, b"Hand")),
        (0x40, False, b"\xaa" * 0x20),
        (0x200, True, pool_header(0x1E0, 3, b"Page")),
        (PAGES * PAGE - 0x30 - 0x2C0, False, b""),
    ]
    target = patched(roomy, {**descriptors(3), **vs_subsegment(roomy, sizes)})
    first = at(target, RANGE + 0x30 + 0x10)
    assert (first.address, first.size, first.header) == (RANGE + 0x40, 0x70, RANGE + 0x40)
    assert (first.tag, first.state, first.kind) == ("Hand", ALLOCATED, NONPAGED_NX)
    assert "VS subsegment ffff91894d6c0000 of nt!ExPoolState.PoolNode[0].Heaps[1]" in first.known_by
    free = at(target, RANGE + 0xB0 + 0x3F)
    assert (free.address, free.size, free.state, free.tag, free.header) == (RANGE + 0xC0, 0x30, FREE, None, None)
    # the region says nonpaged, and so does the heap: a header that says paged does not overrule them
    assert at(target, RANGE + 0x100).tag == "Page"
    last = at(target, RANGE + PAGES * PAGE - 1)
    assert (last.address, last.end) == (RANGE + 0x30 + 0x2C0 + 0x10, RANGE + PAGES * PAGE)
    assert "between its blocks" in why(target, RANGE + 0x10)
    assert "between its blocks" in why(target, RANGE + 0x30)


def test_a_header_that_was_moved_from_the_end_of_a_page(roomy: Target) -> None:
    """Data never starts a page: a header that would end with a page lies 16 bytes further."""
    before = PAGE - 0x10 - 0x30 - 0x10
    sizes = [
        (before, True, pool_header(0x20, 2, b"Befo")),
        (0x100, True, b"\xee" * 16 + pool_header(0xD0, 2, b"Move")),
        (PAGES * PAGE - 0x30 - before - 0x100, False, b""),
    ]
    target = patched(roomy, {**descriptors(3), **vs_subsegment(roomy, sizes)})
    found = at(target, RANGE + PAGE + 0x40)
    assert (found.address, found.header, found.data) == (RANGE + PAGE - 0x10, RANGE + PAGE, RANGE + PAGE + 0x10)
    assert found.tag == "Move"


def test_a_header_that_is_aligned_to_a_cache_line(roomy: Target) -> None:
    aligned = pool_header(0xA0, 2 | 4, b"Line", 0x30)
    sizes = [
        (0x100, True, b"\xee" * 0x30 + aligned),
        (0x100, True, b"\xee" * 0x20 + aligned),
        (PAGES * PAGE - 0x230, False, b""),
    ]
    target = patched(roomy, {**descriptors(3), **vs_subsegment(roomy, sizes)})
    found = at(target, RANGE + 0x100)
    assert (found.header, found.tag) == (RANGE + 0x40 + 0x30, "Line")
    # a distance that does not fit is no header
    assert at(target, RANGE + 0x200).tag is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({RANGE + 0x20: b"\0\0"}, "signature"),
        ({RANGE + 0x20: struct.pack("<HH", 0x7FFF, (0x7FFF ^ 0x2BED) & 0x7FFF)}, "larger than its page range"),
        ({RANGE + 0xB0: bytes(8)}, "is damaged at 0xffff91894d6c00b0"),
    ],
)
def test_damaged_variable_size_subsegments(roomy: Target, change: dict[int, bytes], words: str) -> None:
    sizes = [(0x80, True, pool_header(0x70, 2, b"Hand")), (PAGES * PAGE - 0xB0, False, b"")]
    target = patched(patched(roomy, {**descriptors(3), **vs_subsegment(roomy, sizes)}), change)
    assert words in why(target, RANGE + 0x400)
    if RANGE + 0xB0 in change:
        assert at(target, RANGE + 0x50).tag == "Hand"


@pytest.mark.parametrize("size", [0, 0x10, PAGES * PAGE])
def test_chunks_of_impossible_sizes_end_the_walk(roomy: Target, size: int) -> None:
    """0 would be walked for ever; one unit is less than a header and data; the last overlaps the end."""
    sizes = [(0x80, True, pool_header(0x70, 2, b"Hand")), (size, True, b"")]
    target = patched(roomy, {**descriptors(3), **vs_subsegment(roomy, sizes)})
    page = pool(target).page(RANGE + 0x400)
    assert isinstance(page.found, Unplaced)
    assert len(page.blocks) <= 2


def lfh_subsegment(target: Target, size: int, count: int, first: int, bits: int) -> dict[int, bytes]:
    """A low fragmentation subsegment: BlockOffsets at 0x28, the bit map at 0x30."""
    encoded = (size | first << 16) ^ keys(target)[1] & 0xFFFFFFFF ^ RANGE >> 12 & 0xFFFFFFFF
    head = bytearray(0x30)
    struct.pack_into("<HH", head, 0x20, 0, count)
    struct.pack_into("<I", head, 0x28, encoded & 0xFFFFFFFF)
    return {RANGE: bytes(head) + bits.to_bytes(16, "little")}


def test_low_fragmentation_blocks_by_hand(roomy: Target) -> None:
    # blocks 0 and 33 in use: bits 0 and 66; bit 1 of a pair says something else
    changes = {**descriptors(2), **lfh_subsegment(roomy, 0x90, 40, 0x60, 1 | 1 << 66 | 2 << 10)}
    changes[RANGE + 0x60] = pool_header(0x90, 2, b"Slot")
    changes[RANGE + 0x60 + 33 * 0x90] = pool_header(0x80, 2, b"Slo2")
    changes[RANGE + 0x60 + 34 * 0x90] = pool_header(0x80, 0, b"Last")
    target = patched(roomy, changes)
    blocks = pool(target).page(RANGE + 0x60).blocks
    assert [item.state for item in blocks[:3]] == [ALLOCATED, FREE, FREE]
    found = at(target, RANGE + 0x60 + 33 * 0x90 + 0x8F)
    assert (found.address, found.size, found.tag, found.state) == (RANGE + 0x60 + 33 * 0x90, 0x90, "Slo2", ALLOCATED)
    gone = at(target, RANGE + 0x60 + 34 * 0x90)
    assert (gone.tag, gone.state) == ("Last", FREE)
    assert "between its blocks" in why(target, RANGE + 0x60 + 40 * 0x90)
    assert "between its blocks" in why(target, RANGE + 0x5F)


@pytest.mark.parametrize(
    ("size", "count", "first"), [(0, 4, 0x60), (0x98, 4, 0x60), (0x90, 0xFFFF, 0x60), (0x90, 4, 8)]
)
def test_damaged_low_fragmentation_subsegments(roomy: Target, size: int, count: int, first: int) -> None:
    target = patched(roomy, {**descriptors(2), **lfh_subsegment(roomy, size, count, first, 0)})
    assert "is damaged" in why(target, RANGE + 0x100)


def test_page_ranges(roomy: Target) -> None:
    """An allocation of whole pages that the table of big pages does not have, one of the heap's own, a free range."""
    target = patched(roomy, descriptors(0))
    found = at(target, RANGE + 3 * PAGE)
    assert (found.address, found.size, found.big, found.header) == (RANGE, PAGES * PAGE, True, None)
    assert (found.kind, found.tag, found.state) == (NONPAGED_NX, None, ALLOCATED)
    assert "data of the heap itself" in why(patched(roomy, descriptors(1)), RANGE)
    assert "free page range" in why(roomy, RANGE)


def test_descriptors_that_cannot_be(roomy: Target) -> None:
    place = SEGMENT + 0x20 * (FIRST + 1)
    for units, flags in ((0xFF, 1), (2, 1), (0, 1), (FIRST, 0)):
        changes = {**descriptors(0), place: bytes(0x18) + bytes((flags, 1, 0, 0, 0, 0, 0, units))}
        if units != 1:
            assert "free page range" in why(patched(roomy, changes), RANGE + PAGE)
    too_many = {**descriptors(0), SEGMENT + 0x20 * FIRST: bytes(0x18) + bytes((3, 1, 0, 0, 0, 0, 0, 0xFF))}
    assert "free page range" in why(patched(roomy, too_many), RANGE)


# heaps and segments -------------------------------------------------------------------------------------------------


def test_a_segment_that_only_the_list_tells_of(heap: Target) -> None:
    """Without its signature a segment is known by the list of its heap."""
    inside = SEGMENT + 0x2040
    segment = pool(heap).heaps.segment_of(inside)
    assert segment is not None and segment.known_by == "its signature"
    changed = patched(heap, {SEGMENT + 0x10: bytes(8)})
    other = pool(changed).heaps.segment_of(inside)
    assert other is not None and other.known_by == "the list of its heap"
    assert other.heap == segment.heap and other.heap.name == "nt!ExPoolState.PoolNode[0].Heaps[1]"
    gone = patched(heap, {SEGMENT: bytes(0x18), segment.context + 0x48: struct.pack("<Q", segment.context + 0x48)})
    assert pool(gone).heaps.segment_of(inside) is None


def test_lists_that_cycle_end(heap: Target) -> None:
    segment = pool(heap).heaps.segment_of(SEGMENT + 0x2040)
    assert segment is not None
    # the segment's link leads to itself
    changed = patched(heap, {SEGMENT: struct.pack("<Q", SEGMENT) + bytes(16)})
    other = pool(changed).heaps.segment_of(SEGMENT + 0x2040)
    assert other is not None and other.known_by == "the list of its heap"


def test_heaps_of_the_machine(heap: Target) -> None:
    heaps = pool(heap).heaps
    assert heaps.problem is None and heaps.active is True and heaps.problems == []
    assert [item.kind for item in heaps.heaps.values()] == [NONPAGED, NONPAGED_NX, PAGED, PAGED]


def test_kernels_without_a_heap_in_use(sample: Sample, isf_paths: list[Path]) -> None:
    for name, words in (("339E", "this kernel has no segment heap"), ("00F3", None)):
        isf = next(path for path in isf_paths if path.name.startswith(name))
        heaps = SegmentHeaps(volatility3_kdump.open(sample(6, isf), isf_file=isf))
        assert heaps.segment_of(SEGMENT + 0x2040) is None
        assert heaps.problem == words
        assert not heaps.active


def test_a_state_that_is_damaged_or_absent(heap: Target) -> None:
    state, globals_ = heap.symbol("ExPoolState"), heap.symbol("RtlpHpHeapGlobals")
    assert state is not None and globals_ is not None and heap.nt is not None
    count = state + heap.nt.offset("_EX_POOL_HEAP_MANAGER_STATE", "NumberOfPools")
    heaps = pool(patched(heap, {count: struct.pack("<I", 0x10000)})).heaps
    assert heaps.problems == ["nt!ExPoolState has an impossible number of pools: 0x10000"]
    heaps = pool(patched(heap, {}, [count])).heaps
    assert heaps.active is None and "is not in the dump" in heaps.problems[0]
    # the segments still say whose they are
    segment = heaps.segment_of(SEGMENT + 0x2040)
    assert segment is not None and segment.heap.kind is None and segment.heap.name.startswith("segment heap 0xffff")
    assert at(patched(heap, {}, [count]), SEGMENT + 0x2050).kind == NONPAGED
    without = patched(heap, {}, [globals_])
    assert "keys of the segment heap are not in the dump" in (pool(without).heaps.problem or "")
    assert "keys of the segment heap" in why(without, SEGMENT + 0x2040)


# large allocations --------------------------------------------------------------------------------------------------


def large_node(target: Target) -> tuple[int, int]:
    """Where the tree of large allocations of paged pool begins, and its root."""
    heap = next(item for item in pool(target).heaps.heaps.values() if item.kind == PAGED)
    assert target.nt is not None
    tree = heap.address + target.nt.offset("_SEGMENT_HEAP", "LargeAllocMetadata")
    root = target.memory.pointer(tree)
    assert root is not None
    return tree, root


def test_a_large_allocation_without_the_table(heap: Target) -> None:
    where = 0xFFFFD80388000000
    assert at(heap, where + 0x12345).tag == "MmSt"
    table, size = heap.symbol("PoolBigPageTable"), heap.symbol("PoolBigPageTableSize")
    assert table is not None and size is not None
    address = heap.memory.pointer(table)
    assert address is not None
    target = patched(heap, {}, [address])
    found = at(target, where + 0x8FFFFF)
    assert (found.address, found.size, found.kind, found.tag) == (where, 0x900000, PAGED, None)
    assert found.known_by == "the large allocations of nt!ExPoolState.PoolNode[0].Heaps[2]"
    problems = pool(target).page(where).problems
    assert len(problems) == 1 and "entries of nt!PoolBigPageTable are not in the dump" in problems[0]


def test_trees_that_are_encoded_or_cycle(heap: Target) -> None:
    tree, root = large_node(heap)
    # links relative to where they stand, which bit 0 of Min says
    encoded = patched(heap, {tree: struct.pack("<QQ", root ^ tree, root | 1)})
    assert [item.address for item in pool(encoded).heaps.large] == [0xFFFFD80388000000]
    cyclic = patched(heap, {root: struct.pack("<QQ", root, tree)})
    assert len(pool(cyclic).heaps.large) >= 1
    assert any("is damaged" in problem for problem in pool(cyclic).heaps.problems)
    nowhere = patched(heap, {root: struct.pack("<QQ", 0x1234, 0xFFFFDEAD00000000)})
    assert len(pool(nowhere).heaps.large) == 1
    assert len(pool(nowhere).heaps.problems) == 2


# any bytes ----------------------------------------------------------------------------------------------------------


@settings(max_examples=part(60), deadline=None)
@given(
    kind=st.integers(0, 3),
    changes=st.lists(st.tuples(st.integers(0, PAGES * PAGE - 16), st.binary(min_size=1, max_size=16)), max_size=8),
    flags=st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, 255), st.integers(0, 255)), max_size=3),
    offset=st.integers(0, PAGES * PAGE - 1),
)
def test_any_bytes_in_a_subsegment(
    roomy: Target, kind: int, changes: list[tuple[int, bytes]], flags: list[tuple[int, int, int]], offset: int
) -> None:
    """Blocks lie one behind the other and hold the address that they are found for."""
    made = descriptors(kind)
    if kind == 2:
        made.update(lfh_subsegment(roomy, 0x90, 40, 0x60, 0x5555))
    if kind == 3:
        sizes = [(0x80, True, pool_header(0x70, 2, b"Hand"))] * 20 + [(PAGES * PAGE - 0x30 - 20 * 0x80, False, b"")]
        made.update(vs_subsegment(roomy, sizes))
    for index, flag, units in flags:
        made[SEGMENT + 0x20 * (FIRST + index)] = bytes(0x18) + bytes((flag, 1, 0, 0, 0, 0, 0, units))
    target = patched(patched(roomy, made), {RANGE + place: content for place, content in changes})
    page = pool(target).page(RANGE + offset)
    assert all(first.end <= second.address for first, second in zip(page.blocks, page.blocks[1:], strict=False))
    if isinstance(page.found, PoolBlock):
        assert page.found.address <= RANGE + offset < page.found.end
        assert page.found.header is None or page.found.address <= page.found.header < page.found.end
    else:
        assert page.found.reason


def test_a_user_range_has_no_blocks_inside(heap: Target) -> None:
    heaps = pool(heap).heaps
    big = next(item for item in pool(heap).big_pages.entries if item.tag == "MyFa")
    segment = heaps.segment_of(big.address)
    assert segment is not None
    found = heaps.range_of(segment, big.address + 0x1800)
    assert not isinstance(found, str) and (found.kind, found.address, found.size) == (USER_RANGE, big.address, big.size)
