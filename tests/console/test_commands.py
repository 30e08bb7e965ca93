"""The registry of commands and KD's grammar of command lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.console import commands
from volatility3_kdump.console.commands import Arguments, Command, execute, find
from volatility3_kdump.console.script import split
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Syntax
from volatility3_kdump.errors import KdumpError


@pytest.fixture
def few_commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Command]:
    def say(session: Session, arguments: Arguments) -> Iterable[str]:
        yield f"{arguments.name}|{arguments.text}"

    def fail(session: Session, arguments: Arguments) -> Iterable[str]:
        yield "one line"
        raise KdumpError("it failed")

    entries: dict[str, Command] = {}
    for names, glued in ((("k", "kb", "kv", "kP"), True), (("lm",), True), ((".frame", "!process", "~", "||"), False)):
        entries.update(dict.fromkeys(names, Command(names, say, "", Syntax(own=True), glued=glued)))
    entries["!fail"] = Command(("!fail",), fail, "")
    monkeypatch.setattr(commands, "registry", lambda: entries)
    return entries


@pytest.mark.parametrize(
    ("text", "name", "rest"),
    (
        ("kvn 5", "kv", "n 5"),
        ("k", "k", ""),
        ("kP", "kP", ""),
        ("KB 3", "kb", "3"),
        ("~2s", "~", "2s"),
        ("||1s", "||", "1s"),
        ("lmvm myfault", "lm", "vm myfault"),
        ("k=ffff8000`12345678", "k", "=ffff8000`12345678"),
        (".frame 3", ".frame", "3"),
        ("!PROCESS 0 0", "!process", "0 0"),
        ("!kdext*.process 0 0", "!process", "0 0"),
        ("!kdexts.process", "!process", ""),
    ),
)
def test_the_longest_name_that_fits(few_commands: dict[str, Command], text: str, name: str, rest: str) -> None:
    _, arguments = find(text)
    assert (arguments.name, arguments.text) == (name, rest)


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("!proces 0 0", "!proces: no such command here; did you mean !process?"),
        (".framework", ".framework: no such command here; did you mean .frame?"),
        ("xyzzy 1", "xyzzy: no such command here; .help lists the commands"),
    ),
)
def test_unknown_commands_suggest_the_nearest(few_commands: dict[str, Command], text: str, words: str) -> None:
    with pytest.raises(KdumpError) as caught:
        find(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("line", "texts"),
    (
        ("!analyze -v;r;kv;lmnt;q", ["!analyze -v", "r", "kv", "lmnt", "q"]),
        ('.echo "a;b" ; k', ['.echo "a;b"', "k"]),
        ("k ; * all ; of this", ["k"]),
        ("$$ not this ; k", ["k"]),
        (".shell rm x; y", [".shell rm x; y"]),
        (" ;; ", []),
        ('.echo "open ; end', ['.echo "open ; end']),
    ),
)
def test_splitting(line: str, texts: list[str]) -> None:
    assert list(split(line)) == texts


def test_words_and_quotes() -> None:
    assert Arguments("x", 'a "b c" d"e f" "').words == ["a", "b c", "d", "e f", ""]


def test_a_failure_is_a_line_and_the_next_command_runs(few_commands: dict[str, Command]) -> None:
    assert list(execute(Session(), "!fail; k 3")) == ["one line", "it failed", "k|3"]


#: Commands that write files or end the session.
_NOT_AT_RANDOM = (".logopen", ".logappend", "q", "qq", "qd")
_ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "0",
                "1",
                "7",
                "-1",
                "ffff9189527e9080",
                "fffff80060da1981",
                "nt!KeBugCheckEx",
                "L5",
                "L0",
                "=",
                "/p",
                "-t",
            ]
        ),
        st.integers(0, (1 << 64) - 1).map(lambda value: f"{value:x}"),
        st.text(max_size=8),
    ),
    max_size=4,
).map(" ".join)


@settings(max_examples=part(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_line_is_answered(session: Session, data: st.DataObject) -> None:
    names = sorted(set(commands.registry()) - set(_NOT_AT_RANDOM))
    line = data.draw(st.sampled_from(names)) + data.draw(st.sampled_from(["", " "])) + data.draw(_ARGUMENTS)
    try:
        texts = [text for text in split(line) if not text.lower().startswith((".logo", ".loga"))]
    except KdumpError:
        # A block without its end: the line is one command, which says so.
        texts = [line]
    for shown in itertools.islice((shown for text in texts for shown in execute(session, text)), 200):
        assert isinstance(shown, str)
        assert not shown.startswith("This command failed by a mistake"), (line, shown)


@settings(max_examples=part(200), deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_split(line: str) -> None:
    try:
        texts = list(split(line))
    except KdumpError as error:
        assert line.lstrip().startswith(".") or "." in line, error
        return
    for text in texts:
        assert text in line
        assert text == text.strip()


def test_every_command_has_help_and_no_name_twice() -> None:
    entries = commands.registry()
    assert {"q", ".bugcheck"} <= set(entries)
    for name, entry in entries.items():
        assert name in entry.names
        assert entry.help
