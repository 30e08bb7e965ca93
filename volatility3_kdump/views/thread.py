"""Rows of ``kdump.thread``, and the cells of threads in ``kdump.process``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import processes as text
from volatility3_kdump.text import stacks as stack_text
from volatility3_kdump.views.cells import joined, moment, number, optional, seconds
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.views.grid import text as text_cell
from volatility3_kdump.windows.processes import processes
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.processes import Process
from volatility3_kdump.windows.processes.threads import (
    IMPERSONATION_LEVELS,
    WAITING,
    Thread,
    WaitObject,
    read_thread,
    thread_reader,
)
from volatility3_kdump.windows.stacks.frames import NoStack, Stack
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker

#: The columns of a thread. A level below are its stack's frames, which fill the columns of :data:`FRAME_COLUMNS`.
THREAD_COLUMNS: list[tuple[str, type]] = [
    ("Thread", format_hints.Hex),
    ("TID", int),
    ("ThreadState", str),
    ("WaitReason", str),
    ("WaitMode", str),
    ("Alertable", bool),
    ("WaitObjects", str),
    ("IRPs", str),
    ("Processor", int),
    ("WaitTicks", int),
    ("WaitTime", float),
    ("ContextSwitches", int),
    ("IdealProcessor", int),
    ("ThreadUserTime", float),
    ("ThreadKernelTime", float),
    ("StartAddress", format_hints.Hex),
    ("StartSymbol", str),
    ("Win32StartAddress", format_hints.Hex),
    ("Win32StartSymbol", str),
    ("Priority", int),
    ("ThreadBasePriority", int),
    ("PriorityDecrement", int),
    ("IoPriority", int),
    ("PagePriority", int),
    ("InitialStack", format_hints.Hex),
    ("KernelStack", format_hints.Hex),
    ("StackBase", format_hints.Hex),
    ("StackLimit", format_hints.Hex),
    ("Teb", format_hints.Hex),
    ("Win32Thread", format_hints.Hex),
    ("AttachedProcess", format_hints.Hex),
    ("Impersonation", str),
    ("SuspendCount", int),
    ("ThreadCreateTime", datetime),
    ("ThreadExitTime", datetime),
    ("ThreadName", str),
    ("ThreadNotes", str),
]
FRAME_COLUMNS: list[tuple[str, type]] = [
    ("Frame", int),
    ("Child-SP", format_hints.Hex),
    ("RetAddr", format_hints.Hex),
    ("Call Site", str),
    ("Trust", str),
]
NO_THREAD: tuple[Any, ...] = (absent(),) * len(THREAD_COLUMNS)
NO_FRAME: tuple[Any, ...] = (absent(),) * len(FRAME_COLUMNS)


def thread_cells(target: Target, thread: Thread) -> tuple[Any, ...]:
    """The cells of :data:`THREAD_COLUMNS`."""
    size = target.memory.pointer_size
    waiting = thread.state == WAITING
    return (
        format_hints.Hex(thread.address),
        number(thread.tid),
        text_cell(thread.state_name),
        text_cell(thread.wait_reason_name) if waiting else absent(),
        _mode(thread.wait_mode) if waiting else absent(),
        text_cell(None) if thread.alertable is None else thread.alertable if waiting else absent(),
        joined([_wait_text(found, size) for found in thread.waits]),
        joined([text.irp(found, size) for found in thread.irps]),
        number(thread.processor),
        number(thread.wait_ticks),
        seconds(thread.wait_time),
        number(thread.context_switches),
        number(thread.ideal_processor),
        seconds(thread.user_time),
        seconds(thread.kernel_time),
        optional(thread.start_address),
        _symbol(target, thread.start_address),
        optional(thread.win32_start_address),
        _symbol(target, thread.win32_start_address),
        number(thread.priority),
        number(thread.base_priority),
        number(thread.priority_decrement),
        number(thread.io_priority),
        number(thread.page_priority),
        optional(thread.initial_stack),
        optional(thread.kernel_stack),
        optional(thread.stack_base),
        optional(thread.stack_limit),
        optional(thread.teb),
        optional(thread.win32_thread),
        optional(thread.attached),
        _impersonation(thread),
        number(thread.suspend_count),
        moment(thread.create_time),
        absent() if thread.exit_time is None else moment(thread.exit_time),
        thread.name or absent(),
        joined(thread.notes),
    )


def _mode(mode: int | None) -> Any:
    return text_cell(None) if mode is None else "UserMode" if mode else "KernelMode"


def _symbol(target: Target, start: int | None) -> Any:
    return text_cell(None) if start is None else (target.name_of(start) if start else None) or absent()


def _wait_text(found: WaitObject, size: int) -> str:
    line = text.wait_object(found, size)
    if found.name:
        line += f" ({found.name}" + (f" {found.pid:x})" if found.tid is None and found.pid is not None else ")")
    return line


def _impersonation(thread: Thread) -> Any:
    if thread.impersonating is None:
        return text_cell(None)
    if not thread.impersonating:
        return absent()
    level = IMPERSONATION_LEVELS[thread.impersonation_level or 0]
    return f"{thread.impersonation_token or 0:x} {level}"


# stacks ---------------------------------------------------------------------------------------------------------------


def stack_of(target: Target, thread: Thread) -> Stack:
    """A thread's stack; an empty one says why there is none."""
    try:
        return walker(target).walk(thread_start(target, thread.address))
    except NoStack as error:
        return Stack((), str(error), False)


