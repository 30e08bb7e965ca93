"""Commands that people type, as public pages have them: four of five are taken."""

from __future__ import annotations

from pathlib import Path

from tests.prompt import answer
from volatility3_kdump.console.session import Session

#: What says that a command, an option or an argument of it is not taken. That an address of another machine is not in
#: the dump, or that a type is not in its symbols, is an answer.
_NOT_TAKEN = (
    "no such command here",
    " is not there: ",
    " knows no ",
    "Syntax error",
    "Extra character error",
    "failed by a mistake",
)


def test_four_of_five_are_answered(session: Session) -> None:
    refused = []
    rows = (Path(__file__).parent / "published_commands.tsv").read_text(encoding="utf-8").splitlines()
    commands = [row.split("\t", 1)[1] for row in rows if not row.startswith("#")]
    assert len(commands) > 45
    session.most_steps = 2000
    for command in commands:
        lines = answer(session, command)
        if any(words in line for line in lines for words in _NOT_TAKEN):
            refused.append((command, lines[0]))
        answer(session, "ad *; .process; .thread")
    assert len(refused) <= len(commands) // 5, refused
