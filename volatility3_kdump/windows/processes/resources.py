"""Executive resources (ERESOURCE): who owns them and who waits for them, from nt!ExpSystemResourcesList.

OwnerThread and OwnerCount of the owners lie in the resource's own OWNER_ENTRY, and for a shared one in a table besides,
whose first entry holds its size. How waiters are found has changed (public kernel symbols):

- to Windows 10 1511 SharedWaiters is a KSEMAPHORE and ExclusiveWaiters a KEVENT: the threads in their wait lists
- Windows 10 1607: SharedWaiters is a chain of KWAIT_CHAIN_ENTRYs on the stacks of the waiters, each with an event that
  its thread waits for; ExclusiveWaiters is still a KEVENT
- Windows 10 1803 and later: both are chains, and their entries name the thread

Fast resources (FAST_ERESOURCE, Windows 10 1803 and later) are in the same list, and keep a list of owners in place of
the OWNER_ENTRY. Who owns them is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


#: ERESOURCE.Flag: ResourceOwnedExclusive (``wdm.h``).
OWNED_EXCLUSIVE = 0x80
#: The low bits of OWNER_ENTRY.OwnerThread that ExSetResourceOwnerPointer sets: the owner need not be a thread.
_POINTER_BITS = 3
_MOST_RESOURCES, _MOST_OWNERS, _MOST_WAITERS = 1 << 20, 4096, 1 << 16
#: DISPATCHER_HEADER.Type, without the lock in its top bit.
_NOTIFICATION, _SYNCHRONIZATION, _PROCESS, _SEMAPHORE, _THREAD = 0, 1, 3, 5, 6
_OBJECTS = {_NOTIFICATION, _SYNCHRONIZATION, _SEMAPHORE}
_STEP, _USUAL = 2048, 30_000
_FAST = "a fast resource (FAST_ERESOURCE): who owns it is not shown"


@dataclass(frozen=True)
class Owner:
    """An owner of a resource: ``pointer`` is OwnerThread as it stands and ``count`` how often it has acquired it.

    ``thread`` is the ETHREAD, ``None`` for an owner that is set by ExSetResourceOwnerPointer and is no thread, as far
    as the dump shows.
    """

    pointer: int
    count: int
    thread: int | None

    @property
    def flagged(self) -> bool:
        """Whether the owner was set by ExSetResourceOwnerPointer."""
        return bool(self.pointer & _POINTER_BITS)


@dataclass(frozen=True)
class Waiter:
    """A thread in line for a resource; ``thread`` is ``None`` where ``entry``, by which it waits, does not tell.

    ``entry`` is the address of a KWAIT_CHAIN_ENTRY on the waiter's stack, or of a KWAIT_BLOCK.
    """

    thread: int | None
    entry: int


@dataclass(frozen=True)
class Resource:
    """An ERESOURCE. ``None`` is not in the dump.

    ``shared_count`` and ``exclusive_count`` are NumberOfSharedWaiters and NumberOfExclusiveWaiters, the waiters those
    that were found; ``notes`` say what is missing or contradicts itself. Of a ``fast`` one only the numbers are known.
    """

    address: int
    active_count: int | None
    active_entries: int | None
    flag: int | None
    contention: int | None
    shared_count: int | None
    exclusive_count: int | None
    owners: tuple[Owner, ...] = ()
    shared_waiters: tuple[Waiter, ...] = ()
    exclusive_waiters: tuple[Waiter, ...] = ()
    fast: bool = False
    notes: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return bool(self.active_count or self.active_entries)

    @property
    def contended(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self.shared_count or self.exclusive_count)

    @property
    def exclusive(self) -> bool:
        """Whether one thread owns it alone."""
        return self.held and bool((self.flag or 0) & OWNED_EXCLUSIVE)

    @property
    def owning(self) -> int:
        """The number of its owners: ActiveEntries, else those that were found."""
        return self.active_entries or len(self.owners)


@dataclass(frozen=True)
class ResourceScan:
    """What walking ExpSystemResourcesList gave: ``total`` resources, of which ``held`` are owned.

    ``resources`` are those asked for; ``problems`` say where the list is not whole, a line each.
    """

    total: int
    held: int
    resources: tuple[Resource, ...]
    problems: tuple[str, ...]


class ResourceReader:
    """Reads resources of one target. Raises :class:`SymbolsNotFound` without the layout of an ERESOURCE."""

    def __init__(self, target: Target) -> None:
        nt = require_symbols(target, "resources", "_ERESOURCE")
        self._target = target
        self._memory = target.memory
        self._nt: Layouts = nt
        self.link = nt.offset("_ERESOURCE", "SystemResourcesList")
        #: What tells a resource that somebody owns or waits for, in order of the structure.
        self.brief = nt.reader(
            "_ERESOURCE",
            next="SystemResourcesList.Flink",
            active="ActiveCount",
            entries="ActiveEntries",
            shared="NumberOfSharedWaiters",
            exclusive="NumberOfExclusiveWaiters",
        )
        self._whole = nt.reader(
            "_ERESOURCE",
            table="OwnerTable",
            active="ActiveCount",
            flag="Flag",
            shared="SharedWaiters",
            exclusive="ExclusiveWaiters",
            thread="OwnerEntry.OwnerThread",
            count="OwnerEntry.OwnerCount",
            entries="ActiveEntries",
            contention="ContentionCount",
            shared_count="NumberOfSharedWaiters",
            exclusive_count="NumberOfExclusiveWaiters",
        )
        self._owner = nt.reader("_OWNER_ENTRY", thread="OwnerThread", count="OwnerCount", size="TableSize")
        self._owner_place = nt.offset("_ERESOURCE", "OwnerEntry")
        self._owner_size = nt.size_of("_OWNER_ENTRY")
        self._may_be_fast = nt.has_type("_FAST_ERESOURCE")
        self._chains = nt.has("_KWAIT_CHAIN_ENTRY", "Thread")
        shared = nt.field("_ERESOURCE", "SharedWaiters")
        self._shared_chain = shared.kind != "pointer"

    def read(self, address: int) -> Resource:
        """The resource at an address. Raises :class:`Unreadable` where the dump holds nothing of it."""
        row = read_row(self._memory, self._whole, address)
        if row is None:
            raise Unreadable.at(address, "the resource", self._memory.why_unreadable(address))
        notes: list[str] = []
        numbers = (row.active, row.entries, row.flag, row.contention, row.shared_count, row.exclusive_count)
        if self._is_fast(address):
            return Resource(address, *numbers, fast=True, notes=(_FAST,))
        owners = tuple(self._owners(address, row, notes)) if row.active or row.entries else ()
        whole = None not in numbers and not notes
        shared = self._waiters(row.shared, row.shared_count, self._shared_chain, "shared", notes)
        exclusive = self._waiters(row.exclusive, row.exclusive_count, False, "exclusive", notes)
        if None in numbers:
            notes.append(f"a part of it is not in the dump: {self._memory.why_unreadable(address + self._whole.size)}")
        elif whole and owners and row.entries and len(owners) != row.entries:
            notes.append(f"ActiveEntries is {row.entries}, but {len(owners)} owners were found")
        elif whole and (row.active or row.entries) and not owners:
            notes.append("it is active, but has no owner")
        return Resource(address, *numbers, owners, shared, exclusive, notes=tuple(notes))

    # owners -----------------------------------------------------------------------------------------------------------

    def _owners(self, address: int, row: Any, notes: list[str]) -> Iterator[Owner]:
        seen: set[int] = set()
        if row.thread and row.count:
            seen.add(row.thread)
            yield self._owner_of(row.thread, row.count)
        if row.thread is None:
            notes.append("its owner entry is not in the dump")
        # a table that was made once stays with the resource, whether or not its entries are in use
        if not row.table or (row.entries is not None and len(seen) >= row.entries):
            return
        head = read_row(self._memory, self._owner, row.table) if self._target.is_kernel_address(row.table) else None
        if head is None or head.size is None:
            notes.append(f"its owner table at {row.table:#x} is not in the dump")
            return
        if head.size > _MOST_OWNERS:
            notes.append(f"TableSize of its owner table at {row.table:#x} is {head.size}: impossible, not followed")
            return
        size = self._owner_size
        data = self._memory.read(row.table, head.size * size)
        absent = 0
        for index in range(1, head.size):
            if data is not None and self._memory.pointer_size == 8:
                entry = self._owner.unpack(data, index * size)
            else:
                entry = read_row(self._memory, self._owner, row.table + index * size)
            if entry is None or entry.thread is None or entry.count is None:
                absent += 1
            elif entry.thread and entry.count and entry.thread not in seen:
                seen.add(entry.thread)
                yield self._owner_of(entry.thread, entry.count)
        if absent:
            notes.append(f"{absent} entries of its owner table at {row.table:#x} are not in the dump")

    def _owner_of(self, pointer: int, count: int) -> Owner:
        pointer = sign_extended(pointer, self._memory.pointer_size)
        thread = pointer & ~_POINTER_BITS
        if pointer & _POINTER_BITS and not self._is_thread(thread):
            return Owner(pointer, count, None)
        return Owner(pointer, count, thread)

    def _is_thread(self, address: int) -> bool:
        """Whether a KTHREAD is there: a dispatcher header of its kind, and its process with one of its kind."""
        field = self._nt.find("_KTHREAD", "Process")
        if field is None or self._kind(address) != _THREAD:
            return False
        process = self._memory.pointer(address + field.offset)
        return process is not None and self._kind(process) == _PROCESS

    def _may_be_thread(self, address: int) -> bool:
        """Whether nothing in the dump says that no thread is there."""
        return self._target.is_kernel_address(address) and self._kind(address) in (None, _THREAD)

    def _kind(self, address: int) -> int | None:
        if not self._target.is_kernel_address(address):
            return None
        value = self._memory.unsigned(address, 1)
        return None if value is None else value & 0x7F

    def _is_fast(self, address: int) -> bool:
        """Whether the place of the OWNER_ENTRY holds a list head, to which an entry at either end leads back.

        Padding behind a count may hold anything, so that two pointers alone would not do.
        """
        if not self._may_be_fast:
            return False
        place, width = address + self._owner_place, self._memory.pointer_size
        first, last = self._memory.pointer(place), self._memory.pointer(place + width)
        if not first or not last or first % width or last % width:
            return False
        if not self._target.is_kernel_address(first) or not self._target.is_kernel_address(last):
            return False
        back = self._memory.pointer(first + width)
        return (self._memory.pointer(last) if back is None else back) == place

    # waiters ----------------------------------------------------------------------------------------------------------

    def _waiters(
        self, value: int | bytes | None, count: int | None, chain: bool, kind: str, notes: list[str]
    ) -> tuple[Waiter, ...]:
        if not count:
            return ()
        if isinstance(value, bytes):
            value = int.from_bytes(value[: self._memory.pointer_size], "little")
        if not value or not self._target.is_kernel_address(value):
            shown = "not in the dump" if value is None else f"{value:#x}, which is no kernel address"
            notes.append(f"its {kind} waiters cannot be found: their list is {shown}")
            return ()
        problems: list[str] = []
        if self._chains:
            waiters = tuple(self._chain(value, problems))
        elif chain:
            waiters = tuple(self._events(value, problems))
        else:
            waiters = tuple(self._blocks(value, problems))
        unique = tuple(dict.fromkeys(waiters))
        notes += [f"its {kind} waiters: {problem}" for problem in problems]
        if len(unique) != count:
            notes.append(f"{count} {kind} waiters are counted, and {len(unique)} were found")
        return unique

    def _chain(self, first: int, problems: list[str]) -> Iterator[Waiter]:
        """The entries of a KWAIT_CHAIN that name their threads: a ring, of which the chain names one entry."""
        reader = self._nt.reader("_KWAIT_CHAIN_ENTRY", next="ListEntry.Flink", thread="Thread")
        for entry, row in self._follow(first, reader, problems):
            thread = row.thread
            if thread is not None and not self._may_be_thread(thread):
                problems.append(f"the entry at {entry:#x} names {thread:#x}, which is no thread")
                thread = None
            yield Waiter(thread, entry)

    def _events(self, first: int, problems: list[str]) -> Iterator[Waiter]:
        """The entries of Windows 10 1607, which end with a null pointer; each has an event with one waiter."""
        reader = self._nt.reader("_KWAIT_CHAIN_ENTRY", next="ListEntry.Next")
        event = self._nt.find("_KWAIT_CHAIN_ENTRY", "Event")
        for entry, _ in self._follow(first, reader, problems):
            waiters = list(self._blocks(entry + event.offset, problems)) if event is not None else []
            yield Waiter(waiters[0].thread if waiters else None, entry)

    def _follow(self, first: int, reader: Any, problems: list[str]) -> Iterator[tuple[int, Any]]:
        entry, seen = first, set[int]()
        while entry:
            row = read_row(self._memory, reader, entry) if self._target.is_kernel_address(entry) else None
            if row is None or row.next is None:
                problems.append(f"the entry at {entry:#x} is not in the dump")
                if row is None:
                    return
            seen.add(entry)
            yield entry, row
            entry = row.next
            if entry == first:
                return
            if entry in seen:
                problems.append(f"the chain is cyclic at {entry:#x}")
                return
            if len(seen) >= _MOST_WAITERS:
                problems.append(f"the chain has more than {_MOST_WAITERS} entries")
                return

    def _blocks(self, address: int, problems: list[str]) -> Iterator[Waiter]:
        """The threads that wait for a dispatcher object, by its list of KWAIT_BLOCKs."""
        kind = self._kind(address)
        if kind is None or kind not in _OBJECTS:
            shown = "is not in the dump" if kind is None else f"has the type {kind:#x}: it is no event or semaphore"
            problems.append(f"the object at {address:#x} {shown}")
            return
        head = address + self._nt.offset("_DISPATCHER_HEADER", "WaitListHead")
        walk = walk_list(self._memory, head, _MOST_WAITERS, f"the wait list of {address:#x}")
        problems += walk.problems
        link = self._nt.offset("_KWAIT_BLOCK", "WaitListEntry")
        field = self._nt.offset("_KWAIT_BLOCK", "Thread")
        for entry in walk.entries:
            thread = self._memory.pointer(entry - link + field)
            plausible = thread is not None and self._may_be_thread(thread)
            if not plausible:
                problems.append(f"the wait block at {entry - link:#x} names no thread")
            yield Waiter(thread if plausible else None, entry - link)


def scan_resources(target: Target, everything: bool = False, progress: Progress | None = None) -> ResourceScan:
    """Walk ExpSystemResourcesList; in the result are the resources that somebody owns or waits for, or ``everything``.

    Raises :class:`KdumpError` where the list cannot be reached at all.
    """
    reader = ResourceReader(target)
    head = target.variable("ExpSystemResourcesList", "ExpSystemResourcesList")
    if head is None:
        raise KdumpError(f"{target.name}: the address of ExpSystemResourcesList is not known")
    if target.memory.pointer(head) is None:
        raise Unreadable(f"{target.name}: ExpSystemResourcesList: {target.memory.why_unreadable(head)}")
    chosen: list[int] = []
    problems: list[str] = []
    total = held = 0
    for address, row in _every_row(target, reader, head, problems, progress):
        total += 1
        if row is None:
            continue
        owned = bool(row.active or row.entries)
        held += owned
        if everything or owned or row.shared or row.exclusive:
            chosen.append(address)
    resources = []
    for number, address in enumerate(chosen):
        if progress is not None and number % _STEP == 0:
            progress(100 * number / len(chosen), "Reading owners and waiters")
        resources.append(reader.read(address))
    return ResourceScan(total, held, tuple(resources), tuple(problems))


def _every_row(
    target: Target, reader: ResourceReader, head: int, problems: list[str], progress: Progress | None
) -> Iterator[tuple[int, Any]]:
    """(address, fields) of each resource; what of it cannot be read has no fields.

    One access to a resource gives its fields and the link to the next one. Where that way ends before it comes back to
    the head, the list is walked from its other end as well.
    """
    if target.memory.pointer_size == 8:
        read, unpack, size, link = target.memory.read, reader.brief.unpack, reader.brief.size, reader.link
        entry = target.memory.pointer(head)
        seen = {head}
        while entry is not None and entry not in seen and len(seen) <= _MOST_RESOURCES:
            if entry & 7 or not target.is_kernel_address(entry):
                break
            data = read(entry - link, size)
            if data is None:
                break
            seen.add(entry)
            row = unpack(data)
            yield entry - link, row
            entry = row.next
            if progress is not None and not len(seen) % _STEP:
                # how many there are is not known before the end
                progress(100 * len(seen) / (len(seen) + _USUAL), "Reading resources")
        if entry == head:
            return
    else:
        seen = {head}
    walk = walk_list(target.memory, head, _MOST_RESOURCES, "ExpSystemResourcesList")
    problems += walk.problems
    for entry in walk.entries:
        if entry in seen:
            continue
        address = entry - reader.link
        row = read_row(target.memory, reader.brief, address)
        if row is None:
            problems.append(f"the resource at {address:#x}: {target.memory.why_unreadable(address)}")
        yield address, row
