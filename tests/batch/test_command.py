"""``kdump batch``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.batch.results import Line, place, without_time
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
        "7 analysed in 2 groups, 6 failed\nleft out: 2 other files in the directories, without a crash dump\n"
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
