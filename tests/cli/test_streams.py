"""Outputs that are closed, full or left, and places that cannot be written: one line, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from tests.amounts import only
from volatility3_kdump.cli import main
from volatility3_kdump.cli.streams import run_guarded
from volatility3_kdump.plugin import PluginFailure
from volatility3_kdump.renderers import SafeCSVRenderer, WindbgRenderer
from volatility3_kdump.views.info import info_grid

CHECKOUT = Path(__file__).resolve().parents[2]
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


def run(shell: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which ``$KDUMP`` is the command and ``$1``, ``$2`` ... are the arguments."""
    return subprocess.run(
        ["sh", "-c", shell, "sh", *arguments],
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "KDUMP": f"{sys.executable} -m volatility3_kdump", **environment},
        capture_output=True,
        timeout=120,
    )


@full
def test_a_full_disk_behind_the_output(sample: Callable[..., Path]) -> None:
    done = run('$KDUMP -z "$1" -c "lm; q" > /dev/full', str(sample()))
    assert done.returncode == 1
    assert done.stderr == b"kdump: the output cannot be written: No space left on device\n"


@pytest.mark.thorough
@full
def test_a_full_disk_behind_the_log_closes_the_log(sample: Callable[..., Path]) -> None:
    commands = "; ".join(["lm"] * 20 + ["!analyze -v", "q"])
    done = run(f'$KDUMP -z "$1" -logo /dev/full -c "{commands}"', str(sample()))
    assert done.returncode == 0 and not done.stderr
    assert b"/dev/full: the log is closed: No space left on device" in done.stdout
    assert b"Followup:" in done.stdout


@pytest.mark.thorough
@full
def test_a_full_disk_at_the_end_of_the_log_is_said(sample: Callable[..., Path]) -> None:
    done = run('$KDUMP -z "$1" -logo /dev/full -c "!analyze; q"', str(sample()))
    assert done.returncode == 1 and b"Followup:" in done.stdout
    assert done.stderr == b"kdump: /dev/full: the end of the log is not written: No space left on device\n"


def test_no_output_at_all(sample: Callable[..., Path]) -> None:
    done = run('$KDUMP -z "$1" -c "lm; q" >&- 2>&-', str(sample(4)))
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ('-z "$1" -c "lm"', 0, b""),
        ("verdict -", 1, b"kdump: standard input: there is no text in it\n"),
        pytest.param("mcp --root .", 0, b"", marks=pytest.mark.thorough),
    ],
)
def test_no_input_at_all(command: str, status: int, told: bytes, sample: Callable[..., Path]) -> None:
    done = run(f"$KDUMP {command} <&-", str(sample(4)))
    assert (done.returncode, done.stderr) == (status, told)


@pytest.mark.parametrize("command", [pytest.param("doctor", marks=pytest.mark.thorough), "symbols --manifest $1"])
def test_a_reader_that_leaves(command: str, sample: Callable[..., Path]) -> None:
    done = run(f"$KDUMP {command} | true", str(sample()))
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


@pytest.mark.newest_host
def test_a_cache_that_cannot_be_made_is_named(sample: Callable[..., Path], tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"")
    done = run('$KDUMP -z "$1" -c q', str(sample()), XDG_CACHE_HOME=str(place / "below"))
    assert done.returncode == 1
    assert done.stderr.startswith(b"kdump: ") and done.stderr.count(b"\n") == 1
    assert b"set XDG_CACHE_HOME" in done.stderr


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "ev\x1b]0;pwn\x07\nil.dmp"
    path.write_bytes(b"PAGE")
    done = run('$KDUMP -z "$1" -c q', str(path))
    assert done.returncode == 1
    assert done.stderr.startswith(b"kdump: ev\\x1b]0;pwn\\x07\\x0ail.dmp: ") and done.stderr.count(b"\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("options", only(('-z "$2"',), ('-z "$2"', '-z "$1" -cf "$2"')))
def test_pipes_are_refused(options: str, sample: Callable[..., Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run(f"$KDUMP {options} < /dev/null", str(sample()), str(pipe))
    assert done.returncode == 1
    assert b"is a pipe, not a file: write its content to a file first" in done.stderr


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_names_that_are_not_utf_8(sample: Callable[..., Path], tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.dmp"
    os.symlink(os.fsencode(sample()), path)
    done = run('$KDUMP -z "$1" -c "!analyze; q"', os.fsdecode(path))
    assert done.returncode == 0 and b"Followup:" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "symbols --manifest {0} -o {0}",
        "analyze {0} --format json={0}",
        "-z {0} -c .logopen\\x20{0};q",
        "-z {0} -logo {1} -c q",
    ],
)
def test_no_output_replaces_a_dump(
    arguments: str, sample: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evidence, other = tmp_path / "evidence.dmp", tmp_path / "other.dmp"
    for path in (evidence, other):
        path.write_bytes(sample(4).read_bytes())
    filled = [part.replace("\\x20", " ") for part in arguments.format(evidence, other).split()]
    status = main(filled)
    shown = capfd.readouterr()
    assert status == 1 or ".logopen" in arguments
    assert ("is no text: name another file" in shown.err + shown.out) or "is the dump" in shown.err + shown.out
    for path in (evidence, other):
        assert path.read_bytes() == sample(4).read_bytes()


@full
@pytest.mark.parametrize("renderer", [WindbgRenderer, SafeCSVRenderer])
def test_a_full_disk_behind_a_renderer_of_ours(
    renderer: type[Any], sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = info_grid(volatility3_kdump.open(sample()))
    grid.failure = lambda error: PluginFailure(str(error))
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        with pytest.raises(PluginFailure, match=r"^the output cannot be written: No space left on device$"):
            renderer().render(grid)


def test_ctrl_c_is_one_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", open(os.devnull, "w"))

    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_guarded(interrupted) == 130
    assert capfd.readouterr().err == "kdump: interrupted\n"
