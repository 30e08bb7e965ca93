"""``kdump batch``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.batch.results import Line, place, without_time
from tests.stores.server import running
from volatility3_kdump import cli


def test_the_command(dumps: Path, lines: list[Line], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    arguments = ["batch", str(dumps), "--jsonl", str(out), "--summary", str(summary), "--jobs", "1", "--offline"]
    assert cli.main(arguments) == 1
    written = [json.loads(line) for line in out.read_text("ascii").splitlines()]
    assert [place(line) for line in written] == [place(line) for line in lines]
    assert without_time(written) == without_time(lines)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.endswith(
        "7 analysed of 2 crashes in 2 groups, 6 failed\n"
        "left out: 2 other files in the directories, without a crash dump\n"
    )
    document = json.loads(summary.read_text("ascii"))
    assert document["analysed"] == 7
    # Again, nothing is left to do.
    before = out.read_bytes()
    assert cli.main([*arguments, "--resume"]) == 1
    assert out.read_bytes() == before and json.loads(summary.read_text()) == document
    assert "from before: 13 lines" in capsys.readouterr().out
    assert cli.main(arguments) == 1
    assert (
        capsys.readouterr().err == f"kdump: {out}: is there already: --resume goes on with it, or name another file\n"
    )


def test_the_command_succeeds_where_every_dump_was_analysed(
    grim: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = grim("a.dmp")
    assert cli.main(["batch", str(root / "a.dmp"), "--jsonl", str(root / "out"), "--time-limit", "60"]) == 0
    assert cli.main(["batch", str(root), "--pattern", "*.none", "--jsonl", str(root / "none")]) == 1
    assert capsys.readouterr().err == f"kdump: no crash dump found in {root}\n"


def test_servers_are_asked_only_if_the_command_line_says_so(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = shared_data / "dumps" / "triage_x64_17763.dmp"
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "KDUMP_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setattr("volatility3.framework.constants.OFFLINE", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with running() as server:
        path = f"srv*{tmp_path / 'store'}*{server.url}"
        monkeypatch.setenv("_NT_SYMBOL_PATH", path)
        assert cli.main(["batch", str(dump), "--jsonl", str(tmp_path / "without"), "--jobs", "1"]) == 0
        assert server.asked == []
        said = "kdump batch: no symbol server is asked; -y 'srv*' asks Microsoft's\n"
        assert capsys.readouterr().err == said
        assert cli.main(["batch", str(dump), "--jsonl", str(tmp_path / "with"), "--jobs", "1", "-y", path]) == 0
        assert any(place.startswith("/ntoskrnl.exe/11B35B7Ea6e000/") for place in server.asked)
        assert said not in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [[], ["--jobs", "0"], ["--jobs", "x"], ["--time-limit", "0"], ["--time-limit", "nan"]]
)
def test_a_wrong_command_line(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path), "--jsonl", str(tmp_path / "out"), *options] if options else [str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["batch", *arguments])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()


def test_files_that_cannot_be_written(grim: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = grim("a.dmp")
    assert cli.main(["batch", str(root), "--jsonl", str(root / "no" / "out")]) == 1
    assert re.fullmatch(r"kdump: .*out: cannot be written: No such file or directory\n", capsys.readouterr().err)
    assert cli.main(["batch", str(root), "--jsonl", str(root / "out"), "--triage-ini", str(root / "none.ini")]) == 1
    assert capsys.readouterr().err.startswith("kdump: ")
