"""Where the parts of a page's pictures lie: numbers for the templates, which write them as SVG."""

from __future__ import annotations

import collections
import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass

from volatility3_kdump.findings.wait_chains import NamedWait
from volatility3_kdump.pages.facts import BOOT, COMPLAINT, CRASH, ENDED, STARTED, UNLOADED, Event

# time line ------------------------------------------------------------------------------------------------------------

WIDTH = 1000
_LEFT, _RIGHT = 110, 970
#: The lanes of the time line, from the top.
LANES = (("system", (BOOT, CRASH)), ("drivers", (UNLOADED, COMPLAINT)), ("processes", (STARTED, ENDED)))
_FIRST_LANE, _LANE = 34, 34
_STEPS = (
    (1, "1 s"),
    (10, "10 s"),
    (60, "1 min"),
    (600, "10 min"),
    (3600, "1 h"),
    (36000, "10 h"),
    (86400, "1 day"),
    (864000, "10 days"),
    (8640000, "100 days"),
)


@dataclass(frozen=True)
class Mark:
    """An event on the time line; ``says`` is told when it is pointed at."""

    x: float
    y: int
    kind: str
    says: str


@dataclass(frozen=True)
class TimeLine:
    """Marks, the lines of the scale with their words, the names of the lanes with their places, and the height."""

    marks: tuple[Mark, ...]
    steps: tuple[tuple[float, str], ...]
    lanes: tuple[tuple[int, str], ...]
    height: int
    left: int = _LEFT
    right: int = _RIGHT


def time_line(events: Sequence[Event]) -> TimeLine:
    """Events by their time before the last one, the crash. The scale is logarithmic: what came last is told apart."""
    crashed = events[-1].when
    longest = max((crashed - event.when).total_seconds() for event in events)

    def place(seconds: float) -> float:
        # Half a second before the end is a place of its own.
        share = math.log(2 * seconds + 1) / math.log(2 * longest + 1) if longest > 0 else 0.0
        return round(_RIGHT - share * (_RIGHT - _LEFT), 1)

    lanes = {kind: _FIRST_LANE + number * _LANE for number, (_, kinds) in enumerate(LANES) for kind in kinds}
    marks = []
    taken: set[tuple[int, int, str]] = set()
    for event in events:
        before = (crashed - event.when).total_seconds()
        x = place(before)
        spot = (round(x / 3), lanes[event.kind], event.kind)
        # Hundreds of marks on one spot are one.
        if spot not in taken:
            taken.add(spot)
            marks.append(Mark(x, lanes[event.kind], event.kind, f"{ago(before)}: {event.text}"))
    steps = []
    room = float(_RIGHT)
    for seconds, label in _STEPS:
        x = place(seconds)
        if seconds < longest and x > _LEFT + 30 and room - x > 55:
            steps.append((x, label))
            room = x
    bottom = _FIRST_LANE + len(LANES) * _LANE
    names = tuple((_FIRST_LANE + number * _LANE, name) for number, (name, _) in enumerate(LANES))
    return TimeLine(tuple(marks), tuple(steps), names, bottom + 14)


def ago(seconds: float) -> str:
    """``3.2 s before`` the crash."""
    if seconds < 0.0005:
        return "at the crash"
    if seconds < 120:
        return f"{seconds:.1f} s before" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms before"
    span = datetime.timedelta(seconds=round(seconds))
    hours, rest = divmod(span.seconds, 3600)
    days = f"{span.days} d " if span.days else ""
    return f"{days}{hours}:{rest // 60:02d}:{rest % 60:02d} before"


# bars -----------------------------------------------------------------------------------------------------------------


def share(part: int | None, whole: int | None) -> float:
    """A part of a whole in percent, for the width of a bar that can be seen: 0 to 100."""
    if not part or not whole or part < 0 or whole < 0:
        return 0.0
    return round(max(min(100.0 * part / whole, 100.0), 0.4), 2)


# wait graph -----------------------------------------------------------------------------------------------------------

#: Threads and processes in the picture; the table beside it has all waits.
MOST_NODES = 40
_NODE_WIDTH, _NODE_HEIGHT, _COLUMN, _ROW = 190, 34, 320, 56
_MOST_LETTERS = 24


@dataclass(frozen=True)
class Node:
    """A thread or process in the wait graph."""

    x: int
    y: int
    label: str
    full: str
    deadlocked: bool
    width: int = _NODE_WIDTH
    height: int = _NODE_HEIGHT


@dataclass(frozen=True)
class Edge:
    """A wait: the path from who waits to who is waited for, and the words on it at their place."""

    path: str
    x: float
    y: float
    words: str
    says: str
    deadlocked: bool
    sure: bool


@dataclass(frozen=True)
class Graph:
    """The picture; ``left_out`` is how many waits are not in it."""

    width: int
    height: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    left_out: int


