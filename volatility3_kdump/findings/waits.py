"""Who waits for whom: chains of threads through mutants, threads, processes, resources and ALPC, and deadlocks.

A thread that waits for an object with an owner waits for that owner. Where following the owners comes back to the first
thread, none of them can go on. A wait for any of several objects, or with a time-out, may end otherwise; a circle with
such a wait says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.resources import Resource, scan_resources
from volatility3_kdump.windows.processes.threads import (
    MUTANT,
    PROCESS,
    TERMINATED,
    THREAD,
    WAITING,
    Thread,
    read_thread,
)
from volatility3_kdump.windows.structures import read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

MUTANT_WAIT, THREAD_WAIT, PROCESS_WAIT, RESOURCE_WAIT, ALPC_WAIT = "mutant", "thread", "process", "resource", "ALPC"

_LONGEST_CHAIN = 64


@dataclass(frozen=True)
class Wait:
    """One thread waits for what another thread, or a process, must do.

    ``waiter`` and ``holder`` are ETHREAD addresses, ``process`` an EPROCESS where a process as a whole is waited for;
    ``kind`` is one of the names above and ``object`` the address of the mutant, resource, message, thread or process.
    ``sure`` is False where the wait can end without the holder: it is for any of several objects.
    """

    waiter: int
    kind: str
    object: int
    holder: int | None
    process: int | None
    sure: bool = True


@dataclass(frozen=True)
class WaitGraph:
    """Every wait with a known holder; circles among them, each once, as waits in order; and gaps, a line each."""

    waits: tuple[Wait, ...]
    deadlocks: tuple[tuple[Wait, ...], ...]
    problems: tuple[str, ...]

    def of(self, thread: int) -> list[Wait]:
        """What a thread waits for."""
        return [wait for wait in self.waits if wait.waiter == thread]

    def chain(self, thread: int) -> list[Wait]:
        """From a thread to the one that everything waits for, along the first wait of each; ends in a circle too."""
        waits: list[Wait] = []
        seen = {thread}
        by_waiter = {wait.waiter: wait for wait in reversed(self.waits)}
        while thread in by_waiter and len(waits) < _LONGEST_CHAIN:
            wait = by_waiter[thread]
            waits.append(wait)
            if wait.holder is None or wait.holder in seen:
                break
            seen.add(wait.holder)
            thread = wait.holder
        return waits


def find_waits(target: Target, threads: Iterable[Thread], resources: Sequence[Resource] | None = None) -> WaitGraph:
    """The waits among threads, usually all of a dump.

    ``resources`` are those that somebody owns; where they are not given, they are looked for.
    """
    by_address = {thread.address: thread for thread in threads}
    waits: list[Wait] = []
    problems: list[str] = []
    for thread in by_address.values():
        if thread.state == WAITING:
            waits += _object_waits(target, thread, by_address)
            waits += _alpc_waits(target, thread)
    if resources is None:
        resources = _owned_resources(target, problems)
    waits += _resource_waits(resources, by_address, problems)
    unique = tuple(dict.fromkeys(waits))
    return WaitGraph(unique, tuple(_circles(unique)), tuple(problems))


def _object_waits(target: Target, thread: Thread, by_address: dict[int, Thread]) -> Iterator[Wait]:
    sure = len(thread.waits) == 1 or any(wait.all for wait in thread.waits)
    for wait in thread.waits:
        if wait.kind == MUTANT and wait.owner:
            yield Wait(thread.address, MUTANT_WAIT, wait.address, wait.owner, None, sure)
        elif wait.kind == THREAD:
            other = by_address.get(wait.address) or read_thread(target, wait.address)
            if other.state != TERMINATED:
                yield Wait(thread.address, THREAD_WAIT, wait.address, wait.address, None, sure)
        elif wait.kind == PROCESS:
            yield Wait(thread.address, PROCESS_WAIT, wait.address, None, wait.address, sure)


# ALPC -----------------------------------------------------------------------------------------------------------------


def _alpc_waits(target: Target, thread: Thread) -> Iterator[Wait]:
    """A thread that waits for a reply waits for the thread that works on its message, else for the port's process."""
    nt = target.nt
    message = thread.alpc_message
    if nt is None or not message or not nt.has_type("_KALPC_MESSAGE") or thread.wait_reason_name != "WrLpcReply":
        return
    reader = nt.reader("_KALPC_MESSAGE", waiting="WaitingThread", server="ServerThread", queue="PortQueue")
    row = read_row(target.memory, reader, message)
    if row is None or row.waiting != thread.address:
        return
    if row.server and target.is_kernel_address(row.server):
        yield Wait(thread.address, ALPC_WAIT, message, row.server, None)
        return
    owner = nt.find("_ALPC_PORT", "OwnerProcess") if nt.has_type("_ALPC_PORT") else None
    if row.queue and owner is not None and target.is_kernel_address(row.queue):
        process = target.memory.pointer(row.queue + owner.offset)
        if process and target.is_kernel_address(process):
            yield Wait(thread.address, ALPC_WAIT, message, None, process)


# resources ------------------------------------------------------------------------------------------------------------


def _owned_resources(target: Target, problems: list[str]) -> tuple[Resource, ...]:
    try:
        scan = scan_resources(target)
    except KdumpError as error:
        problems.append(str(error))
        return ()
    problems += scan.problems
    return scan.resources


def resource_note(resource: Resource, note: str) -> str:
    """A note of a resource, as one of the problems of a wait graph."""
    return f"the resource {resource.address:#x}: {note}"


def _resource_waits(
    resources: Sequence[Resource], by_address: dict[int, Thread], problems: list[str]
) -> Iterator[Wait]:
    """Waits for resources: of each waiter for each owner."""
    threads = [thread for thread in by_address.values() if thread.state == WAITING]
    for resource in resources:
        if resource.contended:
            problems += [resource_note(resource, note) for note in resource.notes]
        for waiter in (*resource.shared_waiters, *resource.exclusive_waiters):
            thread = waiter.thread or _on_stack(threads, waiter.entry)
            for owner in resource.owners:
                if thread is not None and owner.thread is not None and owner.thread != thread:
                    yield Wait(thread, RESOURCE_WAIT, resource.address, owner.thread, None)


def _on_stack(threads: Sequence[Thread], address: int) -> int | None:
    """The thread on whose stack an address lies."""
    for thread in threads:
        if thread.stack_limit and thread.stack_base and thread.stack_limit <= address < thread.stack_base:
            return thread.address
    return None


# circles --------------------------------------------------------------------------------------------------------------


def _circles(waits: Sequence[Wait]) -> Iterator[tuple[Wait, ...]]:
    """Every circle that following the waits of each thread, one after the other, closes; each once."""
    following: dict[int, list[Wait]] = {}
    for wait in waits:
        if wait.holder is not None:
            following.setdefault(wait.waiter, []).append(wait)
    done: set[int] = set()
    reported: set[frozenset[int]] = set()
    for start, first in following.items():
        if start in done:
            continue
        path: list[Wait] = []
        on_path = {start: 0}
        branches = [iter(first)]
        while branches:
            taken = next(branches[-1], None)
            if taken is None:
                branches.pop()
                leaving = path.pop().holder if path else start
                on_path.pop(leaving or 0, None)
                done.add(leaving or 0)
                continue
            holder = taken.holder or 0
            if holder in on_path:
                circle = (*path[on_path[holder] :], taken)
                key = frozenset(link.waiter for link in circle)
                if key not in reported:
                    reported.add(key)
                    yield circle
            elif holder not in done and holder in following:
                path.append(taken)
                on_path[holder] = len(path)
                branches.append(iter(following[holder]))
