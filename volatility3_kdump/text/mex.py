"""Threads and processes in the columns of the debugger extension MEX, as published sessions show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from volatility3_kdump.escape import printable
from volatility3_kdump.text import stacks as stack_words
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.text.times import filetime
from volatility3_kdump.windows.listing.threads import ListedThread
from volatility3_kdump.windows.processes.processes import Process
from volatility3_kdump.windows.processes.threads import RUNNING, WAITING
from volatility3_kdump.windows.stacks.frames import Stack

_SECOND, _MILLISECOND = 10_000_000, 10_000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_KB, _MB = 1 << 10, 1 << 20
_PAGE = 4096


def duration(value: int | None) -> str:
    """A duration in units of 100 ns: ``0``, ``46ms``, ``3s.218``, ``1m:25.171``, ``1h:02:03.004``."""
    if value is None:
        return "?"
    seconds, rest = divmod(value, _SECOND)
    milliseconds = rest // _MILLISECOND
    if seconds >= _DAY:
        return f"{seconds // _DAY}d.{_clock(seconds % _DAY)}.{milliseconds:03}"
    if seconds >= _HOUR:
        return f"{seconds // _HOUR}h:{seconds // _MINUTE % 60:02}:{seconds % 60:02}.{milliseconds:03}"
    if seconds >= _MINUTE:
        return f"{seconds // _MINUTE}m:{seconds % 60:02}.{milliseconds:03}"
    if seconds:
        return f"{seconds}s.{milliseconds:03}"
    return f"{milliseconds}ms" if milliseconds else "0"


def _clock(seconds: int) -> str:
    return f"{seconds // _HOUR:02}:{seconds // _MINUTE % 60:02}:{seconds % 60:02}"


def columns(titles: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows below their titles and a rule; each column is as wide as it must be."""
    widths = [max([len(title), *(len(row[index]) for row in rows)]) for index, title in enumerate(titles)]

    def line(cells: Iterable[str], heads: bool = False) -> str:
        shown = (
            f"{cell:>{width}}" if aligned and not heads else f"{cell:<{width}}"
            for cell, width, aligned in zip(cells, widths, right, strict=True)
        )
        return " ".join(shown).rstrip()

    yield line(titles, True)
    yield " ".join("=" * width for width in widths)
    for row in rows:
        yield line(row)


def _name(text: str | None) -> str:
    """A name as it is shown, so that its column is as wide."""
    return "?" if text is None else printable(text)


def _hex(value: int | None) -> str:
    return "?" if value is None else f"{value:x}"


# threads --------------------------------------------------------------------------------------------------------------


def thread_rows(threads: Iterable[ListedThread]) -> list[list[str]]:
    return [
        [
            _name(listed.image),
            _hex(listed.pid),
            _hex(listed.thread.address),
            _hex(listed.thread.tid),
            listed.thread.state_name or "?",
            duration(listed.thread.wait_time),
            listed.thread.wait_reason_name or "?",
        ]
        for listed in threads
    ]


def thread_list(threads: Sequence[ListedThread]) -> Iterator[str]:
    """``!lt``."""
    titles = ("Process", "PID", "Thread", "Id", "State", "Time", "Reason")
    yield from columns(titles, (False, True, False, True, False, True, False), thread_rows(threads))
    yield ""
    yield f"Thread Count: {len(threads)}"


def running_list(threads: Sequence[ListedThread]) -> Iterator[str]:
    """``!mex.running`` and ``!mex.ready``."""
    titles = (
        *("Process", "PID", "Thread", "Id", "Pri", "Base Pri", "Next CPU", "CSwitches"),
        *("User", "Kernel", "State", "Time", "Reason"),
    )
    rows = []
    for listed, row in zip(threads, thread_rows(threads), strict=True):
        thread = listed.thread
        numbers = (thread.priority, thread.base_priority, thread.processor, thread.context_switches)
        times = (thread.user_time, thread.kernel_time)
        rows.append([*row[:4], *map(decimal, numbers), *map(duration, times), *row[4:]])
    right = (False, True, False, *(True,) * 7, False, True, False)
    yield from columns(titles, right, rows)
    yield ""
    yield f"Count: {len(threads)}"


