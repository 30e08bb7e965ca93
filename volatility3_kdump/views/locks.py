"""Rows of ``kdump.locks``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3_kdump.findings.resource_waits import ListedResource, ResourceThread, ResourceWaits
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import locks as text
from volatility3_kdump.text.waits import wait_line
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, HEX, NUMBER, TEXT, Column, Part, Table
from volatility3_kdump.views.thread import BRIEF_THREAD, FRAME, OWNER, THREAD, frame_rows, thread_lines


def _state(listed: ListedResource) -> str | None:
    resource = listed.resource
    if resource.fast:
        return "fast resource"
    if resource.active_count is None and not resource.held:
        return None
    if not resource.held:
        return "free"
    return "exclusive" if resource.exclusive else "shared"


NAMED = Part[ListedResource](
    "",
    Column("Resource", ADDRESS, "the ERESOURCE", lambda listed: listed.resource.address),
    keys.SYMBOL(lambda listed: listed.symbol or BLANK, "the variable that the resource is, or lies in"),
)
RESOURCE = Part[ListedResource](
    "",
    keys.STATE(_state, "`exclusive`, `shared`, `free`, `fast resource` (its owners are not known)"),
    Column(
        "OwningThreads",
        NUMBER,
        "ActiveEntries, or where that is 0 the owners found; unknown for fast resources",
        lambda listed: None if listed.resource.fast else listed.resource.owning,
    ),
    Column(
        "ContentionCount", NUMBER, "how often somebody had to wait for it", lambda listed: listed.resource.contention
    ),
    Column(
        "SharedWaiters",
        NUMBER,
        "NumberOfSharedWaiters; `Notes` says where fewer were found",
        lambda listed: listed.resource.shared_count,
    ),
    Column(
        "ExclusiveWaiters",
        NUMBER,
        "NumberOfExclusiveWaiters; `Notes` says where fewer were found",
        lambda listed: listed.resource.exclusive_count,
    ),
    Column("ActiveCount", NUMBER, "ERESOURCE.ActiveCount", lambda listed: listed.resource.active_count),
    Column("ResourceFlag", HEX, "ERESOURCE.Flag; 0x80 is exclusive ownership", lambda listed: listed.resource.flag),
)
PART = Part[ResourceThread](
    "",
    keys.ROLE(lambda part: part.role, "`owner`, `shared waiter`, `exclusive waiter`"),
    Column(
        "OwnerThread",
        HEX,
        "OWNER_ENTRY.OwnerThread as it stands; low bits are set where ExSetResourceOwnerPointer was called; null for "
        "waiters",
        lambda part: BLANK if part.owner is None else part.owner,
    ),
    Column(
        "OwnerCount",
        NUMBER,
        "how often the owner has acquired it; null for waiters",
        lambda part: BLANK if part.count is None else part.count,
    ),
)


def _chain(part: ResourceThread) -> str:
    return " -> ".join(
        f"{named.wait.kind} {named.object or f'{named.wait.object:#x}'} of {named.holder}" for named in part.chain
    )


CHAIN = Part[ResourceThread](
    "",
    Column(
        "WaitChain",
        TEXT,
        "what the thread waits for and whose that is, what the holder waits for in turn, and so on (`->`). Mutants, "
        "threads, processes, resources and ALPC are followed",
        lambda part: _chain(part) or BLANK,
    ),
    keys.DEADLOCK(lambda part: BLANK if part.deadlock is None else part.deadlock),
    keys.NOTES(lambda part: part.thread.thread.notes if part.thread is not None else _why_no_thread(part)),
)


def _why_no_thread(part: ResourceThread) -> list[str]:
    return ["set by ExSetResourceOwnerPointer: no thread" if part.owner is not None else "its thread is not known"]


#: ``kdump.locks``, and with all that is known of the threads.
LOCKS = Table("kdump.locks", NAMED, RESOURCE, PART, OWNER, BRIEF_THREAD, CHAIN)
VERBOSE_LOCKS = Table("kdump.locks --verbose", NAMED, RESOURCE, PART, OWNER, THREAD, FRAME, CHAIN)


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
    resource_waits = ResourceWaits(target, everything, one, progress)
    table = VERBOSE_LOCKS if verbose else LOCKS
    return table.grid(
        _rows(target, table, resource_waits, verbose),
        lambda: _lines(target, resource_waits, verbose, not everything and one is None),
    )


def _rows(target: Target, table: Table, waits: ResourceWaits, verbose: bool) -> Iterator[Row]:
    for listed in waits.resources:
        yield table.row(0, {NAMED: listed, RESOURCE: listed}, Notes=listed.resource.notes)
        for part in listed.parts:
            yield from _part_rows(target, table, listed, part, verbose)
    for problem in waits.problems:
        yield table.row(0, Notes=[problem])
    if not waits.single:
        yield table.row(0, Notes=[f"{waits.total} resources, {waits.held} of them held"])


def _part_rows(
    target: Target, table: Table, listed: ListedResource, part: ResourceThread, verbose: bool
) -> Iterator[Row]:
    head: dict[Part[Any], Any] = {NAMED: listed}
    thread = part.thread
    records = {**head, PART: part, CHAIN: part}
    if thread is None:
        columns = (*OWNER.columns, *(THREAD if verbose else BRIEF_THREAD).columns)
        yield table.row(1, records, **dict.fromkeys((column.name for column in columns), None))
        return
    yield table.row(1, {**records, OWNER: thread, BRIEF_THREAD: thread, THREAD: thread})
    if verbose and thread.thread.present:
        yield from frame_rows(table, 2, target, thread.stack, head)


# text -----------------------------------------------------------------------------------------------------------------


def _lines(target: Target, waits: ResourceWaits, verbose: bool, scanning: bool) -> Iterator[str]:
    size = target.memory.pointer_size
    if not waits.single:
        yield text.HEADING
    for index, listed in enumerate(waits.resources):
        if scanning:
            yield text.SCANNING
        if index or not waits.single:
            yield ""
        yield from text.resource_lines(listed.resource, listed.symbol, size)
        if verbose:
            yield ""
            threads = {part.thread.thread.address: part.thread for part in listed.parts if part.thread is not None}
            for thread in threads.values():
                yield from thread_lines(target, thread, "     ", True, True)
    if scanning and not waits.resources:
        yield text.SCANNING
    yield text.totals(waits.total, waits.held)
    yield from _chain_lines(waits)
    for problem in waits.problems:
        yield f"NOTE: {problem}"


def _chain_lines(waits: ResourceWaits) -> Iterator[str]:
    """Who blocks whom, which KD does not say."""
    if waits.chains:
        yield ""
        yield "NOTE: who waits for whom:"
    for depth, named in waits.chains:
        yield f"NOTE:   {'    ' * depth}{wait_line(named)}"
    for number, circle in waits.deadlocks:
        certain = all(named.wait.sure for named in circle)
        yield (
            f"NOTE: DEADLOCK {number}:"
            if certain
            else f"NOTE: possible deadlock {number} (some wait may end otherwise):"
        )
        for named in circle:
            yield f"NOTE:   {wait_line(named)}"
