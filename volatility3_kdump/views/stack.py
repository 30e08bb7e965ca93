"""Rows of ``kdump.stack``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import SymbolsNotFound
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import stacks as text
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.windows.processes import processes, threads
from volatility3_kdump.windows.processes.threads import thread_reader
from volatility3_kdump.windows.stacks.frames import NoStack, Stack, Start
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import StackWalker, walker

_COLUMNS: list[tuple[str, type]] = [
    ("Process", str),
    ("PID", int),
    ("TID", int),
    ("Thread", format_hints.Hex),
    ("Count", int),
    ("Frame", int),
    ("Child-SP", format_hints.Hex),
    ("Address", format_hints.Hex),
    ("RetAddr", format_hints.Hex),
    ("Call Site", str),
    ("Trust", str),
    ("TrapFrame", format_hints.Hex),
    ("Arg1", format_hints.Hex),
    ("Arg2", format_hints.Hex),
    ("Arg3", format_hints.Hex),
    ("Arg4", format_hints.Hex),
]


@dataclass(frozen=True)
class Request:
    """One stack to show: a title for KD's text, the thread if it is one, where to start or why there is no stack."""

    title: str | None
    thread: int | None
    start: Start | None
    absent: str | None = None


def request_thread(target: Target, thread: int, title: str | None = None) -> Request:
    """A thread's stack."""
    try:
        return Request(title, thread, thread_start(target, thread))
    except NoStack as error:
        return Request(title, thread, None, str(error))


def all_threads(target: Target, pids: Sequence[int] | None) -> list[int]:
    """The threads of the chosen processes, or of every process."""
    found = []
    for process in processes.process_addresses(target):
        if pids is None or processes.read_process(target, process).pid in pids:
            found += processes.thread_addresses(target, process)
    return found


def stack_grid(
    target: Target,
    requests: Sequence[Request],
    layout: str,
    most: int,
    unique: bool = False,
    progress: Progress | None = None,
) -> KdumpGrid:
    """The stacks asked for, one row a frame and one for where a backtrace ends early."""
    stacks = walker(target)
    results: list[tuple[Request, Stack, int]] = []

    def walked() -> list[tuple[Request, Stack, int]]:
        if not results:
            for index, request in enumerate(requests):
                if progress is not None and len(requests) > 1:
                    progress(100 * index / len(requests), "Walking stacks")
                stack = stacks.walk(request.start, most) if request.start else Stack((), request.absent or "", False)
                results.append((request, stack, 1))
            if unique:
                results[:] = _grouped(stacks, results)
        return results

    def kd_lines() -> Iterator[str]:
        for number, (request, stack, count) in enumerate(walked()):
            if number:
                yield ""
            if request.title:
                yield request.title
            if unique:
                yield f"{count} thread{'s' if count != 1 else ''} with this stack, the first is {request.thread or 0:x}"
            if not stack.frames:
                yield f"No stack: {stack.end}"
                continue
            yield text.header(layout, target.memory.pointer_size)
            yield from text.rows(stack, layout, target.memory.pointer_size)
            if not stack.complete and len(stack.frames) < most:
                yield f"Stack ends here: {stack.end}"

    return KdumpGrid(_COLUMNS, _rows(target, stacks, walked), kd_lines)


def _grouped(walker: StackWalker, results: Sequence[tuple[Request, Stack, int]]) -> list[tuple[Request, Stack, int]]:
    """Equal stacks once, with their number, most frequent first. Equal means the same call sites and end."""
    groups: dict[tuple[Any, ...], list[tuple[Request, Stack, int]]] = {}
    for result in results:
        key = (*(frame.ip for frame in result[1].frames if walker.target.is_kernel_address(frame.ip)), result[1].end)
        groups.setdefault(key, []).append(result)
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [(group[0][0], group[0][1], len(group)) for group in ordered]


def _rows(target: Target, walker: StackWalker, walked: Any) -> Iterator[Row]:
    for request, stack, count in walked():
        head = _thread_cells(target, request.thread)
        for frame in stack.frames:
            cells = (
                *head,
                count,
                frame.number,
                address(frame.sp),
                format_hints.Hex(frame.ip),
                address(frame.return_address),
                text.call_site(frame, target.memory.pointer_size),
                frame.trust,
                absent() if frame.trap_frame is None else format_hints.Hex(frame.trap_frame),
                *(address(value) for value in frame.arguments),
            )
            yield 0, cells
        if not stack.complete:
            blank = (absent(),) * 5
            yield 0, (*head, count, *blank[:1], *blank[:3], f"({stack.end})", "end", *blank)


def _thread_cells(target: Target, thread: int | None) -> tuple[Any, ...]:
    if thread is None:
        return (absent(), absent(), absent(), absent())
    found = threads.read_thread(target, thread)
    process = processes.read_process(target, found.process) if found.process else None
    name = process.image_name if process else None
    return (
        absent() if name is None else name,
        absent() if found.pid is None else found.pid,
        absent() if found.tid is None else found.tid,
        format_hints.Hex(thread),
    )


# !stacks --------------------------------------------------------------------------------------------------------------


_STATES = {"Running": "RUNNING", "Ready": "READY", "Waiting": "Blocked"}


def summary_lines(target: Target, level: int, wanted: str = "", progress: Progress | None = None) -> Iterator[str]:
    """``!stacks``: a line for each thread with what it waits in; at ``level`` 2 its whole stack.

    Level 0 leaves threads out whose stack is paged out. ``wanted`` chooses threads with that text in a frame's name.
    """
    if thread_reader(target) is None:
        raise SymbolsNotFound(f"{target.name}: the threads need the kernel's symbols: {target.symbol_status}")
    yield text.SUMMARY_HEADER
    count = 0
    addresses = processes.process_addresses(target)
    for index, process in enumerate(addresses):
        if progress is not None:
            progress(100 * index / len(addresses), "Walking stacks")
        found = processes.read_process(target, process)
        title: str | None = f"{'':28}[{process:x} {found.name or '?'}]"
        for thread in processes.thread_addresses(target, process):
            count += 1
            for line in _summary(target, thread, level, wanted):
                if title is not None:
                    yield title
                    title = None
                yield line
    yield ""
    yield f"Threads Processed: {count}"


def _summary(target: Target, address: int, level: int, wanted: str) -> Iterator[str]:
    stacks = walker(target)
    thread = threads.read_thread(target, address)
    try:
        stack = stacks.walk(thread_start(target, address))
    except NoStack as error:
        stack = Stack((), str(error), False)
    if not stack.frames and level == 0:
        return
    sites = [text.call_site(frame, target.memory.pointer_size) for frame in stack.frames]
    if wanted and not any(wanted.lower() in site.lower() for site in sites):
        return
    pid = "????" if thread.pid is None else f"{thread.pid:4x}"
    tid = "??????" if thread.tid is None else f"{thread.tid:06x}"
    ticks = "?" if thread.wait_ticks is None else f"{thread.wait_ticks & 0xFFFFFFFF:07x}"
    state = _STATES.get(thread.state_name or "", thread.state_name or "?")
    if not stack.frames:
        site = "Stack paged out" if stack.end.startswith("kernel stack not resident") else f"no stack: {stack.end}"
    else:
        site = sites[0] if level == 2 else text.blocker(stack, target.memory.pointer_size)
    yield f"{pid}.{tid}  {address:x} {ticks} {state:<10} {site}"
    if level == 2:
        yield from text.summary_rest(stack, target.memory.pointer_size)
