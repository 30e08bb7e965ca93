"""``kdump verdict``: what it reads, what it prints, how it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.analysis.pasted_text import pasted, vectors
from volatility3_kdump import cli
from volatility3_kdump.analysis.pasted.source import LARGEST

VECTOR = next(vector for vector in vectors() if vector["id"] == "d1-vrf-vmswitch")
KEYS = ["bug_check", "symbol_name", "module_name", "image_name", "suspect", "function_offset", "bucket", "hash"]
KEYS += ["group", "rule", "runner_up", "runner_up_rule", "confidence", "confidence_reason", "process", "generation"]
KEYS += ["used", "pasted", "differences", "notes"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "post.txt"
    path.write_text(pasted(VECTOR), "utf-8")
    return path


def test_the_verdict_for_readers(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verdict", str(text)]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["FAILURE_BUCKET_ID"].strip() == VECTOR["bucket"]
    assert lines["FAILURE_ID_HASH"].strip() == f"{{{VECTOR['hash']}}}"
    assert lines["SYMBOL_NAME"].strip() == VECTOR["symbol"]
    assert "STACK_TEXT" in lines["USED"] and lines["CONFIDENCE"].split()[0].strip(":") in ("high", "medium", "low")


def test_the_verdict_for_programs(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verdict", str(text), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == KEYS
    assert (found["bucket"], found["hash"], found["group"]) == (VECTOR["bucket"], VECTOR["hash"], VECTOR["bucket"])
    assert found["symbol_name"] == VECTOR["symbol"] and found["function_offset"] == VECTOR["func_offset"]
    assert found["bug_check"]["code"] == "d1"


def test_the_text_comes_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stdin:
        buffer = io.BytesIO(b"\xef\xbb\xbf" + pasted(VECTOR).encode())

    monkeypatch.setattr("sys.stdin", Stdin)
    assert cli.main(["verdict", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bucket"] == VECTOR["bucket"]


def test_a_pasted_verdict_is_compared_and_never_taken(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with text.open("a", encoding="utf-8") as out:
        out.write("\nSYMBOL_NAME:  other!function+1\nMODULE_NAME: other\nFAILURE_BUCKET_ID:  AV_other!function\n")
    assert cli.main(["verdict", str(text), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bucket"] == VECTOR["bucket"]
    assert found["pasted"]["bucket"] == "AV_other!function"
    assert any("AV_other!function" in sentence for sentence in found["differences"])
    assert cli.main(["verdict", str(text)]) == 0
    assert "DIFFERS:" in capsys.readouterr().out


def test_what_the_text_hides_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "post.txt"
    path.write_text("BugCheck D1, {0, 2, 0, fffff80012345678}\nPROCESS_NAME:  \x1b]0;a\x07\u202eb.exe\n", "utf-8")
    for options in ([], ["--json"]):
        assert cli.main(["verdict", str(path), *options]) == 0
        out = capsys.readouterr().out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "no text in it"),
        (b" \n\t\r\n", "no text in it"),
        (b"MZ\x00\x01\x02\x00\xff\x00\x00" * 500, "not a text"),
        (b"hello world\nnothing here\n", "no bug check"),
        (b"a" * (LARGEST + 1), "more than 16 MB"),
    ],
    ids=["empty", "blank", "binary", "prose", "large"],
)
def test_one_line_for_what_holds_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    path = tmp_path / "post.txt"
    path.write_bytes(content)
    assert cli.main(["verdict", str(path)]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1 and words in captured.err and captured.err.startswith("kdump: ")


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "missing", tmp_path):
        assert cli.main(["verdict", str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and path.name in captured.err


def test_the_help_says_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verdict", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--json" in out and "stdin" in out
