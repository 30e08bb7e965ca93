"""What a Dask worker does for itself, less often while a batch runs on it.

A worker looks at its stacks a hundred times in a second for a profile that nobody asks for, and wakes up fifty times to
see whether its event loop is late: a fifth of its time where a dump takes a twentieth of a second.
"""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

_PROFILES = ("profile", "profile-cycle")
_TICK = "tick"
_TICK_MILLISECONDS = 500.0


class Quiet(WorkerPlugin):
    """Put on workers, those that come later too; taken off again, they are as they were."""

    name = "kdump-quiet"

    def __init__(self) -> None:
        self._profiles: dict[str, Any] = {}
        self._tick: float | None = None

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
