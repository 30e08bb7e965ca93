"""Compiling rules with either library, and what goes wrong in one line."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings import yara_rules
from volatility3_kdump.findings.yara_rules import YARA_PYTHON, YARA_X, load_rules

TEXT = """
rule first : one two {
    meta: author = "me" level = 3 good = true
    strings: $a = "abc" $b = { 78 ?? 79 }
    condition: any of them
}
rule second { strings: $ = /d+ef/ condition: any of them }
rule silent { condition: true }
"""


@pytest.fixture(params=[YARA_X, YARA_PYTHON])
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip("yara_x" if name == YARA_X else "yara")
    return name


def found(rules: yara_rules.Rules, data: bytes) -> list[tuple[int, int, str, str]]:
    return sorted((match.offset, match.length, match.rule.name, match.string) for match in rules.matches(data))


def test_both_libraries_find_the_same(library: str) -> None:
    rules = load_rules(TEXT, library=library)
    assert rules.library == library
    data = b"..abcabc.x\0y.ddef"
    matches = found(rules, data)
    assert matches[:3] == [(2, 3, "first", "$a"), (5, 3, "first", "$a"), (9, 3, "first", "$b")]
    assert {match[0] + match[1] for match in matches[3:]} == {len(data)}
    assert {match[2:] for match in matches[3:]} == {("second", "$")}
    (rule,) = {match.rule for match in rules.matches(b"abc")}
    assert rule == ("first", "default", ("one", "two"), (("author", "me"), ("level", 3), ("good", True)))
    assert not found(rules, b"")
    assert not rules.notes


@pytest.mark.parametrize(
    "definition, data, expected",
    [
        ('"MZ"', b".MZ", (1, 2)),
        ('"mz" nocase', b".MZ", (1, 2)),
        (" { 4D [1-2] 5A }", b".M..Z", (1, 4)),
        ("/M[a-z]*Z/", b"MabZ", (0, 4)),
        ('"MZ" wide', b"M\0Z\0", (0, 4)),
    ],
)
def test_one_string_is_a_rule(library: str, definition: str, data: bytes, expected: tuple[int, int]) -> None:
    assert found(load_rules(definition, library=library), data) == [(*expected, "r1", "$a")]


def test_comments_are_no_expressions(library: str) -> None:
    for comment in ("// one\n", "/* two */"):
        assert found(load_rules(comment + TEXT, library=library), b"abc") == [(0, 3, "first", "$a")]


def test_files(library: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yar"
    path.write_text(TEXT)
    assert found(load_rules(file=str(path), library=library), b"abc") == [(0, 3, "first", "$a")]
    including = tmp_path / "all.yar"
    including.write_text('include "rules.yar"')
    assert found(load_rules(file=str(including), library=library), b"abc") == [(0, 3, "first", "$a")]


def test_compiled_files(library: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yac"
    if library == YARA_X:
        import yara_x

        with path.open("wb") as file:
            yara_x.compile(TEXT).serialize_into(file)
    else:
        import yara

        yara.compile(source=TEXT).save(str(path))
    assert found(load_rules(compiled_file=str(path), library=library), b"abc") == [(0, 3, "first", "$a")]
    data = path.read_bytes()
    path.write_bytes(b"none" + data[4:])
    with pytest.raises(KdumpError, match=f"^{path}: not rules that {library} compiled: "):
        load_rules(compiled_file=str(path), library=library)


@pytest.mark.parametrize(
    "text, words",
    [
        ("rule a {", "line"),
        ("rule a { condition: nothing }", "line 1.*nothing"),
        ("rule a {\n strings: $a = /(/\n condition: $a }", "line 2"),
        ("   ", "empty"),
        ('include "not-there.yar"', "not-there.yar"),
    ],
)
def test_bad_rules_are_one_line(library: str, text: str, words: str) -> None:
    with pytest.raises(KdumpError, match=words) as caught:
        load_rules(text, library=library)
    assert str(caught.value).startswith("--rules")
    assert "\n" not in str(caught.value)


def test_bad_files_are_named(library: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent.yar"
    for name in ("file", "compiled_file"):
        with pytest.raises(KdumpError, match=r"absent\.yar: the file of rules cannot be opened: No such file"):
            load_rules(**{name: str(absent)}, library=library)
        with pytest.raises(KdumpError, match=r"is a directory, not a file$"):
            load_rules(**{name: str(tmp_path)}, library=library)
    binary = tmp_path / "binary.yar"
    binary.write_bytes(b"rule\xff")
    with pytest.raises(KdumpError, match=r"binary\.yar: no text at offset 0x4: for compiled rules use --compiled-file"):
        load_rules(file=str(binary), library=library)
    bad = tmp_path / "bad.yar"
    bad.write_text("rule a {\n\n condition: nothing }")
    with pytest.raises(KdumpError, match=r"bad\.yar: line 3.*nothing"):
        load_rules(file=str(bad), library=library)


def test_rules_are_given_in_one_way() -> None:
    for arguments in ({}, {"text": TEXT, "file": "rules.yar"}, {"file": "a", "compiled_file": "b"}):
        with pytest.raises(KdumpError, match="give rules in one way"):
            load_rules(**arguments)


def test_the_library_is_the_one_that_the_host_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yara_x")
    pytest.importorskip("yara")
    assert load_rules(TEXT).library == YARA_X
    monkeypatch.setitem(sys.modules, "yara_x", None)
    assert load_rules(TEXT).library == YARA_PYTHON
    with pytest.raises(KdumpError, match="yara-x is not installed"):
        load_rules(TEXT, library=YARA_X)
    monkeypatch.setattr("yara.__version__", "3.7.1")
    with pytest.raises(KdumpError, match=r"yara-python 3\.7\.1 is too old"):
        load_rules(TEXT)
    monkeypatch.setitem(sys.modules, "yara", None)
    with pytest.raises(KdumpError, match="no YARA library is installed: pip install yara-x"):
        load_rules(TEXT)


def test_matches_that_the_library_leaves_out_are_noted(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = load_rules('rule many { strings: $a = "a" condition: $a }', library=library)
    count = 1_000_001
    if library == YARA_X:
        # It stops at a number of its own without a word.
        monkeypatch.setattr(yara_rules, "_MOST_MATCHES", 1000)
        count = 1000
    for _ in range(2):
        assert sum(1 for _ in rules.matches(b"a" * count)) >= 1000
    (note,) = rules.notes
    assert "too many matches for string $a in rule 'many'" in note


@pytest.mark.thorough
def test_a_condition_without_end_is_given_up(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yara_rules, "_LONGEST", 1)
    monkeypatch.setattr(yara_rules, "_SLOWEST", 1 << 20)
    pairs = "for all i in (1..#a): (for all j in (1..#a): (@a[i] + @a[j] >= 0))"
    rules = load_rules(f"rule endless {{ strings: $a = {{ 00 00 }} condition: {pairs} }}", library=library)
    with pytest.raises(KdumpError, match=r"^yara-(x|python) gave up: .*time"):
        list(rules.matches(bytes(1 << 20)))


def test_pieces_that_are_quick_enough_are_never_given_up(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=1.0)
    monkeypatch.setattr(yara_rules, "monotonic", lambda: next(seconds))
    rules = load_rules('"ab"', library=library)
    for _ in range(200):
        assert not list(rules.matches(bytes(128 << 10)))
    # Two minutes more than bytes have earned, in pieces that take a second each.
    with pytest.raises(KdumpError, match=rf"^{library} gave up: the rules take too long, 3\d\d s for 2560\d KB$"):
        for _ in range(200):
            list(rules.matches(bytes(1)))
