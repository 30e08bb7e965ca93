"""The IRPs of all threads, each with its thread, its process and the driver that has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.requests import IrpView, view_irp
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.io.requests import read_irp
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Threads of which it is said one by one why their IRPs are not known.
_MOST_SILENT = 8


@dataclass(frozen=True)
class PendingRequest:
    """An IRP of a thread; ``view`` is ``None``, and ``reason`` says why, where it cannot be read."""

    address: int
    thread: ListedThread
    view: IrpView | None
    reason: str = ""


class PendingRequests:
    """The IRPs of all threads; ``problems`` say where they could not be looked for."""

    def __init__(self, target: Target, progress: Progress | None = None) -> None:
        self._target = target
        self._progress = progress
        self.problems: list[str] = []
        self.requests = list(self._find())

    def _find(self) -> Iterator[PendingRequest]:
        target, namer = self._target, ThreadNamer(self._target)
        seen: set[int] = set()
        silent = 0
        threads = self._threads()
        for index, thread in enumerate(threads):
            if self._progress is not None and index % 64 == 0:
                self._progress(100 * index / len(threads), "Reading IRPs")
            listed = namer.at(thread)
            unread = _why_unread(target, thread)
            if unread:
                silent += 1
                self.problems += [f"thread {thread:#x}: {unread}"] if silent <= _MOST_SILENT else []
            self.problems += [f"thread {thread:#x}: {note}" for note in listed.thread.notes if "IrpList" in note]
            for irp in listed.thread.irps:
                if irp.address in seen:
                    continue
                seen.add(irp.address)
                try:
                    yield PendingRequest(irp.address, listed, view_irp(target, read_irp(target, irp.address)))
                except KdumpError as error:
                    yield PendingRequest(irp.address, listed, None, str(error))
        if silent > _MOST_SILENT:
            self.problems.append(f"the IRPs of {silent - _MOST_SILENT} more threads are not known")

    def _threads(self) -> list[int]:
        target = self._target
        processes = list(process_addresses(target))
        if target.dump.triage is not None:
            self.problems.append(
                "a small memory dump holds few threads besides the crashing one: other IRPs are not in it"
            )
        elif not processes:
            self.problems.append(f"no process list: it needs the kernel's symbols ({target.symbol_status})")
        threads = [thread for process in processes for thread in thread_addresses(target, process)]
        crashed = crash_thread(target)
        if crashed is not None and crashed.address not in threads:
            threads.append(crashed.address)
        return threads


def _why_unread(target: Target, thread: int) -> str | None:
    """Why it is not known whether a thread has IRPs."""
    nt = target.nt
    field = nt.find("_ETHREAD", "IrpList") if nt is not None and nt.has_type("_ETHREAD") else None
    if field is None:
        return f"its IRPs are not known without the kernel's symbols ({target.symbol_status})"
    place = thread + field.offset
    if target.memory.pointer(place) is None:
        return f"its IRPs are not known: IrpList at {place:#x}: {target.memory.why_unreadable(place)}"
    return None
