"""The waits of chosen threads with the names of who waits, for what, and of whom; and the deadlocks among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.waits import Wait, WaitGraph, find_waits
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.threads import ThreadChoice, every_thread
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.threads import thread_reader
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class NamedWait:
    """A wait with its names.

    ``waiter`` and ``holder`` are as ``deadlock.exe 2040.2044``, a process as ``deadlock.exe 2040``; ``object`` is the
    symbol of what is waited for, where it has one; ``deadlock`` the number of the circle that the wait is part of.
    """

    wait: Wait
    waiter: str
    holder: str
    object: str | None
    deadlock: int | None = None

    @property
    def holder_address(self) -> int:
        """The ETHREAD or EPROCESS that ends the wait."""
        return self.wait.holder or self.wait.process or 0


def name_wait(target: Target, wait: Wait, deadlock: int | None = None) -> NamedWait:
    """A wait with its names."""
    if wait.holder is not None:
        holder = _thread_name(target, wait.holder)
    else:
        process = read_process(target, wait.process or 0)
        holder = f"{process.name or '?'} {process.pid or 0:x}"
    return NamedWait(wait, _thread_name(target, wait.waiter), holder, target.name_of(wait.object), deadlock)


def _thread_name(target: Target, thread: int) -> str:
    reader = thread_reader(target)
    return (reader.title(thread) if reader is not None else None) or f"{thread:x}"


class Deadlocks:
    """Circles of waits, numbered from 1."""

    def __init__(self, circles: Iterable[Sequence[Wait]]) -> None:
        self.circles = list(circles)
        self._numbers = {wait: number for number, circle in enumerate(self.circles, 1) for wait in circle}

    def number(self, wait: Wait) -> int | None:
        """The number of the circle that a wait is part of."""
        return self._numbers.get(wait)


class WaitChains:
    """The waits of the chosen threads, and of those that they wait for in turn; by default every wait.

    Raises :class:`KdumpError` where the dump cannot hold them.
    """

    def __init__(self, target: Target, chosen: ThreadChoice, progress: Progress | None = None) -> None:
        if target.dump.triage is not None:
            raise KdumpError(f"{target.name}: a small memory dump holds one thread: nobody it could wait for")
        require_symbols(target, "wait chains", "_ETHREAD")
        threads = list(every_thread(target, None, progress))
        graph: WaitGraph = find_waits(target, threads)
        shown = list(graph.waits)
        if chosen.chosen:
            wanted = [thread for thread in threads if chosen.fits(thread)]
            reached = {wait for thread in wanted for wait in graph.chain(thread.address)}
            shown = [wait for wait in graph.waits if wait in reached]
        deadlocks = Deadlocks(graph.deadlocks)
        self.problems = graph.problems
        self.waits = [name_wait(target, wait, deadlocks.number(wait)) for wait in shown]
        #: The circles that a shown wait is part of, with their numbers.
        self.deadlocks: list[tuple[int, list[NamedWait]]] = [
            (number, [name_wait(target, wait, number) for wait in circle])
            for number, circle in enumerate(deadlocks.circles, 1)
            if any(wait in shown for wait in circle)
        ]
