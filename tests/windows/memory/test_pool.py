"""Pool blocks by address, against what the maker laid out and against the host's plugins, and on damaged pool."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample import containers
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.myfault import high_irql_fault
from kdump_sample.pool_contents import NONPAGED as NONPAGED_POOL
from tests.amounts import only, part
from tests.host import ADDRESS, host_kernel
from tests.patched import patched
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory.pool import (
    ALLOCATED,
    FREE,
    NONPAGED,
    NONPAGED_NX,
    PAGED,
    UNKNOWN,
    PoolBlock,
    Unplaced,
    find_block,
    pool,
    type_kind,
    walk_page,
)

Sample = Callable[..., Path]
POOL_PAGE = 0xFFFF91894EF70000
KERNEL, FULL, TRIAGE = 6, 1, 4


@pytest.fixture(scope="module")
def overrun(sample: Sample) -> Target:
    """A machine with a classic page on which one block was written beyond its end."""
    return volatility3_kdump.open(sample(KERNEL, None, "pool-overrun"))


def make(path: Path, isf: Path | None) -> tuple[Machine, Target]:
    """A made machine, and its dump opened."""
    machine = Machine(high_irql_fault(), load_table_file(isf or kernel_table_path()))
    containers.write(path, KERNEL, make_contents(machine))
    return machine, volatility3_kdump.open(path, isf_file=isf)


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, Target]:
    """A machine whose pool is in segment heaps (Windows 10 19041)."""
    return make(tmp_path_factory.mktemp("pool") / "modern.dmp", None)


def block(target: Target, address: int) -> PoolBlock:
    found = find_block(target, address)
    assert isinstance(found, PoolBlock), found.reason
    return found


def reason(target: Target, address: int) -> str:
    found = find_block(target, address)
    assert isinstance(found, Unplaced), found.text
    return found.reason


# every kernel -------------------------------------------------------------------------------------------------------


def test_every_block_of_every_kernel(isf_path: Path, tmp_path: Path) -> None:
    """Each block that the maker gave out is found from its first and its last byte, with tag, state and kind."""
    machine, target = make(tmp_path / "pool.dmp", isf_path)
    pools = machine.work.pools
    assert len(pools.blocks) > 200 and len(pools.big) > 10
    for item in pools.blocks:
        for address in (item.address, item.address + item.size - 1):
            found = block(target, address)
            assert (found.address, found.size, found.big) == (item.address, item.size, False)
            if item.tag is None:
                assert found.state == FREE
            else:
                nonpaged = NONPAGED_NX if pools.modern else NONPAGED
                kind = nonpaged if item.kind == NONPAGED_POOL else PAGED
                assert (found.tag, found.state, found.kind, found.data) == (item.tag, ALLOCATED, kind, item.data)
    for big in pools.big:
        found = block(target, big.address + big.size - 1)
        assert (found.address, found.size, found.tag, found.header) == (big.address, big.size, big.tag, None)
        assert found.state == (FREE if big.freed else ALLOCATED)
        assert found.big and found.data == big.address
    for slots, _, items in pools.slots:
        for item in items:
            found = block(target, item.address + item.size // 2)
            assert (found.address, found.size, found.tag) == (item.address, slots.size, slots.tag)
            assert found.state == (FREE if item.tag is None else ALLOCATED)


@pytest.mark.newest_host
@pytest.mark.parametrize("kernel", ["339E", "06A5", "00F3", "0B0A"])
def test_the_host_sees_the_same_big_pages(isf_paths: list[Path], sample: Sample, kernel: str) -> None:
    from volatility3.plugins.windows.bigpools import BigPools

    isf = next(path for path in isf_paths if path.name.startswith(kernel))
    path = sample(FULL, isf)
    module = host_kernel(path, isf)
    expected = {
        (int(item.Va) & ADDRESS, item.get_key(), int(item.PoolType), int(item.NumberOfBytes), item.is_free())
        for item in BigPools.list_big_pools(module.context, "nt", None, True)
    }
    entries = pool(volatility3_kdump.open(path, isf_file=isf)).big_pages.entries
    found = {
        (
            item.address & ADDRESS | (not item.allocated),
            (item.tag or "").strip(),
            item.pool_type,
            item.size,
            not item.allocated,
        )
        for item in entries
    }
    assert found == expected and len(found) > 10


@pytest.mark.newest_host
@pytest.mark.parametrize("kernel", only(("03A0",), ("03A0", "1B4A")))
def test_the_host_scans_the_same_headers(isf_paths: list[Path], sample: Sample, kernel: str) -> None:
    """The host's pool scanner reads tag, type and size of headers: those of loader entries are all in blocks."""
    from volatility3.plugins.windows.poolscanner import PoolConstraint, PoolScanner, PoolType

    isf = next(path for path in isf_paths if path.name.startswith(kernel))
    path = sample(FULL, isf)
    module = host_kernel(path, isf)
    wanted = PoolConstraint(
        b"MmLd", type_name="nt!_KLDR_DATA_TABLE_ENTRY", size=(0x90, None), page_type=PoolType.NONPAGED
    )
    scanned = PoolScanner.pool_scan(module.context, "nt", "virtual", "symbols", [wanted], alignment=0x10)
    places = {int(header.vol.offset) & ADDRESS for _, header in scanned}
    target = volatility3_kdump.open(path, isf_file=isf)
    assert len(places) == len(target.modules)
    found = {block(target, place | ~ADDRESS & (1 << 64) - 1) for place in places}
    assert {item.header & ADDRESS for item in found if item.header} == places
    assert {item.tag for item in found} == {"MmLd"}


