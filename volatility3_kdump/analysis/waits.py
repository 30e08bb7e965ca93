"""Who waits for whom: chains of threads through mutants, threads, processes, resources and ALPC, and deadlocks.

A thread that waits for an object with an owner waits for that owner. Where following the owners comes back to the first
thread, none of them can go on. A wait for any of several objects, or with a time-out, may end otherwise; a circle with
such a wait says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.layout import Layouts
from volatility3_kdump.windows.lists import walk_list
from volatility3_kdump.windows.structures import read_row
from volatility3_kdump.windows.threads import MUTANT, PROCESS, TERMINATED, THREAD, WAITING, Thread, read_thread

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

MUTANT_WAIT, THREAD_WAIT, PROCESS_WAIT, RESOURCE_WAIT, ALPC_WAIT = "mutant", "thread", "process", "resource", "ALPC"

_MOST_RESOURCES = 1 << 18
_MOST_OWNERS = 4096
_LONGEST_CHAIN = 64
#: ERESOURCE.Flag: ResourceOwnedExclusive.
_EXCLUSIVE = 0x80
#: The low bits of OWNER_ENTRY.OwnerThread are flags: 3 marks an owner that is not a thread.
_OWNER_FLAGS = 3


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
class Resource:
    """An ERESOURCE that somebody owns: owners as (ETHREAD, count), whether exclusively, and where its waiters are."""

    address: int
    owners: tuple[tuple[int, int], ...]
    exclusive: bool
    waiters: tuple[int, ...]
    shared_waiters: int
    exclusive_waiters: int


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
        found: list[Wait] = []
        seen = {thread}
        by_waiter = {wait.waiter: wait for wait in reversed(self.waits)}
        while thread in by_waiter and len(found) < _LONGEST_CHAIN:
            wait = by_waiter[thread]
            found.append(wait)
            if wait.holder is None or wait.holder in seen:
                break
            seen.add(wait.holder)
            thread = wait.holder
        return found


def find_waits(target: Target, threads: Iterable[Thread]) -> WaitGraph:
    """The waits among threads, usually all of a dump."""
    known = {thread.address: thread for thread in threads}
    waits: list[Wait] = []
    problems: list[str] = []
    for thread in known.values():
        if thread.state == WAITING:
            waits += _object_waits(target, thread, known)
            waits += _alpc_waits(target, thread)
    waits += _resource_waits(target, known, problems)
    unique = tuple(dict.fromkeys(waits))
    return WaitGraph(unique, tuple(_circles(unique)), tuple(problems))


def _object_waits(target: Target, thread: Thread, known: dict[int, Thread]) -> Iterator[Wait]:
    sure = len(thread.waits) == 1 or any(found.all for found in thread.waits)
    for found in thread.waits:
        if found.kind == MUTANT and found.owner:
            yield Wait(thread.address, MUTANT_WAIT, found.address, found.owner, None, sure)
        elif found.kind == THREAD:
            other = known.get(found.address) or read_thread(target, found.address)
            if other.state != TERMINATED:
                yield Wait(thread.address, THREAD_WAIT, found.address, found.address, None, sure)
        elif found.kind == PROCESS:
            yield Wait(thread.address, PROCESS_WAIT, found.address, None, found.address, sure)


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


def held_resources(target: Target, problems: list[str]) -> list[Resource]:
    """The ERESOURCEs of ExpSystemResourcesList that a thread owns."""
    nt = target.nt
    head = target.variable("ExpSystemResourcesList", "ExpSystemResourcesList")
    if nt is None or head is None or not nt.has_type("_ERESOURCE"):
        return []
    walk = walk_list(target, head, _MOST_RESOURCES, "ExpSystemResourcesList")
    if not walk.present:
        return []
    problems += walk.problems
    reader = nt.reader(
        "_ERESOURCE",
        table="OwnerTable",
        active="ActiveCount",
        flag="Flag",
        shared="SharedWaiters",
        exclusive="ExclusiveWaiters",
        owner="OwnerEntry.OwnerThread",
        count="OwnerEntry.OwnerCount",
    )
    link = nt.offset("_ERESOURCE", "SystemResourcesList")
    found = []
    for entry in walk.entries:
        row = read_row(target.memory, reader, entry - link)
        if row is None or not row.active:
            continue
        owners = [(row.owner & ~_OWNER_FLAGS, row.count or 1)] if row.owner and row.owner & _OWNER_FLAGS != 3 else []
        if row.table:
            owners += _owner_table(target, nt, row.table, entry - link, problems)
        found.append(
            Resource(
                entry - link,
                tuple(dict.fromkeys(owners)),
                bool((row.flag or 0) & _EXCLUSIVE),
                (),
                _pointer(row.shared),
                _pointer(row.exclusive),
            )
        )
    return found


def _pointer(value: int | bytes | None) -> int:
    """A pointer, or the first one of a KWAIT_CHAIN."""
    return int.from_bytes(value[:8], "little") if isinstance(value, bytes) else value or 0


def _owner_table(target: Target, nt: Layouts, table: int, resource: int, problems: list[str]) -> list[tuple[int, int]]:
    """Owners of a shared resource. The first entry of the table holds its size."""
    reader = nt.reader("_OWNER_ENTRY", thread="OwnerThread", count="OwnerCount", size="TableSize")
    stride = nt.size_of("_OWNER_ENTRY")
    head = read_row(target.memory, reader, table) if target.is_kernel_address(table) else None
    if head is None or head.size is None or head.size > _MOST_OWNERS:
        problems.append(f"the owners of the resource {resource:#x} are not in the dump")
        return []
    found = []
    for index in range(1, head.size):
        row = read_row(target.memory, reader, table + index * stride)
        if row is not None and row.thread and row.count and row.thread & _OWNER_FLAGS != 3:
            found.append((row.thread & ~_OWNER_FLAGS, row.count))
    return found


def _resource_waits(target: Target, known: dict[int, Thread], problems: list[str]) -> Iterator[Wait]:
    """Waits for resources.

    Before Windows 10 1607 a resource names the event and the semaphore that threads wait for. Since then it names
    entries on the stacks of the waiting threads.
    """
    by_object: dict[int, list[Thread]] = {}
    stacks: list[Thread] = []
    for thread in known.values():
        if thread.state == WAITING and thread.wait_reason_name in ("WrResource", "Executive", "WrExecutive"):
            stacks.append(thread)
            for waited in thread.waits:
                by_object.setdefault(waited.address, []).append(thread)
    if not stacks:
        return
    for resource in held_resources(target, problems):
        for waiter in _waiters(target, resource, by_object, stacks):
            for owner, _ in resource.owners:
                if owner != waiter.address:
                    yield Wait(waiter.address, RESOURCE_WAIT, resource.address, owner, None)


def _waiters(
    target: Target, resource: Resource, by_object: dict[int, list[Thread]], threads: Sequence[Thread]
) -> Iterator[Thread]:
    for first in (resource.shared_waiters, resource.exclusive_waiters):
        entry, seen = first, set[int]()
        while entry and target.is_kernel_address(entry) and entry not in seen and len(seen) < _MOST_OWNERS:
            seen.add(entry)
            if entry in by_object:
                yield from by_object[entry]
                break
            on_stack = next((thread for thread in threads if _holds(thread, entry)), None)
            if on_stack is None:
                break
            yield on_stack
            entry = target.memory.pointer(entry) or 0


def _holds(thread: Thread, address: int) -> bool:
    return bool(thread.stack_limit and thread.stack_base and thread.stack_limit <= address < thread.stack_base)


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
                key = frozenset(item.waiter for item in circle)
                if key not in reported:
                    reported.add(key)
                    yield circle
            elif holder not in done and holder in following:
                path.append(taken)
                on_path[holder] = len(path)
                branches.append(iter(following[holder]))
