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


def let_go_of_dump(alone: bool) -> None:
    """Free the layers and files of a dump that is no longer used: they form circles.

    With ``alone``, in a process that only analyses dumps, what is left the first time - symbol tables, prepared for
    bisection - is then left out of all searches: :func:`settle` came before they were made.
    """
    gc.collect()
    if alone:
        _settle_between_dumps()


@functools.cache
def _settle_between_dumps() -> None:
    gc.freeze()
