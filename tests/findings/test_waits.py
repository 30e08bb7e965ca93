"""Wait chains and deadlocks of a scene that has both, on every kernel layout, and of graphs made up here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample.scenes import waits as scene
from tests.edited import edited
from volatility3_kdump.findings.waits import Wait, WaitGraph, _circles, find_waits
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.resources import scan_resources
from volatility3_kdump.windows.processes.threads import read_thread

FIRST, SECOND, THIRD, FOURTH = (scene.thread_address(0, index) for index in range(4))
SYSTEM_1, SYSTEM_2 = scene.thread_address(7, 0), scene.thread_address(7, 1)


def graph_of(target: Target) -> WaitGraph:
    threads = [thread for process in process_addresses(target) for thread in thread_addresses(target, process)]
    return find_waits(target, [read_thread(target, thread) for thread in threads])


@pytest.fixture
def target(isf_path: Path, sample: Callable[..., Path]) -> Target:
    return volatility3_kdump.open(sample(6, isf_path, "waits"), isf_file=isf_path)


def test_who_waits_for_whom(target: Target) -> None:
    graph = graph_of(target)
    assert {(wait.waiter, wait.kind, wait.holder, wait.process, wait.sure) for wait in graph.waits} == {
        (FIRST, "mutant", SECOND, None, True),
        (SECOND, "mutant", FIRST, None, True),
        (THIRD, "thread", FIRST, None, True),
        # It waits for a semaphore as well, and either will do.
        (FOURTH, "process", None, scene.process_address(1), False),
        (SYSTEM_1, "resource", SYSTEM_2, None, True),
        (SYSTEM_2, "resource", SYSTEM_1, None, True),
    }
    assert graph.problems == ()


def test_circles_are_deadlocks(target: Target) -> None:
    found = {frozenset(wait.waiter for wait in circle) for circle in graph_of(target).deadlocks}
    assert found == {frozenset({FIRST, SECOND}), frozenset({SYSTEM_1, SYSTEM_2})}


def test_a_chain_ends_in_its_circle(target: Target) -> None:
    graph = graph_of(target)
    assert [wait.waiter for wait in graph.chain(THIRD)] == [THIRD, FIRST, SECOND]
    assert graph.chain(scene.thread_address(0, 4)) == []
    assert [wait.kind for wait in graph.of(SYSTEM_1)] == ["resource"]


def test_nobody_waits_for_anybody(sample: Callable[..., Path]) -> None:
    graph = graph_of(volatility3_kdump.open(sample()))
    assert (graph.waits, graph.deadlocks) == ((), ())


# what the scene lacks -----------------------------------------------------------------------------------------------

#: The scene's resources, and memory of it that nothing uses.
RESOURCE_1, FREE = 0xFFFF918961801000, 0xFFFF918961803800


@pytest.mark.parametrize("server", (0, SECOND))
def test_alpc(isf_path: Path, sample: Callable[..., Path], tmp_path: Path, server: int) -> None:
    """A reply comes from the thread that works on the message, or else from the process that owns the port."""
    path = sample(6, isf_path, "waits")
    target = volatility3_kdump.open(path, isf_file=isf_path)
    nt = target.nt
    assert nt is not None
    if not nt.has("_KALPC_MESSAGE", "ServerThread"):
        pytest.skip("this kernel's symbols do not have the message")
    reasons = {name: value for value, name in nt.enum("_KWAIT_REASON").items()}
    waiter, port, owner = scene.thread_address(0, 8), FREE + 0x200, scene.process_address(3)

    def message(field: str) -> int:
        return FREE + nt.offset("_KALPC_MESSAGE", field)

    changes = {
        waiter + nt.offset("_KTHREAD", "WaitReason"): bytes([reasons["WrLpcReply"]]),
        waiter + nt.offset("_ETHREAD", "AlpcMessage"): struct.pack("<Q", FREE),
        message("WaitingThread"): struct.pack("<Q", waiter),
        message("ServerThread"): struct.pack("<Q", server),
        message("PortQueue"): struct.pack("<Q", port),
        port + nt.offset("_ALPC_PORT", "OwnerProcess"): struct.pack("<Q", owner),
    }
    found = graph_of(edited(target, path, tmp_path / "alpc.dmp", changes, isf_file=isf_path)).of(waiter)
    assert [(wait.kind, wait.object, wait.holder, wait.process) for wait in found] == [
        ("ALPC", FREE, server or None, None if server else owner)
    ]


def test_waiters_by_their_stacks_and_owners_in_a_table(sample: Callable[..., Path], tmp_path: Path) -> None:
    """An entry that does not name its thread lies on the thread's stack; a shared resource has several owners."""
    path = sample(6, None, "waits")
    target = volatility3_kdump.open(path)
    nt = target.nt
    assert nt is not None
    base = read_thread(target, SYSTEM_2).stack_base
    assert base is not None
    entry = base - 0x200

    def owner(index: int, thread: int, count: int) -> bytes:
        return struct.pack("<QII", thread, 3 if index == 0 else count << 3, 0)

    changes = {
        RESOURCE_1 + nt.offset("_ERESOURCE", "ExclusiveWaiters"): struct.pack("<Q", entry),
        entry: struct.pack("<QQQ", entry, entry, 0),
        RESOURCE_1 + nt.offset("_ERESOURCE", "Flag"): bytes(2),
        RESOURCE_1 + nt.offset("_ERESOURCE", "OwnerTable"): struct.pack("<Q", FREE),
        RESOURCE_1 + nt.offset("_ERESOURCE", "OwnerEntry.OwnerThread"): bytes(8),
        FREE: owner(0, 0, 0) + owner(1, FIRST, 2) + owner(2, THIRD, 1),
    }
    found = edited(target, path, tmp_path / "shared.dmp", changes)
    [resource] = [item for item in scan_resources(found).resources if item.address == RESOURCE_1]
    assert [(owner.thread, owner.count) for owner in resource.owners] == [(FIRST, 2), (THIRD, 1)]
    assert [waiter.thread for waiter in resource.exclusive_waiters] == [None]
    waits = [(wait.waiter, wait.holder) for wait in graph_of(found).waits if wait.object == RESOURCE_1]
    assert waits == [(SYSTEM_2, FIRST), (SYSTEM_2, THIRD)]