def stack_lines(target: Target, stack: Stack, indent: str, arguments: bool = False) -> Iterator[str]:
    """A stack inside ``!process``, or with ``arguments`` as ``!thread`` shows it."""
    layout = stack_text.EMBEDDED_ARGUMENTS if arguments else stack_text.EMBEDDED
    if not stack.frames:
        resident = not stack.end.startswith("kernel stack not resident")
        yield f"{indent}No stack: {stack.end}" if resident else f"{indent}Kernel stack not resident."
        return
    yield indent + stack_text.header(layout, target.memory.pointer_size)
    for line in stack_text.rows(stack, layout, target.memory.pointer_size):
        yield indent + line
    if not stack.complete:
        yield f"{indent}Stack ends here: {stack.end}"


def frame_cells(target: Target, stack: Stack) -> Iterator[tuple[Any, ...]]:
    """The cells of :data:`FRAME_COLUMNS` for each frame, and for why there are no more."""
    size = target.memory.pointer_size
    for frame in stack.frames:
        site = stack_text.call_site(frame, size)
        yield frame.number, address(frame.sp), address(frame.return_address), site, frame.trust
    if not stack.complete:
        yield absent(), absent(), absent(), f"({stack.end})", "end"


# text -----------------------------------------------------------------------------------------------------------------


def names_of(target: Target, thread: Thread, owner: Process | None) -> text.ThreadNames:
    """What a thread's block needs from elsewhere."""
    start = thread.win32_start_address or thread.start_address
    reader = thread_reader(target)
    attached = reader.process_name(thread.attached)[1] if reader is not None and thread.attached else None
    return text.ThreadNames(
        owner.device_map if owner else None,
        owner.name if owner and thread.owner else None,
        attached,
        target.name_of(start) if start else None,
    )


def thread_lines(
    target: Target,
    thread: Thread,
    owner: Process | None,
    indent: str,
    block: bool,
    stack: Stack | None,
    arguments: bool = False,
) -> Iterator[str]:
    """A thread as ``!process`` and ``!thread`` show it: with its waits alone, or with its whole ``block``.

    ``arguments`` adds "Args to Child" to the stack.
    """
    size = target.memory.pointer_size
    yield indent + text.thread_line(thread, size)
    if thread.present:
        lines = text.thread_block(thread, names_of(target, thread, owner), size) if block else ()
        for line in lines or text.thread_waits(thread, size):
            yield indent + line
    yield from text.notes(thread.notes, indent + "    ")
    if stack is not None and thread.present:
        yield from stack_lines(target, stack, indent, arguments)
    yield ""


# kdump.thread ---------------------------------------------------------------------------------------------------------


_COLUMNS: list[tuple[str, type]] = [
    ("Process", format_hints.Hex),
    ("PID", int),
    ("Image", str),
    *THREAD_COLUMNS,
    *FRAME_COLUMNS,
]


