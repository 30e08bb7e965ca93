"""Every format, against readers that others wrote, and with hostile names."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.pages.hostile import NAME, unsafe
from tests.pages.markup import Page
from volatility3_kdump.escape import printable
from volatility3_kdump.options import Options
from volatility3_kdump.pipelines import junit, lines, markdown, sarif
from volatility3_kdump.pipelines.analysed import Analysed, analyse
from volatility3_kdump.pipelines.conditions import Condition

#: What makes text more than text on GitHub, and ends lines, cells, tags and commands.
TRICKS = (
    "`|``` @everyone #1 GH-1 :bug: https://evil.example www.evil.example "
    "[x](y) ![x](y) ** <b> &lt; $x$ ]]> --> %0A::error::x"
)


@pytest.fixture(scope="module")
def dumps(sample: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Analysed]:
    """One that fails, one that does not, one that could not be analysed."""
    bad = tmp_path_factory.mktemp("bad") / "bad.dmp"
    bad.write_bytes(b"nothing")
    conditions = [Condition.parse("driver=myfault")]
    paths = [str(sample()), str(bad)]
    failing, broken = analyse(paths, Options(offline=True), None, conditions)
    return [failing, dataclasses.replace(failing, matched=(), path="plain.dmp"), broken]


def replaced(value: Any, name: str) -> Any:
    """A document with every text replaced by a name."""
    if isinstance(value, str):
        return printable(name) if not value.startswith("0x") else value
    if isinstance(value, dict):
        return {key: replaced(entry, name) for key, entry in value.items()}
    return [replaced(entry, name) for entry in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def hostile(dumps: list[Analysed]) -> list[Analysed]:
    name = printable(NAME + TRICKS)
    return [
        dataclasses.replace(
            dump,
            path=f"{name.replace('/', '_')}.dmp",
            document=replaced(dump.document, NAME + TRICKS) if dump.document else None,
            error=name if dump.error else None,
        )
        for dump in dumps
    ]


def test_text(dumps: list[Analysed]) -> None:
    failing, passing, broken = lines.text(dumps).splitlines()
    said = (
        "DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1) at myfault+0x1981: myfault.sys is held responsible (confidence high); "
        "AV_myfault!unknown_function {9745090a-9bce-ccba-c096-ca6e9ca04c64}"
    )
    assert failing == f"{dumps[0].path}: {said}  [fails: driver=myfault]"
    assert passing == f"plain.dmp: {said}"
    assert broken.startswith(f"{dumps[2].path}: not analysed: bad.dmp: no crash dump header at offset 0x0")
    assert lines.text([]) == "no crash dump\n"


def test_json(dumps: list[Analysed]) -> None:
    document = json.loads(lines.as_json(dumps))
    assert [dump["fails"] for dump in document["dumps"]] == [["driver=myfault"], [], []]
    assert document["dumps"][0]["analysis"]["verdict"]["suspect"] == "myfault.sys"
    assert document["dumps"][2]["analysis"] is None and "no crash dump header" in document["dumps"][2]["error"]


# JUnit ----------------------------------------------------------------------------------------------------------------


def check_junit(text: str) -> ElementTree.Element:
    """Elements and attributes as in Jenkins's junit-10.xsd, and counts that agree."""
    suites = ElementTree.fromstring(text)
    assert suites.tag == "testsuites" and set(suites.attrib) <= {"name", "time", "tests", "failures", "errors"}
    for suite in suites:
        assert suite.tag == "testsuite"
        assert (
            {"name", "tests", "failures", "errors"}
            <= set(suite.attrib)
            <= {
                *("name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname", "id", "package"),
            }
        )
        for case in suite:
            assert case.tag == "testcase"
            assert {"name", "classname"} <= set(case.attrib) <= {"name", "classname", "time", "group"}
            assert float(case.attrib["time"]) >= 0
            for entry in case:
                assert entry.tag in ("skipped", "error", "failure", "system-out", "system-err")
                assert set(entry.attrib) <= {"type", "message"}
        for name, tag in (("failures", "failure"), ("errors", "error")):
            assert int(suite.attrib[name]) == len(suite.findall(f"testcase/{tag}"))
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
    return suites


def test_junit(dumps: list[Analysed]) -> None:
    suites = check_junit(junit.junit(dumps))
    assert suites.attrib["tests"] == "3"
    failure = suites.find("testsuite/testcase/failure")
    assert failure is not None and failure.attrib["message"] == dumps[0].sentence
    assert "03 myfault+0x1981" in (failure.text or "")
    assert len(suites.findall("testsuite/testcase/error")) == 1
    assert check_junit(junit.junit([])).attrib["tests"] == "0"


def test_junit_as_another_reader_has_it(dumps: list[Analysed], tmp_path: Path) -> None:
    junitparser = pytest.importorskip("junitparser")
    names = [dumps[0].path, "plain.dmp", "<a>&\"']]>\x01\udcff\u202e\n.dmp"]
    given = [dataclasses.replace(dump, path=printable(name)) for dump, name in zip(dumps, names, strict=True)]
    path = tmp_path / "junit.xml"
    path.write_text(junit.junit(given), encoding="utf-8")
    read = junitparser.JUnitXml.fromfile(str(path))
    assert (read.tests, read.failures, read.errors) == (3, 1, 1)
    (suite,) = read
    failing, passing, broken = suite
    assert [entry.message for entry in failing.result] == [given[0].sentence]
    assert passing.is_passed and given[1].sentence in passing.system_out
    assert broken.is_error and broken.name == given[2].path


# SARIF ----------------------------------------------------------------------------------------------------------------


def check_sarif(text: str) -> dict[str, Any]:
    """Against models that were generated from the official schema, which allow no other properties."""
    model = pytest.importorskip("pydantic_sarif.model")
    document: dict[str, Any] = json.loads(text)
    model.StaticAnalysisResultsFormatSarifVersion210JsonSchema.model_validate(document)
    return document


