"""Wait chains and deadlocks of a scene that has both, on every kernel layout, and of graphs made up here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import volatility3_kdump
from volatility3_kdump.analysis.waits import Wait, WaitGraph, _circles, find_waits, held_resources
from volatility3_kdump.sample.scenes import waits as scene
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes import process_addresses, read_thread, thread_addresses

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


def test_resources_and_their_owners(target: Target) -> None:
    problems: list[str] = []
    held = held_resources(target, problems)
    assert [(resource.owners, resource.exclusive) for resource in held] == [
        (((SYSTEM_1, 1),), True),
        (((SYSTEM_2, 1),), True),
    ]
    assert problems == []


def test_nobody_waits_for_anybody(sample: Callable[..., Path]) -> None:
    graph = graph_of(volatility3_kdump.open(sample()))
    assert (graph.waits, graph.deadlocks) == ((), ())


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
