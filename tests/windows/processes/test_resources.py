"""Resources laid out by hand for every generation of kernels, the host's objects on made dumps, and damage."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample.scenes import locks as scene
from tests.amounts import part
from tests.edited import edited
from tests.host import ADDRESS, host_kernel
from tests.pieces import target_over
from volatility3_kdump.errors import SymbolsNotFound, Unreadable
from volatility3_kdump.layout import Layouts
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.resources import Resource, ResourceReader, ResourceScan, scan_resources

Sample = Callable[..., Path]

HEAD = 0xFFFFF80000001000
POOL = 0xFFFF800000000000
STACK = 0xFFFFD00000000000
FIRST, SECOND, THIRD, FOURTH = (0xFFFF900000000040 + 0x1000 * index for index in range(4))


def made_target(pieces: Mapping[int, bytes], nt: Layouts, width: int = 8, head: int = HEAD) -> Target:
    return target_over(pieces, nt, {"ExpSystemResourcesList": head}, width)


def resource(address: int, following: int, preceding: int, **more: int) -> bytes:
    """The 0x68 bytes of an ERESOURCE of a 64-bit kernel, which has been the same since Windows Vista."""
    value = {name: more.pop(name, 0) for name in ("table", "active", "flag", "shared", "exclusive", "owner", "count")}
    data = struct.pack(
        "<QQQhHIQQQIIIIIIQQQ",
        following,
        preceding,
        value["table"],
        value["active"],
        value["flag"],
        0,
        value["shared"],
        value["exclusive"],
        value["owner"],
        value["count"],
        0,
        more.pop("entries", 0),
        more.pop("contention", 0),
        more.pop("shared_count", 0),
        more.pop("exclusive_count", 0),
        0,
        0,
        0,
    )
    assert len(data) == 0x68 and not more
    return data


def linked(*items: Callable[[int, int, int], bytes]) -> dict[int, bytes]:
    """The system's list of some resources, at POOL + 0x100, 0x200..."""
    places = [HEAD, *(POOL + 0x100 * index for index in range(1, len(items) + 1)), HEAD]
    pieces = {HEAD: struct.pack("<QQ", places[1], places[-2])}
    for index, item in enumerate(items, 1):
        pieces[places[index]] = item(places[index], places[index + 1], places[index - 1])
    return pieces


def owners(shift: int, *entries: tuple[int, int]) -> bytes:
    """A table of OWNER_ENTRYs: the first one holds its size."""
    table = struct.pack("<QII", 0, 1 + len(entries), 0)
    return table + b"".join(struct.pack("<QII", thread, count << shift | 1, 0) for thread, count in entries)


def dispatcher(kind: int, address: int, blocks: list[int]) -> bytes:
    """A DISPATCHER_HEADER (and what follows of a KSEMAPHORE) with a wait list."""
    head = address + 8
    first, last = (blocks[0], blocks[-1]) if blocks else (head, head)
    return struct.pack("<BBBBiQQI4x", kind, 0, 8, 0, 0, first, last, 0x7FFFFFFF)


def wait_block(generation: str, thread: int, awaited: int, following: int, preceding: int) -> bytes:
    if generation == "Windows 7":
        return struct.pack("<QQQQQHBBi", following, preceding, thread, awaited, 0, 0, 1, 4, 0)
    return struct.pack("<QQBBHiQQQ", following, preceding, 1, 4, 0, 0, thread, awaited, 0)


def awaited_object(generation: str, kind: int, address: int, threads: list[int]) -> dict[int, bytes]:
    """An event or semaphore, and a wait block for each thread that waits for it."""
    blocks = [POOL + 0x8000 + (thread & 0xFFFF) * 0x10 for thread in threads]
    ring = [address + 8, *blocks, address + 8]
    pieces = {address: dispatcher(kind, address, blocks)}
    for index, (thread, block) in enumerate(zip(threads, blocks, strict=True), 1):
        pieces[block] = wait_block(generation, thread, address, ring[index + 1], ring[index - 1])
    return pieces


def generation_of(nt: Layouts) -> str:
    """By the size of EPROCESS."""
    size = nt.size_of("_EPROCESS")
    return "Windows 7" if size <= 0x4F8 else "Windows 8" if size <= 0x708 else "1607" if size <= 0x7D0 else "Windows 10"


