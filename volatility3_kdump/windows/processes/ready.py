"""What the processors run and what waits for them: current, next and ready threads, IRQL, DPCs.

Sources are KPRCB, its DispatcherReadyListHead, and since Windows 8 the KSHARED_READY_QUEUE of a group of processors;
ready threads are linked by KTHREAD.WaitListEntry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.structures import read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

PRIORITIES = 32
_MOST_READY = 65536
_LOCKS = 16
#: LOCK_QUEUE_WAIT and LOCK_QUEUE_OWNER in the low bits of KSPIN_LOCK_QUEUE.Lock.
_WAITS, _OWNS = 1, 2


@dataclass(frozen=True)
class ReadyQueue:
    """Ready threads by falling priority, as (priority, ETHREAD address), and what is wrong with their lists.

    ``address`` is that of the KSHARED_READY_QUEUE, ``None`` for a processor's own lists; ``affinity`` the processors
    that share it, a bit each.
    """

    address: int | None
    affinity: int | None
    threads: tuple[tuple[int, int], ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ProcessorState:
    """A processor. Addresses are of ETHREADs, 0 for none; ``None`` is not in the dump.

    ``irql`` is KPRCB.DebuggerSavedIRQL: the level before the processor was stopped. ``dpc_active`` says that a DPC
    routine runs, ``dpc_depths`` how many DPCs are queued (normal, threaded). ``locks`` has a character for each of the
    first 16 queued spin locks: ``O`` owned, ``W`` waited for, ``.`` neither.
    """

    number: int
    prcb: int
    current: int | None
    next: int | None
    idle_thread: int | None
    irql: int | None
    dpc_active: bool | None
    dpc_depths: tuple[int, ...] | None
    locks: str | None
    queue: ReadyQueue
    shared_queue: int | None

    @property
    def idle(self) -> bool | None:
        """Whether it runs its idle thread."""
        return None if self.current is None or self.idle_thread is None else self.current == self.idle_thread


def processor_states(target: Target) -> list[ProcessorState]:
    """Every processor whose control block is in the dump; empty without the kernel's symbols."""
    nt = target.nt
    if nt is None or not nt.has_type("_KPRCB"):
        return []
    return [
        _state(target, nt, processor.number, processor.prcb)
        for processor in processors(target)
        if processor.prcb is not None
    ]


def shared_queues(target: Target, states: list[ProcessorState]) -> list[ReadyQueue]:
    """The queues that processors share, each once."""
    nt = target.nt
    queues = []
    for address in dict.fromkeys(state.shared_queue for state in states):
        if address and nt is not None and target.is_kernel_address(address):
            row = read_row(
                target.memory,
                nt.reader("_KSHARED_READY_QUEUE", summary="ReadySummary", affinity="Affinity"),
                address,
            )
            heads = nt.find("_KSHARED_READY_QUEUE", "ReadyListHead")
            if row is not None and heads is not None:
                what = f"the shared ready queue {address:#x}"
                queues.append(_queue(target, nt, address, address + heads.offset, row.summary, row.affinity, what))
    return queues


def _state(target: Target, nt: Layouts, number: int, prcb: int) -> ProcessorState:
    reader = nt.reader(
        "_KPRCB",
        current="CurrentThread",
        next="NextThread",
        idle="IdleThread",
        irql="DebuggerSavedIRQL",
        active="DpcRoutineActive",
        dpcs="DpcData",
        locks="LockQueue",
        summary="ReadySummary",
        shared="SharedReadyQueue",
    )
    row: Any = read_row(target.memory, reader, prcb)
    if row is None:
        empty = ReadyQueue(None, None, (), ("its control block is not in the dump",))
        return ProcessorState(number, prcb, None, None, None, None, None, None, None, empty, None)
    heads = nt.find("_KPRCB", "DispatcherReadyListHead")
    what = f"the ready list of processor {number}"
    queue = (
        _queue(target, nt, None, prcb + heads.offset, row.summary, None, what)
        if heads is not None
        else ReadyQueue(None, None, (), ())
    )
    return ProcessorState(
        number,
        prcb,
        row.current,
        row.next,
        row.idle,
        None if row.irql is None else row.irql & 0xFF,
        None if row.active is None else row.active != 0,
        _depths(nt, row.dpcs),
        _locks(target, row.locks),
        queue,
        row.shared,
    )


def _depths(nt: Layouts, data: bytes | None) -> tuple[int, ...] | None:
    """KDPC_DATA.DpcQueueDepth of each queue."""
    field = nt.find("_KDPC_DATA", "DpcQueueDepth") if nt.has_type("_KDPC_DATA") else None
    if data is None or field is None:
        return None
    size = nt.size_of("_KDPC_DATA")
    return tuple(
        int.from_bytes(data[start + field.offset :][: field.size], "little")
        for start in range(0, len(data) - size + 1, size)
    )


def _locks(target: Target, data: bytes | None) -> str | None:
    """A character for each KSPIN_LOCK_QUEUE: a pointer to the next, and the lock's address with two flags."""
    if data is None:
        return None
    size = target.memory.pointer_size
    letters = ""
    for index in range(min(_LOCKS, len(data) // (2 * size))):
        lock = data[index * 2 * size + size]
        letters += "O" if lock & _OWNS else "W" if lock & _WAITS else "."
    return letters


def _queue(
    target: Target, nt: Layouts, address: int | None, heads: int, summary: int | None, affinity: int | None, what: str
) -> ReadyQueue:
    link = nt.offset("_KTHREAD", "WaitListEntry")
    size = 2 * target.memory.pointer_size
    queued: list[tuple[int, int]] = []
    problems: list[str] = []
    seen: set[int] = set()
    for priority in reversed(range(PRIORITIES)):
        # ReadySummary has a bit for every list that is not empty.
        if summary is not None and not summary >> priority & 1:
            continue
        walk = walk_list(target.memory, heads + priority * size, _MOST_READY, f"{what} at priority {priority}")
        problems += walk.problems
        for entry in walk.entries:
            if entry not in seen:
                seen.add(entry)
                queued.append((priority, entry - link))
    return ReadyQueue(address, affinity, tuple(queued), tuple(problems))