# what is not pool ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_block_of_a_page_of_headers(sample: Sample, dump_type: int) -> None:
    """A page that keeps the rules of the classic pool is believed on any kernel, even with damage behind the block."""
    target = volatility3_kdump.open(sample(dump_type, None, "pool-overrun"))
    found = block(target, POOL_PAGE + 0x1D8)
    start = POOL_PAGE + 0x1C0
    assert (found.address, found.size, found.header, found.data) == (start, 0x70, start, start + 0x10)
    assert (found.tag, found.state, found.kind, found.big) == ("MyfB", ALLOCATED, NONPAGED, False)
    assert found.problem is not None and "written beyond its end" in found.problem
    assert found.text == f"nonpaged pool block {start:x}, 0x70 bytes, tag MyfB, allocated"


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
    assert words in reason(overrun, address)


def test_small_memory_dumps_have_no_tables(sample: Sample) -> None:
    target = volatility3_kdump.open(sample(TRIAGE))
    assert "not captured in this small memory dump" in reason(target, 0xFFFF91894D602080)


# classic pages by hand ----------------------------------------------------------------------------------------------


def header(previous: int, size: int, kind: int, tag: bytes) -> bytes:
    """A POOL_HEADER of x64, sizes in bytes."""
    return struct.pack("<BBBB4sQ", previous // 16, 0, size // 16, kind, tag, 0)


def test_a_page_laid_out_by_hand(overrun: Target) -> None:
    page = bytearray(0x1000)
    page[0x000:0x010] = header(0, 0x40, 2, b"Abcd")
    page[0x040:0x050] = header(0x40, 0xFA0, 3, b"Efg\xe8")
    page[0xFE0:0xFF0] = header(0xFA0, 0x20, 0, b"Free")
    walk = walk_page(overrun, POOL_PAGE, bytes(page))
    assert [(item.header.address & 0xFFF, item.header.block_size, item.header.tag) for item in walk.headers] == [
        (0, 0x40, "Abcd"),
        (0x40, 0xFA0, "Efgh"),
        (0xFE0, 0x20, "Free"),
    ]
    assert walk.problem is None and walk.convincing
    target = patched(overrun, {POOL_PAGE: bytes(page)})
    assert (block(target, POOL_PAGE + 0x50).kind, block(target, POOL_PAGE).kind) == (PAGED, NONPAGED)
    # free blocks do not keep their type: the region says it
    assert (block(target, POOL_PAGE + 0xFFF).kind, block(target, POOL_PAGE + 0xFFF).state) == (NONPAGED, FREE)
    page[0xFE0] = 0x10
    walk = walk_page(overrun, POOL_PAGE, bytes(page))
    assert len(walk.headers) == 2 and walk.headers[-1].problem is not None
    assert walk.problem is not None and "0xffff91894ef70fe0 is damaged" in walk.problem


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (header(0x40, 0, 2, b"Abcd"), "its size is 0"),
        (header(0x40, 0xFF0, 2, b"Abcd"), "reaches beyond the page"),
        (header(0x30, 0x40, 2, b"Abcd"), "which has 0x40"),
    ],
)
def test_headers_that_cannot_be(overrun: Target, second: bytes, words: str) -> None:
    page = (header(0, 0x40, 2, b"Abcd").ljust(0x40, b"x") + second).ljust(0x1000, b"\0")
    walk = walk_page(overrun, POOL_PAGE, page)
    assert len(walk.headers) == 1 and walk.problem is not None and words in walk.problem
    assert not walk.convincing