def waiting(generation: str, shared: list[int], exclusive: list[int]) -> tuple[dict[int, bytes], int, int]:
    """Waiters as a generation lays them out, and what SharedWaiters and ExclusiveWaiters are."""
    semaphore, event = POOL + 0x4000, POOL + 0x4100
    if generation in ("Windows 7", "Windows 8"):
        pieces = awaited_object(generation, 5, semaphore, shared)
        return {**pieces, **awaited_object(generation, 1, event, exclusive)}, semaphore, event
    pieces = {}
    if generation == "1607":
        entries = [STACK + 0x100 * index for index in range(len(shared))]
        for index, (entry, thread) in enumerate(zip(entries, shared, strict=True)):
            following = entries[index + 1] if index + 1 < len(entries) else 0
            made = awaited_object(generation, 1, entry + 8, [thread])
            pieces.update({address: data for address, data in made.items() if address != entry + 8})
            pieces[entry] = struct.pack("<Q", following) + made[entry + 8]
        return {**pieces, **awaited_object(generation, 1, event, exclusive)}, entries[0], event
    firsts = []
    for base, threads in ((STACK, shared), (STACK + 0x1000, exclusive)):
        entries = [base + 0x100 * index for index in range(len(threads))]
        firsts.append(entries[0])
        for index, (entry, thread) in enumerate(zip(entries, threads, strict=True)):
            following = entries[(index + 1) % len(entries)]
            pieces[entry] = struct.pack("<QQQ", following, entries[index - 1], thread) + dispatcher(1, entry + 0x18, [])
    return pieces, firsts[0], firsts[1]


def seen(found: Resource) -> tuple[Any, ...]:
    return (
        [(owner.pointer, owner.count, owner.thread) for owner in found.owners],
        [waiter.thread for waiter in found.shared_waiters],
        [waiter.thread for waiter in found.exclusive_waiters],
        found.exclusive,
        found.contention,
        found.notes,
    )


def test_bytes_laid_by_hand(isf_path: Path) -> None:
    """Owners and waiters of every generation; what is laid out comes from literal offsets alone."""
    nt = load_table_file(isf_path)
    generation = generation_of(nt)
    shift = 2 if generation in ("Windows 7", "Windows 8") else 3
    pieces, shared, exclusive = waiting(generation, [SECOND, THIRD], [FOURTH])
    table = POOL + 0x3000
    pieces |= linked(
        lambda at, after, before: resource(at, after, before, contention=9),
        lambda at, after, before: resource(
            at,
            after,
            before,
            active=1,
            flag=0x80,
            owner=FIRST,
            count=5 << shift | 1,
            entries=1,
            contention=23,
            shared=shared,
            shared_count=2,
            exclusive=exclusive,
            exclusive_count=1,
        ),
        lambda at, after, before: resource(
            at, after, before, table=table, active=1, owner=SECOND, count=1 << shift, entries=3
        ),
    )
    pieces[table] = owners(shift, (THIRD, 2), (FOURTH, 0), (POOL + 0x43, 0x11))
    scan = scan_resources(made_target(pieces, nt))
    assert (scan.total, scan.held, scan.problems) == (3, 2, ())
    held, several = scan.resources
    assert seen(held) == ([(FIRST, 5, FIRST)], [SECOND, THIRD], [FOURTH], True, 23, ())
    assert seen(several) == (
        [(SECOND, 1, SECOND), (THIRD, 2, THIRD), (POOL + 0x43, 0x11, None)],
        [],
        [],
        False,
        0,
        (),
    )
    free = scan_resources(made_target(pieces, nt), everything=True).resources[0]
    assert (free.held, free.contended, free.contention) == (False, False, 9)


