"""What Driver Verifier keeps: counters, the drivers it was told to verify, and locks taken in two orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.structures import read_fields, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_DRIVERS = 4096
#: VI_DEADLOCK_GLOBALS.Participant has so many.
_MOST_PARTICIPANTS = 32

#: Counters of MM_DRIVER_VERIFIER_DATA that are shown, by field.
COUNTERS = (
    "RaiseIrqls",
    "AcquireSpinLocks",
    "SynchronizeExecutions",
    "Trims",
    "AllocationsAttempted",
    "AllocationsSucceeded",
    "AllocationsSucceededSpecialPool",
    "AllocationsWithNoTag",
    "AllocationsFailed",
    "AllocationsFailedDeliberately",
    "CurrentPagedPoolAllocations",
    "PagedBytes",
    "PeakPagedPoolAllocations",
    "PeakPagedBytes",
    "CurrentNonPagedPoolAllocations",
    "NonPagedBytes",
    "PeakNonPagedPoolAllocations",
    "PeakNonPagedBytes",
)


@dataclass(frozen=True)
class VerifiedDriver:
    """An entry of nt!VfSuspectDriversList: a driver that is verified, and how often it was loaded and unloaded."""

    address: int
    name: str | None
    loads: int | None
    unloads: int | None

    @property
    def state(self) -> str | None:
        """Whether it is loaded now; ``None`` where that is not known."""
        if self.loads is None or self.unloads is None:
            return None
        return "Loaded" if self.loads > self.unloads else "Unloaded" if self.unloads else "Never loaded"


@dataclass(frozen=True)
class VerifierData:
    """``level`` are the flags of Driver Verifier; ``counters`` what nt!MmVerifierData counts, as far as it has it."""

    level: int | None
    counters: dict[str, int | None]
    drivers: tuple[VerifiedDriver, ...]
    problems: tuple[str, ...]


def verifier_data(target: Target) -> VerifierData:
    """What Driver Verifier keeps. Raises :class:`KdumpError` without the kernel's symbols."""
    from volatility3_kdump.windows.machine.verifier import verifier_level

    require_symbols(target, "Driver Verifier's counters and drivers", "_MM_DRIVER_VERIFIER_DATA", names=True)
    problems: list[str] = []
    counters: dict[str, int | None] = {}
    address = target.symbol("MmVerifierData")
    try:
        if address is None:
            raise KdumpError("the kernel has no nt!MmVerifierData")
        counters = read_fields(target, "_MM_DRIVER_VERIFIER_DATA", address, {name: name for name in COUNTERS})
    except KdumpError as error:
        problems.append(f"the counters are not known: {error}")
    return VerifierData(verifier_level(target), counters, tuple(_drivers(target, problems)), tuple(problems))


def _drivers(target: Target, problems: list[str]) -> list[VerifiedDriver]:
    nt, head = target.nt, target.symbol("VfSuspectDriversList")
    if nt is None or head is None or not nt.has_type("_VF_SUSPECT_DRIVER_ENTRY"):
        problems.append("the kernel's symbols do not describe the drivers that are verified")
        return []
    walk = walk_list(target.memory, head, _MOST_DRIVERS, "nt!VfSuspectDriversList")
    problems += walk.problems
    drivers = []
    for entry in walk.entries:
        try:
            fields = read_fields(target, "_VF_SUSPECT_DRIVER_ENTRY", entry, {"loads": "Loads", "unloads": "Unloads"})
        except KdumpError as error:
            problems.append(f"nt!VfSuspectDriversList: {error}")
            continue
        name = target.memory.unicode_string(entry + nt.offset("_VF_SUSPECT_DRIVER_ENTRY", "BaseName"))
        drivers.append(VerifiedDriver(entry, name, fields["loads"], fields["unloads"]))
    return drivers


# deadlocks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TakenLock:
    """A VI_DEADLOCK_NODE: a thread that took a lock, and the lock it held before, 0 for none.

    ``stack`` are the return addresses that Driver Verifier recorded when it was taken.
    """

    node: int
    thread: int | None
    lock: int | None
    kind: str | None
    before: int
    stack: tuple[int, ...]


