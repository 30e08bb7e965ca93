"""Rows of ``kdump.exqueue``, and of timers and queued spin locks of ``kdump.cpu``."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text import queues as text
from volatility3_kdump.text.processes import thread_line
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import (
    ADDRESS,
    BLANK,
    HEX,
    NUMBER,
    POINTER,
    SECONDS,
    TEXT,
    TIME,
    Column,
    Part,
    Table,
    table,
)
from volatility3_kdump.views.thread import thread_lines
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer
from volatility3_kdump.windows.machine.shared_data import shared_data
from volatility3_kdump.windows.machine.spin_locks import QueuedLock, QueuedLocks, read_queued_locks
from volatility3_kdump.windows.machine.timers import read_timers
from volatility3_kdump.windows.machine.work_queues import WorkItem, WorkQueue, read_work_queues

# work queues ----------------------------------------------------------------------------------------------------------

_QUEUE = Part[WorkQueue](
    "",
    Column("Queue", ADDRESS, "the EX_WORK_QUEUE", lambda queue: queue.address),
    keys.NAME(lambda queue: queue.name, "of the queue: `Critical` and the like, or that of its _EXQUEUEINDEX"),
    Column("Node", NUMBER, "the NUMA node", lambda queue: queue.node),
)
_COUNTS = Part[WorkQueue](
    "",
    keys.THREADS(lambda queue: len(queue.threads), "that serve the queue"),
    Column(
        "MostThreads",
        NUMBER,
        "MaxThreads; null in kernels without it",
        lambda queue: BLANK if queue.most_threads is None else queue.most_threads,
    ),
    Column("Running", NUMBER, "CurrentCount: threads of the queue that run", lambda queue: queue.running),
    Column("Concurrency", NUMBER, "MaximumCount: how many shall run at once", lambda queue: queue.concurrency),
    Column("Items", NUMBER, "items that wait in the queue", lambda queue: len(queue.items)),
    Column("Processed", NUMBER, "WorkItemsProcessed, since the start", lambda queue: queue.processed),
)
_ITEM = Part[WorkItem](
    "",
    Column("WorkItem", ADDRESS, "the WORK_QUEUE_ITEM", lambda work: work.address),
    Column("WorkerRoutine", POINTER, "WORK_QUEUE_ITEM.WorkerRoutine", lambda work: work.routine),
    Column(
        "WorkPriority",
        NUMBER,
        "the priority it waits at",
        lambda work: BLANK if work.priority is None else work.priority,
    ),
    Column("Parameter", HEX, "WORK_QUEUE_ITEM.Parameter", lambda work: work.parameter),
)
_WORKER = Part[ListedThread](
    "",
    keys.THREAD(lambda listed: listed.thread.address),
    keys.TID(lambda listed: listed.thread.tid),
    keys.THREAD_STATE(lambda listed: listed.thread.state_name),
)
EXQUEUE = Table(
    "kdump.exqueue",
    Part[object]("", keys.KIND(more="`queue`, `worker`, `item`")),
    _QUEUE,
    _COUNTS,
    _WORKER,
    Part[object]("", keys.ROLE(more="`idle` waits for work, `busy` has an item")),
    _ITEM,
    Part[object]("", keys.SYMBOL(more="of the routine"), keys.NOTES()),
)


def exqueue_grid(target: Target, names: Collection[str] = (), threads: str = "") -> KdumpGrid:
    """The work queues with their threads and what waits in them (``!exqueue``), all or those of some names.

    ``threads`` says how KD's text shows a thread: a line for each, ``waits`` with what it waits for, ``stacks`` with
    its stack too.
    """
    wanted = {name.lower() for name in names}
    queues = [queue for queue in read_work_queues(target) if not wanted or queue.name.lower() in wanted]
    if not queues:
        which = f"named {', '.join(sorted(wanted))} " if wanted else ""
        raise KdumpError(f"{target.name}: no work queue {which}is in the dump")
    return EXQUEUE.grid(_queue_rows(target, queues), lambda: _queue_lines(target, queues, threads))


def _queue_rows(target: Target, queues: list[WorkQueue]) -> Iterator[Row]:
    namer = ThreadNamer(target)
    for queue in queues:
        yield EXQUEUE.row(0, {_QUEUE: queue, _COUNTS: queue}, Kind="queue", Notes=queue.problems or BLANK)
        for address in queue.threads:
            listed = namer.at(address)
            idle = any(queue.serves(wait.address) for wait in listed.thread.waits)
            yield EXQUEUE.row(1, {_QUEUE: queue, _WORKER: listed}, Kind="worker", Role="idle" if idle else "busy")
        for work_item in queue.items:
            yield EXQUEUE.row(1, {_QUEUE: queue, _ITEM: work_item}, Kind="item", Symbol=work_item.symbol)


def _queue_lines(target: Target, queues: list[WorkQueue], threads: str) -> Iterator[str]:
    namer, size = ThreadNamer(target), target.memory.pointer_size
    for queue in queues:
        yield text.queue_heading(queue)
        for address in queue.threads:
            listed = namer.at(address)
            if threads:
                yield from thread_lines(target, listed, "", threads == "stacks", threads == "stacks")
            else:
                yield thread_line(listed.thread, size)
        for work_item in queue.items:
            yield text.item_line(work_item, size)
        yield from text.notes(queue.problems)
        yield ""


# timers ---------------------------------------------------------------------------------------------------------------

TIMERS = table(
    "kdump.cpu --timers",
    keys.PROCESSOR(lambda timer: timer.processor),
    Column(
        "TimerTable", NUMBER, "number of the table; kernels before Windows 10 1903 have one", lambda timer: timer.table
    ),
    Column("Hand", NUMBER, "number of the list in the table", lambda timer: timer.hand),
    Column("Timer", ADDRESS, "the KTIMER", lambda timer: timer.address),
    Column("DueTime", HEX, "interrupt time at which it is due, 100 ns since the start", lambda timer: timer.due),
    Column("FireTime", TIME, "the same as time of day; null for never"),
    Column("Overdue", SECONDS, "how long it has been due; 0 for one that is not", lambda timer: timer.overdue),
    Column("Period", NUMBER, "in milliseconds; 0 for once", lambda timer: timer.period),
    Column("Dpc", ADDRESS, "the KDPC", lambda timer: timer.dpc or (None if timer.dpc is None else BLANK)),
    Column("Routine", POINTER, "DeferredRoutine", lambda timer: timer.routine),
    keys.SYMBOL(more="of the routine"),
    keys.THREAD(lambda timer: timer.thread, "the first that waits for the timer"),
    keys.NOTES(),
)


def timers_grid(target: Target) -> KdumpGrid:
    """The timers that are set (``!timer``)."""
    listed = read_timers(target, named=True)
    shared = shared_data(target)
    bias = shared.time_zone_bias if shared is not None else None

    def rows() -> Iterator[Row]:
        for timer in listed.timers:
            symbol = timer.symbol or BLANK
            fires = listed.fires_at(timer)
            yield TIMERS.row(0, timer, FireTime=BLANK if fires is None else fires, Symbol=symbol)
        for problem in listed.problems:
            yield TIMERS.row(0, Notes=[problem])

    return TIMERS.grid(rows(), lambda: text.timer_lines(listed, bias, target.memory.pointer_size))


# queued spin locks ----------------------------------------------------------------------------------------------------

QUEUED_LOCKS = table(
    "kdump.cpu --spin-locks",
    Column("LockNumber", NUMBER, "KSPIN_LOCK_QUEUE_NUMBER", lambda lock: lock.number),
    keys.NAME(lambda lock: lock.name, "of the lock"),
    Column("Lock", POINTER, "the KSPIN_LOCK", lambda lock: lock.address),
    Column(
        "OwnerProcessor",
        NUMBER,
        "the processor that owns it; null for none",
        lambda lock: BLANK if lock.owner is None else lock.owner,
    ),
    Column("WaitingProcessors", TEXT, "the processors in line, in order", lambda lock: _numbers(lock.waiting)),
    Column(
        "CorruptProcessors", TEXT, "processors whose entry contradicts the others", lambda lock: _numbers(lock.corrupt)
    ),
)


def _numbers(numbers: tuple[int, ...]) -> object:
    return ", ".join(map(str, numbers)) or BLANK


def queued_locks_grid(target: Target) -> KdumpGrid:
    """The numbered queued spin locks (``!qlocks``)."""
    locks: QueuedLocks = read_queued_locks(target)

    def rows() -> Iterator[Row]:
        lock: QueuedLock
        for lock in locks.locks:
            yield QUEUED_LOCKS.row(0, lock)

    return QUEUED_LOCKS.grid(rows(), lambda: text.queued_lock_lines(locks))