#: An ERESOURCE of a 32-bit kernel (Windows 10 1803 and later) is 0x38 bytes.
X86 = {
    "base_types": {
        "pointer": {"size": 4, "kind": "int", "signed": False, "endian": "little"},
        "unsigned long": {"size": 4, "kind": "int", "signed": False, "endian": "little"},
        "unsigned short": {"size": 2, "kind": "int", "signed": False, "endian": "little"},
        "short": {"size": 2, "kind": "int", "signed": True, "endian": "little"},
    },
    "user_types": {
        name: {
            "kind": "struct",
            "size": size,
            "fields": {
                field: {
                    "offset": offset,
                    "type": {"kind": "pointer", "subtype": {"kind": "base", "name": "void"}}
                    if kind == "pointer"
                    else {
                        "kind": "bitfield",
                        "bit_position": 3,
                        "bit_length": 29,
                        "type": {"kind": "base", "name": "unsigned long"},
                    }
                    if kind == "count"
                    else {"kind": "struct" if kind.startswith("_") else "base", "name": kind},
                }
                for offset, field, kind in fields
            },
        }
        for name, size, fields in (
            ("_LIST_ENTRY", 8, [(0, "Flink", "pointer"), (4, "Blink", "pointer")]),
            (
                "_OWNER_ENTRY",
                8,
                [(0, "OwnerThread", "unsigned long"), (4, "OwnerCount", "count"), (4, "TableSize", "unsigned long")],
            ),
            ("_KWAIT_CHAIN_ENTRY", 0x1C, [(0, "ListEntry", "_LIST_ENTRY"), (8, "Thread", "pointer")]),
            (
                "_ERESOURCE",
                0x38,
                [
                    (0x00, "SystemResourcesList", "_LIST_ENTRY"),
                    (0x08, "OwnerTable", "pointer"),
                    (0x0C, "ActiveCount", "short"),
                    (0x0E, "Flag", "unsigned short"),
                    (0x10, "SharedWaiters", "pointer"),
                    (0x14, "ExclusiveWaiters", "pointer"),
                    (0x18, "OwnerEntry", "_OWNER_ENTRY"),
                    (0x20, "ActiveEntries", "unsigned long"),
                    (0x24, "ContentionCount", "unsigned long"),
                    (0x28, "NumberOfSharedWaiters", "unsigned long"),
                    (0x2C, "NumberOfExclusiveWaiters", "unsigned long"),
                ],
            ),
        )
    },
    "enums": {},
    "symbols": {},
}


def test_a_32_bit_kernel() -> None:
    """Pointers are sign-extended."""
    head, place, table, entry = 0x81801000, 0x87000100, 0x87000300, 0x8B7C1A00
    pieces = {
        0xFFFFFFFF00000000 + address: data
        for address, data in (
            (head, struct.pack("<II", place, place)),
            (
                place,
                struct.pack("<IIIhHIIIIIIII", head, head, table, 1, 0, 0, entry, 0x87654320, 1 << 3, 2, 7, 0, 1)
                + bytes(8),
            ),
            (table, struct.pack("<IIII", 0, 2, 0x88888888, 3 << 3)),
            (entry, struct.pack("<III", entry, entry, 0x89ABCDE0)),
        )
    }
    scan = scan_resources(made_target(pieces, Layouts(X86), 4, 0xFFFFFFFF00000000 + head))
    assert (scan.total, scan.held, scan.problems) == (1, 1, ())
    [found] = scan.resources
    assert found.address == 0xFFFFFFFF87000100
    assert seen(found) == (
        [(0xFFFFFFFF87654320, 1, 0xFFFFFFFF87654320), (0xFFFFFFFF88888888, 3, 0xFFFFFFFF88888888)],
        [],
        [0xFFFFFFFF89ABCDE0],
        False,
        7,
        (),
    )


# made dumps -------------------------------------------------------------------------------------------------------


def test_the_host_reads_the_same(isf_path: Path, sample: Sample) -> None:
    """Every resource of the list through the host's own layers and objects, on every kernel."""
    kernel = host_kernel(sample(1, isf_path, "locks"), isf_path)
    where = kernel.get_symbol("ExpSystemResourcesList").address
    head = kernel.object("_LIST_ENTRY", where)
    listed = list(head.to_list(f"{kernel.symbol_table_name}!_ERESOURCE", "SystemResourcesList"))
    target = volatility3_kdump.open(sample(6, isf_path, "locks"), isf_file=isf_path)
    scan = scan_resources(target, everything=True)
    assert scan.problems == ()
    assert [found.address & ADDRESS for found in scan.resources] == [int(item.vol.offset) for item in listed]
    for found, item in zip(scan.resources, listed, strict=True):
        assert (found.active_count, found.active_entries, found.flag, found.contention) == (
            int(item.ActiveCount),
            int(item.ActiveEntries),
            int(item.Flag),
            int(item.ContentionCount),
        )
        if found.fast:
            continue
        expected = [(int(item.OwnerEntry.OwnerThread), int(item.OwnerEntry.OwnerCount))]
        if int(item.OwnerTable):
            step = item.OwnerEntry.vol.size
            for index in range(1, int(item.OwnerTable.dereference().TableSize)):
                entry = kernel.object("_OWNER_ENTRY", int(item.OwnerTable) + index * step, absolute=True)
                expected.append((int(entry.OwnerThread), int(entry.OwnerCount)))
        assert [(owner.pointer, owner.count) for owner in found.owners] == [pair for pair in expected if pair[1]]


