"""How far something is: what long views tell, and a line of a terminal that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from volatility3_kdump.escape import printable

#: Told the percentage done and what is being done, as the host's own callbacks.
Progress = Callable[[float, str], None]

_SHOWN_EVERY = 0.1
_WIDTH = 78


class ProgressLine:
    """Percentages, and what is done, on the last line of a terminal; nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._enabled = stream.isatty()
        self._shown = ""
        self._at = 0.0

    def __call__(self, percent: float, what: str) -> None:
        """Show how far it is, at most ten times a second. ``what`` may name what is not trusted."""
        now = time.monotonic()
        if self._enabled and now - self._at >= _SHOWN_EVERY:
            self._at = now
            self._write(f"{percent:5.1f} % {printable(what)}"[:_WIDTH])

    def clear(self) -> None:
        """Make way for text."""
        if self._shown:
            self._write("")

    def _write(self, text: str) -> None:
        self._stream.write(f"\r{text:<{len(self._shown)}}" + ("" if text else "\r"))
        self._stream.flush()
        self._shown = text
