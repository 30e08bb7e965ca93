"""Completion and paging."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

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
    (
        (["q"], 11),
        (["enter", "q"], 12),
        ([" ", "q"], 22),
        (["enter", "enter", " ", "Q"], 24),
        ([" "] * 9, 50),
        (["G"], 50),
    ),
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


def test_the_pager_counts_rows(small_terminal: None) -> None:
    """At 80 columns a line of 200 characters takes three rows: the fourth does not fit behind three of them."""
    asked: list[None] = []

    def ask() -> str:
        asked.append(None)
        return "q"

    pager = _Pager(ask)
    assert [pager("x" * 200) for _ in range(4)] == [False, False, False, True]
    assert len(asked) == 1


def test_the_pager_searches(small_terminal: None) -> None:
    pager = _Pager(lambda: "/", lambda: "Needle")
    stopped = [pager(f"line {number}") for number in range(100)]
    assert not any(stopped)
    assert not pager("the needle")


def test_pasted_lines_are_given_one_by_one(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    """prompt_toolkit gives a bracketed paste as one text with ends of lines."""
    pytest.importorskip("prompt_toolkit")
    from volatility3_kdump.console.terminal import _Toolkit

    class Pasted:
        def prompt(self, prompt: str) -> str:
            return "!process 0 7\nr rip\n.bugcheck"

    reader = _Toolkit.__new__(_Toolkit)
    reader._lines, reader._prompt = [], Pasted()
    assert [reader.read("kd> ") for _ in range(3)] == ["!process 0 7", "r rip", ".bugcheck"]
    assert capsys.readouterr().out == "kd> r rip\nkd> .bugcheck\n"
    assert reader.read("kd> ") == "!process 0 7"
    assert reader.pager() is None
    reader.forget()
    assert reader.read("kd> ") == "!process 0 7"


def test_types_complete(session: Session) -> None:
    assert words(session, "dt nt!_EPROC") == ["_EPROCESS", "_EPROCESS_VALUES"]
    assert words(session, "dt _eproc") == ["_EPROCESS", "_EPROCESS_VALUES"]
    assert list(candidates(session, "dt nt!_KPRC")) == [(6, "_KPRCB"), (6, "_KPRCBFLAG")]
    assert "_KPRCB" in words(session, "?? sizeof(nt!_KPRC")
    assert "_KPRCB" in words(session, "k; dx (nt!_KPRC")
    assert words(session, "dt nowhere!_K") == []


def test_fields_complete(session: Session) -> None:
    assert words(session, "dt nt!_EPROCESS ImageFileN") == ["ImageFileName"]
    assert words(session, "dt -r1 nt!_EPROCESS @$proc imagefilen") == ["ImageFileName"]
    assert list(candidates(session, "dt _KTHREAD Header.Sig")) == [(19, "Signalling"), (19, "SignalState")]
    assert words(session, "dt nt!_NOSUCH Im") == []


def test_objects_complete(session: Session) -> None:
    assert words(session, "!object \\Dri") == ["Driver"]
    assert words(session, "!object \\Driver\\my") == ["MYFAULT"]
    assert words(session, "!drvobj my") == ["MYFAULT"]
    assert words(session, "!object \\Nowhere\\my") == []


def test_files_complete(session: Session, tmp_path: Path) -> None:
    (tmp_path / "script.txt").touch()
    (tmp_path / "scripts").mkdir()
    for command in (".logopen /t ", ".opendump ", "$<", "$$>a<", "k; $$><"):
        assert words(session, f"{command}{tmp_path}/scr") == ["script.txt", "scripts/"]
    assert words(Session(), f"$<{tmp_path}/script.") == ["script.txt"]
    assert words(session, f"$<{tmp_path}/nowhere/a") == []