def test_what_the_scene_holds(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path, "locks"), isf_file=isf_path)
    scan = scan_resources(target)
    static, chained, shared, *fast = scan.resources
    threads = [scene.thread_address(index) for index in range(4)]
    notepad = 0xFFFF91895309D080
    assert target.name_of(static.address) == "nt!PiEngineLock"
    assert seen(static) == ([(threads[0], 1, threads[0])], [threads[1]], [threads[2]], True, 23, ())
    assert seen(chained) == ([(notepad, 2, notepad)], [], [threads[3], threads[0]], True, 437, ())
    assert [owner.thread for owner in shared.owners[-2:]] == [notepad, None]
    assert (shared.owning, shared.notes) == (6, ())
    has_fast = target.nt is not None and target.nt.has_type("_FAST_ERESOURCE")
    assert [(item.address, item.fast, item.owners) for item in fast] == ([(scene.FAST, True, ())] if has_fast else [])
    assert (scan.total, scan.held) == ((5, 4) if has_fast else (4, 3))


def test_a_real_dump(shared_data: Path) -> None:
    """A small memory dump that holds the PnP locks and the waiter's stack; the values are read off its bytes.

    The entry of the waiter is a ring of one: both of its links lead to itself.
    """
    path = shared_data / "dumps" / "triage_x64_19041.dmp"
    target = volatility3_kdump.open(path, isf_directories=[shared_data / "isf"])
    crashed = 0xFFFFC08BDE9E1640
    assert crash_thread(target) is not None and crash_thread(target).address == crashed
    reader = ResourceReader(target)
    engine, tree = (reader.read(target.symbol(name) or 0) for name in ("PiEngineLock", "IopDeviceTreeLock"))
    assert seen(engine) == ([(crashed, 1, crashed)], [], [0xFFFFC08BDE0C7040], True, 1, ())
    assert [waiter.entry for waiter in engine.exclusive_waiters] == [0xFFFF85042981BA48]
    # shared by one thread; its table, which is not in the dump, has no more owners
    assert seen(tree) == ([(crashed, 1, crashed)], [], [], False, 0, ())
    assert (tree.held, tree.owning, tree.flag) == (True, 1, 0)


# damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nt() -> Layouts:
    return load_table_file(kernel_table_path())


def scanned(pieces: Mapping[int, bytes], nt: Layouts) -> ResourceScan:
    return scan_resources(made_target(pieces, nt))


def five(nt: Layouts) -> dict[int, bytes]:
    """A list of five resources, each owned by a thread."""
    return linked(
        *(
            lambda at, after, before: resource(at, after, before, active=1, owner=FIRST, count=8, entries=1)
            for _ in range(5)
        )
    )


@pytest.mark.parametrize("target", (2, 3))
def test_a_cyclic_list(nt: Layouts, target: int) -> None:
    pieces = five(nt)
    third = POOL + 0x300
    pieces[third] = struct.pack("<Q", POOL + 0x100 * target) + pieces[third][8:]
    scan = scanned(pieces, nt)
    # from the other end come those behind
    assert (scan.total, scan.held) == (5, 5)
    assert any("the list is cyclic" in problem for problem in scan.problems)


def test_a_list_with_an_absent_resource(nt: Layouts) -> None:
    pieces = five(nt)
    del pieces[POOL + 0x300]
    scan = scanned(pieces, nt)
    assert (scan.total, scan.held, len(scan.resources)) == (5, 4, 4)
    assert any("the resource at 0xffff800000000300: not there" in problem for problem in scan.problems)


