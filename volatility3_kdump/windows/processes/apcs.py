"""Asynchronous procedure calls that are queued to threads: KTHREAD.ApcState.ApcListHead, kernel and user mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_APCS = 4096
MODES = ("Kernel", "User")
_FIELDS = {
    "thread": "Thread",
    "kernel": "KernelRoutine",
    "rundown": "RundownRoutine",
    "normal": "NormalRoutine",
    "context": "NormalContext",
    "mode": "ApcMode",
    "inserted": "Inserted",
}


@dataclass(frozen=True)
class Apc:
    """A KAPC: the addresses of its routines with their names; ``None`` is not in the dump."""

    address: int
    thread: int | None
    mode: int | None
    inserted: bool | None
    routines: tuple[tuple[str, int | None, str | None], ...]
    context: int | None


def read_apc(target: Target, address: int) -> Apc:
    """The KAPC at an address. Raises :class:`KdumpError` where it is not in the dump."""
    nt = require_symbols(target, "APCs", "_KAPC", "_KTHREAD.ApcState")
    row: Any = read_row(target.memory, nt.reader("_KAPC", **_FIELDS), address)
    if row is None:
        raise Unreadable.at(address, "a KAPC", target.memory.why_unreadable(address))
    routines = tuple(
        (label, value, target.name_of(value) if value else None)
        for label, value in (("Kernel", row.kernel), ("Rundown", row.rundown), ("Normal", row.normal))
    )
    inserted = None if row.inserted is None else bool(row.inserted)
    return Apc(address, row.thread, row.mode, inserted, routines, row.context)


def thread_apcs(target: Target, thread: int, problems: list[str]) -> list[Apc]:
    """The APCs queued to a thread; what is not in the dump is appended to ``problems``."""
    nt = require_symbols(target, "APCs", "_KAPC", "_KTHREAD.ApcState")
    heads = thread + nt.offset("_KTHREAD", "ApcState.ApcListHead")
    link = nt.offset("_KAPC", "ApcListEntry")
    apcs: list[Apc] = []
    for number, mode in enumerate(MODES):
        head = heads + number * 2 * target.memory.pointer_size
        if target.memory.pointer(head) in (None, 0):
            # Threads that never ran, or whose pages are not there.
            continue
        walk = walk_list(target.memory, head, _MOST_APCS, f"the {mode} APCs of the thread {thread:x}")
        problems += walk.problems
        for entry in walk.entries:
            try:
                apcs.append(read_apc(target, entry - link))
            except Unreadable as error:
                problems.append(str(error))
    return apcs
