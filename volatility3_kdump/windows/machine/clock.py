"""The clock of the machine: how long a tick is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


def clock_increment(target: Target) -> int | None:
    """KeMaximumIncrement: 100 ns units of a clock tick; ``None`` when it is not in the dump."""
    return target.once(_read_increment)


def _read_increment(target: Target) -> int | None:
    for address in (target.symbol("KeMaximumIncrement"), target.variable("KeTimeIncrement", "KeTimeIncrement")):
        increment = target.memory.unsigned(address, 4) if address else None
        if increment:
            return increment
    return None
