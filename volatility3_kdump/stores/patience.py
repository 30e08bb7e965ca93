"""How long a host may keep a run waiting: one account for each, whatever of it waits and however much at a time.

Looking up the name, connecting, the wait for an answer and between attempts are all taken from the account; what the
host gives is paid into it. So one that gives nothing costs the same whether it cannot be reached, takes connections and
says nothing, or sends a byte now and then, and whether one file is asked for or a hundred.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType


class Patience:
    """The account of one host, in seconds. A context manager: time counts while any of its ``with`` blocks runs.

    It starts with ``first`` seconds, and holds at most ``most``: a host that has proved to answer is waited for longer.
    """

    def __init__(self, first: float, most: float) -> None:
        self._lock = threading.Lock()
        self._most = max(first, most)
        self._saved = first
        self._waiting = 0
        self._since = 0.0

    def __enter__(self) -> Patience:
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._saved = self._balance()
            self._since = time.monotonic()
            self._waiting -= 1

    @property
    def left(self) -> float:
        """Seconds that are left; not above 0 when the host has used up what it was given."""
        with self._lock:
            return self._balance()

    def pay(self, seconds: float) -> None:
        """Pay in what the host earned by what it sent."""
        with self._lock:
            self._save(self._balance() + seconds)

    def fill(self) -> None:
        """Fill the account: the host gave a whole answer."""
        with self._lock:
            self._save(self._most)

    def _save(self, balance: float) -> None:
        self._saved = min(self._most, balance)
        self._since = time.monotonic()

    def _balance(self) -> float:
        return self._saved - (time.monotonic() - self._since if self._waiting else 0.0)