@pytest.mark.parametrize("link", (0, 0x1234, POOL + 0x301, 0xFFFFFFFFFFFFFFF8))
def test_a_list_that_leads_nowhere(nt: Layouts, link: int) -> None:
    pieces = five(nt)
    for number in (2, 4):
        at = POOL + 0x100 * number
        preceding = struct.pack("<Q", link) if number == 4 else pieces[at][8:16]
        following = struct.pack("<Q", link) if number == 2 else pieces[at][:8]
        pieces[at] = following + preceding + pieces[at][16:]
    scan = scanned(pieces, nt)
    assert {found.address for found in scan.resources} == {POOL + 0x100 * number for number in (1, 2, 4, 5)}
    assert any("entries may be missing there" in problem for problem in scan.problems)


def test_no_list(nt: Layouts) -> None:
    with pytest.raises(Unreadable, match=r"made.dmp: ExpSystemResourcesList: not there"):
        scanned({}, nt)
    with pytest.raises(SymbolsNotFound, match=r"made.dmp: resources need the kernel's symbols"):
        scanned({}, cast(Layouts, None))
    assert scanned(linked(), nt) == ResourceScan(0, 0, (), ())


def one(nt: Layouts, more: Mapping[int, bytes] | None = None, **fields: int) -> Resource:
    values = {"active": 1, "owner": FIRST, "count": 8, "entries": 1, **fields}
    pieces = {**linked(lambda at, after, before: resource(at, after, before, **values)), **(more or {})}
    [found] = scanned(pieces, nt).resources
    return found


@pytest.mark.parametrize("padding", (0, 0xFFFF9000, 0xFFFFFFFF))
@pytest.mark.parametrize("thread", (b"", bytes(0x20)))
def test_padding_behind_the_count_is_no_pointer(nt: Layouts, padding: int, thread: bytes) -> None:
    """With the upper half of a kernel address in it, count and padding look like a pointer."""
    pieces = linked(lambda at, after, before: resource(at, after, before, active=1, owner=FIRST, count=8, entries=1))
    place = POOL + 0x100
    pieces[place] = pieces[place][:0x3C] + struct.pack("<I", padding) + pieces[place][0x40:]
    [found] = scanned({**pieces, FIRST: thread}, nt).resources
    assert (found.fast, [owner.thread for owner in found.owners]) == (False, [FIRST])


def test_a_fast_resource(nt: Layouts) -> None:
    """Its list of owners may be empty, or in the dump at one end only."""
    place = POOL + 0x130
    entries = {STACK: struct.pack("<QQ", STACK + 0x100, place), STACK + 0x100: struct.pack("<QQ", place, STACK)}
    for first, last, present in (
        (place, place, {}),
        (STACK, STACK + 0x100, entries),
        (STACK, STACK + 0x100, {STACK + 0x100: entries[STACK + 0x100]}),
    ):
        pieces = linked(lambda at, after, before: resource(at, after, before, active=1, entries=1, contention=3))
        data = pieces[POOL + 0x100]
        pieces[POOL + 0x100] = data[:0x30] + struct.pack("<QQ", first, last) + data[0x40:]
        [found] = scanned({**pieces, **present}, nt).resources
        assert (found.fast, found.owners, found.contention) == (True, (), 3)


@pytest.mark.parametrize("size", (4097, 0x10000, 0xFFFFFFFF))
def test_an_impossible_table_size(nt: Layouts, size: int) -> None:
    table = POOL + 0x3000
    found = one(nt, {table: struct.pack("<QII", 0, size, 0)}, table=table, entries=2)
    assert [owner.thread for owner in found.owners] == [FIRST]
    assert f"TableSize of its owner table at {table:#x} is {size}: impossible, not followed" in found.notes


def test_a_table_that_is_absent_in_part(nt: Layouts) -> None:
    table = POOL + 0x3000
    found = one(nt, {table: owners(3, (SECOND, 1), (THIRD, 2))[:0x20]}, table=table, entries=3)
    assert [owner.thread for owner in found.owners] == [FIRST, SECOND]
    assert f"1 entries of its owner table at {table:#x} are not in the dump" in found.notes
    for place in (table, 0x1000):
        missing = one(nt, {}, table=place, entries=2)
        assert missing.notes == (f"its owner table at {place:#x} is not in the dump",)