@pytest.mark.parametrize("size", (0xFFFFFFFF, 0x10000))
def test_an_owner_table_of_an_impossible_size(sample: Callable[..., Path], tmp_path: Path, size: int) -> None:
    path = sample(6, None, "waits")
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    changes = {
        RESOURCE_1 + target.nt.offset("_ERESOURCE", "OwnerTable"): struct.pack("<Q", FREE),
        RESOURCE_1 + target.nt.offset("_ERESOURCE", "ActiveEntries"): struct.pack("<I", 2),
        FREE: struct.pack("<QII", 0, size, 0),
    }
    graph = graph_of(edited(target, path, tmp_path / "owners.dmp", changes))
    assert any(f"is {size}: impossible" in problem for problem in graph.problems)
    assert len(graph.deadlocks) == 2


# made-up graphs -----------------------------------------------------------------------------------------------------


def edges(*pairs: tuple[int, int]) -> list[Wait]:
    return [Wait(waiter, "mutant", 0x1000 * waiter + holder, holder, None) for waiter, holder in pairs]


@pytest.mark.parametrize(
    "pairs, circles",
    [
        ([], []),
        ([(1, 2), (2, 3)], []),
        ([(1, 1)], [{1}]),
        ([(1, 2), (2, 1)], [{1, 2}]),
        ([(1, 2), (2, 3), (3, 1), (4, 1)], [{1, 2, 3}]),
        ([(4, 1), (1, 2), (2, 3), (3, 2)], [{2, 3}]),
        ([(1, 2), (2, 1), (1, 3), (3, 1)], [{1, 2}, {1, 3}]),
        ([(1, 2), (1, 3), (2, 4), (3, 4)], []),
    ],
)
def test_circles(pairs: Sequence[tuple[int, int]], circles: Sequence[set[int]]) -> None:
    found = [{wait.waiter for wait in circle} for circle in _circles(edges(*pairs))]
    assert found == circles


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), max_size=24, unique=True))
def test_a_circle_is_found_exactly_where_there_is_one(pairs: list[tuple[int, int]]) -> None:
    waits = edges(*pairs)
    circles = list(_circles(waits))
    for circle in circles:
        for wait, following in zip(circle, (*circle[1:], circle[0]), strict=True):
            assert wait.holder == following.waiter
    # Take away, again and again, who waits for nobody that waits: what is left is on a circle, or leads to one.
    rest = set(pairs)
    while True:
        waiting = {waiter for waiter, _ in rest}
        fewer = {pair for pair in rest if pair[1] in waiting}
        if fewer == rest:
            break
        rest = fewer
    assert bool(circles) == bool(rest)
