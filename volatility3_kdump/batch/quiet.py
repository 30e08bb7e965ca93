"""What a Dask worker does for itself, less often while a batch runs on it.

A worker looks at its stacks a hundred times in a second for a profile that nobody asks for, wakes up fifty times to
see whether its event loop is late, and gives each 64 KiB that it frees back to the system, which zeroes them when they
are next used: a third of its time where a dump takes a twentieth of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

_PROFILES = ("profile", "profile-cycle")
_TICK = "tick"
_TICK_MILLISECONDS = 500.0
#: glibc, ``mallopt(3)``: what is free at the end of the heap is kept up to the first; blocks of the second and more are
#: mapped apart. Each with what glibc comes to by itself, what it starts with, and the variable that sets it.
_KEPT = (
    (-1, 64 << 20, 128 << 10, "MALLOC_TRIM_THRESHOLD_"),
    (-3, 32 << 20, 128 << 10, "MALLOC_MMAP_THRESHOLD_"),
)


class Quiet(WorkerPlugin):
    """Put on workers, those that come later too; taken off again, they are as they were."""

    name = "kdump-quiet"

    def __init__(self) -> None:
        self._profiles: dict[str, Any] = {}
        self._tick: float | None = None
        self._keeps_memory = False

    def setup(self, worker: Any) -> None:
        """Called by a worker when it gets this."""
        callbacks = getattr(worker, "periodic_callbacks", {})
        for name in _PROFILES:
            callback = callbacks.pop(name, None)
            if callback is not None:
                callback.stop()
                self._profiles[name] = callback
        tick = callbacks.get(_TICK)
        if tick is not None and tick.callback_time < _TICK_MILLISECONDS:
            self._tick = tick.callback_time
            tick.callback_time = _TICK_MILLISECONDS
        # Dask's nannies set it. Where nobody does, glibc adapts, and is left alone.
        if "MALLOC_TRIM_THRESHOLD_" in os.environ:
            self._keeps_memory = _set_allocator({name: most for _, most, _, name in _KEPT})

    def teardown(self, worker: Any) -> None:
        """Called by a worker that is to be as it was, or that ends."""
        callbacks = getattr(worker, "periodic_callbacks", {})
        ends = str(getattr(worker, "status", "")).rpartition(".")[2] != "running"
        for name, callback in self._profiles.items():
            callbacks.setdefault(name, callback)
            if not ends:
                callback.start()
        self._profiles = {}
        tick = callbacks.get(_TICK)
        if tick is not None and self._tick is not None:
            tick.callback_time = self._tick
        self._tick = None
        if self._keeps_memory:
            _set_allocator({name: _variable(name, first) for _, _, first, name in _KEPT})
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)
        self._keeps_memory = False


def _set_allocator(thresholds: dict[str, int]) -> bool:
    """Tell glibc's allocator; whether that is the one here."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(number, thresholds[name]) == 1 for number, _, _, name in _KEPT)


def _variable(name: str, otherwise: int) -> int:
    try:
        return int(os.environ[name], 0)
    except (KeyError, ValueError):
        return otherwise
