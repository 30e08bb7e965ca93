"""What flags of ``!vm``, ``!sysptes``, ``!memusage``, ``!poolused`` and ``!pool`` add: values put there byte by byte.

The bytes are laid out by the kernel's own symbol table (:mod:`struct` and the offsets in it), not by the readers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.patched import patched
from tests.prompt import answer, session_on
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory.page_file_log import page_file_writes
from volatility3_kdump.windows.memory.pool_usage import read_session_usage
from volatility3_kdump.windows.memory.pte_trackers import pte_trackers

#: A page of the thread that crashed, which these tests do not ask for.
_FREE = 0xFFFF918952F55800


#: Opened once for each kernel: what tests change is in copies.
_OPENED: dict[Path, Target] = {}


@pytest.fixture
def target(sample: Callable[..., Path], isf_path: Path) -> Target:
    if isf_path not in _OPENED:
        _OPENED[isf_path] = volatility3_kdump.open(sample(1, isf_path, "memory"), isf_file=str(isf_path))
    return _OPENED[isf_path]


@pytest.fixture
def shipped(scene: Callable[[str], Target]) -> Target:
    """The scene in the layout of the table that is shipped, which other tests open too."""
    return scene("memory")


def _place(target: Target, variable: str, type_name: str, path: str, alone: str) -> int:
    """Where a kernel has a structure: in another, or as a variable of its own."""
    assert target.nt is not None
    inside, field = target.symbol(variable), target.nt.find(type_name, path)
    if inside is not None and field is not None:
        return inside + field.offset
    address = target.symbol(alone)
    if address is None:
        pytest.skip(f"this kernel has no {path}")
    return address


def _ring(target: Target) -> int:
    assert target.nt is not None
    if not target.nt.has_type("_MI_PAGEFILE_TRACES"):
        pytest.skip("the public symbols of Windows 8 have no such type")
    return _place(target, "MiSystemPartition", "_MI_PARTITION", "Vp.PageFileTraces", "MiPageFileTraces")


def _write(target: Target, **values: int) -> bytes:
    assert target.nt is not None
    record = bytearray(target.nt.size_of("_MI_PAGEFILE_TRACES"))
    for path, value in values.items():
        field = target.nt.field("_MI_PAGEFILE_TRACES", path)
        size = 8 if path == "CurrentTime" else field.size
        record[field.offset : field.offset + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(record)


def test_writes_to_page_files_newest_first(target: Target) -> None:
    ring, size = _ring(target), len(_write(target))
    older = _write(target, CurrentTime=1000, AvailablePages=77, ModifiedPagesTotal=5, ModifiedPagefilePages=4)
    newer = _write(target, CurrentTime=0x12345, Status=-0x3FFFFF81, Priority=3, ModifiedNoWritePages=9)
    there = patched(target, {ring + size: older, ring + 2 * size: newer})
    writes = page_file_writes(there)
    assert [write.time for write in writes] == [0x12345, 1000]
    assert (writes[0].priority, writes[0].no_write) == (3, 9)
    assert (writes[1].available, writes[1].modified, writes[1].for_files) == (77, 5, 4)
    lines = answer(session_on(there), "!vm 9")
    at = lines.index("Last writes to page files: 2")
    assert lines[at + 2].split() == ["0000000000012345", "c000007f", "3", "0", "0", "0", "9"]
    assert lines[at + 3].split() == ["00000000000003e8", "00000000", "0", "77", "5", "4", "0"]


def test_no_log_of_writes(shipped: Target) -> None:
    """Beside what !vm has; the reason is one line."""
    ring = _ring(shipped)
    assert "Last writes to page files: 0" in answer(session_on(shipped), "!vm 9")
    gone = patched(shipped, absent=[ring, ring + 0x1000])
    with pytest.raises(KdumpError, match="the log of page file writes at 0x"):
        page_file_writes(gone)


def test_tracked_mappings(target: Target) -> None:
    assert target.nt is not None
    if not target.nt.has_type("_PTE_TRACKER"):
        pytest.skip("this table has no _PTE_TRACKER")
    header = _place(target, "MiState", "_MI_SYSTEM_INFORMATION", "Vs.PteHeader", "MiPteHeader")
    caller = target.symbol("MmProbeAndLockPages")
    assert caller is not None
    field = target.nt.find("_PTE_TRACKER", "StackTrace") or target.nt.field("_PTE_TRACKER", "CallingAddress")
    tracker = bytearray(target.nt.size_of("_PTE_TRACKER"))
    head = header + 16 * (min(4, target.nt.field("_SYSPTES_HEADER", "ListHead").count or 1) - 1)
    values = [head, head, 0xFFFF91894F600000, 2, 0xFFFFF78000123000, 0x7FF600000000]
    struct.pack_into("<6Q2IQ", tracker, 0, *values, 0x10, 0x1800, 0x4321)
    struct.pack_into("<Q", tracker, field.offset, caller + 7)
    there = patched(target, {head: struct.pack("<2Q", _FREE, _FREE), _FREE: bytes(tracker)})
    (found,), problems = pte_trackers(there)
    assert not problems
    assert (found.mdl, found.ptes, found.system, found.length, found.page) == (
        values[2],
        2,
        values[4],
        0x1800,
        0x4321,
    )
    line = answer(session_on(there), "!sysptes 4")[-1]
    assert line.split() == ["fffff78000123000", "ffff91894f600000", "2", "1800", "4321", "nt!MmProbeAndLockPages+0x7"]
    damaged = patched(target, {head: struct.pack("<2Q", _FREE + 1, 0x10)})
    trackers, problems = pte_trackers(damaged)
    assert not trackers and len(problems) == 1


@pytest.mark.thorough
def test_nothing_is_tracked(target: Target) -> None:
    assert target.nt is not None
    lines = answer(session_on(target), "!sysptes 4")
    if target.nt.has_type("_PTE_TRACKER"):
        assert lines[-1].startswith("No mapping of locked pages is tracked")


def test_counters_of_system_ptes_fit_each_other(shipped: Target) -> None:
    """More cannot be free than there are."""
    lines = answer(session_on(shipped), "!sysptes")
    assert lines[1:3] == ["  Total System Ptes 33554432", "     free 33548499, allocations that failed 0"]
    numbers = [int(line.split()[-1 if "Total" in line else 1].rstrip(",")) for line in lines[1:]]
    assert all(total >= free > 0 for total, free in zip(numbers[::2], numbers[1::2], strict=True))


def test_owners_of_working_sets(target: Target) -> None:
    assert target.nt is not None
    names = ("OwnsProcessAddressSpaceExclusive", "OwnsProcessWorkingSetExclusive")
    field = target.nt.find("_ETHREAD", names)
    assert field is not None
    thread = 0xFFFF918952F55080
    (byte,) = target.memory.read(thread + field.offset, 1) or b"\0"
    assert "No thread that is in the dump owns a working set" in answer(session_on(target), "!vm 11")
    there = patched(target, {thread + field.offset: bytes([byte | 1 << field.bit])})
    lines = answer(session_on(there), "!vm 11")
    owner = next(index for index, line in enumerate(lines) if line.startswith("Owns"))
    assert lines[owner].rstrip(":") in names
    assert f"THREAD {thread:x}" in lines[owner + 1]


def test_modified_pages_that_are_not_to_be_written(shipped: Target) -> None:
    """By use they come to the length of the list; another use has none of them."""
    session = session_on(shipped)
    brief, whole = answer(session, "!memusage 1"), answer(session, "!memusage 2")
    assert whole[0] == brief[0]
    pages = int(brief[0].split()[1])
    rows = [line.split() for line in whole if line.startswith(("ffff", "----"))]
    assert sum(int(row[3]) for row in rows) == 4 * pages > 0
    assert all(int(row[column]) == 0 for row in rows for column in (1, 2, 6))


def _main_table(target: Target) -> tuple[int, int]:
    places = [target.symbol(name) for name in ("PoolTrackTable", "PoolTrackTableSize")]
    values = [target.memory.pointer(place) for place in places if place is not None]
    assert len(values) == 2 and values[0] and values[1]
    return values[0], values[1]


def test_session_pool_by_tag(shipped: Target) -> None:
    """The table of the session is the main one here: each row that it shows is one of that table's."""
    assert shipped.nt is not None
    session = session_on(shipped)
    table, size = shipped.symbol("ExpSessionPoolTrackTable"), shipped.symbol("ExpSessionPoolTrackTableSize")
    (line,) = answer(session, "!poolused 8")
    if table is None or size is None:
        assert "this kernel has no nt!ExpSessionPoolTrackTable" in line
        return
    assert line.endswith("nt!ExpSessionPoolTrackTable is empty")
    address, rows = _main_table(shipped)
    there = patched(shipped, {table: address.to_bytes(8, "little"), size: rows.to_bytes(8, "little")})
    stride = shipped.nt.size_of("_POOL_TRACKER_TABLE")
    data = shipped.memory.read(address, rows * stride)
    assert data is not None
    key, used = (shipped.nt.field("_POOL_TRACKER_TABLE", name) for name in ("Key", "NonPagedBytes"))
    expected = {}
    for start in range(0, len(data), stride):
        tag = data[start + key.offset : start + key.offset + 4]
        value = data[start + used.offset : start + used.offset + used.size]
        expected[tag.decode("latin-1")] = int.from_bytes(value, "little", signed=True)
    usage = read_session_usage(there, there.memory)
    assert len(usage.tags) > 5 and usage.whole
    for use in usage.tags:
        tag = use.tag_value.to_bytes(4, "little").decode("latin-1")
        assert expected[tag] == use.nonpaged.bytes, tag
    lines = answer(session_on(there), "!poolused 8")
    assert f"TOTAL{sum(use.nonpaged.in_use for use in usage.tags):>10}" in "".join(lines)