def wait_graph(waits: Sequence[NamedWait]) -> Graph:
    """Who waits on the left of whom they wait for, as far as that goes; circles among them go back."""
    names: dict[int, str] = {}
    # Circles first: of what does not fit they are the last to go.
    ordered = sorted(waits, key=lambda named: named.deadlock is None)
    shown: list[NamedWait] = []
    for named in ordered:
        ends = {named.wait.waiter: named.waiter, named.holder_address: named.holder}
        if len({*names, *ends}) <= MOST_NODES:
            names.update(ends)
            shown.append(named)
    pairs = [(named.wait.waiter, named.holder_address) for named in shown]
    columns = _columns(list(names), pairs)
    places: dict[int, tuple[int, int]] = {}
    top = 0
    for group in _groups(list(names), pairs):
        rows: collections.Counter[int] = collections.Counter()
        for address in group:
            column = columns[address]
            places[address] = (10 + column * _COLUMN, 16 + (top + rows[column]) * _ROW)
            rows[column] += 1
        top += max(rows.values())
    deadlocked = {
        address
        for named in shown
        if named.deadlock is not None
        for address in (named.wait.waiter, named.holder_address)
    }
    nodes = tuple(
        Node(*places[address], _shortened(name), f"{name} ({address:#x})", address in deadlocked)
        for address, name in names.items()
    )
    width = 10 + max(columns.values(), default=0) * _COLUMN + _NODE_WIDTH + 70
    height = 16 + max(top, 1) * _ROW + 10
    return Graph(width, height, nodes, tuple(_edge(named, places) for named in shown), len(waits) - len(shown))


def _groups(nodes: Sequence[int], edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The nodes by what hangs together, in their order."""
    near: dict[int, list[int]] = {node: [] for node in nodes}
    for start, end in edges:
        near[start].append(end)
        near[end].append(start)
    groups: list[list[int]] = []
    seen: set[int] = set()
    for node in nodes:
        if node in seen:
            continue
        seen.add(node)
        reached, waiting = {node}, [node]
        while waiting:
            fresh = [other for other in near[waiting.pop()] if other not in seen]
            seen.update(fresh)
            reached.update(fresh)
            waiting += fresh
        groups.append([other for other in nodes if other in reached])
    return groups


def _columns(nodes: Sequence[int], edges: Sequence[tuple[int, int]]) -> dict[int, int]:
    """For each node the length of the longest way to it, without the edges that close circles."""
    following: dict[int, list[int]] = {node: [] for node in nodes}
    for start, end in edges:
        following[start].append(end)
    order: list[int] = []
    forward: list[tuple[int, int]] = []
    states: dict[int, int] = {}
    entered = {end for _, end in edges}
    for root in sorted(nodes, key=lambda node: node in entered):
        if root in states:
            continue
        states[root] = 1
        pending = [(root, iter(following[root]))]
        while pending:
            node, rest = pending[-1]
            end = next(rest, 0)
            if not end:
                states[node] = 2
                order.append(node)
                pending.pop()
            elif end != node and states.get(end) != 1:
                forward.append((node, end))
                if end not in states:
                    states[end] = 1
                    pending.append((end, iter(following[end])))
    columns = dict.fromkeys(nodes, 0)
    onward: dict[int, list[int]] = {}
    for start, end in forward:
        onward.setdefault(start, []).append(end)
    for node in reversed(order):
        for end in onward.get(node, ()):
            columns[end] = max(columns[end], columns[node] + 1)
    return columns


def _edge(named: NamedWait, places: dict[int, tuple[int, int]]) -> Edge:
    (x1, y1), (x2, y2) = places[named.wait.waiter], places[named.holder_address]
    middle = _NODE_HEIGHT // 2
    if x2 > x1:
        start, end = (x1 + _NODE_WIDTH, y1 + middle - 4), (x2, y2 + middle - 4)
        bend = (end[0] - start[0]) / 2
        path = f"M{start[0]},{start[1]} C{start[0] + bend},{start[1]} {end[0] - bend},{end[1]} {end[0]},{end[1]}"
        place = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 6)
    elif x2 < x1:
        start, end = (x1, y1 + middle + 6), (x2 + _NODE_WIDTH, y2 + middle + 6)
        bend = (start[0] - end[0]) / 2
        path = f"M{start[0]},{start[1]} C{start[0] - bend},{start[1]} {end[0] + bend},{end[1]} {end[0]},{end[1]}"
        place = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 15)
    else:
        right = x1 + _NODE_WIDTH
        start, end = (right, y1 + middle), (right, y2 + middle + (6 if y1 == y2 else 0))
        path = f"M{start[0]},{start[1]} C{right + 60},{start[1]} {right + 60},{end[1] + 8} {end[0]},{end[1]}"
        place = (right + 34, (start[1] + end[1]) / 2 + 4)
    says = (
        f"{named.waiter} waits for the {named.wait.kind} {named.object or f'{named.wait.object:#x}'} of {named.holder}"
    )
    label = _shortened(named.object or named.wait.kind, 17)
    return Edge(path, *place, label, says, named.deadlock is not None, named.wait.sure)


def _shortened(text: str, most: int = _MOST_LETTERS) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