def thread_lines(listed: ListedThread, stack: Stack, size: int = 8) -> Iterator[str]:
    """``!t``: a thread, what it waits for, its priorities and its stack."""
    thread = listed.thread
    state = thread.state_name or "?"
    if thread.state == RUNNING:
        state = f"Running on processor {decimal(thread.processor)}"
    process = f"{_name(listed.image)} ({pointer(listed.process, size, tick=False)})"
    cells = [
        process,
        pointer(thread.address, size, tick=False),
        f"{_hex(listed.pid)}.{_hex(thread.tid)}",
        duration(thread.user_time),
        duration(thread.kernel_time),
        decimal(thread.context_switches),
        thread.wait_reason_name or "?",
        duration(thread.wait_time),
        state,
    ]
    titles = ("Process", "Thread", "CID", "UserTime", "KernelTime", "ContextSwitches", "Wait Reason", "Time", "State")
    lines = list(columns(titles, (False, False, False, True, True, True, False, True, False), [cells]))
    # One thread has no rule below its titles.
    yield from (lines[0], lines[2])
    yield ""
    if thread.waits and thread.state == WAITING:
        yield "WaitBlockList:"
        yield f"    {'Object':<{2 * size}} Type"
        for waited in thread.waits:
            owner = f" Owner: {waited.owner:x}" if waited.owner else ""
            yield f"    {pointer(waited.address, size, tick=False)} {waited.kind_name or '?'}{owner}"
        yield ""
    yield "Priority:"
    yield "    Current Base Decrement ForegroundBoost IO Page"
    decrement = thread.priority_decrement
    parts = (None, None) if decrement is None else (decrement >> 4, decrement & 15)
    values = (thread.priority, thread.base_priority, *parts, thread.io_priority, thread.page_priority)
    widths = (7, 4, 9, 15, 2, 4)
    shown = (f"{decimal(value):<{width}}" for value, width in zip(values, widths, strict=True))
    yield "    " + " ".join(shown).rstrip()
    yield ""
    yield from stack_lines(stack, size)


def stack_lines(stack: Stack, size: int = 8) -> Iterator[str]:
    """The stack of a thread, numbered."""
    if not stack.frames:
        yield f"No stack: {stack.end}"
        return
    wide = len(f"{len(stack.frames) - 1:x}")
    yield f"{'#':>{wide}} {'Child-SP':<{2 * size}} {'Return':<{2 * size}} Call Site"
    for number, frame in enumerate(stack.frames):
        places = (pointer(place, size, tick=False) for place in (frame.sp, frame.return_address))
        yield f"{number:>{wide}x} {' '.join(places)} {stack_words.call_site(frame, size)}"
    if not stack.complete:
        yield f"Stack ends here: {stack.end}"


def unique_lines(groups: Sequence[tuple[Stack, Sequence[int]]], size: int = 8) -> Iterator[str]:
    """``!us``: each stack with the threads that have it."""
    for stack, threads in groups:
        named = " ".join(f"{thread:x}" for thread in threads)
        yield f"{len(threads)} thread{'' if len(threads) == 1 else 's'} [stats]: {named}"
        for frame in stack.frames:
            yield f"    {pointer(frame.ip, size, tick=False)} {stack_words.call_site(frame, size)}"
        if not stack.frames:
            yield f"    No stack: {stack.end}"
        yield ""


def unique_total(shown: int, threads: int, total: int, filtered: bool) -> str:
    """What stands below the stacks."""
    if filtered:
        return f"Threads matching filter: {threads} out of {total}"
    return f"{shown} stack(s) with {threads} threads displayed ({total} Total threads)"


# processes ------------------------------------------------------------------------------------------------------------

#: What the columns of ``!tl -t`` count, by its title: states, or reasons to wait.
TALLIES: dict[str, tuple[str, ...]] = {
    "Rn": ("running",),
    "Ry": ("ready", "deferredready", "standby", "transition"),
    "Bk": ("wrfastmutex", "wrguardedmutex", "wrmutex", "wrpushlock"),
    "Lc": ("wrlpcreply",),
    "IO": (),
    "Er": ("wrresource",),
}


