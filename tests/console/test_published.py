"""Commands that people type, as public documents have them, in one session over the demonstration.

The addresses are those of other machines: that memory, a type or a module is not there is KD's answer as well. What
counts is that a command and all that follows it are taken.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.prompt import answer
from volatility3_kdump.console.session import Session

#: A command of KD that is not there, and why or what takes its place.
_POINTER = re.compile(r" is not there: ")
_UNKNOWN = re.compile(r"no such command here")
#: What was typed is not taken: the grammar, an option or an object of the data model is missing.
_NOT_TAKEN = re.compile(
    r" knows no |Syntax error|Extra character error|failed by a mistake|Bad register error at '@?\?|Unable to bind name"
    r"|^!list needs|^dx -id|the \{ has no \}|stopped after \d+ commands"
)
#: Commands that MEX, WDF, NDIS and others add are many in documents about them alone: the share without them is higher.
_ADDED = re.compile(r"!(mex|\w+kd|ext|wmitrace|ks|amli)\.")
_LEAST = 0.80
#: What was asked for by name: the data model and C++, power, verifier, registers, stacks, programs, lists, pages.
_NAMED = re.compile(
    r"dx\b|\?\?|.*@\$pcrb?\b|!devnode|!error|!gle|!poaction|!powertriage|!podev|!verifier|!deadlock|!ruleinfo|r$|rm"
    r"|r[ MFX?]|k|!uniqstack|!findstack|!(mex\.)?(us|tl|t|di|lt|ddt|running)\b|\$\$?>"
    r"|\.(if|for|foreach|while|do|printf|block)\b|a[sdl]\b|aS\b|j\b|z\b|!lmi|!dh|!chksym|dl|!list|!validatelist|!for_each_(process|thread|module)|\.tlist|!pfn"
    r"|!ca\b|!fileobj|!filecache|!vpb|!irpfind|!poolfind|!poolval|\.writemem",
    re.IGNORECASE,
)
_LEAST_NAMED = 0.90


def _typed(pages_only: bool) -> list[str]:
    rows = (Path(__file__).parent / "published_commands.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [row.split("\t", 1) for row in rows if not row.startswith("#")]
    return [typed for source, typed in pairs if not pages_only or not source.startswith("text ")]


def _outcome(lines: list[str]) -> str:
    for kind, pattern in (("unknown", _UNKNOWN), ("pointer", _POINTER), ("refused", _NOT_TAKEN)):
        if any(pattern.search(line) for line in lines):
            return kind
    return "answered"


def _outcomes(session: Session, commands: list[str]) -> list[tuple[str, str]]:
    session.most_steps = 2000
    outcomes = []
    for command in commands:
        outcomes.append((_outcome(answer(session, command)), command))
        answer(session, "ad *; .process; .thread; ~0s")
    return outcomes


def _share(outcomes: list[tuple[str, str]]) -> float:
    return sum(outcome == "answered" for outcome, _ in outcomes) / len(outcomes)


def test_commands_of_microsofts_pages(session: Session) -> None:
    outcomes = _outcomes(session, _typed(pages_only=True))
    assert len(outcomes) > 70
    assert _share(outcomes) >= _LEAST, [pair for pair in outcomes if pair[0] != "answered"]


@pytest.mark.thorough
def test_four_of_five_are_answered(session: Session) -> None:
    """Eight of ten of all, nine of ten of those that were asked for by name; none is unknown."""
    outcomes = _outcomes(session, _typed(pages_only=False))
    assert len(outcomes) > 550
    missed = [pair for pair in outcomes if pair[0] != "answered"]
    assert _share(outcomes) >= _LEAST, missed
    named = [pair for pair in outcomes if _NAMED.match(pair[1])]
    assert len(named) > 140
    assert _share(named) >= _LEAST_NAMED, [pair for pair in named if pair[0] != "answered"]
    assert [command for outcome, command in outcomes if outcome == "unknown"] == []
