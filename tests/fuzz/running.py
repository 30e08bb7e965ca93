"""Runs of damaged input: every one answered or refused in one line, soon, and without much memory.

A case is the name of its run and its number, so that it can be made again. ``KDUMP_FUZZ_FIRST`` is the number to begin
with, and ``KDUMP_FUZZ_MINUTES`` the time for all runs together (``make fuzz``); without it each run is a few cases.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from tests.amounts import part
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable

FIRST = int(os.environ.get("KDUMP_FUZZ_FIRST", "0"))
MINUTES = float(os.environ.get("KDUMP_FUZZ_MINUTES", "0"))

#: Seconds of processor time, and bytes of memory, that no input takes.
LONGEST = 10
MOST_MEMORY = 400 << 20


def fit_for_a_terminal(message: str) -> bool:
    """Whether a message is one line that says something, with nothing in it that a terminal would obey."""
    return bool(message) and printable(message) == message


class TooLong(BaseException):
    """An input took longer than :data:`LONGEST`; not an error that anything in between would catch."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise :class:`TooLong` in what takes too much processor time, where the system can say so."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {LONGEST} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak_memory() -> int:
    """The most memory that this process has had, in bytes; 0 where that cannot be asked."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class Runner:
    """Gives damaged input to a function. ``seconds`` is how long at least, and ``kept`` where failures are written."""

    request: pytest.FixtureRequest
    seconds: float
    kept: Path

    def run(
        self,
        name: str,
        originals: list[bytes],
        damage: Callable[[bytes, random.Random], bytes],
        feed: Callable[[bytes], None],
        at_least: int,
    ) -> None:
        """Damage the originals in turn, ``at_least`` times with ``--thorough``, else a part of that.

        ``feed`` may raise errors of the package only, which must be one line.
        """
        deadline = time.monotonic() + self.seconds
        number, last = FIRST, FIRST + part(at_least)
        while number < last or time.monotonic() < deadline:
            generator = random.Random(zlib.crc32(name.encode()) << 32 | number)
            data = damage(originals[number % len(originals)], generator)
            before = peak_memory()
            try:
                with limited():
                    feed(data)
            except KdumpError as error:
                assert fit_for_a_terminal(str(error)), f"{name}, case {number}: {error!r}"
            except BaseException:
                file = self.kept / f"{name}-{number}"
                file.write_bytes(data)
                print(f"{name}, case {number}: {file}")
                raise
            assert peak_memory() - before < MOST_MEMORY, f"{name}, case {number}"
            number += 1
        self.request.node.user_properties.append(("inputs", number - FIRST))
