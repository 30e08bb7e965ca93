"""What commands take: nothing that is typed is dropped, and help says what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.prompt import answer
from volatility3_kdump.console.commands import Command, find, registry
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Given, Kind, Option, Syntax, flags, number, rest, word
from volatility3_kdump.errors import KdumpError

_COMMANDS = sorted(registry())


def _takes_any_text(entry: Command) -> bool:
    return bool(entry.syntax.arguments) and entry.syntax.arguments[0].kind is Kind.TEXT


@pytest.mark.parametrize("name", _COMMANDS)
def test_an_unknown_option_is_named(session: Session, name: str) -> None:
    """Every command says which option it does not know, and what it takes; those that take any text take it."""
    if _takes_any_text(registry()[name]):
        return
    lines = answer(session, f"{name} /nosuch")
    assert len(lines) == 1
    assert "/nosuch" in lines[0]
    assert f"{name} knows no option /nosuch: it takes " in lines[0]
    assert lines[0].endswith(f"(.help {name})")


#: A word that begins with a dash and is none of their options gets the answer to what stands there instead.
_OWN_WORDS = frozenset(
    "# .block .catch .do .else .elsif .for .foreach .if .while .printf as aS dt dtx rF rX rY rYI || ~ ~* ~s".split()
)


@pytest.mark.parametrize("name", [name for name in _COMMANDS if name not in _OWN_WORDS])
def test_an_unknown_dash_is_named(session: Session, name: str) -> None:
    """``-nosuch`` is no option anywhere: one line names it, as an option, or as a name that is in no expression."""
    if _takes_any_text(registry()[name]):
        return
    lines = answer(session, f"{name} -nosuch")
    assert len(lines) == 1 and "nosuch" in lines[0], lines


#: What an option is followed by, where a number is not what it takes.
_VALUES = {
    ".expr /s": "c++",
    "dx -id": "0,0",
    "r ?": "$t0=1",
    ".printf /o": "d",
    "dx ,FORMAT": None,
    "rM ?": None,
    "rM X": None,
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", _COMMANDS)
def test_declared_options_are_taken(
    session: Session, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every spelling, with a value where it has one; that nothing is behind it is another matter."""
    monkeypatch.chdir(tmp_path)
    session.most_steps = 500
    for option in registry()[name].syntax.options:
        for spelling in option.spellings:
            value = _VALUES.get(f"{name} {spelling}", "1" if option.value else "")
            if option.refused or value is None:
                continue
            between = "" if option.glued or spelling.endswith(":") else " "
            for line in answer(session, f"{name} {spelling}{between}{value}".rstrip()):
                assert "knows no " not in line and "failed by a mistake" not in line, (spelling, line)
    # Every bit of a flags word by itself, where flags are the first argument.
    first = registry()[name].syntax.arguments[:1]
    for bit in first[0].bits if first else ():
        for line in answer(session, f"{name} {bit.value:x}"):
            assert "knows no " not in line and "failed by a mistake" not in line, (bit, line)


@pytest.mark.parametrize("option", ["-q", "-json", "-z", "/x", "-f:x"])
def test_undeclared_options_of_analyze(session: Session, option: str) -> None:
    (line,) = answer(session, f"!analyze {option}")
    assert line.startswith(f"!analyze knows no option {option}: it takes ")


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_every_command(session: Session, name: str) -> None:
    """``.help CMD`` and ``CMD -?`` say the same: usage, the meaning of each option and argument. 80 columns."""
    entry = registry()[name]
    lines = answer(session, f".help {name}")
    text = "\n".join(lines)
    assert name in text.split()
    for option in entry.syntax.options:
        assert option.key in text
    for argument in entry.syntax.arguments:
        assert f"    {argument.name}" in text
    for example in entry.syntax.examples:
        assert f"    {example.line}" in text
    assert max(map(len, lines)) < 80
    if not _takes_any_text(entry):
        assert answer(session, f"{name} -?") == lines


def test_what_takes_something_has_an_example() -> None:
    for name, entry in registry().items():
        if (entry.syntax.usage or entry.syntax.options) and not entry.hidden and not _takes_any_text(entry):
            assert entry.syntax.examples, name


