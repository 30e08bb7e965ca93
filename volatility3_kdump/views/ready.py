"""Rows of ``kdump.ready``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError, SymbolsNotFound
from volatility3_kdump.target import Target
from volatility3_kdump.text import ready as text
from volatility3_kdump.text import stacks as stack_text
from volatility3_kdump.views.cells import joined, number, seconds
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.views.grid import text as text_cell
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.ready import ProcessorState, ReadyQueue, processor_states, shared_queues
from volatility3_kdump.windows.processes.threads import Thread, read_thread
from volatility3_kdump.windows.stacks.frames import NoStack
from volatility3_kdump.windows.stacks.starts import processor_start
from volatility3_kdump.windows.stacks.walker import walker

_COLUMNS: list[tuple[str, type]] = [
    ("Processor", int),
    ("Role", str),
    ("Thread", format_hints.Hex),
    ("Image", str),
    ("PID", int),
    ("TID", int),
    ("Priority", int),
    ("ThreadState", str),
    ("WaitTime", float),
    ("Prcb", format_hints.Hex),
    ("IRQL", int),
    ("DpcActive", bool),
    ("DpcQueued", int),
    ("Idle", bool),
    ("SpinLocks", str),
    ("SharedQueue", format_hints.Hex),
    ("Notes", str),
]


class _Dispatcher:
    """The processors of a target and the threads that they have to do with."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.states = processor_states(target)
        if not self.states:
            if target.nt is None:
                raise SymbolsNotFound(f"{target.name}: ready queues need the kernel's symbols: {target.symbol_status}")
            raise KdumpError(f"{target.name}: no processor's control block is in the dump")
        self.shared = shared_queues(target, self.states)
        self.threads: dict[int, Thread] = {}
        for state in self.states:
            for thread in (state.current, state.next, state.idle_thread):
                self._read(thread)
            for _, thread in state.queue.threads:
                self._read(thread)
        for queue in self.shared:
            for _, thread in queue.threads:
                self._read(thread)

    def _read(self, thread: int | None) -> None:
        if thread and thread not in self.threads:
            self.threads[thread] = read_thread(self.target, thread)


def ready_grid(target: Target) -> KdumpGrid:
    """A row for what each processor runs; below it what it runs next and what is ready; then the shared queues."""
    dispatcher = _Dispatcher(target)
    return KdumpGrid(_COLUMNS, _rows(dispatcher), lambda: _kd_lines(dispatcher))


def _rows(dispatcher: _Dispatcher) -> Iterator[Row]:
    for state in dispatcher.states:
        role = "idle" if state.idle else "running"
        cells = _thread_cells(dispatcher, state.current)
        yield 0, (state.number, role, *cells, *_processor_cells(state))
        blank = (absent(),) * 8
        if state.next:
            yield 1, (state.number, "next", *_thread_cells(dispatcher, state.next), *blank)
        for _, thread in state.queue.threads:
            yield 1, (state.number, "ready", *_thread_cells(dispatcher, thread), *blank)
    for queue in dispatcher.shared:
        yield from _shared_rows(dispatcher, queue)


def _shared_rows(dispatcher: _Dispatcher, queue: ReadyQueue) -> Iterator[Row]:
    tail = (*((absent(),) * 6), address(queue.address))
    for _, thread in queue.threads:
        yield 0, (absent(), "ready, shared", *_thread_cells(dispatcher, thread), *tail, absent())
    if queue.problems:
        yield 0, (absent(), "ready, shared", *((absent(),) * 7), *tail, joined(queue.problems))


def _thread_cells(dispatcher: _Dispatcher, thread: int | None) -> tuple[Any, ...]:
    found = dispatcher.threads.get(thread) if thread is not None else None
    if found is None:
        return (address(thread), *((text_cell(None),) * 6))
    owner = found.owner or found.process
    target = dispatcher.target
    name = read_process(target, owner).name if owner and target.is_kernel_address(owner) else None
    return (
        address(found.address),
        text_cell(name),
        number(found.pid),
        number(found.tid),
        number(found.priority),
        text_cell(found.state_name),
        seconds(found.wait_time),
    )


def _processor_cells(state: ProcessorState) -> tuple[Any, ...]:
    return (
        address(state.prcb),
        number(state.irql),
        text_cell(None) if state.dpc_active is None else state.dpc_active,
        number(None if state.dpc_depths is None else sum(state.dpc_depths)),
        text_cell(None) if state.idle is None else state.idle,
        text_cell(state.locks),
        absent() if state.shared_queue == 0 else address(state.shared_queue),
        joined(state.queue.problems),
    )


def _kd_lines(dispatcher: _Dispatcher) -> Iterator[str]:
    size = dispatcher.target.memory.pointer_size
    yield from text.running(dispatcher.states, dispatcher.threads, size)
    yield ""
    for state in dispatcher.states:
        yield text.activity(state)
    yield ""
    yield from _queue_lines(dispatcher)


def _queue_lines(dispatcher: _Dispatcher) -> Iterator[str]:
    for index, queue in enumerate(dispatcher.shared):
        yield from text.shared_queue(queue, index, len(dispatcher.states), dispatcher.threads)
    for state in dispatcher.states:
        yield from text.processor_queue(state, dispatcher.threads)


def ready_lines(target: Target) -> Iterator[str]:
    """``!ready``: the queues alone."""
    return _queue_lines(_Dispatcher(target))


def running_lines(target: Target, idle: bool, stacks: bool) -> Iterator[str]:
    """``!running``: the processors that are busy, with ``idle`` all; with ``stacks`` what they run."""
    dispatcher = _Dispatcher(target)
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


def _stack_lines(target: Target, number: int) -> Iterator[str]:
    try:
        stack = walker(target).walk(processor_start(target, number))
    except NoStack as error:
        yield f"No stack: {error}"
        return
    yield stack_text.header("kn", target.memory.pointer_size)
    yield from stack_text.rows(stack, "kn", target.memory.pointer_size)