def test_session_pool_that_is_not_in_the_dump(shipped: Target) -> None:
    table, size = shipped.symbol("ExpSessionPoolTrackTable"), shipped.symbol("ExpSessionPoolTrackTableSize")
    if table is None or size is None:
        pytest.skip("this kernel has no session pool")
    away = patched(shipped, {table: (0xFFFFF90000000000).to_bytes(8, "little"), size: (64).to_bytes(8, "little")})
    (line,) = answer(session_on(away), "!poolused 8")
    assert "nt!ExpSessionPoolTrackTable at 0xfffff90000000000" in line


def test_contents_of_pool_blocks(shipped: Target) -> None:
    """Two rows of four words behind the header of each block, an empty line after it, as documented."""
    session = session_on(shipped)
    found = answer(session, "!poolfind Leak")
    address = next((line.split()[0] for line in found if line.startswith("ffff") and "Leak" in line), None)
    if address is None:
        pytest.skip("no block of this tag in the made pool of this kernel")
    lines = answer(session, f"!pool {address} 80000003")
    header, first, second, end = lines[1:5]
    assert header.startswith("*ffff") and end == ""
    assert first.startswith(" ffff") and second.startswith("    ffff")
    for row in (first, second):
        place, words = row.split()[0], row.split()[1:]
        assert answer(session, f"dd {place} L4")[0].split()[1:5] == words
    assert int(second.split()[0], 16) - int(first.split()[0], 16) == 16
