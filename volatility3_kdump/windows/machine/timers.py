"""The timers that are set: KPRCB.TimerTable of every processor, with what each does when it expires.

The kernel hashes timers by their due time into 256 lists a processor; since Windows 10 1903 into two tables of 256. A
timer's DPC is stored encoded, with ``nt!KiWaitNever``, ``nt!KiWaitAlways`` and the timer's own address.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.machine.shared_data import shared_data
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_LISTS = 256
_MOST_TIMERS = 0x4000
_MASK = (1 << 64) - 1
#: An absolute due time has this bit, as KTIMER_TABLE_ENTRY.Time of an empty list has.
_NEVER = 1 << 63


@dataclass(frozen=True)
class Timer:
    """A KTIMER that is set. ``due`` is in interrupt time, 100 ns since the start; ``overdue`` by how much that is past.

    ``period`` is in milliseconds, 0 for once. ``dpc`` and ``routine`` are what it calls, 0 for a timer without a DPC,
    ``symbol`` the name of the routine, where it was asked for;
    ``thread`` the first thread that waits for it, 0 for none. ``hand`` is the number of its list, ``table`` that of the
    table. ``None`` is not in the dump.
    """

    address: int
    processor: int
    table: int
    hand: int
    due: int | None
    period: int | None
    dpc: int | None
    routine: int | None
    thread: int | None
    overdue: int | None = None
    symbol: str | None = None


@dataclass(frozen=True)
class TimerList:
    """The timers in order of processor, table and list. ``now`` is the interrupt time, ``system_time`` the time of day
    (FILETIME) then; ``problems`` say which lists are torn."""

    timers: tuple[Timer, ...]
    now: int | None
    system_time: int | None
    problems: tuple[str, ...]

    def fires_at(self, timer: Timer) -> int | None:
        """The time of day at which a timer is due, FILETIME."""
        if self.now is None or self.system_time is None or timer.due is None or timer.due >= _NEVER:
            return None
        return self.system_time + timer.due - self.now

    def longest(self) -> int:
        """How many timers the fullest list has."""
        counts: dict[tuple[int, int, int], int] = {}
        for timer in self.timers:
            key = (timer.processor, timer.table, timer.hand)
            counts[key] = counts.get(key, 0) + 1
        return max(counts.values(), default=0)


def read_timers(target: Target, named: bool = False) -> TimerList:
    """The timers of every processor in the dump; ``named`` looks their routines up.

    Raises :class:`SymbolsNotFound` without the kernel's symbols.
    """
    nt = require_symbols(target, "timers", "_KPRCB.TimerTable", "_KTIMER_TABLE.TimerEntries", "_KTIMER", names=True)
    shared = shared_data(target)
    now = shared.interrupt_time if shared is not None else None
    problems: list[str] = []
    reader = _TimerReader(target, nt, now, problems, named)
    timers = [timer for processor in processors(target) for timer in reader.of(processor.number, processor.prcb)]
    return TimerList(tuple(timers), now, shared.system_time if shared is not None else None, tuple(problems))


class _TimerReader:
    def __init__(self, target: Target, nt: Layouts, now: int | None, problems: list[str], named: bool) -> None:
        self._target = target
        self._now = now
        self._problems = problems
        self._named = named
        entries = nt.field("_KTIMER_TABLE", "TimerEntries")
        self._start = nt.offset("_KPRCB", "TimerTable") + entries.offset
        self._entry_size = nt.size_of("_KTIMER_TABLE_ENTRY")
        self._tables = max(1, entries.size // (self._entry_size * _LISTS))
        self._head = nt.offset("_KTIMER_TABLE_ENTRY", "Entry")
        self._link = nt.offset("_KTIMER", "TimerListEntry")
        self._timer = nt.reader(
            "_KTIMER", due="DueTime.QuadPart", dpc="Dpc", period="Period", waiters="Header.WaitListHead.Flink"
        )
        self._waiters = nt.offset("_KTIMER", "Header.WaitListHead")
        self._block = nt.reader("_KWAIT_BLOCK", thread="Thread")
        self._block_link = nt.offset("_KWAIT_BLOCK", "WaitListEntry")
        self._routine = nt.offset("_KDPC", "DeferredRoutine")

    def of(self, number: int, prcb: int | None) -> Iterator[Timer]:
        if prcb is None:
            return
        for index in range(self._tables * _LISTS):
            table, hand = divmod(index, _LISTS)
            what = f"timers of processor {number}, list {hand}"
            head = prcb + self._start + index * self._entry_size + self._head
            # A list that was never used is all zeros.
            if not self._target.memory.pointer(head):
                continue
            walk = walk_list(self._target.memory, head, _MOST_TIMERS, what)
            self._problems += walk.problems
            for entry in walk.entries:
                yield self._read(entry - self._link, number, table, hand)

    def _read(self, address: int, processor: int, table: int, hand: int) -> Timer:
        row: Any = read_row(self._target.memory, self._timer, address)
        if row is None:
            return Timer(address, processor, table, hand, None, None, None, None, None)
        dpc = self._decoded(address, row.dpc)
        routine = self._target.memory.pointer(dpc + self._routine) if dpc else dpc
        due = row.due
        overdue = None
        if due is not None and self._now is not None and due < _NEVER:
            overdue = max(0, self._now - due)
        waiter = self._waiter(address, row.waiters)
        symbol = self._target.name_of(routine) if routine and self._named else None
        return Timer(address, processor, table, hand, due, row.period, dpc, routine, waiter, overdue, symbol)

    def _waiter(self, timer: int, first: int | None) -> int | None:
        """The thread of the first wait block in the timer's list."""
        if first is None:
            return None
        if first == timer + self._waiters or not self._target.is_kernel_address(first):
            return 0
        row: Any = read_row(self._target.memory, self._block, first - self._block_link)
        thread: int | None = row.thread if row is not None else None
        return thread

    @functools.cached_property
    def _keys(self) -> tuple[int, int] | None:
        """KiWaitNever and KiWaitAlways."""
        values = []
        for name in ("KiWaitNever", "KiWaitAlways"):
            at = self._target.symbol(name)
            values.append(self._target.memory.unsigned(at, 8) if at is not None else None)
        never, always = values
        return None if never is None or always is None else (never, always)

    def _decoded(self, timer: int, stored: int | None) -> int | None:
        """The address of the timer's DPC, 0 for none; ``None`` where it cannot be told."""
        if stored is None or self._keys is None:
            return None
        if self._target.memory.pointer_size == 4:
            return None
        never, always = self._keys
        value = (stored ^ never) & _MASK
        turn = never & 0x3F
        value = (value << turn | value >> 64 - turn) & _MASK
        value ^= timer
        value = int.from_bytes(value.to_bytes(8, "little"), "big") ^ always
        return value if value == 0 or self._target.is_kernel_address(value) else None
