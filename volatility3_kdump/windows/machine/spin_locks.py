"""The numbered queued spin locks: which processor owns each, and which wait for it in which order.

KPRCB.LockQueue has a KSPIN_LOCK_QUEUE for each lock: a pointer to the next processor's in line, and the lock's address
with two flags. Their numbers are KSPIN_LOCK_QUEUE_NUMBER of ``wdm.h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_WAITS, _OWNS = 1, 2
_FLAGS = 3
#: ``wdm.h``; the numbers that no header names any more are in use or not, which it does not say.
_NAMES = {
    4: "CC   - Vacb",
    5: "CC   - Master",
    6: "EX   - NonPagedPool",
    7: "IO   - Cancel",
    8: "EX   - WorkQueue",
    9: "IO   - Vpb",
    10: "IO   - Database",
    11: "IO   - Completion",
    12: "NTFS - Struct",
    13: "AFD  - WorkQueue",
    14: "CC   - Bcb",
}


@dataclass(frozen=True)
class QueuedLock:
    """A numbered queued spin lock.

    ``address`` is that of the lock, 0 where no processor has one by this number. ``owner`` is the number of the
    processor that owns it, ``waiting`` those of the processors in line, in order. ``corrupt`` are processors whose
    entry contradicts the others.
    """

    number: int
    name: str
    address: int
    owner: int | None
    waiting: tuple[int, ...]
    corrupt: tuple[int, ...]


@dataclass(frozen=True)
class QueuedLocks:
    """The locks by number, and the processors that were read."""

    processors: tuple[int, ...]
    locks: tuple[QueuedLock, ...]


def read_queued_locks(target: Target) -> QueuedLocks:
    """The locks, as far as the dump holds the processors' blocks.

    Raises :class:`SymbolsNotFound` without the kernel's symbols, :class:`KdumpError` where no block is in the dump.
    """
    nt = require_symbols(target, "queued spin locks", "_KPRCB.LockQueue")
    field = nt.field("_KPRCB", "LockQueue")
    size = target.memory.pointer_size
    count = field.size // (2 * size)
    entries: dict[int, bytes] = {}
    places: dict[int, int] = {}
    for processor in processors(target):
        data = target.memory.read(processor.prcb + field.offset, field.size) if processor.prcb is not None else None
        if data is not None and processor.prcb is not None:
            entries[processor.number] = data
            places[processor.number] = processor.prcb + field.offset
    if not entries:
        raise KdumpError(f"{target.name}: no processor's control block is in the dump")

    def words(number: int, index: int) -> tuple[int, int]:
        start = 2 * size * index
        data = entries[number]
        following = int.from_bytes(data[start : start + size], "little")
        return following, int.from_bytes(data[start + size : start + 2 * size], "little")

    locks = []
    for index in range(count):
        by_processor = {number: words(number, index) for number in entries}
        addresses = [lock & ~_FLAGS for _, lock in by_processor.values()]
        usual = max(set(addresses), key=addresses.count)
        owners = [number for number, (_, lock) in by_processor.items() if lock & _OWNS]
        waiting = {number for number, (_, lock) in by_processor.items() if lock & _WAITS and not lock & _OWNS}
        corrupt = {number for number, (_, lock) in by_processor.items() if lock & ~_FLAGS != usual} | set(owners[1:])
        entry_at = {place + 2 * size * index: number for number, place in places.items()}
        order = _in_line(owners, by_processor, entry_at, waiting)
        corrupt |= waiting - set(order)
        locks.append(
            QueuedLock(
                index,
                _NAMES.get(index, f"lock {index}"),
                usual,
                owners[0] if owners else None,
                (*order, *sorted(waiting - set(order))),
                tuple(sorted(corrupt)),
            )
        )
    return QueuedLocks(tuple(entries), tuple(locks))


def _in_line(
    owners: list[int], by_processor: dict[int, tuple[int, int]], entry_at: dict[int, int], waiting: set[int]
) -> list[int]:
    """The processors that wait, from the owner's successor on."""
    order: list[int] = []
    at = owners[0] if owners else None
    while at is not None:
        following = entry_at.get(by_processor[at][0])
        if following is None or following in order or following not in waiting:
            break
        order.append(following)
        at = following
    return order
