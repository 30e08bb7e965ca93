"""Completion and paging."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from volatility3_kdump.console.session import Session
from volatility3_kdump.console.terminal import _Pager, candidates


def words(session: Session, before: str) -> list[str]:
    return [word for _, word in candidates(session, before)]


def test_commands_complete_at_the_beginning(session: Session) -> None:
    assert words(session, ".lo") == [".logappend", ".logclose", ".logfile", ".logopen"]
    assert words(session, "k; !irp") == ["!irp", "!irpfind"]
    assert "!process" in words(session, "!PRO")
    assert words(Session(), "!irp") == ["!irp", "!irpfind"]


def test_modules_and_symbols_complete_behind(session: Session) -> None:
    assert words(session, "u myf") == ["myfault"]
    assert words(session, "lm m win32k") == ["win32k", "win32kbase", "win32kfull"]
    assert words(session, "u nt!KeBugCheckE") == ["KeBugCheckEx"]
    assert words(session, "dq poi(nt!psinitialsys") == ["PsInitialSystemProcess"]
    assert list(candidates(session, "u nt!KeBugCheckE")) == [(5, "KeBugCheckEx")]
    assert words(session, "u nowhere!Ke") == []
    assert words(session, "u ") == []
    assert len(words(session, "u nt!K")) <= 200


def test_what_is_completed_is_fit_for_a_terminal(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    evil = dataclasses.replace(session.target.modules[0], name="evil\x1b[31m")
    monkeypatch.setitem(session.target.__dict__, "modules", [evil])
    assert words(session, "u ev") == ["evil\\x1b[31m"]


@pytest.fixture
def small_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 12)))


def shown(keys: list[str], lines: int) -> int:
    """How many lines are shown until the pager is told to stop."""
    answers = iter(keys)
    pager = _Pager(lambda: next(answers))
    for number in range(1, lines + 1):
        if pager():
            return number
    return lines


@pytest.mark.parametrize(
    ("keys", "lines"),
    ((["q"], 11), (["enter", "q"], 12), ([" ", "q"], 22), (["enter", "enter", " ", "Q"], 24), ([" "] * 9, 50)),
)
def test_keys_of_the_pager(small_terminal: None, keys: list[str], lines: int) -> None:
    assert shown(keys, 50) == lines


@pytest.mark.parametrize("error", (EOFError, KeyboardInterrupt))
def test_ending_the_input_ends_the_output(small_terminal: None, error: type[BaseException]) -> None:
    def leave() -> str:
        raise error

    def count(pager: Callable[[], bool]) -> int:
        return next(number for number in range(1, 50) if pager())

    assert count(_Pager(leave)) == 11
