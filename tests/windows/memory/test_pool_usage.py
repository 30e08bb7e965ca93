"""The use of pool by tag: sums over all tables, against the maker's figures and rows laid out by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample.pool_contents import USUAL
from tests.amounts import part
from tests.host import ADDRESS, host_kernel
from tests.patched import patched
from volatility3_kdump.errors import KdumpError, SymbolsNotFound
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory.pool_usage import PoolUsage, TagUse, Use, read_usage

Sample = Callable[..., Path]
#: Kernels that keep their pool in pages of blocks.
CLASSIC = ("339E", "06A5", "11D6", "0CAA", "03A0", "00F3", "4D11")
ROW = struct.Struct("<IIQQQQQQ")


@pytest.fixture(scope="module")
def machine(sample: Sample) -> Target:
    """The demonstration machine, Windows 10 19041."""
    return volatility3_kdump.open(sample())


def pointer(target: Target, name: str) -> int:
    where = target.symbol(name)
    assert where is not None
    value = target.memory.pointer(where)
    assert value is not None
    return value


def use_of(usage: PoolUsage, tag: str) -> TagUse:
    return next(use for use in usage.tags if use.tag == tag)


def empty_rows(target: Target) -> list[int]:
    """Rows that no tag has in the first table."""
    table, rows = pointer(target, "PoolTrackTable"), pointer(target, "PoolTrackTableSize")
    places = [table + index * ROW.size for index in range(rows)]
    return [place for place in places if target.memory.unsigned(place, 4) == 0]


def row(tag: bytes, nonpaged: tuple[int, int, int] = (0, 0, 0), paged: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A _POOL_TRACKER_TABLE of 19041: Key; bytes, allocations and frees of nonpaged pool, then of paged pool."""
    key = int.from_bytes(tag, "little")
    values = [value & (1 << 64) - 1 for value in (*nonpaged, *paged)]
    return ROW.pack(key, 0, *values)


def test_sums_of_every_kernel(isf_path: Path, sample: Sample) -> None:
    """What the scene says of tags that nothing else in it uses; totals are sums and keep within the counters."""
    usage = read_usage(volatility3_kdump.open(sample(6, isf_path), isf_file=isf_path))
    assert usage.complete and usage.disagreements == []
    # a table for every processor, and the one of tags that found no place
    assert [table.name for table in usage.tables] == [
        "nt!PoolTrackTable",
        "nt!ExPoolTagTables[1]",
        "nt!ExPoolTagTables[2]",
        "nt!PoolTrackTableExpansion",
    ]
    for item in USUAL.history:
        if item.tag in ("Cont", "Leak", "FMfn", "MmSt"):
            continue
        found = use_of(usage, item.tag)
        for use, (allocs, frees, size) in ((found.nonpaged, item.nonpaged), (found.paged, item.paged)):
            assert use == Use(allocs, frees, size, allocs - frees)
    for pool in ("nonpaged", "paged"):
        total = getattr(usage, pool)
        for name in ("allocs", "frees", "bytes", "in_use"):
            assert getattr(total, name) == sum(getattr(getattr(use, pool), name) for use in usage.tags)
        counters = [counter for counter in usage.counters if counter.pool == pool]
        assert counters and all(total.bytes <= counter.bytes for counter in counters)
    assert not any(use.impossible for use in usage.tags)
    # up to Windows 10 1809 there are counters of the blocks as well, a little above what has a tag
    blocks = {counter.pool: counter.bytes for counter in usage.counters if not counter.pages}
    expected = {
        pool: size + size // 100 for pool, size in (("nonpaged", usage.nonpaged.bytes), ("paged", usage.paged.bytes))
    }
    assert blocks == (expected if isf_path.name[:4] in CLASSIC else {})


@pytest.mark.newest_host
@pytest.mark.parametrize("kernel", ["339E", "03A0", "0B0A"])
def test_the_host_reads_the_same_rows(isf_paths: list[Path], sample: Sample, kernel: str) -> None:
    """The tables through the host's objects, summed here in the plainest way."""
    isf = next(path for path in isf_paths if path.name.startswith(kernel))
    path = sample(1, isf)
    target = volatility3_kdump.open(path, isf_file=isf)
    nt = host_kernel(path, isf)
    sums: dict[int, list[int]] = {}
    rows = pointer(target, "PoolTrackTableSize")
    tables = [pointer(target, "ExPoolTagTables") + 0]
    array = target.symbol("ExPoolTagTables")
    assert array is not None
    tables = [target.memory.unsigned(array + 8 * index, 8) or 0 for index in range(3)]
    more = [(pointer(target, "PoolTrackTableExpansion"), pointer(target, "PoolTrackTableExpansionSize"))]
    names = ("NonPagedAllocs", "NonPagedFrees", "NonPagedBytes", "PagedAllocs", "PagedFrees", "PagedBytes")
    for address, count in [*((table, rows) for table in tables), *more]:
        size = nt.get_type("_POOL_TRACKER_TABLE").size
        for index in range(count):
            item = nt.object("_POOL_TRACKER_TABLE", offset=(address & ADDRESS) + index * size, absolute=True)
            if item.Key:
                held = sums.setdefault(int(item.Key) & 0xFFFFFFFF, [0] * 6)
                for place, name in enumerate(names):
                    held[place] += int(getattr(item, name))
    for use in read_usage(target).tags:
        allocs, frees, size, paged_allocs, paged_frees, paged_size = sums[use.tag_value]
        assert (use.nonpaged.bytes, use.paged.bytes) == (size % (1 << 64), paged_size % (1 << 64))
        assert use.nonpaged.in_use == (allocs - frees) % (1 << 32)
        assert use.paged.in_use == paged_allocs - paged_frees


