"""Rows of ``kdump.ready``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3_kdump.target import Target
from volatility3_kdump.text import ready as text
from volatility3_kdump.text import stacks as stack_text
from volatility3_kdump.text.processes import thread_line
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import FLAG, NUMBER, POINTER, TEXT, Column, Part, Table
from volatility3_kdump.views.thread import thread_lines
from volatility3_kdump.windows.listing.dispatcher import Dispatcher
from volatility3_kdump.windows.listing.threads import ListedThread
from volatility3_kdump.windows.processes.ready import ProcessorState, ReadyQueue
from volatility3_kdump.windows.stacks.starts import processor_start
from volatility3_kdump.windows.stacks.walker import walker

_PLACE = Part[Any](
    "",
    keys.PROCESSOR(lambda state: state.number, "null for a shared queue"),
    keys.ROLE(lambda state: "idle" if state.idle else "running", "`running`, `idle`, `next`, `ready`, `ready, shared`"),
)
_THREAD = Part[ListedThread](
    "",
    keys.THREAD(lambda listed: listed.thread.address),
    keys.PROCESS(lambda listed: listed.process),
    keys.IMAGE(lambda listed: listed.image),
    keys.PID(lambda listed: listed.pid),
    keys.TID(lambda listed: listed.thread.tid),
    keys.PRIORITY(lambda listed: listed.thread.priority),
    keys.THREAD_STATE(lambda listed: listed.thread.state_name),
    keys.WAIT_TIME(lambda listed: listed.thread.wait_time),
)
_STATE = Part[ProcessorState](
    "",
    keys.PRCB(lambda state: state.prcb),
    keys.IRQL(lambda state: state.irql),
    Column("DpcActive", FLAG, "a DPC routine runs", lambda state: state.dpc_active),
    Column(
        "DpcQueued",
        NUMBER,
        "DPCs in its queues",
        lambda state: None if state.dpc_depths is None else sum(state.dpc_depths),
    ),
    Column("Idle", FLAG, "it runs its idle thread", lambda state: state.idle),
    Column(
        "SpinLocks",
        TEXT,
        "the first 16 queued spin locks: `O` owned, `W` waited for, `.` neither",
        lambda state: state.locks,
    ),
    Column("SharedQueue", POINTER, "KSHARED_READY_QUEUE", lambda state: state.shared_queue),
    keys.NOTES(lambda state: state.queue.problems, "what is wrong with the ready lists"),
)
READY = Table("kdump.ready", _PLACE, _THREAD, _STATE)
_SHARED = "ready, shared"
#: Flags of ``!ready``: what a thread waits for and its times, with that its stack, and no arguments in the stack.
WAITS, STACKS, _WITHOUT_ARGUMENTS = 2, 4, 0x18


def ready_grid(target: Target) -> KdumpGrid:
    """A row for what each processor runs; below it what it runs next and what is ready; then the shared queues."""
    dispatcher = Dispatcher(target)
    return READY.grid(_rows(dispatcher), lambda: _kd_lines(dispatcher))


def _rows(dispatcher: Dispatcher) -> Iterator[Row]:
    for state in dispatcher.states:
        listed = dispatcher.listed.get(state.current or 0)
        if listed is not None:
            yield READY.row(0, {_PLACE: state, _STATE: state, _THREAD: listed})
        else:
            unknown = dict.fromkeys((column.name for column in _THREAD.columns), None)
            yield READY.row(0, {_PLACE: state, _STATE: state}, **unknown)
        if state.next:
            yield READY.row(1, {_PLACE: state, _THREAD: dispatcher.listed[state.next]}, Role="next")
        for _, thread in state.queue.threads:
            yield READY.row(1, {_PLACE: state, _THREAD: dispatcher.listed[thread]}, Role="ready")
    for queue in dispatcher.shared:
        yield from _shared_rows(dispatcher, queue)


def _shared_rows(dispatcher: Dispatcher, queue: ReadyQueue) -> Iterator[Row]:
    for _, thread in queue.threads:
        yield READY.row(0, {_THREAD: dispatcher.listed[thread]}, Role=_SHARED, SharedQueue=queue.address)
    if queue.problems:
        yield READY.row(0, Role=_SHARED, SharedQueue=queue.address, Notes=queue.problems)


def _kd_lines(dispatcher: Dispatcher) -> Iterator[str]:
    size = dispatcher.target.memory.pointer_size
    yield from text.running(dispatcher.states, dispatcher.threads, size)
    yield ""
    for state in dispatcher.states:
        yield text.activity(state)
    yield ""
    yield from _queue_lines(dispatcher)


def _missing(dispatcher: Dispatcher) -> Iterator[str]:
    return text.missing(dispatcher.states, dispatcher.target.header.number_processors)


def _queue_lines(dispatcher: Dispatcher, flags: int = 0) -> Iterator[str]:
    target, size = dispatcher.target, dispatcher.target.memory.pointer_size

    def show(address: int) -> Iterator[str]:
        listed = dispatcher.listed[address]
        if not flags & WAITS:
            yield f"    {thread_line(listed.thread, size)}"
            return
        stack = bool(flags & STACKS)
        yield from thread_lines(target, listed, "    ", True, stack, not flags & _WITHOUT_ARGUMENTS)

    for index, queue in enumerate(dispatcher.shared):
        yield from text.shared_queue(queue, index, len(dispatcher.states), show)
    for state in dispatcher.states:
        yield from text.processor_queue(state, show)
    yield from _missing(dispatcher)


def ready_lines(target: Target, flags: int = 0) -> Iterator[str]:
    """``!ready``: the queues alone; with its ``flags`` what ``!thread`` shows of each thread."""
    return _queue_lines(Dispatcher(target), flags)


def running_lines(target: Target, idle: bool, stacks: bool) -> Iterator[str]:
    """``!running``: the processors that are busy, with ``idle`` all; with ``stacks`` what they run."""
    dispatcher = Dispatcher(target)
    size = target.memory.pointer_size
    yield from text.running_header(dispatcher.states)
    for state in dispatcher.states:
        if state.idle and not idle:
            continue
        yield text.running_line(state, dispatcher.threads, size)
        if stacks:
            yield ""
            yield from _stack_lines(target, state.number)
            yield ""
    yield from _missing(dispatcher)


def _stack_lines(target: Target, number: int) -> Iterator[str]:
    stack = walker(target).walk_from(processor_start, number)
    if not stack.frames:
        yield f"No stack: {stack.end}"
        return
    yield stack_text.header("kn", target.memory.pointer_size)
    yield from stack_text.rows(stack, "kn", target.memory.pointer_size)