class Threads:
    """Which threads ``kdump.thread`` shows: those that fit everything that is given; by default the crashing one."""

    def __init__(
        self,
        addresses: Sequence[int] = (),
        tids: Sequence[int] = (),
        pids: Sequence[int] = (),
        states: Sequence[str] = (),
        processors: Sequence[int] = (),
        everything: bool = False,
    ) -> None:
        self.addresses = list(addresses)
        self.tids = set(tids)
        self.pids = set(pids)
        self.states = {state.lower() for state in states}
        self.processors = set(processors)
        self.everything = everything

    def find(self, target: Target, progress: Progress | None = None) -> list[Thread]:
        """The threads. Raises :class:`KdumpError` when there are none."""
        if self.addresses:
            found = [read_thread(target, thread) for thread in self.addresses]
        elif self.everything or self.chosen:
            found = [thread for thread in every_thread(target, self.pids, progress) if self.fits(thread)]
        else:
            crashed = crash_thread(target)
            found = [] if crashed is None else [crashed]
        if not found:
            raise KdumpError(f"{target.name}: no thread found: {self._why_none(target)}")
        return found

    @property
    def chosen(self) -> bool:
        """Whether particular threads are asked for."""
        return bool(self.addresses or self.tids or self.pids or self.states or self.processors)

    def fits(self, thread: Thread) -> bool:
        """Whether a thread is asked for."""
        return (
            (not self.addresses or thread.address in self.addresses)
            and (not self.tids or thread.tid in self.tids)
            and (not self.pids or thread.pid in self.pids)
            and (not self.states or (thread.state_name or "").lower() in self.states)
            and (not self.processors or thread.processor in self.processors)
        )

    def _why_none(self, target: Target) -> str:
        if target.dump.triage is not None:
            return "a small memory dump holds the thread that crashed, and no others"
        if target.nt is None:
            return f"the thread lists need the kernel's symbols ({target.symbol_status})"
        if self.chosen:
            return "none is like that"
        return "the dump does not say which thread crashed"


def every_thread(target: Target, pids: set[int], progress: Progress | None) -> Iterator[Thread]:
    """The threads of the processes of these ids, or of all processes."""
    addresses = processes.process_addresses(target)
    crashed = crash_thread(target)
    if not addresses and crashed is not None:
        yield crashed
    seen: set[int] = set()
    for index, process in enumerate(addresses):
        if progress is not None:
            progress(100 * index / len(addresses), "Reading threads")
        if pids and processes.read_process(target, process).pid not in pids:
            continue
        for thread in processes.thread_addresses(target, process):
            if thread not in seen:
                seen.add(thread)
                yield read_thread(target, thread)


def thread_grid(
    target: Target, chosen: Threads, stacks: bool, progress: Progress | None = None, arguments: bool = True
) -> KdumpGrid:
    """The chosen threads, a row each; with ``stacks`` their frames are rows below them.

    ``arguments`` says whether KD's text of a stack has "Args to Child" (flag 8 of ``!thread`` leaves them out).
    """
    threads = chosen.find(target, progress)
    owners: dict[int, Process] = {}

    def owner_of(thread: Thread) -> Process | None:
        owner = thread.owner or thread.process
        if not owner or not target.is_kernel_address(owner):
            return None
        if owner not in owners:
            owners[owner] = processes.read_process(target, owner)
        return owners[owner]

    def stack_for(index: int, thread: Thread) -> Stack | None:
        if not stacks:
            return None
        if progress is not None and len(threads) > 1:
            progress(100 * index / len(threads), "Walking stacks")
        return stack_of(target, thread)

    def rows() -> Iterator[Row]:
        for index, thread in enumerate(threads):
            owner = owner_of(thread)
            head = (
                address(thread.owner or thread.process),
                number(thread.pid),
                text_cell(owner.name if owner else None),
            )
            yield 0, (*head, *thread_cells(target, thread), *NO_FRAME)
            stack = stack_for(index, thread)
            for cells in frame_cells(target, stack) if stack is not None else ():
                yield 1, (*head, *NO_THREAD, *cells)

    def kd_lines() -> Iterator[str]:
        for index, thread in enumerate(threads):
            stack = stack_for(index, thread)
            yield from thread_lines(target, thread, owner_of(thread), "", True, stack, arguments)

    return KdumpGrid(_COLUMNS, rows(), kd_lines)
