"""Commands on what happened: the bug check and its analysis, the exception, data that components added to the dump."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option
from volatility3_kdump.errors import KdumpError

_XML = "no XML is written: kdump.analyze with -r json has every finding, kdump report a page"
#: Documented options of !analyze, and why they are not there.
_NOT_HERE = {
    "-D": ("another bucket than the one found", "a bucket is found by the analysis, not given to it"),
    "-c": ("the custom analysis of a configuration file", "analyses are rules of Python here: docs/architecture.md"),
    "-xml": ("as XML", _XML),
    **{f"-x{part}": ("as XML, in part", _XML) for part in ("mi", "cs", "ss")},
}


@command(".bugcheck", help="bug check code and arguments", plugin="bugcheck")
def bugcheck(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.bugcheck import bug_check_grid

    return bug_check_grid(session.target).kd_lines()


@command(
    "!analyze",
    help="the analysis of the crash; -hang who holds the machine up; -show explains any bug check",
    usage="[-v] [-f | -hang | -show CODE [P1 P2 P3 P4]]",
    own=True,
    options=(
        Option("-v -vv", "everything that is known"),
        Option("-f", "accepted: nothing keeps an analysis back here"),
        Option("-show", "what a bug check code means", value="CODE [P1 P2 P3 P4]"),
        Option("-hang", "who most probably holds the machine up, with the evidence"),
        *(Option(name, says, refused=why) for name, (says, why) in _NOT_HERE.items()),
    ),
    examples=(
        Example("!analyze -v"),
        Example("!analyze -hang", "who holds a machine up that hangs"),
        Example("!analyze -show d1", "what bug check D1 means"),
    ),
    plugin="analyze",
)
def analyze(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text.analyze import brief
    from volatility3_kdump.views.analyze import analyze_grid
    from volatility3_kdump.views.bugcheck import shown_bug_check

    operands = arguments.words
    options = [word.lower() for word in operands]
    if "-show" in options:
        shown = operands[options.index("-show") + 1 :]
        if not 1 <= len(shown) <= 5:
            raise KdumpError("!analyze -show takes a bug check code and up to four arguments, hexadecimal")
        return shown_bug_check(shown).kd_lines()
    refused = next((word for word in operands if word in _NOT_HERE), None)
    if refused is not None:
        raise KdumpError(f"!analyze {refused}: {_NOT_HERE[refused][1]}")
    known = ("-f", "-vv", "-v", "-hang")
    unknown = [word for word in operands if word.lower() not in known and not word[2:].isdigit()]
    if unknown:
        raise arguments.unknown(unknown[0])
    verbose = any(word.startswith("-v") for word in options)
    if "-hang" in options:
        from volatility3_kdump.views.hang import hang_grid

        return hang_grid(session.target, verbose, session.progress).kd_lines()
    if verbose:
        return analyze_grid(session.target).kd_lines()
    from volatility3_kdump.analysis.crash import analyze_crash

    return brief(analyze_crash(session.target))


@command(".enumtag", help="data that kernel components added to the dump", plugin="info")
def tagged_data(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.tagged import tagged_grid

    return tagged_grid(session.target).kd_lines()
