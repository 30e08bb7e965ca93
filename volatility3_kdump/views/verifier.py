"""Rows of ``kdump.verifier``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text import verifier as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, NUMBER, POINTER, TEXT, Column, table
from volatility3_kdump.windows.machine.verified import VerifiedDriver, reported_deadlock, verifier_data

VERIFIER = table(
    "kdump.verifier",
    keys.KIND(more="`level`; `counter`; `driver`, one that is verified; `lock`, one that takes part in a deadlock"),
    keys.NAME(more="of the counter or driver; of the lock, where a symbol names it"),
    keys.VALUE(more="the level, or the counter"),
    keys.TEXT(more="what the level asks for; the type of the lock"),
    keys.ADDRESS(more="of the driver's entry, or of the lock"),
    keys.STATE(more="`Loaded`, `Unloaded`, `Never loaded`"),
    Column("Loads", NUMBER, "how often the driver was loaded"),
    Column("Unloads", NUMBER, "how often it was unloaded"),
    keys.THREAD(more="that took the lock"),
    Column("LockBefore", POINTER, "the lock that the thread held already"),
    Column("TakenAt", TEXT, "where it was taken: the innermost return address"),
    keys.NOTES(),
)


def verifier_grid(target: Target, listed: bool = True, driver: str | None = None) -> KdumpGrid:
    """What Driver Verifier keeps (``!verifier``). Raises :class:`KdumpError`."""
    data = verifier_data(target)
    drivers = data.drivers
    if driver is not None:
        drivers = tuple(entry for entry in drivers if (entry.name or "").lower() == driver.lower())
        if not drivers:
            raise KdumpError(f"{target.name}: no driver named {driver} is verified")
    shown: tuple[VerifiedDriver, ...] | None = drivers if listed else None

    def rows() -> Iterator[Row]:
        level = data.level
        yield VERIFIER.row(0, Kind="level", Value=level, Text="; ".join(words.flag_names(level or 0)) or BLANK)
        for name, value in data.counters.items():
            yield VERIFIER.row(0, Kind="counter", Name=name, Value=value)
        for entry in drivers:
            yield VERIFIER.row(
                0,
                Kind="driver",
                Name=entry.name,
                Address=entry.address,
                State=entry.state,
                Loads=entry.loads,
                Unloads=entry.unloads,
            )
        for problem in data.problems:
            yield VERIFIER.row(0, Notes=[problem])

    return VERIFIER.grid(rows(), lambda: words.verifier_lines(data, shown))


def deadlock_grid(target: Target, stacks: bool = False) -> KdumpGrid:
    """The deadlock that Driver Verifier reported (``!deadlock``). Raises :class:`KdumpError`."""
    deadlock = reported_deadlock(target)
    names = deadlock.names

    def rows() -> Iterator[Row]:
        for entry in deadlock.participants:
            yield VERIFIER.row(
                0,
                Kind="lock",
                Name=names.get(entry.lock or 0) or BLANK,
                Address=entry.lock,
                Text=entry.kind,
                Thread=entry.thread,
                LockBefore=entry.before,
                TakenAt=names.get(entry.stack[0]) or f"{entry.stack[0]:#x}" if entry.stack else None,
            )
        for problem in deadlock.problems:
            yield VERIFIER.row(0, Notes=[problem])

    return VERIFIER.grid(rows(), lambda: words.deadlock_lines(deadlock, stacks, target.memory.pointer_size))