def test_the_walk_goes_on_behind_the_damage(overrun: Target) -> None:
    page = bytearray(0x1000)
    page[0x000:0x010] = header(0, 0x40, 2, b"Abcd")
    page[0x040:0x050] = b"\xff" * 16
    page[0x100:0x110] = header(0xC0, 0xF00, 2, b"Ijkl")
    walk = walk_page(overrun, POOL_PAGE, bytes(page))
    assert [(item.header.address & 0xFFF, item.behind_damage) for item in walk.headers] == [(0, False), (0x100, True)]


def test_a_page_of_other_data_is_no_pool(overrun: Target) -> None:
    for content in (bytes(0x1000), b"\xff" * 0x1000, bytes(range(256)) * 16, b"MZ" * 0x800):
        assert "no headers that agree" in reason(patched(overrun, {POOL_PAGE: content}), POOL_PAGE + 0x123)


@settings(max_examples=part(60), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 40), st.integers(0, 40), st.integers(0, 3)), max_size=40))
def test_any_page_can_be_walked(items: list[tuple[int, int, int, int]]) -> None:
    """Headers with any sizes at any places of a page."""
    target: Any = _Sizes()
    content = bytearray(0x1000)
    for place, previous, size, kind in items:
        content[16 * place : 16 * place + 16] = header(16 * previous, 16 * size, kind, b"Some")
    page = bytes(content)
    walk = walk_page(target, POOL_PAGE, page)
    ends = [item.header.address + item.header.block_size for item in walk.headers]
    starts = [item.header.address for item in walk.headers]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert not ends or ends[-1] <= POOL_PAGE + 0x1000
    assert walk.problem is not None or ends[-1] == POOL_PAGE + 0x1000


class _Sizes:
    """As much of a target as the walk over a page needs."""

    class memory:
        pointer_size = 8

    nt = load_table_file(kernel_table_path())

    def once(self, make: Any) -> Any:
        return make(self)


def test_kinds_of_pool_types() -> None:
    """POOL_TYPE of wdm.h: NonPagedPool 0, PagedPool 1, NonPagedPoolNx 512, with CacheAligned 4 and Session 32."""
    assert [type_kind(value, True) for value in (0, 1, 4, 5, 512, 516)] == [
        NONPAGED,
        PAGED,
        NONPAGED,
        PAGED,
        NONPAGED_NX,
        NONPAGED_NX,
    ]
    assert {type_kind(value, True) for value in (32, 33, 544)} == {"session"}


# big pages ----------------------------------------------------------------------------------------------------------


def table_of(target: Target) -> tuple[int, int]:
    symbol, size = target.symbol("PoolBigPageTable"), target.symbol("PoolBigPageTableSize")
    assert symbol is not None and size is not None
    address, count = target.memory.pointer(symbol), target.memory.pointer(size)
    assert address is not None and count is not None
    return address, count


def test_an_entry_laid_out_by_hand(modern: tuple[Machine, Target]) -> None:
    """_POOL_TRACKER_BIG_PAGES of 19041: Va, Key, Pattern:8 PoolType:12 SlushSize:12, NumberOfBytes."""
    target = modern[1]
    address, count = table_of(target)
    where = 0xFFFFD80312345000
    entry = struct.pack("<Q4sIQ", where, b"Hand", 0xABC << 20 | 0x200 << 8 | 0x5A, 0x3210)
    changed = patched(target, {address + (count - 1) * 0x18: entry})
    found = block(changed, where + 0x320F)
    assert (found.address, found.size, found.tag, found.kind) == (where, 0x3210, "Hand", NONPAGED_NX)
    assert (found.state, found.known_by) == (ALLOCATED, "nt!PoolBigPageTable")
    assert pool(changed).big_pages.find(where + 0x3210) is None
    assert pool(changed).big_pages.find(where - 1) is None


