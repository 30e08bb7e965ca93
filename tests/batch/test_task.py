"""The line of one dump: every dump has one, whatever happens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.batch.executors import Here
from tests.batch.results import EXPECTED, Line, place
from volatility3_kdump import __version__, batch
from volatility3_kdump.batch import Summary, task
from volatility3_kdump.errors import KdumpError

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_dump_has_one_line_in_the_order_of_names(dumps: Path, lines: list[Line]) -> None:
    found = [(Path(path).relative_to(dumps).as_posix(), name) for path, name in map(place, lines)]
    assert found == [(path, name) for path, name, _ in EXPECTED]
    for line, (_, _, words) in zip(lines, EXPECTED, strict=True):
        assert list(line)[:5] == ["batch", "file", "elapsed_seconds", "kdump_version", "error"]
        assert line["batch"] == 1 and line["kdump_version"] == __version__ and line["elapsed_seconds"] >= 0
        path = Path(line["file"]["path"])
        assert line["file"]["size"] == path.stat().st_size and line["file"]["name"] == path.name
        # What is no dump is not read to its end: it may be a sparse file of terabytes.
        is_dump = line["error"] is None or line["error"]["kind"] != "NotACrashDump"
        assert line["file"]["sha256"] == (hashlib.sha256(path.read_bytes()).hexdigest() if is_dump else None)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["file"]["modified"])
        if words is None:
            assert line["error"] is None and line["verdict"]["bucket"]
        else:
            assert re.search(words, line["error"]["message"]) and not line["error"]["again"]
            assert len(line) == 5
    json.dumps(lines)


def test_a_line_is_the_document_of_the_plugin(
    dumps: Path, lines: list[Line], run_plugin: Callable[..., Any], tmp_path: Path
) -> None:
    for number, options in ((2, ()), (6, ("--member", "two.dmp"))):
        line = lines[number]
        report = tmp_path / f"{number}.json"
        finished = run_plugin("-q", "-f", line["file"]["path"], "kdump.analyze", "--report", report, *options)
        assert finished.returncode == 0, finished.stderr
        ours = ("batch", "file", "elapsed_seconds", "kdump_version", "error", "modules")
        assert {key: value for key, value in line.items() if key not in ours} == json.loads(report.read_text())


def test_the_schema_names_every_key(lines: list[Line]) -> None:
    summary = Summary()
    for line in lines:
        summary.add(line)
    schema = (CHECKOUT / "docs" / "batch-schema.md").read_text(encoding="utf-8")
    described = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", schema))))
    document = summary.document()
    keys = {*lines[1], *lines[1]["file"], *lines[1]["error"], *lines[6]["file"]["member"], *document}
    keys.update(*document["groups"], *document["errors"], *document["groups"][0]["examples"])
    assert keys <= described, keys - described


@pytest.mark.parametrize(
    "failure, kind, again",
    [
        (MemoryError(), "MemoryError", True),
        (OSError(5, "Input/output error"), "OSError", True),
        (RecursionError("too deep"), "RecursionError", False),
        (TypeError("two\nlines\x1b"), "TypeError", False),
        (KdumpError("one line"), "KdumpError", False),
    ],
)
def test_whatever_an_analysis_raises_is_in_the_line(
    failure: Exception, kind: str, again: bool, grim: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Line:
        raise failure

    monkeypatch.setattr(task, "_document", fail)
    (line,) = batch.batch([grim("a.dmp")], executor=Here(), jobs=1)
    assert (line["error"]["kind"], line["error"]["again"]) == (kind, again)
    assert line["error"]["message"].isprintable() and line["file"]["sha256"]
    if kind == "TypeError":
        assert "(test_task.py:" in line["error"]["message"]