def test_rows_by_hand(machine: Target) -> None:
    """A tag that one processor allocates and another frees, and one with characters that are no letters."""
    second = machine.memory.pointer((machine.symbol("ExPoolTagTables") or 0) + 8)
    assert second is not None
    first, third = empty_rows(machine)[:2]
    offset = first - pointer(machine, "PoolTrackTable")
    changes = {
        first: row(b"Hand", (0x5000, 10, 0), (0x100, 1, 0)),
        second + offset: row(b"Hand", (-0x2000, 0, 4), (0, 0, 0)),
        third: row(b"\x01\x02\x03\x04", (0x40, 1, 0)),
    }
    usage = read_usage(patched(machine, changes))
    found = use_of(usage, "Hand")
    assert found.nonpaged == Use(10, 4, 0x3000, 6)
    assert found.paged == Use(1, 0, 0x100, 1)
    strange = next(use for use in usage.tags if use.tag_value == 0x04030201)
    assert strange.tag is None and strange.nonpaged.bytes == 0x40


def test_what_cannot_be_is_said(machine: Target) -> None:
    place = empty_rows(machine)[0]
    usage = read_usage(patched(machine, {place: row(b"Wron", (-0x2000, 3, 4))}))
    assert use_of(usage, "Wron").impossible and use_of(usage, "Wron").nonpaged.in_use == -1
    assert usage.problems == ("1 tag uses less than nothing: the tables are damaged or incomplete",)
    usage = read_usage(patched(machine, {place: row(b"Huge", (1 << 40, 1, 0))}))
    assert usage.disagreements == [
        f"the tags use {usage.nonpaged.bytes} bytes of nonpaged pool, which by "
        "nt!MiState.Pools.AllocatedNonPagedPool has only 250814464"
    ]


def test_absent_pages_are_counted(machine: Target) -> None:
    table = pointer(machine, "PoolTrackTable")
    usage = read_usage(patched(machine, {}, [table]))
    assert not usage.complete
    assert usage.tables[0].missing == 0x1000 // 0x38 + 1
    assert usage.problems[0].startswith("74 of 129 rows of nt!PoolTrackTable are not in the dump")
    # what the other processors have freed is all that is left of some tags
    assert any("less than nothing" in problem for problem in usage.problems)


def test_tables_that_cannot_be(machine: Target) -> None:
    size, table, array = (
        machine.symbol(f"{name}") for name in ("PoolTrackTableSize", "PoolTrackTable", "ExPoolTagTables")
    )
    assert size is not None and table is not None and array is not None
    usage = read_usage(patched(machine, {size: struct.pack("<Q", 1 << 50)}))
    assert "nt!PoolTrackTable is impossible: 0x4000000000000 rows" in usage.problems[0]
    usage = read_usage(patched(machine, {array + 8: struct.pack("<Q", 0x1000)}))
    assert usage.problems == ("nt!ExPoolTagTables[1] is impossible: 0x1000",)
    # an array of the same table over and over is the same table
    first = struct.pack("<Q", pointer(machine, "PoolTrackTable"))
    usage = read_usage(patched(machine, {array: first * 400}))
    assert [item.name for item in usage.tables] == ["nt!PoolTrackTable", "nt!PoolTrackTableExpansion"]
    with pytest.raises(KdumpError, match="the use of pool is not known"):
        read_usage(patched(machine, {}, [size, pointer(machine, "PoolTrackTableExpansion")]))


def test_kernels_without_symbols(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_9600.dmp")
    with pytest.raises(SymbolsNotFound, match=r"needs? the kernel's symbols"):
        read_usage(target)


@settings(max_examples=part(30), deadline=None)
@given(content=st.binary(max_size=2000), place=st.integers(0, 128 * 0x38))
def test_any_bytes_in_the_tables(machine: Target, content: bytes, place: int) -> None:
    usage = read_usage(patched(machine, {pointer(machine, "PoolTrackTable") + place: content}))
    assert usage.nonpaged.bytes == sum(use.nonpaged.bytes for use in usage.tags)
    assert len({use.tag_value for use in usage.tags}) == len(usage.tags)