def process_list(processes: Sequence[Process], tallies: dict[int, dict[str, int]] | None = None) -> Iterator[str]:
    """``!tl``; ``tallies`` are by EPROCESS."""
    titles = ["PID", "Address", "Name"]
    rows = []
    for process in processes:
        pid = "?" if process.pid is None else f"{process.pid:#x}"
        decimal = "?" if process.pid is None else f"0n{process.pid}"
        row = [f"{pid:<6} {decimal}", f"{process.address:x}", _name(process.name)]
        if tallies is not None:
            row += [str(tallies.get(process.address, {}).get(key) or ".") for key in TALLIES]
        rows.append(row)
    if tallies is not None:
        titles += list(TALLIES)
    lines = list(columns(titles, (False,) * 3 + (True,) * (len(titles) - 3), rows))
    yield from lines
    yield lines[1]
    yield lines[0]


def _size(value: int | None) -> str:
    if value is None:
        return "?"
    if value >= _MB:
        return f"{value / _MB:.2f}".rstrip("0").rstrip(".") + " MB"
    return f"{value / _KB:g} KB" if value >= _KB else f"{value} B"


def process_lines(process: Process, threads: int | None, size: int = 8) -> Iterator[str]:
    """``!mex.p``: a process and its memory."""
    created = filetime(process.create_time)
    pids = ["?" if value is None else f"{value:x} (0n{value})" for value in (process.pid, process.parent)]
    cells = [
        _name(process.name),
        f"{process.address:x}",
        decimal(process.session),
        *pids,
        pointer(process.peb, size, tick=False),
        f"{created:%m/%d/%Y %H:%M:%S}.{created.microsecond // 1000:03}" if created else "?",
        decimal(process.handle_count),
        decimal(threads),
    ]
    titles = ("Name", "Address", "Ses", "PID", "Parent", "PEB", "Create Time (UTC)", "Handle", "Thrd")
    yield from columns(titles, (False, False, True, False, False, False, False, True, True), [cells])
    yield ""
    yield "Memory Details:"
    yield ""
    commit = None if process.commit_charge is None else process.commit_charge * _PAGE
    working = None if process.working_set is None else process.working_set * _PAGE
    sizes = (process.virtual_size, process.peak_virtual_size, working, commit)
    quotas = (process.paged_quota, process.nonpaged_quota)
    cells = [_size(value) for value in (*sizes, *quotas)]
    memory = ("VM", "Peak", "Work Set", "Commit Size", "PP Quota", "NPP Quota")
    yield from (f"    {line}" for line in columns(memory, (True,) * 6, [cells]))


def task_lines(processes: Iterable[Process], verbose: bool) -> Iterator[str]:
    """``.tlist``: `` 0n4 System``."""
    for process in processes:
        pid = "?" if process.pid is None else f"0n{process.pid}"
        more = ""
        if verbose:
            session = "?" if process.session is None else str(process.session)
            more = f"\n     Session: {session}  {process.image_path or ''}".rstrip()
        yield from f" {pid} {process.name or '?'}{more}".split("\n")


# stacks in KD's own words ---


def found_lines(thread: int, stack: Stack, marked: Sequence[bool], level: int, size: int = 8) -> Iterator[str]:
    """``!findstack``: a thread with the frames that fit; at ``level`` 0 without them, at 2 the whole stack."""
    yield f"Thread {pointer(thread, size, tick=False)}, {sum(marked)} frame(s) match"
    for number, (frame, fits) in enumerate(zip(stack.frames, marked, strict=True)):
        if level >= 2 or (level == 1 and fits):
            places = (pointer(place, size, tick=False) for place in (frame.sp, frame.return_address))
            star = "*" if fits else " "
            yield f"        {star} {number:02x} {' '.join(places)} {stack_words.call_site(frame, size)}"
    if level:
        yield ""