def test_sarif(dumps: list[Analysed]) -> None:
    run = check_sarif(sarif.sarif(dumps))["runs"][0]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["0xd1"]
    first, second = run["results"]
    assert (first["level"], second["level"]) == ("error", "warning")
    assert first["ruleIndex"] == 0 and first["ruleId"] == "0xd1"
    assert first["partialFingerprints"] == {"failureIdHash/v1": "9745090a-9bce-ccba-c096-ca6e9ca04c64"}
    assert first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "myfault+1981"
    frames = first["stacks"][0]["frames"]
    assert frames[3]["location"]["logicalLocations"][0]["fullyQualifiedName"] == "myfault+0x1981"
    assert second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "plain.dmp"
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert len(notes) == 1 and run["invocations"][0]["executionSuccessful"] is False
    assert check_sarif(sarif.sarif([]))["runs"][0]["results"] == []


def test_the_models_of_sarif_refuse_what_is_wrong(dumps: list[Analysed]) -> None:
    document = json.loads(sarif.sarif(dumps))
    document["runs"][0]["results"][0]["nosuch"] = 1
    with pytest.raises(ValueError, match="nosuch"):
        check_sarif(json.dumps(document))


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a b/x#1.dmp", "a%20b/x%231.dmp"),
        ("/nosuch/x.dmp", "file:///nosuch/x.dmp"),
        (os.path.abspath("x.dmp"), "x.dmp"),
    ],
)
def test_addresses_of_files(path: str, uri: str) -> None:
    assert sarif._uri(path) == uri


# Markdown -------------------------------------------------------------------------------------------------------------


def rendered(text: str) -> Page:
    """As a reader of CommonMark with GitHub's tables shows it; raw HTML passes, as on GitHub."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    return Page(reader.render(text))


def test_markdown(dumps: list[Analysed]) -> None:
    page = rendered(markdown.markdown(dumps))
    assert "myfault.sys is most probably to blame: the first frame" in page.text
    assert "Fails: driver=myfault" in page.text and "> 03 myfault+0x1981" in page.text
    assert "fffff800`60da1981 8b03            mov     eax,dword ptr [rbx] ds:ffffd802`4aaa8010=????????" in page.text
    assert "bad.dmp was not analysed" in page.text
    assert page.names() <= {
        *("h3", "code", "p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "pre"),
        *("details", "summary", "blockquote"),
    }


def test_markdown_fits_an_issue(dumps: list[Analysed]) -> None:
    text = markdown.markdown(dumps * 300)
    assert len(text) < markdown.LARGEST + 200
    assert "more dumps are left out here" in text


@pytest.mark.parametrize("text", [NAME, TRICKS, "", " ", "`", "``", "a`", "`a", "|", "\\|", "\\", "1. x", "- x", "# x"])
def test_spans_hold_any_text(text: str) -> None:
    shown = printable(text)
    for made, prefix in ((markdown.code(shown), ""), (markdown.code(shown, cell=True), "| |\n|---|\n| ")):
        page = rendered(f"{prefix}{made}{' |' if prefix else ''}\n")
        assert page.text.strip() == shown.strip()
        assert page.names() <= {"p", "code", "table", "thead", "tbody", "tr", "th", "td"}
        assert ("code" in page.names()) == bool(made)
    page = rendered(f"- {markdown.plain(shown)}\n")
    assert page.text.strip() == shown.strip()
    assert page.names() <= {"ul", "li", "p"}


def test_blocks_hold_any_text() -> None:
    inside = ["```", "````text", "</pre>", "~~~", TRICKS]
    page = rendered("\n".join(markdown.fenced(inside)) + "\n\nafter\n")
    assert page.text.strip().endswith("after") and page.names() == {"pre", "code", "p"}
    assert all(line in page.text for line in inside)


@pytest.mark.parametrize("word", ["@user", "#12", "GH-12", "https://x", "www.x", ":bug:"])
def test_what_github_makes_of_plain_text_is_kept_apart(word: str) -> None:
    """GitHub looks at the text of the finished page; a comment ends a text there."""
    assert "<!-- -->" in markdown.plain(f"see {word} now")


# GitHub ---------------------------------------------------------------------------------------------------------------


def test_workflow_commands(dumps: list[Analysed]) -> None:
    failing, passing, broken = lines.github(dumps).splitlines()
    assert (
        failing.startswith("::error file=") and "title=DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1)%3A myfault.sys::" in failing
    )
    assert passing.startswith("::notice file=plain.dmp,title=") and broken.startswith("::warning file=")


# hostile names --------------------------------------------------------------------------------------------------------


def test_hostile_names_in_every_format(hostile: list[Analysed], dumps: list[Analysed]) -> None:
    for make in (lines.text, lines.as_json, lines.github, markdown.markdown, junit.junit, sarif.sarif):
        assert not unsafe(make(hostile)), make
    check_sarif(sarif.sarif(hostile))
    suites = check_junit(junit.junit(hostile))
    plain = check_junit(junit.junit(dumps))
    assert [entry.tag for entry in suites.iter()] == [entry.tag for entry in plain.iter()]
    assert rendered(markdown.markdown(hostile)).names() == rendered(markdown.markdown(dumps)).names()
    commands = lines.github(hostile).splitlines()
    assert len(commands) == 3 and all(line.startswith(("::error ", "::notice ", "::warning ")) for line in commands)
    for line in commands:
        properties = line.split("::")[1].partition(" ")[2]
        assert properties.count(",") == 1 and properties.count("=") >= 2
        assert "%0A::error" not in line and "%250A" in line
    assert len(lines.text(hostile).splitlines()) == 3