@dataclass(frozen=True)
class Deadlock:
    """What Driver Verifier has reported: the nodes that take part, none where it has reported nothing.

    ``names`` are those of locks and return addresses, as far as symbols name them.
    """

    participants: tuple[TakenLock, ...]
    names: Mapping[int, str]
    problems: tuple[str, ...]


def reported_deadlock(target: Target) -> Deadlock:
    """The deadlock that Driver Verifier has reported. Raises :class:`KdumpError` where it kept none."""
    nt = require_symbols(
        target, "Driver Verifier's locks", "_VI_DEADLOCK_GLOBALS.Participant", "_VI_DEADLOCK_NODE", names=True
    )
    variable = target.symbol("ViDeadlockGlobals")
    if variable is None:
        raise KdumpError(f"{target.name}: the kernel has no nt!ViDeadlockGlobals")
    inside = (nt.extent("ViDeadlockGlobals") or 0) >= nt.size_of("_VI_DEADLOCK_GLOBALS")
    globals_at = variable if inside else target.memory.pointer(variable)
    if globals_at is None:
        why = target.memory.why_unreadable(variable)
        raise KdumpError(f"{target.name}: nt!ViDeadlockGlobals is not in the dump: {why}")
    if not globals_at:
        raise KdumpError(f"{target.name}: deadlock detection was not on: nt!ViDeadlockGlobals is null")
    count = read_fields(target, "_VI_DEADLOCK_GLOBALS", globals_at, {"count": "NumberOfParticipants"})["count"]
    if count is None or count > _MOST_PARTICIPANTS:
        raise KdumpError(f"{target.name}: deadlock data at {globals_at:#x} claims {count} participants")
    place = globals_at + nt.offset("_VI_DEADLOCK_GLOBALS", "Participant")
    problems: list[str] = []
    taken = []
    for index in range(count):
        node = target.memory.pointer(place + index * target.memory.pointer_size)
        try:
            taken.append(_taken(target, node or 0))
        except KdumpError as error:
            problems.append(f"participant {index}: {error}")
    return Deadlock(tuple(taken), _names(target, taken), tuple(problems))


def _names(target: Target, taken: Sequence[TakenLock]) -> dict[int, str]:
    addresses = {address for entry in taken for address in (entry.lock, entry.before, *entry.stack) if address}
    return {address: name for address in addresses if (name := target.name_of(address))}


def _taken(target: Target, node: int) -> TakenLock:
    nt = require_symbols(target, "locks", "_VI_DEADLOCK_RESOURCE", "_VI_DEADLOCK_THREAD")
    fields = read_fields(
        target, "_VI_DEADLOCK_NODE", node, {"parent": "Parent", "root": "Root", "thread": "ThreadEntry"}
    )
    kinds = nt.enum("_VI_DEADLOCK_RESOURCE_TYPE")

    def lock_of(resource: int | None) -> tuple[int | None, str | None]:
        if not resource:
            return None, None
        values = read_fields(target, "_VI_DEADLOCK_RESOURCE", resource, {"kind": "Type", "lock": "ResourceAddress"})
        return values["lock"], kinds.get(values["kind"], "").removeprefix("VfDeadlock") or None

    lock, kind = lock_of(fields["root"])
    thread = None
    if fields["thread"]:
        thread = read_fields(target, "_VI_DEADLOCK_THREAD", fields["thread"], {"thread": "Thread"})["thread"]
    before = 0
    if fields["parent"]:
        above = read_fields(target, "_VI_DEADLOCK_NODE", fields["parent"], {"root": "Root"})["root"]
        before = lock_of(above)[0] or 0
    trace = nt.field("_VI_DEADLOCK_NODE", "StackTrace")
    size = target.memory.pointer_size
    addresses = (target.memory.pointer(node + trace.offset + size * index) for index in range(trace.size // size))
    return TakenLock(node, thread, lock, kind, before, tuple(word for word in addresses if word))
