"""Fixtures of the prompt's tests.

``kdump``    ``kdump("-z", dump, "-c", "k;q")`` -> lines that a session shows, run in this process
``session``  a session over the sample dump; its target is that of other tests, what commands left behind is not
``opened``   the sample dump as a target that tests share
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import session_on
from volatility3_kdump.console import application
from volatility3_kdump.console.session import Session
from volatility3_kdump.target import Target


@pytest.fixture
def kdump(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """``kdump(*arguments, typed="")``: the lines shown; the status must be 0."""

    def run(*arguments: str | Path, typed: str = "") -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert application.main(["--offline", *map(str, arguments)]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    return run


@pytest.fixture(scope="session")
def opened(sample: Callable[..., Path]) -> Target:
    """The sample, opened once."""
    return Target.open(sample())


@pytest.fixture
def session(sample: Callable[..., Path], opened: Target) -> Session:
    """A new session over it."""
    return session_on(opened, sample())
