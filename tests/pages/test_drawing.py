"""Geometry of the pictures."""

from __future__ import annotations

import datetime

import pytest

from volatility3_kdump.findings.wait_chains import NamedWait
from volatility3_kdump.findings.waits import Wait
from volatility3_kdump.pages.drawing import MOST_NODES, ago, share, time_line, wait_graph
from volatility3_kdump.pages.facts import BOOT, CRASH, STARTED, Event, size_words

START = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)


def wait(waiter: int, holder: int, deadlock: int | None = None) -> NamedWait:
    return NamedWait(Wait(waiter, "mutant", 0x99, holder, None), f"t{waiter}", f"t{holder}", None, deadlock)


def test_later_events_lie_further_right() -> None:
    seconds = (0, 10, 3000, 3590, 3599.5, 3600)
    kinds = (BOOT, STARTED, STARTED, STARTED, STARTED, CRASH)
    line = time_line(
        [Event(START + datetime.timedelta(seconds=s), k, "x") for s, k in zip(seconds, kinds, strict=True)]
    )
    places = [mark.x for mark in line.marks]
    assert places == sorted(places) and places[0] == line.left and places[-1] == line.right
    assert [words for _, words in line.steps] == ["1 s", "10 s", "1 min", "10 min"]
    assert all(line.left < x < line.right for x, _ in line.steps)


def test_a_single_event_is_a_line() -> None:
    line = time_line([Event(START, CRASH, "x")])
    assert [mark.x for mark in line.marks] == [line.right] and line.steps == ()


def test_hundreds_of_events_in_one_spot_are_one_mark() -> None:
    events = [Event(START, BOOT, "x"), *[Event(START, STARTED, str(n)) for n in range(500)]]
    line = time_line([*events, Event(START + datetime.timedelta(hours=1), CRASH, "x")])
    assert len(line.marks) == 3


def test_who_waits_stands_left() -> None:
    graph = wait_graph([wait(1, 2), wait(2, 3), wait(1, 3), wait(7, 8)])
    place = {node.label: (node.x, node.y) for node in graph.nodes}
    assert place["t1"][0] < place["t2"][0] < place["t3"][0] and place["t7"][0] < place["t8"][0]
    assert len(set(place.values())) == 5 and graph.left_out == 0
    assert all(node.x + node.width <= graph.width and node.y + node.height <= graph.height for node in graph.nodes)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_circles_end(size: int) -> None:
    graph = wait_graph([wait(n + 1, (n + 1) % size + 1, 1) for n in range(size)])
    assert len(graph.nodes) == size and len(graph.edges) == size
    assert all(node.deadlocked for node in graph.nodes)


def test_large_graphs_are_cut_but_deadlocks_stay() -> None:
    many = [wait(n, n + 1) for n in range(1, 3000)]
    graph = wait_graph([*many, wait(5001, 5002, 1), wait(5002, 5001, 1)])
    assert len(graph.nodes) == MOST_NODES
    assert {"t5001", "t5002"} <= {node.label for node in graph.nodes}
    assert graph.left_out == len(many) + 2 - len(graph.edges)


@pytest.mark.parametrize(
    ("part", "whole", "percent"),
    [(1, 2, 50.0), (0, 5, 0.0), (None, 5, 0.0), (9, 3, 100.0), (1, 10**9, 0.4), (5, 0, 0.0)],
)
def test_shares(part: int | None, whole: int | None, percent: float) -> None:
    assert share(part, whole) == percent


def test_words() -> None:
    assert [ago(s) for s in (0, 0.05, 3.21, 130, 90061)] == [
        *("at the crash", "50 ms before", "3.2 s before", "0:02:10 before", "1 d 1:01:01 before"),
    ]
    assert [size_words(n) for n in (0, 999, 1024, 4096 * 1000, 1 << 34, 1 << 60)] == [
        *("0 bytes", "999 bytes", "1.0 KB", "3.9 MB", "16.0 GB", "1,048,576 TB"),
    ]