def test_contradictions(nt: Layouts) -> None:
    assert one(nt, entries=7).notes == ("ActiveEntries is 7, but 1 owners were found",)
    assert one(nt, owner=0).notes == ("it is active, but has no owner",)
    assert one(nt, count=0).notes == ("it is active, but has no owner",)


@pytest.mark.parametrize(
    "count, entries, note",
    [
        (2, {}, "the entry at 0xffffd00000000000 is not in the dump"),
        (2, {STACK: struct.pack("<QQQ", STACK, STACK, SECOND)}, "2 exclusive waiters are counted, and 1 were found"),
        (2, {STACK: struct.pack("<QQQ", STACK, STACK, 0x10) * 2}, "names 0x10, which is no thread"),
        (
            3,
            {
                STACK: struct.pack("<QQQ", STACK + 0x20, 0, SECOND),
                STACK + 0x20: struct.pack("<QQQ", STACK + 0x20, 0, THIRD),
            },
            "the chain is cyclic at 0xffffd00000000020",
        ),
    ],
)
def test_damaged_chains_of_waiters(nt: Layouts, count: int, entries: dict[int, bytes], note: str) -> None:
    found = one(nt, entries, exclusive=STACK, exclusive_count=count)
    assert any(note in text for text in found.notes)


def test_a_waiter_that_is_no_thread(nt: Layouts) -> None:
    event = {SECOND: b"\x01" + bytes(0xF)}
    entries = {STACK: struct.pack("<QQQ", STACK, STACK, SECOND), **event}
    found = one(nt, entries, exclusive=STACK, exclusive_count=1)
    assert [waiter.thread for waiter in found.exclusive_waiters] == [None]
    assert found.notes == (f"its exclusive waiters: the entry at {STACK:#x} names {SECOND:#x}, which is no thread",)


@pytest.mark.parametrize("first, shown", [(0, "0x0"), (0x1000, "0x1000")])
def test_waiters_without_a_chain(nt: Layouts, first: int, shown: str) -> None:
    found = one(nt, shared=first, shared_count=1)
    assert found.notes == (f"its shared waiters cannot be found: their list is {shown}, which is no kernel address",)


def test_no_resource_in_the_dump(nt: Layouts) -> None:
    with pytest.raises(Unreadable, match=r"the resource at 0xffff800000000000: not there"):
        ResourceReader(made_target({}, nt)).read(POOL)


def test_a_page_of_the_list_that_is_not_in_the_dump(sample: Sample, tmp_path: Path) -> None:
    """The resources in pool lie in one page, the static one in another."""
    path = sample(6, None, "locks")
    target = volatility3_kdump.open(path)
    scan = scan_resources(edited(target, path, tmp_path / "absent.dmp", absent=[scene.CHAINED]))
    assert [target.name_of(found.address) for found in scan.resources] == ["nt!PiEngineLock"]
    assert any("not in the dump" in problem for problem in scan.problems)


@settings(max_examples=part(60), deadline=None)
@given(
    data=st.binary(min_size=0x68, max_size=0x68),
    links=st.lists(st.sampled_from([HEAD, POOL, POOL + 0x100, POOL + 0x68, STACK, 0, 1]), min_size=4, max_size=4),
    rest=st.binary(min_size=0x100, max_size=0x100),
)
def test_any_bytes(data: bytes, links: list[int], rest: bytes) -> None:
    """Whatever the bytes are, the answer comes, and no thread in it is out of the kernel's half."""
    nt = _table()
    pieces = {
        HEAD: struct.pack("<QQ", links[0], links[1]),
        POOL: struct.pack("<QQ", links[2], links[3]) + data[16:],
        POOL + 0x68: rest,
    }
    scan = scanned(pieces, nt)
    for found in scan.resources:
        for waiter in (*found.shared_waiters, *found.exclusive_waiters):
            assert waiter.thread is None or waiter.thread >= 0xFFFF800000000000
        assert len(found.owners) <= 4096
    assert scan.total >= len(scan.resources)


_TABLES: list[Layouts] = []


def _table() -> Layouts:
    if not _TABLES:
        _TABLES.append(load_table_file(kernel_table_path()))
    return _TABLES[0]
