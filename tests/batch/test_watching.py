"""Directories that are watched."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.batch.executors import Here
from volatility3_kdump.batch import Done, Options, watching
from volatility3_kdump.cli import main


def test_files_are_analysed_when_they_have_stopped_growing(
    sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sample(4).read_bytes()
    looks = itertools.count()

    def pass_time(seconds: float) -> None:
        look = next(looks)
        if look == 0:
            (tmp_path / "one.dmp").write_bytes(data[:5000])
        elif look == 1:
            (tmp_path / "one.dmp").write_bytes(data)
        elif look == 3:
            (tmp_path / "two.dmp").write_bytes(data[:-1])
        elif look > 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", pass_time)
    lines = watching.watched([str(tmp_path)], (), Options(), Here(), 1, Done(), None)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for line in lines:
            seen.append((line["file"]["name"], line["file"]["size"]))
    assert seen == [("one.dmp", len(data)), ("two.dmp", len(data) - 1)]


def test_the_command_ends_with_an_interrupt(
    sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, out = tmp_path / "in", tmp_path / "out.jsonl"
    directory.mkdir()
    (directory / "one.dmp").write_bytes(sample(4).read_bytes())
    looks = itertools.count()

    def pass_time(seconds: float) -> None:
        if next(looks) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", pass_time)
    assert main(["batch", str(directory), "--jsonl", str(out), "--watch", "--jobs", "1"]) == 130
    shown = capsys.readouterr()
    assert f"{directory / 'one.dmp'}: DRIVER_IRQL_NOT_LESS_OR_EQUAL, myfault.sys" in shown.out
    assert "--resume goes on" in shown.err
    assert [json.loads(line)["error"] for line in out.read_text().splitlines()] == [None]
