"""KUSER_SHARED_DATA of a target: read once, wherever it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.symbols.shared_data import SharedData, read_shared_data

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

__all__ = ["SharedData", "read_shared_data", "shared_data"]


def shared_data(target: Target) -> SharedData | None:
    """The shared data page of a target, ``None`` when it is not in the dump."""
    return target.once(_read)


def _read(target: Target) -> SharedData | None:
    return read_shared_data(target.memory)
