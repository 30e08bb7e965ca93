"""Cases: scenes of the sample maker as a rule sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from volatility3_kdump.analysis.bugcheck import describe, header_bug_check
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.reasoning import Case
from volatility3_kdump.target import Target


@pytest.fixture(scope="session")
def case(scene: Callable[..., Target]) -> Callable[..., Case]:
    """``case(name, dump_type=6, isf=None)``: the case of a scene."""

    def make(name: str, dump_type: int = 6, isf: Path | None = None) -> Case:
        return case_of(scene(name, dump_type, isf))

    return make


def case_of(target: Target) -> Case:
    bug_check = header_bug_check(target)
    assert bug_check is not None
    return Case(target, bug_check, find_failure(target, bug_check))


@pytest.fixture(scope="session")
def other_arguments(scene: Callable[..., Target]) -> Callable[..., Case]:
    """``other_arguments(code, parameters, name="myfault", dump_type=6)``: a scene's dump with another bug check."""

    def make(code: int, parameters: Sequence[int | None], name: str = "myfault", dump_type: int = 6) -> Case:
        target = scene(name, dump_type)
        bug_check = describe(code, parameters)
        return Case(target, bug_check, find_failure(target, bug_check))

    return make
