"""The verdict and ``--report`` of ``kdump.analyze``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import transcript
from tests.conftest import CHECKOUT


def test_every_line_of_the_session_s_verdict(sample, run_plugin):
    shown = run_plugin("-f", sample(), "-r", "windbg", "kdump.analyze").stdout.splitlines()
    positions = [shown.index(line) for line in transcript.VERDICT.splitlines()]
    assert positions == sorted(positions)
    text = "\n".join(shown)
    blocks = (transcript.EXPLANATION, transcript.PROCESS, transcript.TRAP_FRAME, transcript.STACK_TEXT)
    places = [text.index(block) for block in blocks]
    assert places == sorted(places)


@pytest.fixture(scope="module")
def document(sample, run_plugin, tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("report") / "analysis.json"
    finished = run_plugin("-f", sample(), "kdump.analyze", "--report", path)
    assert finished.returncode == 0, finished.stderr
    return json.loads(path.read_text(encoding="ascii"))


def test_report_values(document):
    assert document["bug_check"]["code"] == "0xd1"
    assert document["verdict"]["hash"] == "9745090a-9bce-ccba-c096-ca6e9ca04c64"
    assert document["verdict"]["confidence"] == "high"
    assert document["failure"]["registers"]["rbx"] == "0xffffd8024aaa8010"
    assert document["failure"]["operand_agrees"] is True
    assert document["process"]["name"] == "notmyfault64.exe"
    assert document["stack"]["frames"][3]["call_site"] == "myfault+0x1981"
    assert document["dump"]["attributes"] is None


def test_schema_names_every_key(document):
    """A key that the schema does not describe, or describes under another name, fails here."""
    schema = (CHECKOUT / "docs" / "analyze-schema.md").read_text(encoding="utf-8")

    def names(value, path=""):
        for key, entry in value.items():
            yield path, key
            if isinstance(entry, dict) and key != "registers":
                yield from names(entry, f"{path}{key}.")

    described = set(re.findall(r"[a-z][a-z0-9_]*", " ".join(re.findall(r"`([^`]+)`", schema))))
    for path, key in names(document):
        assert key in described, f"{path}{key} is not described"
    for key in ("number", "call_site", "trust", "child_sp"):
        assert key in document["stack"]["frames"][0]


def test_plain_words_come_first(sample, run_plugin):
    shown = run_plugin("-q", "-f", sample(), "kdump.analyze").stdout
    rows = [line for line in shown.splitlines() if "\t" in line]
    assert rows[1].startswith("Summary\t1\tThe system stopped with bug check D1 (DRIVER_IRQL_NOT_LESS_OR_EQUAL).")
    who = next(line for line in rows if "to blame" in line)
    assert "myfault.sys" in who


def test_own_rules_change_the_culprit(sample, run_plugin, tmp_path: Path):
    rules = tmp_path / "mine.ini"
    rules.write_text("myfault=ignore\nnt!IofCallDriver=Neighbours\n", encoding="ascii")
    shown = run_plugin("-f", sample(), "-r", "windbg", "kdump.analyze", "--triage-ini", rules).stdout
    assert "IMAGE_NAME:  ntkrnlmp.exe" in shown
    assert "Followup:     Neighbours" in shown


def test_report_that_cannot_be_written(sample, run_plugin, tmp_path: Path):
    finished = run_plugin("-f", sample(), "kdump.analyze", "--report", tmp_path / "missing" / "r.json")
    assert finished.returncode == 1
    assert "cannot be written" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_hostile_names_are_escaped(sample, run_plugin, tmp_path: Path):
    """The driver's name in memory becomes an escape sequence and a right-to-left override."""
    data = sample().read_bytes()
    hostile = "\x1b[2J\u202esys.".encode("utf-16-le")
    plain = "myfault.sys".encode("utf-16-le")
    assert data.count(plain) >= 1
    changed = tmp_path / "hostile.dmp"
    changed.write_bytes(data.replace(plain, (hostile + plain)[: len(plain)]))
    report = tmp_path / "r.json"
    for arguments in (
        ("kdump.analyze", "--report", report),
        ("-r", "windbg", "kdump.analyze"),
        ("-r", "json", "kdump.analyze"),
    ):
        position = 1 if arguments[0] == "-r" else 0
        finished = run_plugin(*arguments[: 2 * position], "-f", changed, *arguments[2 * position :])
        assert finished.returncode == 0, finished.stderr
        assert "\x1b" not in finished.stdout
        assert "\u202e" not in finished.stdout
    assert "\\x1b[2J" in json.loads(report.read_text())["failure"]["module"]["image"]
