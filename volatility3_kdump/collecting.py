"""Python's search for garbage, kept out of work that makes none: tables of symbols are half a million objects."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Nothing is searched for garbage inside of the block."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@functools.cache
def settle() -> None:
    """Leave what is there out of all searches from now on: imported modules and the first table are never garbage.

    Once in a process: what is there by a later table may be an earlier dump. Each full search would look through half a
    million objects, for a tenth of a second and more.
    """
    gc.freeze()
