"""Commands on what happened: the bug check and its analysis, the exception, data that components added to the dump."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text.analyze import brief
from volatility3_kdump.views.analyze import analyze_grid
from volatility3_kdump.views.bugcheck import bug_check_grid, shown_bug_check


@command(".bugcheck", help="bug check code and arguments", plugin="bugcheck")
def bugcheck(session: Session, arguments: Arguments) -> Iterable[str]:
    return bug_check_grid(session.target).kd_lines()


@command(
    "!analyze",
    help="the analysis of the crash; -show explains any bug check",
    usage="[-v] [-f] [-show CODE [P1 P2 P3 P4]]",
    own=True,
    options=(
        Option("-v -vv", "everything that is known"),
        Option("-f", "accepted: nothing keeps an analysis back here"),
        Option("-show", "what a bug check code means", value="CODE [P1 P2 P3 P4]"),
        Option("-hang", "who waits for whom", refused="!locks, !running -i -t and !stacks show who waits"),
    ),
    examples=(Example("!analyze -v"), Example("!analyze -show d1", "what bug check D1 means")),
    plugin="analyze",
)
def analyze(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = arguments.words
    options = [word.lower() for word in operands]
    if "-show" in options:
        shown = operands[options.index("-show") + 1 :]
        if not 1 <= len(shown) <= 5:
            raise KdumpError("!analyze -show takes a bug check code and up to four arguments, hexadecimal")
        return shown_bug_check(shown).kd_lines()
    if "-hang" in options:
        raise KdumpError("!analyze -hang is not there: !locks, !running -i -t and !stacks show who waits")
    unknown = [word for word in options if word not in ("-f", "-vv", "-v") and not word[2:].isdigit()]
    if unknown:
        raise arguments.unknown(unknown[0])
    if any(word.startswith("-v") for word in options):
        return analyze_grid(session.target).kd_lines()
    from volatility3_kdump.analysis.crash import analyze_crash

    return brief(analyze_crash(session.target))


@command(".enumtag", help="data that kernel components added to the dump", plugin="info")
def tagged_data(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.tagged import tagged_grid

    return tagged_grid(session.target).kd_lines()
