"""Rows of ``kdump.locks``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.waits import Wait, WaitGraph, find_waits, resource_note
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import locks as text
from volatility3_kdump.views.cells import joined, number
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.views.grid import text as text_cell
from volatility3_kdump.views.thread import (
    FRAME_COLUMNS,
    NO_FRAME,
    THREAD_COLUMNS,
    every_thread,
    frame_cells,
    stack_of,
    thread_cells,
    thread_lines,
)
from volatility3_kdump.views.waits import holder_name, sentence
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.resources import Resource, ResourceReader, ResourceScan, scan_resources
from volatility3_kdump.windows.processes.threads import Thread, read_thread

_RESOURCE_COLUMNS: list[tuple[str, type]] = [
    ("Resource", format_hints.Hex),
    ("Symbol", str),
    ("State", str),
    ("OwningThreads", int),
    ("ContentionCount", int),
    ("SharedWaiters", int),
    ("ExclusiveWaiters", int),
    ("ActiveCount", int),
    ("Flag", format_hints.Hex),
]
_ROLE_COLUMNS: list[tuple[str, type]] = [
    ("Role", str),
    ("OwnerThread", format_hints.Hex),
    ("Count", int),
    ("Image", str),
    ("PID", int),
]
_CHAIN_COLUMNS: list[tuple[str, type]] = [("WaitsFor", str), ("Deadlock", int), ("Notes", str)]
#: How many of the columns of a thread there are without ``--verbose``: address, id, state, wait reason.
_BRIEF = 4
_NO_ROLE = (absent(),) * len(_ROLE_COLUMNS)

OWNER, SHARED_WAITER, EXCLUSIVE_WAITER = "owner", "shared waiter", "exclusive waiter"


class _Locks:
    """What is shown: resources, and for those that somebody waits for who blocks whom."""

    def __init__(
        self, target: Target, everything: bool, verbose: bool, one: int | None, progress: Progress | None
    ) -> None:
        self.target = target
        self.everything = everything
        self.verbose = verbose
        self.single = one is not None
        if one is not None:
            self.scan = _single(target, one)
        else:
            if target.dump.triage is not None:
                raise KdumpError(
                    f"{target.name}: a small memory dump does not hold the pool that resources (ERESOURCE) lie in: "
                    "it takes a kernel or complete dump, or the address of one that it may hold (nt!PiEngineLock)"
                )
            self.scan = scan_resources(target, everything, progress)
        self.graph = self._waits(progress)
        self.chains = list(self._find_chains())
        reached = {wait for _, wait in self.chains}
        #: Deadlocks that somebody who waits for a shown resource is part of, or waits for in the end.
        self.circles = [circle for circle in self.graph.deadlocks if not reached.isdisjoint(circle)]
        self._deadlock_of = {wait: index for index, circle in enumerate(self.circles, 1) for wait in circle}
        self._threads: dict[int, Thread] = {}
        self._processes: dict[int, Process] = {}

    @property
    def problems(self) -> list[str]:
        """What is wrong beside what the notes of the resources that are shown say."""
        said = {resource_note(resource, note) for resource in self.scan.resources for note in resource.notes}
        return [line for line in dict.fromkeys((*self.scan.problems, *self.graph.problems)) if line not in said]

    @property
    def columns(self) -> list[tuple[str, type]]:
        threads = [*THREAD_COLUMNS, *FRAME_COLUMNS] if self.verbose else THREAD_COLUMNS[:_BRIEF]
        return [*_RESOURCE_COLUMNS, *_ROLE_COLUMNS, *threads, *_CHAIN_COLUMNS]

    def _waits(self, progress: Progress | None) -> WaitGraph:
        """Threads are read only where somebody waits."""
        if not any(resource.contended for resource in self.scan.resources):
            return WaitGraph((), (), ())
        threads = every_thread(self.target, set(), progress)
        # one resource may be part of a chain through others, but a small memory dump does not hold their list
        listed = self.single and self.target.dump.triage is None
        return find_waits(self.target, threads, None if listed else self.scan.resources)

    def thread(self, where: int) -> Thread:
        if where not in self._threads:
            self._threads[where] = read_thread(self.target, where)
        return self._threads[where]

    def deadlock(self, thread: int) -> int | None:
        """The number of the deadlock that a thread is part of."""
        numbers = (self._deadlock_of.get(wait) for wait in self.graph.of(thread))
        return next((found for found in numbers if found is not None), None)

    def process(self, thread: Thread) -> Process | None:
        owner = thread.owner or thread.process
        if not owner or not self.target.is_kernel_address(owner):
            return None
        if owner not in self._processes:
            self._processes[owner] = read_process(self.target, owner)
        return self._processes[owner]

    def symbol(self, resource: Resource) -> str | None:
        """The name of the variable that a resource is, or lies in."""
        return self.target.name_of(resource.address)

    def roles(self, resource: Resource) -> Iterator[tuple[str, int | None, int | None, int | None]]:
        """(role, ETHREAD, OwnerThread, count) of the threads of a resource."""
        for owner in resource.owners:
            yield OWNER, owner.thread, owner.pointer, owner.count
        for role, waiters in (
            (SHARED_WAITER, resource.shared_waiters),
            (EXCLUSIVE_WAITER, resource.exclusive_waiters),
        ):
            for waiter in waiters:
                yield role, waiter.thread, None, None

    def _find_chains(self) -> Iterator[tuple[int, Wait]]:
        """(depth, wait): for each owner of a resource that is shown who waits for it, and below what it waits for."""
        for resource in self.scan.resources:
            waits = [wait for wait in self.graph.waits if wait.object == resource.address]
            for holder in dict.fromkeys(wait.holder for wait in waits):
                yield from ((0, wait) for wait in waits if wait.holder == holder)
                if holder is not None:
                    yield from enumerate(self.graph.chain(holder), 1)


def _single(target: Target, where: int) -> ResourceScan:
    try:
        resource = ResourceReader(target).read(where)
    except KdumpError as error:
        raise error if str(error).startswith(target.name) else type(error)(f"{target.name}: {error}") from error
    nt, width = target.nt, target.memory.pointer_size
    assert nt is not None
    place = where + nt.offset("_ERESOURCE", "SystemResourcesList")
    links = [target.memory.pointer(place), target.memory.pointer(place + width)]
    if any(link is not None and (link % width or not target.is_kernel_address(link)) for link in links):
        shown = " and ".join("?" if link is None else f"{link:#x}" for link in links)
        raise KdumpError(f"{target.name}: there is no ERESOURCE at {where:#x}: it would be in a list between {shown}")
    after = target.memory.pointer(links[0] + width) if links[0] else None
    problems = []
    if after is not None and after != place:
        problems.append(f"{where:#x} is in no list of resources: it may be no resource, or one that was deleted")
    return ResourceScan(1, int(resource.held), (resource,), tuple(problems))


def locks_grid(
    target: Target,
    everything: bool = False,
    verbose: bool = False,
    one: int | None = None,
    progress: Progress | None = None,
) -> KdumpGrid:
    """A row for each resource that somebody owns or waits for, or ``everything``, or ``one`` by its address.

    Below it are its owners and waiters, with ``verbose`` all that is known of those threads, and their stacks below
    them. Raises :class:`KdumpError` where the dump cannot hold resources, or their list is not in it.
    """
    locks = _Locks(target, everything, verbose, one, progress)
    return KdumpGrid(locks.columns, _rows(locks), lambda: _lines(locks))


# rows -----------------------------------------------------------------------------------------------------------------


def _rows(locks: _Locks) -> Iterator[Row]:
    no_thread = (absent(),) * (len(locks.columns) - len(_RESOURCE_COLUMNS) - len(_ROLE_COLUMNS) - len(_CHAIN_COLUMNS))
    for resource in locks.scan.resources:
        cells = _resource_cells(locks, resource)
        yield 0, (*cells, *_NO_ROLE, *no_thread, absent(), absent(), joined(resource.notes))
        head = (cells[0], cells[1], *((absent(),) * (len(cells) - 2)))
        for role, where, owner, count in locks.roles(resource):
            yield from _thread_rows(locks, head, role, where, owner, count)
    blank = (absent(),) * (len(locks.columns) - 1)
    for problem in locks.problems:
        yield 0, (*blank, problem)
    if not locks.single:
        yield 0, (*blank, f"{locks.scan.total} resources, {locks.scan.held} of them held")


def _resource_cells(locks: _Locks, resource: Resource) -> tuple[Any, ...]:
    if resource.fast:
        state = "fast resource"
    elif resource.held:
        state = "exclusive" if resource.exclusive else "shared"
    else:
        state = "free"
    return (
        format_hints.Hex(resource.address),
        locks.symbol(resource) or absent(),
        text_cell(None) if resource.active_count is None and not resource.held else state,
        text_cell(None) if resource.fast else resource.owning,
        number(resource.contention),
        number(resource.shared_count),
        number(resource.exclusive_count),
        number(resource.active_count),
        address(resource.flag),
    )


def _thread_rows(
    locks: _Locks, head: tuple[Any, ...], role: str, where: int | None, owner: int | None, count: int | None
) -> Iterator[Row]:
    pointer = absent() if owner is None else format_hints.Hex(owner)
    times = absent() if count is None else count
    if where is None:
        note = "set by ExSetResourceOwnerPointer: no thread" if owner is not None else "its thread is not known"
        blank = (text_cell(None),) * (len(locks.columns) - len(head) - 4)
        yield 1, (*head, role, pointer, times, *blank, note)
        return
    thread = locks.thread(where)
    process = locks.process(thread)
    cells = thread_cells(locks.target, thread)
    waits = locks.graph.chain(where)
    deadlock = locks.deadlock(where)
    cells = (*cells, *NO_FRAME) if locks.verbose else cells[:_BRIEF]
    yield (
        1,
        (
            *head,
            role,
            pointer,
            times,
            text_cell(process.name if process else None),
            number(thread.pid),
            *cells,
            " -> ".join(_step(locks.target, wait) for wait in waits) or absent(),
            absent() if deadlock is None else deadlock,
            joined(thread.notes),
        ),
    )
    if locks.verbose and thread.present:
        blank = (absent(),) * (len(_ROLE_COLUMNS) + len(THREAD_COLUMNS))
        for frame in frame_cells(locks.target, stack_of(locks.target, thread)):
            yield 2, (*head, *blank, *frame, *((absent(),) * len(_CHAIN_COLUMNS)))


def _step(target: Target, wait: Wait) -> str:
    name = target.name_of(wait.object)
    return f"{wait.kind} {name or f'{wait.object:#x}'} of {holder_name(target, wait)}"


# text -----------------------------------------------------------------------------------------------------------------


def _lines(locks: _Locks) -> Iterator[str]:
    size = locks.target.memory.pointer_size
    if not locks.single:
        yield text.HEADING
    scanning = not locks.single and not locks.everything
    for index, resource in enumerate(locks.scan.resources):
        if scanning:
            yield text.SCANNING
        if index or not locks.single:
            yield ""
        yield from text.resource_lines(resource, locks.symbol(resource), size)
        if locks.verbose:
            yield from _threads(locks, resource)
    if scanning and not locks.scan.resources:
        yield text.SCANNING
    yield text.totals(locks.scan.total, locks.scan.held)
    yield from _chain_lines(locks)
    for problem in locks.problems:
        yield f"NOTE: {problem}"


def _threads(locks: _Locks, resource: Resource) -> Iterator[str]:
    yield ""
    for where in dict.fromkeys(thread for _, thread, _, _ in locks.roles(resource) if thread is not None):
        thread = locks.thread(where)
        yield from thread_lines(
            locks.target, thread, locks.process(thread), "     ", True, stack_of(locks.target, thread)
        )


def _chain_lines(locks: _Locks) -> Iterator[str]:
    """Who blocks whom, which KD does not say."""
    if locks.chains:
        yield ""
        yield "NOTE: who waits for whom:"
    for depth, wait in locks.chains:
        yield f"NOTE:   {'    ' * depth}{sentence(locks.target, wait)}"
    for index, circle in enumerate(locks.circles, 1):
        certain = all(wait.sure for wait in circle)
        yield (
            f"NOTE: DEADLOCK {index}:" if certain else f"NOTE: possible deadlock {index} (some wait may end otherwise):"
        )
        for wait in circle:
            yield f"NOTE:   {sentence(locks.target, wait)}"
