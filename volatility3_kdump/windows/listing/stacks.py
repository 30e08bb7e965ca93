"""Which stacks are asked for, and the stacks themselves; equal ones once where that is asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer
from volatility3_kdump.windows.processes import process_lists, processes
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.stacks.frames import NoStack, Stack, Start
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class Request:
    """One stack: a title for KD's text, the ETHREAD if it is a thread's, where to start or why there is no stack."""

    title: str | None
    thread: int | None
    start: Start | None
    absent: str | None = None


@dataclass(frozen=True)
class WalkedStack:
    """A stack with the thread it is of, if it is a thread's, and the number of threads that have the same one."""

    request: Request
    thread: ListedThread | None
    stack: Stack
    count: int = 1


def request_thread(target: Target, thread: int, title: str | None = None) -> Request:
    """A thread's stack."""
    try:
        return Request(title, thread, thread_start(target, thread))
    except NoStack as error:
        return Request(title, thread, None, str(error))


def all_threads(target: Target, pids: Sequence[int] | None) -> list[int]:
    """The threads of the chosen processes, or of every process."""
    threads = []
    for process in process_lists.process_addresses(target):
        if pids is None or processes.read_process(target, process).pid in pids:
            threads += process_lists.thread_addresses(target, process)
    return threads


class StackList:
    """The stacks that are asked for, walked when they are first shown.

    ``most`` frames of each are walked; with ``unique`` equal stacks are one, the most frequent first.
    """

    def __init__(
        self,
        target: Target,
        requests: Sequence[Request],
        most: int,
        unique: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._target = target
        self._requests = requests
        self._progress = progress
        self.most = most
        self.unique = unique

    @functools.cached_property
    def stacks(self) -> list[WalkedStack]:
        """Each with its thread, in the order in which they are asked for."""
        stacks, namer = walker(self._target), ThreadNamer(self._target)
        walked = []
        for index, request in enumerate(self._requests):
            if self._progress is not None and len(self._requests) > 1:
                self._progress(100 * index / len(self._requests), "Walking stacks")
            stack = stacks.walk(request.start, self.most) if request.start else Stack((), request.absent or "", False)
            thread = namer.at(request.thread) if request.thread is not None else None
            walked.append(WalkedStack(request, thread, stack))
        return self._grouped(walked) if self.unique else walked

    def _grouped(self, walked: Sequence[WalkedStack]) -> list[WalkedStack]:
        """Equal stacks once. Equal means the same call sites in the kernel, and the same end."""
        groups: dict[tuple[Any, ...], list[WalkedStack]] = {}
        for one in walked:
            sites = (frame.ip for frame in one.stack.frames if self._target.is_kernel_address(frame.ip))
            groups.setdefault((*sites, one.stack.end), []).append(one)
        ordered = sorted(groups.values(), key=len, reverse=True)
        return [WalkedStack(group[0].request, group[0].thread, group[0].stack, len(group)) for group in ordered]


def threads_with_stacks(target: Target, progress: Progress | None = None) -> Iterator[ListedThread]:
    """Every thread of every process, by process, and the one that crashed where no list of the dump has it.

    Raises :class:`SymbolsNotFound` where they cannot be listed.
    """
    require_symbols(target, "the threads", "_ETHREAD")
    crashed = crash_thread(target)
    addresses = process_lists.process_addresses(target)
    for index, address in enumerate(addresses):
        if progress is not None:
            progress(100 * index / len(addresses), "Walking stacks")
        process = processes.read_process(target, address)
        for thread in process_lists.thread_addresses(target, address):
            if crashed is not None and crashed.address == thread:
                crashed = None
            yield ListedThread(target, read_thread(target, thread), process)
    if crashed is not None:
        owner = processes.read_process(target, crashed.process) if crashed.process else None
        yield ListedThread(target, crashed, owner)
