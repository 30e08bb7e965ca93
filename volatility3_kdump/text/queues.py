"""Work queues, timers and queued spin locks in the words of KD's ``!exqueue``, ``!timer`` and ``!qlocks``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.text.times import filetime, session_time
from volatility3_kdump.windows.machine.spin_locks import QueuedLock, QueuedLocks
from volatility3_kdump.windows.machine.timers import Timer, TimerList
from volatility3_kdump.windows.machine.work_queues import WorkItem, WorkQueue

_NEVER = 1 << 63


def queue_heading(queue: WorkQueue) -> str:
    """A queue with its counts."""
    node = f"NUMA Node {queue.node} "
    threads = f"{decimal(queue.thread_count if queue.thread_count is not None else len(queue.threads))}"
    most = "" if queue.most_threads is None else f"/{queue.most_threads}"
    concurrency = f"{decimal(queue.running)}/{decimal(queue.concurrency)}"
    return f"**** {node}{queue.name} WorkQueue ( Threads: {threads}{most}, Concurrency: {concurrency} )"


def item_line(work: WorkItem, size: int) -> str:
    """An item that waits, as KD marks it."""
    routine = "?" if work.routine is None else work.symbol or pointer(work.routine, size, tick=False)
    priority = "" if work.priority is None else f" (priority {work.priority})"
    parameter = pointer(work.parameter, size, tick=False)
    return f"PENDING: WorkerRoutine: {routine} Parameter: {parameter}{priority}"


def timer_lines(listed: TimerList, bias: int | None, size: int) -> Iterator[str]:
    """The timers by processor and list, and how many there are."""
    yield "Dump system timers"
    yield ""
    now = "?" if listed.now is None else f"{listed.now & 0xFFFFFFFF:08x} {listed.now >> 32:08x}"
    yield f"Interrupt time: {now} [{session_time(listed.system_time, bias) or '?'}]"
    before: tuple[int, int, int] | None = None
    processor = None
    for timer in listed.timers:
        if processor != timer.processor:
            processor = timer.processor
            yield ""
            yield f"PROCESSOR {processor}"
            yield f"List {'Timer':<{2 * size}}    Interrupt Low/High  Fire Time{'':28}DPC/thread"
        place = (timer.processor, timer.table, timer.hand)
        number = f"{timer.hand:3d}" if place != before else "   "
        before = place
        yield f"{number}  {_timer(timer, listed, bias, size)}"
    yield ""
    yield f"Total Timers: {len(listed.timers)}, Maximum List: {listed.longest()}"
    for problem in listed.problems:
        yield f"NOTE: {problem}"


def _timer(timer: Timer, listed: TimerList, bias: int | None, size: int) -> str:
    due = "????????  ????????" if timer.due is None else f"{timer.due & 0xFFFFFFFF:08x} {timer.due >> 32:08x}"
    fires = listed.fires_at(timer)
    when = session_time(fires, bias) if filetime(fires) is not None else None
    if timer.due is not None and timer.due >= _NEVER:
        when = "         NEVER         "
    periodic = "P" if timer.period else " "
    return f"{pointer(timer.address, size, tick=False)} {periodic} {due} [{when or '?'}]  {_does(timer, size)}"


def _does(timer: Timer, size: int) -> str:
    if timer.routine:
        return (
            f"{timer.symbol or pointer(timer.routine, size, tick=False)} (DPC @ {pointer(timer.dpc, size, tick=False)})"
        )
    if timer.thread:
        return f"thread {pointer(timer.thread, size, tick=False)}"
    return "" if timer.dpc == 0 else "(its DPC is not known)"


def queued_lock_lines(locks: QueuedLocks) -> Iterator[str]:
    """The table of ``!qlocks``."""
    yield "Key: O = Owner, 1-n = Wait order, blank = not owned/waiting, C = Corrupt"
    yield ""
    yield f"{'':23}Processor Number"
    yield "    Lock Name        " + "".join(f"{number:>3}" for number in locks.processors)
    yield ""
    for lock in locks.locks:
        cells = "".join(f"{_cell(lock, number):>3}" for number in locks.processors)
        yield f"{lock.name:<21}{cells}".rstrip()


def _cell(lock: QueuedLock, number: int) -> str:
    if number in lock.corrupt:
        return "C"
    if lock.owner == number:
        return "O"
    return str(lock.waiting.index(number) + 1) if number in lock.waiting else ""


def notes(lines: Iterable[str]) -> Iterator[str]:
    """Notes of ours."""
    for line in lines:
        yield f"NOTE: {line}"
