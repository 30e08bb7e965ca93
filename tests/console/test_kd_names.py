"""KD's commands that are not there lead somewhere: to a command that is, or to the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.prompt import answer
from volatility3_kdump.console.commands import find, registry
from volatility3_kdump.console.kd_names import extensions, names, pointer
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError

_SHORT = {"k", "r", "u", "d", "s", "x", "q", "vol", "lm"}


@pytest.mark.parametrize(
    ("line", "words"),
    (
        (".load mex", ".load is not there: extensions are built in here"),
        (".loadby sos clr", ".loadby is not there: extensions are built in here"),
        (".chain", ".chain is not there: extensions are built in here"),
        ("!ndiskd.help", "!ndiskd.help is not there: extensions are built in here"),
        ("!wdfkd.wdfldr", "!wdfkd.wdfldr is not there: drivers of KMDF"),
        ("!ndiskd.netadapter -v", "!ndiskd.netadapter is not there: adapters and packets of NDIS"),
        ("!wmitrace.strdump", "!wmitrace.strdump is not there: trace buffers are not decoded"),
        ("!clrstack", "!clrstack is not there: managed code is not read"),
        ("bt", "bt is not there: k shows the stack"),
    ),
)
def test_what_to_type_instead(session: Session, line: str, words: str) -> None:
    assert answer(session, line)[0].startswith(words)


def test_every_name_is_answered_in_one_line(session: Session) -> None:
    """Each name of the table that is no command here gives one line that says more than that it is not there."""
    for name in names():
        if name.lower() in {command.lower() for command in registry()}:
            continue
        with pytest.raises(KdumpError) as caught:
            find(name)
        assert " is not there: " in str(caught.value), name
        assert "\n" not in str(caught.value)
    for library in extensions():
        assert pointer(f"!{library}.any") is not None


def test_commands_that_are_named_exist() -> None:
    """What a pointer says to type is there."""
    commands = registry()
    for name in names():
        found = pointer(name)
        assert found is not None
        for word in re.findall(r"(?<![\w.])[!.][a-z_]+", found[1]):
            assert word in commands, (name, word)


def test_typing_errors_still_name_the_nearest(session: Session) -> None:
    assert answer(session, "!proces")[0].startswith("!proces: no such command here; did you mean !process or ")


def documented() -> list[str]:
    """The names in the table of contents of the debugger's documentation."""
    lines = (Path(__file__).parent / "documented_commands.txt").read_text(encoding="utf-8").splitlines()
    return [name for line in lines if not line.startswith("#") for name in line.split()]


def test_every_documented_name_is_a_command_or_has_its_words() -> None:
    assert len(documented()) > 450
    for name in documented():
        if pointer(name) is None:
            find(name)


def test_no_command_is_said_not_to_be_there() -> None:
    commands = {command.lower() for command in registry()}
    assert [name for name in names() if name in commands] == []
