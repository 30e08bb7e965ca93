"""Rows of ``kdump.thread --waits``: who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.waits import Wait, WaitGraph, find_waits
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.views.grid import KdumpGrid, Row, absent
from volatility3_kdump.views.grid import text as text_cell
from volatility3_kdump.views.thread import Threads, every_thread
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.threads import Thread, thread_reader

_COLUMNS: list[tuple[str, type]] = [
    ("Thread", format_hints.Hex),
    ("Waiter", str),
    ("WaitsFor", str),
    ("Object", format_hints.Hex),
    ("Holder", format_hints.Hex),
    ("HolderName", str),
    ("Sure", bool),
    ("Deadlock", int),
    ("Notes", str),
]


class _Waits:
    def __init__(self, target: Target, chosen: Threads, progress: Progress | None) -> None:
        self.target = target
        if target.dump.triage is not None:
            raise KdumpError(f"{target.name}: a small memory dump holds one thread: nobody it could wait for")
        if thread_reader(target) is None:
            raise KdumpError(f"{target.name}: wait chains need the kernel's symbols ({target.symbol_status})")
        self.threads: dict[int, Thread] = {thread.address: thread for thread in every_thread(target, set(), progress)}
        self.graph: WaitGraph = find_waits(target, self.threads.values())
        self.deadlocks: dict[Wait, int] = {
            wait: number for number, circle in enumerate(self.graph.deadlocks, 1) for wait in circle
        }
        wanted = [thread for thread in self.threads.values() if chosen.fits(thread)]
        #: The waits to show: those of the chosen threads, and of those that they wait for in turn.
        self.shown: list[Wait] = list(self.graph.waits)
        if chosen.chosen:
            reached = {wait for thread in wanted for wait in self.graph.chain(thread.address)}
            self.shown = [wait for wait in self.graph.waits if wait in reached]


def title(target: Target, thread: int) -> str:
    """``deadlock.exe 2040.2044``."""
    reader = thread_reader(target)
    return (reader.title(thread) if reader is not None else None) or f"{thread:x}"


def holder_name(target: Target, wait: Wait) -> str:
    """Who ends a wait."""
    if wait.holder is not None:
        return title(target, wait.holder)
    process = read_process(target, wait.process or 0)
    return f"{process.name or '?'} {process.pid or 0:x}"


def waits_grid(target: Target, chosen: Threads, progress: Progress | None = None) -> KdumpGrid:
    """A row for each wait whose end depends on a known thread or process."""
    waits = _Waits(target, chosen, progress)
    return KdumpGrid(_COLUMNS, _rows(waits), lambda: _lines(waits))


def _rows(waits: _Waits) -> Iterator[Row]:
    for wait in waits.shown:
        number: Any = waits.deadlocks.get(wait)
        yield (
            0,
            (
                format_hints.Hex(wait.waiter),
                title(waits.target, wait.waiter),
                wait.kind,
                format_hints.Hex(wait.object),
                format_hints.Hex(wait.holder if wait.holder is not None else wait.process or 0),
                text_cell(holder_name(waits.target, wait)),
                wait.sure,
                absent() if number is None else number,
                absent(),
            ),
        )
    for problem in waits.graph.problems:
        yield 0, (*((absent(),) * (len(_COLUMNS) - 1)), problem)


def _lines(waits: _Waits) -> Iterator[str]:
    for wait in waits.shown:
        yield sentence(waits.target, wait)
    if not waits.shown:
        yield "No thread waits for another one, as far as objects have owners."
    for number, circle in enumerate(waits.graph.deadlocks, 1):
        if not any(wait in waits.shown for wait in circle):
            continue
        yield ""
        certain = all(wait.sure for wait in circle)
        yield f"DEADLOCK {number}:" if certain else f"Possible deadlock {number} (some wait may end otherwise):"
        for wait in circle:
            yield f"    {sentence(waits.target, wait)}"
    for problem in waits.graph.problems:
        yield f"NOTE: {problem}"


def sentence(target: Target, wait: Wait) -> str:
    """Who waits for what of whom."""
    holder = holder_name(target, wait)
    if wait.kind in ("thread", "process"):
        what = f"the end of {wait.kind} {wait.object:x}, {holder}"
    else:
        name = target.name_of(wait.object)
        what = f"the {wait.kind} {f'{name} ({wait.object:x})' if name else f'{wait.object:x}'} of {holder}"
        what += f" ({wait.holder or wait.process or 0:x})"
    return f"{title(target, wait.waiter)} ({wait.waiter:x}) waits for {what}"