def test_the_list_fits_a_narrow_screen(session: Session) -> None:
    assert max(map(len, answer(session, ".help"))) < 80


_SYNTAX = Syntax(
    (
        Option("-v", "verbose"),
        Option("-i", "idle"),
        Option("-t", "by id", value="TID"),
        Option("-f:", "filter", value="FILTER"),
        Option("/n", "does nothing", note="not here"),
        Option("/x", "never", refused="a dump cannot"),
    ),
    (
        number("ADDRESS", "an address", required=True),
        flags(Bit(1, "one"), Bit(2, "two", "not here")),
        word("NAME", "x"),
    ),
)


def _read(text: str, syntax: Syntax = _SYNTAX) -> Given:
    from volatility3_kdump.expressions import evaluate

    return syntax.read("!x", text, evaluate)


def test_options_and_arguments_in_any_order() -> None:
    given = _read('10 -v 1 -t 5 "a b" -f:PAGE')
    assert given.options == {"-v": "", "-t": "5", "-f:": "PAGE"}
    assert given.numbers == {"ADDRESS": 0x10, "FLAGS": 1}
    assert given.words["NAME"] == "a b"
    assert not given.notes


def test_letters_behind_one_dash() -> None:
    assert _read("-iv 1").options == {"-i": "", "-v": ""}


@pytest.mark.parametrize(
    ("text", "address", "flag"),
    (
        ("10 + 8 1", 0x18, 1),
        ("10 +8", 0x18, None),
        ("(10 + 8) * 2 1", 0x30, 1),
        ("10 1", 0x10, 1),
        ("10 -1", 0x10, (1 << 64) - 1),
        ("-1 1", (1 << 64) - 1, 1),
    ),
)
def test_an_expression_may_have_spaces_around_its_operators(text: str, address: int, flag: int | None) -> None:
    given = _read(text)
    assert (given.numbers["ADDRESS"], given.numbers.get("FLAGS")) == (address, flag)


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("", "!x needs ADDRESS, an address: it takes "),
        ("1 /q", "!x knows no option /q: it takes "),
        ("1 -q", "!x knows no option -q: it takes "),
        ("1 1 a b", "!x knows no argument b: it takes "),
        ("1 4", "!x knows no flag 4: FLAGS is the sum of 1 one, 2 two"),
        ("1 -t", "!x -t needs TID: by id"),
        ("1 /x", "!x /x: a dump cannot"),
    ),
)
def test_what_is_not_taken_is_an_error(text: str, words: str) -> None:
    with pytest.raises(KdumpError) as caught:
        _read(text)
    assert str(caught.value).startswith(words)


def test_what_does_nothing_is_said() -> None:
    assert _read("1 2 /n").notes == ["NOTE: !x /n: not here", "NOTE: !x flag 2: not here"]


def test_text_is_all_of_the_rest() -> None:
    syntax = Syntax((), (word("FIRST", "x"), rest("TEXT", "x")))
    assert _read('a "b  c" /d', syntax).words == {"FIRST": "a", "TEXT": '"b  c" /d'}


def test_usage_says_what_may_be_left_out() -> None:
    assert _SYNTAX.usage == "[-v] [-i] [-t TID] [-f:FILTER] ADDRESS [FLAGS [NAME]]"
    assert Syntax().takes == "takes no arguments"


#: In its tables, and no commands: switches, other programs, operands.
_NO_COMMAND = re.compile(r"-|symchk|@@|d\*$|(gdtr|idtr|tr|xmm0:uq|ymm0)$")
_README = Path(__file__).parents[2] / "README.md"


def _of_readme() -> list[str]:
    """The commands in the tables of the README, as they are typed there."""
    _, _, section = _README.read_text(encoding="utf-8").partition("\n| KD | ")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    firsts = [row.replace("\\|", "\0").split("|")[1] for row in rows]
    return [typed.replace("\0", "|") for first in firsts for typed in re.findall(r"`([^`]+)`", first)]


def test_the_readme_names_commands_that_are_there() -> None:
    """So that each of them is given an unknown option above."""
    typed = [line for line in _of_readme() if not _NO_COMMAND.match(line)]
    assert len(typed) > 150
    for line in typed:
        assert find(line)[0] in registry().values(), line
