"""How much of the same is tried: with ``--thorough`` all that a test says, else a part of it."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest

#: Whether ``--thorough`` was given; set before any test is imported.
thorough = False

#: What ``make test`` does of the repetitions: one of so many.
_SHARE = 5
_THOROUGH = pytest.mark.thorough


def part(count: int) -> int:
    """The number of random inputs, seeds or lines to try: ``count`` with ``--thorough``, else a fifth of it."""
    return count if thorough else max(1, count // _SHARE)


def step() -> int:
    """The step through a long list of cases: every one with ``--thorough``, else every fifth."""
    return 1 if thorough else _SHARE


def only(quick: Container[Any], of: Iterable[Any]) -> list[Any]:
    """The cases of a test, of which all but the quick ones are marked ``thorough``: the rest is more of the same.

    A case that is a tuple is that of a test with several parameters.
    """
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=_THOROUGH)
        for case in of
    ]
