"""Resources with the threads that own them or are in line for them, who blocks whom, and deadlocks among those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.wait_chains import Deadlocks, NamedWait, name_wait
from volatility3_kdump.findings.waits import Wait, WaitGraph, find_waits, resource_note
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer, every_thread
from volatility3_kdump.windows.processes.resources import Resource, ResourceReader, ResourceScan, scan_resources

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

OWNER, SHARED_WAITER, EXCLUSIVE_WAITER = "owner", "shared waiter", "exclusive waiter"


@dataclass(frozen=True)
class ResourceThread:
    """The part that a thread has in a resource.

    ``thread`` is ``None`` where it is not known, or where the ``owner`` (OwnerThread as it stands) is no thread;
    ``count`` is how often an owner has acquired the resource. ``chain`` are the waits from the thread to the one that
    everything waits for, and ``deadlock`` is the number of the circle that the thread is part of.
    """

    role: str
    thread: ListedThread | None
    owner: int | None = None
    count: int | None = None
    chain: tuple[NamedWait, ...] = ()
    deadlock: int | None = None


@dataclass(frozen=True)
class ListedResource:
    """A resource, the variable that it is or lies in, and the threads that have to do with it."""

    resource: Resource
    symbol: str | None
    parts: tuple[ResourceThread, ...]


class ResourceWaits:
    """The resources that somebody owns or waits for, or ``everything``, or ``one`` by its address.

    Raises :class:`KdumpError` where the dump cannot hold resources, or their list is not in it.
    """

    def __init__(self, target: Target, everything: bool, one: int | None, progress: Progress | None) -> None:
        self._target = target
        self.single = one is not None
        if one is not None:
            scan = _single(target, one)
        else:
            if target.dump.triage is not None:
                raise KdumpError(
                    f"{target.name}: a small memory dump does not hold the pool that resources (ERESOURCE) lie in: "
                    "it takes a kernel or complete dump, or the address of one that it may hold (nt!PiEngineLock)"
                )
            scan = scan_resources(target, everything, progress)
        self.total, self.held = scan.total, scan.held
        self._graph = self._waits(scan, progress)
        chains = list(self._find_chains(scan))
        reached = {wait for _, wait in chains}
        circles = [circle for circle in self._graph.deadlocks if not reached.isdisjoint(circle)]
        self._deadlocks = Deadlocks(circles)
        self._namer = ThreadNamer(target)
        #: (depth, wait): for each owner of a resource who waits for it, and below what it waits for itself.
        self.chains = [(depth, self._named(wait)) for depth, wait in chains]
        #: Deadlocks that somebody who waits for a shown resource is part of, or waits for in the end; by number.
        self.deadlocks = [(number, [self._named(wait) for wait in circle]) for number, circle in enumerate(circles, 1)]
        self.resources = [
            ListedResource(resource, target.name_of(resource.address), tuple(self._parts(resource)))
            for resource in scan.resources
        ]
        said = {resource_note(resource, note) for resource in scan.resources for note in resource.notes}
        lines = dict.fromkeys((*scan.problems, *self._graph.problems))
        #: What is wrong beside what the notes of the resources say.
        self.problems = [line for line in lines if line not in said]

    def _waits(self, scan: ResourceScan, progress: Progress | None) -> WaitGraph:
        """Threads are read only where somebody waits."""
        if not any(resource.contended for resource in scan.resources):
            return WaitGraph((), (), ())
        # One resource may be part of a chain through others, but a small memory dump does not hold their list.
        listed = self.single and self._target.dump.triage is None
        threads = every_thread(self._target, None, progress)
        return find_waits(self._target, threads, None if listed else scan.resources)

    def _find_chains(self, scan: ResourceScan) -> Iterator[tuple[int, Wait]]:
        for resource in scan.resources:
            waits = [wait for wait in self._graph.waits if wait.object == resource.address]
            for holder in dict.fromkeys(wait.holder for wait in waits):
                yield from ((0, wait) for wait in waits if wait.holder == holder)
                if holder is not None:
                    yield from enumerate(self._graph.chain(holder), 1)

    def _named(self, wait: Wait) -> NamedWait:
        return name_wait(self._target, wait, self._deadlocks.number(wait))

    def _parts(self, resource: Resource) -> Iterator[ResourceThread]:
        for owner in resource.owners:
            yield self._part(OWNER, owner.thread, owner.pointer, owner.count)
        for role, waiters in (
            (SHARED_WAITER, resource.shared_waiters),
            (EXCLUSIVE_WAITER, resource.exclusive_waiters),
        ):
            for waiter in waiters:
                yield self._part(role, waiter.thread)

    def _part(
        self, role: str, thread: int | None, owner: int | None = None, count: int | None = None
    ) -> ResourceThread:
        if thread is None:
            return ResourceThread(role, None, owner, count)
        numbers = (self._deadlocks.number(wait) for wait in self._graph.of(thread))
        deadlock = next((number for number in numbers if number is not None), None)
        chain = tuple(self._named(wait) for wait in self._graph.chain(thread))
        return ResourceThread(role, self._namer.at(thread), owner, count, chain, deadlock)


def _single(target: Target, where: int) -> ResourceScan:
    try:
        resource = ResourceReader(target).read(where)
    except KdumpError as error:
        raise error if str(error).startswith(target.name) else error.within(target.name) from error
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
