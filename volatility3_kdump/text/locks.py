"""Executive resources in the words of KD's ``!locks``; notes of our own start with ``NOTE:``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.processes.resources import Owner, Resource, Waiter

HEADING = "**** DUMP OF ALL RESOURCE OBJECTS ****"
SCANNING = "KD: Scanning for held locks...."
_PER_ROW = 4
_THREADS = "     Threads: "
_INDENT = " " * len(_THREADS)
#: A waiter takes up as much room as an owner with its count.
_BESIDE = " " * len("-01<*> ")


def resource_lines(resource: Resource, name: str | None, size: int = 8) -> Iterator[str]:
    """A resource; ``name`` is that of the variable that it is, ``size`` that of a pointer in bytes."""
    place = f"0x{pointer(resource.address, size, tick=False)}"
    yield f"Resource @ {f'{name} ({place})' if name else place}    {_state(resource)}"
    for label, value in (
        ("Contention Count", resource.contention),
        ("NumberOfSharedWaiters", resource.shared_count),
        ("NumberOfExclusiveWaiters", resource.exclusive_count),
    ):
        if value:
            yield f"    {label} = {value}"
    yield from _rows(_THREADS, [_owner(owner, size) for owner in resource.owners])
    yield from _waiters("Shared", resource.shared_waiters, size)
    yield from _waiters("Exclusive", resource.exclusive_waiters, size)
    for note in resource.notes:
        yield f"    NOTE: {note}"


def _state(resource: Resource) -> str:
    if resource.fast:
        return "Owners not known"
    if not resource.held:
        unknown = resource.active_count is None and resource.active_entries is None
        return "State not known" if unknown else "Available"
    return "Exclusively owned" if resource.exclusive else f"Shared {resource.owning} owning threads"


def _owner(owner: Owner, size: int) -> str:
    line = f"{pointer(owner.pointer, size, tick=False)}-{owner.count:02x}<*> "
    if owner.flagged and owner.thread is not None:
        line += f"*** Actual Thread {pointer(owner.thread, size, tick=False)}"
    elif owner.flagged:
        line += "(owner pointer, no thread)"
    return line


def _waiters(kind: str, waiters: Sequence[Waiter], size: int) -> Iterator[str]:
    if waiters:
        yield ""
        yield f"     Threads Waiting On {kind} Access:"
        yield from _rows(_INDENT, [pointer(waiter.thread, size, tick=False) + _BESIDE for waiter in waiters])


def _rows(first: str, cells: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(cells), _PER_ROW):
        row = cells[start : start + _PER_ROW]
        # what stands behind an owner needs room before the next one
        yield (_INDENT if start else first) + "".join(
            cell if cell.endswith(" ") or cell is row[-1] else f"{cell} " for cell in row
        )


def totals(total: int, held: int) -> str:
    """The last line."""
    return f"{total} total locks" + (f", {held} locks currently held" if held else "")
