"""Cells that the tables share: what stands where a value is not known, not set, or does not apply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from volatility3_kdump.text.times import filetime
from volatility3_kdump.views.grid import absent, address
from volatility3_kdump.views.grid import text as text_cell

_SECOND = 10_000_000


def number(value: int | None) -> Any:
    """A number's cell."""
    return text_cell(None) if value is None else value


def seconds(value: int | None) -> Any:
    """A duration of 100 ns units in seconds."""
    return text_cell(None) if value is None else value / _SECOND


def moment(value: int | None) -> Any:
    """A FILETIME's cell: not applicable for one that was never set."""
    if value is None:
        return text_cell(None)
    return filetime(value) or absent()


def optional(value: int | None) -> Any:
    """An address's cell: not applicable for one that is not set."""
    return absent() if value == 0 else address(value)


def joined(lines: Sequence[str]) -> Any:
    """Several short texts in one cell."""
    return "; ".join(lines) if lines else absent()