def test_tables_that_cannot_be(modern: tuple[Machine, Target]) -> None:
    target = modern[1]
    size = target.symbol("PoolBigPageTableSize")
    pointer = target.symbol("PoolBigPageTable")
    assert size is not None and pointer is not None
    for where, value in ((size, 1 << 40), (size, (1 << 64) - 1), (pointer, 0x1234000), (pointer, (1 << 64) - 0x100)):
        pages = pool(patched(target, {where: struct.pack("<Q", value)})).big_pages
        assert pages.entries == () and pages.problem is not None and "impossible" in pages.problem
    for where in (size, pointer):
        pages = pool(patched(target, {where: bytes(8)})).big_pages
        assert pages.problem is not None and pages.problem.endswith("nt!PoolBigPageTable is empty")


def test_a_hole_in_the_table_is_counted(modern: tuple[Machine, Target]) -> None:
    machine, target = modern
    address, count = table_of(target)
    # a table of two pages, of which the second is absent: the kernel's size variable says more rows
    size = target.symbol("PoolBigPageTableSize")
    assert size is not None
    pages = pool(patched(target, {size: struct.pack("<Q", 2 * 0x1000 // 0x18)}, [address + 0x1000])).big_pages
    # row 170 begins at 0xff0 and lies in both pages
    assert (pages.rows, pages.missing) == (341, 171)
    assert pages.problem == "171 of 341 entries of nt!PoolBigPageTable are not in the dump"
    assert len(pages.entries) == len(machine.work.pools.big)
    whole = pool(patched(target, {}, [address])).big_pages
    assert (whole.rows, whole.missing, whole.entries) == (count, count, ())


def test_impossible_entries_are_passed_over(modern: tuple[Machine, Target]) -> None:
    machine, target = modern
    address, _ = table_of(target)
    taken = {item.entry for item in pool(target).big_pages.entries}
    free = next(place for place in range(address, address + 0x1000, 0x18) if place not in taken)
    for va, length in (
        (0xFFFFD80000000010, 0x1000),
        (0x1000, 0x1000),
        (0xFFFFD80000000000, 0),
        (0xFFFFFFFFFFFFF000, 1 << 63),
    ):
        pages = pool(patched(target, {free: struct.pack("<Q4sIQ", va, b"Evil", 0, length)})).big_pages
        assert len(pages.entries) == len(machine.work.pools.big)
        assert pages.problem == "1 entries of nt!PoolBigPageTable are impossible"


@settings(max_examples=part(40), deadline=None)
@given(data=st.data())
def test_any_bytes_in_the_table(modern: tuple[Machine, Target], data: st.DataObject) -> None:
    target = modern[1]
    address, count = table_of(target)
    content = data.draw(st.binary(max_size=count * 0x18))
    pages = pool(patched(target, {address: content})).big_pages
    assert all(item.address % 0x1000 == 0 and item.size > 0 for item in pages.entries)
    for item in pages.entries[:8]:
        found = pages.find(item.address)
        assert found is not None and found.address <= item.address < found.address + found.size


# states that are not known ------------------------------------------------------------------------------------------


def test_a_bit_map_that_is_absent_leaves_the_state_unknown(modern: tuple[Machine, Target]) -> None:
    """A subsegment whose bit map lies behind its first page."""
    from volatility3_kdump.windows.memory.segment_heap import HeapBlock

    assert UNKNOWN not in (ALLOCATED, FREE)
    target = modern[1]
    heaps = pool(target).heaps
    slots, start, items = modern[0].work.pools.slots[0]
    segment = heaps.segment_of(start)
    assert segment is not None
    found = heaps.range_of(segment, start)
    assert not isinstance(found, str)
    shown = pool(target)._heap_block(found, HeapBlock(items[0].address, slots.size, None), None)
    assert (shown.state, shown.tag) == (UNKNOWN, slots.tag)
