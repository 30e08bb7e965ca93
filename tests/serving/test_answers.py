"""What can be asked of a dump, and pages of long results, without a server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pages.hostile import NAME, unsafe
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.options import Options
from volatility3_kdump.serving.answers import Answers
from volatility3_kdump.serving.paging import Result, Results


@pytest.fixture(scope="module")
def answers(sample: Callable[..., Path]) -> Answers:
    return Answers(str(sample(scene="waits")), Options(offline=True), None, ())


def test_the_verdict_in_one_answer(answers: Answers) -> None:
    verdict = answers.ask("analyze", {})
    assert verdict["verdict"]["bucket"] == "AV_myfault!unknown_function"
    assert verdict["failure"]["instruction"].endswith("ds:ffffd802`4aaa8010=????????")
    assert len(verdict["stack"]) == 12 and verdict["kernel_symbols"] is True
    assert set(verdict["parts"]) > {"machine", "stack", "failure"}


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        ("processes", {"name": "notepad"}, {"Image": "notepad.exe", "Pid": 7824}),
        ("processes", {"pid": "7824", "details": True}, {"CommitPages": 3452}),
        ("threads", {"pid": "0x1e90"}, {"Image": "notepad.exe"}),
        ("waits", {}, {"Waiter": "deadlock.exe 2040.2044", "Deadlock": 1}),
        ("stack", {"processor": 2}, {"Frame": 0, "CallSite": "nt!KeBugCheckEx"}),
        ("drivers", {"third_party": True}, {"Image": "myfault.sys"}),
        ("hang", {}, {"Topic": "verdict", "Kind": "confidence"}),
        ("memory", {"what": "counters"}, {"Name": "Commit limit", "Pages": 2621087}),
    ],
)
def test_rows(answers: Answers, method: str, parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    rows = answers.ask(method, parameters)["items"]
    assert any(expected.items() <= row.items() for row in rows), rows


@pytest.mark.parametrize(
    "line",
    [
        *("!for_each_module .logopen {0}", ".block {{ .logopen {0} }}", ".if (1) {{ .writemem {0} nt L1000 }}"),
        *(
            "as mine .logopen\nmine {0}",
            "aS /x mine .logopen {0}; ${{mine}}",
            ".foreach (x {{ .echo a }}) {{ .logopen {0} }}",
        ),
        *(".if (1) {{ $<{0} }}", ".catch {{ .logappend {0} }}", ".for (r $t0=0; @$t0<1; r $t0=1) {{ .opendump {0} }}"),
    ],
)
def test_commands_inside_of_others_are_refused_too(sample: Callable[..., Path], tmp_path: Path, line: str) -> None:
    answers = Answers(str(sample()), Options(offline=True), None, ())
    said = ""
    with contextlib.suppress(KdumpError):
        for single in line.format(tmp_path / "log").splitlines():
            said = "\n".join(answers.ask("command", {"line": single})["items"])
        assert "not available here" in said or "not run here" in said or "no such command" in said, said
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_has_its_reason(answers: Answers) -> None:
    counters = {row["Name"]: row for row in answers.ask("memory", {})["items"] if "Name" in row}
    assert counters["Special Pool"]["Pages"] is None
    assert counters["Special Pool"]["Notes"] == "not in this kernel"


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        *(("nosuch", {}), ("analyze", {"part": "nosuch"}), ("memory", {"what": "nosuch"}), ("processes", {"pid": "x"})),
        *(
            ("stack", {"thread": "1"}),
            ("stack", {"processor": 99}),
            ("more", {"token": "x"}),
        ),
        ("command", {"line": ".logopen x"}),
    ],
)
def test_what_cannot_be_answered_is_one_line(answers: Answers, method: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(KdumpError) as caught:
        answer = answers.ask(method, parameters)
        raise KdumpError(answer["note"] or answer["items"][-1].get("CallSite") or "")
    assert str(caught.value) and "\n" not in str(caught.value)


def test_hostile_names_are_escaped(sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses
    import json

    answers = Answers(str(sample(scene="waits")), Options(offline=True), None, ())
    target = answers.target
    target.modules = [
        dataclasses.replace(module, name=NAME, image_name=NAME, path=NAME) if module.name == "myfault" else module
        for module in target.modules
    ]
    target.problems.append(NAME)
    for method, parameters in (
        *(("facts", {}), ("analyze", {}), ("analyze", {"part": "everything"}), ("drivers", {}), ("stack", {})),
        *(("command", {"line": "lm; k; lmvm *"}), ("symbols", {"every": True}), ("processes", {})),
    ):
        said = json.dumps(answers.ask(method, {**parameters, "size": 100_000}), ensure_ascii=False)
        assert not unsafe(said), method
    lines = answers.ask("command", {"line": "lm", "size": 100_000})["items"]
    assert any("\\u202e" in line for line in lines)


# pages ----------------------------------------------------------------------------------------------------------------


def numbers(most: int, made: list[int]) -> Iterator[str]:
    for number in range(most):
        made.append(number)
        yield f"line {number:04}"


def test_nothing_is_made_that_is_not_asked_for() -> None:
    made: list[int] = []
    results = Results()
    page = results.first(Result(numbers(10**9, made), lines=True), 1000)
    assert len(page["items"]) == 100 and len(made) <= 102
    following = results.following(page["more"], 1000)
    assert following["items"][0] == "line 0100"


def test_all_pages_together_are_the_result() -> None:
    results = Results()
    page = results.first(Result(iter(["a" * 3000, "", "b" * 499, "c"]), lines=True), 500)
    text = "".join(page["items"])
    while "more" in page:
        page = results.following(page["more"], 500)
        text += "".join(page["items"])
        assert sum(len(item) + 1 for item in page["items"]) <= 500
    assert text == "a" * 3000 + "b" * 499 + "c"


def test_a_row_is_never_cut() -> None:
    rows = [{"n": number, "text": "x" * 2000} for number in range(5)]
    results = Results()
    page = results.first(Result(iter(rows), lines=False), 500)
    seen = list(page["items"])
    while "more" in page:
        page = results.following(page["more"], 500)
        seen += page["items"]
    assert seen == rows


def test_a_result_that_another_command_would_change_is_finished_first() -> None:
    made: list[int] = []
    results = Results()
    page = results.first(Result(numbers(300, made), lines=True, stateful=True), 1000)
    results.settle()
    assert len(made) == 300
    assert results.following(page["more"], 100_000)["items"][-1] == "line 0299"


def test_what_is_too_long_for_that_says_so() -> None:
    results = Results()
    page = results.first(Result(numbers(10**9, []), lines=True, stateful=True), 1000)
    results.settle()
    last = None
    while "more" in page:
        page = results.following(page["more"], 100_000)
        last = page["items"][-1]
    assert last is not None and "another command ran" in last


def test_old_results_make_room() -> None:
    results = Results()
    tokens = [results.first(Result(numbers(10**9, []), lines=True), 500)["more"] for _ in range(20)]
    with pytest.raises(KdumpError, match="no such continuation"):
        results.following(tokens[0], 500)
    assert results.following(tokens[-1], 500)["items"]


def test_an_error_in_the_middle_is_told() -> None:
    def failing() -> Iterator[str]:
        yield "first"
        raise KdumpError("the list is damaged")

    page = Results().first(Result(failing(), lines=True), 500)
    assert page == {"items": ["first"], "note": "the list is damaged"}


def test_what_was_made_before_a_stop_is_kept() -> None:
    def stopped() -> Iterator[str]:
        yield "first"
        raise KeyboardInterrupt

    page = Results().first(Result(stopped(), lines=True), 500)
    assert page["items"] == ["first"] and page["note"].startswith("stopped")
