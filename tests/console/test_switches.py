"""KD's command line: switches that mean nothing here are taken, and ``-q`` is for scripts."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from volatility3_kdump.console import application
from volatility3_kdump.console.switches import without_meaning

#: As batch files from the web have them.
_SWITCHES = "-lines -noshell -nosqm -s -sins -ses -failinc -secure -clines 10 -k com:port=1 -remote npipe:server=x"


def test_switches_that_mean_nothing_are_taken() -> None:
    kept, warnings = without_meaning([*_SWITCHES.split(), "-z", "-s", "-c", "k;q", "-n"])
    assert kept == ["-lines", "-z", "-s", "-c", "k;q", "-n"]
    assert len(warnings) == 10
    assert warnings[0] == "WARNING: -noshell changes nothing: no other programs are ever run"


def test_they_are_told_once(sample: Callable[..., Path], kdump: Callable[..., list[str]]) -> None:
    lines = kdump("-z", sample(), *_SWITCHES.split(), "-c", ".echo on;q")
    assert len([line for line in lines if "changes nothing" in line]) == 10
    assert "on" in lines


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        application.main(["-version"])
    assert not left.value.code
    assert "kdump" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("commands", "status", "lines"),
    (
        (".echo a;.echo b;q", 0, ["a", "b"]),
        (".echo a;!nosuch;.echo b;q", 1, ["a", "!nosuch", "b"]),
        ("!handle 0 3 0 0 0;q", 1, ["!handle knows no argument 0"]),
        (".catch { !nosuch };q", 0, ["!nosuch"]),
        (".if (1) { .break };q", 0, [".break"]),
    ),
)
def test_quiet(
    sample: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    commands: str,
    status: int,
    lines: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert application.main(["--offline", "-q", "-z", str(sample()), "-c", commands]) == status
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(lines)
    for line, begin in zip(shown, lines, strict=True):
        assert line.startswith(begin)


def test_loops_are_limited_where_nobody_types(sample: Callable[..., Path], kdump: Callable[..., list[str]]) -> None:
    lines = kdump("-z", sample(), "--steps", "50", typed=".while (1) { }\n.echo on\nq\n")
    assert "stopped after 50 commands: --steps allows more" in lines
    assert "on" in lines
