"""Processors and ready threads in the words and columns of KD's ``!running`` and ``!ready``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.processes.ready import ProcessorState, ReadyQueue
from volatility3_kdump.windows.processes.threads import Thread

#: The lines of the thread at an ETHREAD.
Show = Callable[[int], Iterable[str]]

#: Names of the interrupt request levels of x64; those between are device levels.
_IRQLS = {
    0: "LOW_LEVEL",
    1: "APC_LEVEL",
    2: "DISPATCH_LEVEL",
    12: "SYNCH_LEVEL",
    13: "CLOCK_LEVEL",
    14: "IPI_LEVEL",
    15: "HIGH_LEVEL",
}


def irql_text(level: int) -> str:
    """``2 (DISPATCH_LEVEL)``."""
    return f"{level} ({_IRQLS[level]})" if level in _IRQLS else str(level)


def running(states: Iterable[ProcessorState], threads: Mapping[int, Thread], size: int = 8) -> Iterator[str]:
    """``!running -i``: every processor with its current, next and idle thread, and its queued spin locks."""
    states = list(states)
    yield from running_header(states)
    for state in states:
        yield running_line(state, threads, size)


def running_header(states: Iterable[ProcessorState]) -> Iterator[str]:
    """The processors as masks, and the heading of their list."""
    states = list(states)
    everyone = sum(1 << state.number for state in states)
    idle = sum(1 << state.number for state in states if state.idle)
    yield f"System Processors:  ({everyone:016x})"
    yield f"  Idle Processors:  ({idle:016x})"
    yield ""
    yield "       Prcbs             Current         (pri) Next            (pri) Idle"


def running_line(state: ProcessorState, threads: Mapping[int, Thread], size: int = 8) -> str:
    """A row of ``!running``."""
    return (
        f"  {state.number:<5}{pointer(state.prcb, size, tick=False)}  "
        f"{_with_priority(state.current, threads, size)} {_with_priority(state.next, threads, size)} "
        f"{pointer(state.idle_thread, size, tick=False)}  {state.locks or '?'}"
    )


def missing(states: Iterable[ProcessorState], count: int | None) -> Iterator[str]:
    """What of the machine's processors is not shown: small memory dumps of some kernels hold one control block."""
    shown = len(list(states))
    if count is not None and shown < count:
        yield f"    NOTE: the control blocks of {count - shown} of {count} processors are not in the dump"


def activity(state: ProcessorState) -> str:
    """A line of our own: IRQL and DPCs of a processor."""
    irql = "IRQL ?" if state.irql is None else f"IRQL {irql_text(state.irql)}"
    active = "DPC ?" if state.dpc_active is None else "DPC routine active" if state.dpc_active else "no DPC active"
    queued = "?" if state.dpc_depths is None else " + ".join(str(depth) for depth in state.dpc_depths)
    idle = "?" if state.idle is None else "idle" if state.idle else "busy"
    return f"Processor {state.number}: {idle}, {irql}, {active}, DPCs queued (normal + threaded): {queued}"


def _with_priority(thread: int | None, threads: Mapping[int, Thread], size: int) -> str:
    if thread == 0:
        return " " * (2 * size + 5)
    ready_thread = threads.get(thread) if thread is not None else None
    priority = "??" if ready_thread is None or ready_thread.priority is None else f"{ready_thread.priority:2d}"
    return f"{pointer(thread, size, tick=False)} ({priority})"


def shared_queue(queue: ReadyQueue, number: int, processors: int, show: Show) -> Iterator[str]:
    """A queue that processors share; ``show`` gives the lines of a thread."""
    affinity = queue.affinity
    mask = "?" if affinity is None else "".join("*" if affinity >> bit & 1 else "-" for bit in range(processors))
    address = f"{queue.address or 0:x}"
    yield f"KSHARED_READY_QUEUE {address}: ({number:02d}) {mask} "
    yield from _queue(queue, f"SharedReadyQueue {address}", show)


def processor_queue(state: ProcessorState, show: Show) -> Iterator[str]:
    """The ready threads of one processor; ``show`` gives the lines of a thread."""
    yield from _queue(state.queue, f"Processor {state.number}", show)


def _queue(queue: ReadyQueue, title: str, show: Show) -> Iterator[str]:
    if not queue.threads and not queue.problems:
        yield f"{title}: No threads in READY state"
    at = None
    for priority, thread in queue.threads:
        if priority != at:
            yield f"{title}: Ready Threads at priority {priority}"
            at = priority
        yield from show(thread)
    for problem in queue.problems:
        yield f"    NOTE: {problem}"
