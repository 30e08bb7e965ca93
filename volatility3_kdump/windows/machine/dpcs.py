"""Deferred procedure calls: those that wait in the processors' queues, and those that run.

KPRCB.DpcData has two queues: of normal DPCs, and of threaded ones. Since Windows 8 a queue is singly linked
(KDPC_DATA.DpcList, a KDPC_LIST), before that doubly (DpcListHead).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.machine.processors import processors

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_KINDS = ("Normal", "Threaded")
_MOST_QUEUED = 4096


@dataclass(frozen=True)
class Dpc:
    """A KDPC: its address, and its DeferredRoutine (``None``: not in the dump) with its name."""

    address: int
    routine: int | None
    symbol: str | None


@dataclass(frozen=True)
class DpcQueue:
    """One queue of a processor.

    ``kind`` is ``Normal`` or ``Threaded``; ``queued`` the DPCs in the order in which they will run, ``active`` the one
    that runs (KDPC_DATA.ActiveDpc; ``None``: none, or this kernel does not keep it); ``problem`` why there may be more.
    """

    processor: int
    kind: str
    queued: tuple[Dpc, ...]
    active: Dpc | None
    problem: str | None


def read_dpc_queues(target: Target) -> list[DpcQueue]:
    """The queues of every processor whose control block is in the dump; none without the kernel's symbols."""
    nt = target.nt
    if nt is None or not nt.has("_KPRCB", "DpcData") or not nt.has("_KDPC", "DpcListEntry"):
        return []
    start, size = nt.offset("_KPRCB", "DpcData"), nt.size_of("_KDPC_DATA")
    active = nt.find("_KDPC_DATA", "ActiveDpc")
    queues = []
    for processor in processors(target):
        for index, kind in enumerate(_KINDS if processor.prcb is not None else ()):
            data = (processor.prcb or 0) + start + index * size
            entries, problem = _entries(target, data, f"{kind.lower()} DPCs of processor {processor.number}")
            running = target.memory.pointer(data + active.offset) if active is not None else None
            link = nt.offset("_KDPC", "DpcListEntry")
            queues.append(
                DpcQueue(
                    processor.number,
                    kind,
                    tuple(_dpc(target, entry - link) for entry in entries),
                    _dpc(target, running) if running else None,
                    problem,
                )
            )
    return queues


def _dpc(target: Target, address: int) -> Dpc:
    assert target.nt is not None
    routine = target.memory.pointer(address + target.nt.offset("_KDPC", "DeferredRoutine"))
    return Dpc(address, routine, None if routine is None else target.name_of(routine))


def _entries(target: Target, data: int, what: str) -> tuple[list[int], str | None]:
    """The links of a queue (KDPC.DpcListEntry), and why there may be more."""
    nt, memory = target.nt, target.memory
    assert nt is not None
    if nt.has("_KDPC_DATA", "DpcListHead"):
        walk = walk_list(target.memory, data + nt.offset("_KDPC_DATA", "DpcListHead"), _MOST_QUEUED, what)
        return list(walk.entries), walk.problems[0] if walk.problems else None
    entries: list[int] = []
    seen: set[int] = set()
    at = data + nt.offset("_KDPC_DATA", "DpcList.ListHead")
    while True:
        following = memory.pointer(at)
        if following is None:
            return entries, f"{what}: the entry at {at:#x} is not in the dump"
        if not following:
            return entries, None
        if following in seen or not target.is_kernel_address(following):
            return entries, f"{what}: the entry at {at:#x} leads to {following:#x}, which is none"
        if len(entries) >= _MOST_QUEUED:
            return entries, f"{what}: more than {_MOST_QUEUED}"
        entries.append(following)
        seen.add(following)
        at = following
