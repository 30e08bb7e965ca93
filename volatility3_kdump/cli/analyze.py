"""``kdump analyze``: verdicts for build pipelines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from volatility3_kdump.cli.command import Command
from volatility3_kdump.cli.dumps import add_dump_options, opening_options
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import write_text

if TYPE_CHECKING:
    from volatility3_kdump.pipelines.analysed import Analysed

FORMATS = ("text", "json", "markdown", "junit", "sarif", "github")
#: The exit status where a dump meets a condition of --fail-on.
FAILS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump analyze``."""
    parser.description = (
        "Analyse dumps and say of each in one line what crashed and who is held responsible. Exit status: 0, or "
        f"{FAILS} if a dump meets --fail-on, else 1 if one could not be analysed."
    )
    parser.add_argument("paths", metavar="DUMP", nargs="+", help="dumps, archives with one, and directories of them")
    parser.add_argument(
        "--format",
        dest="formats",
        metavar="FORMAT[=FILE]",
        action="append",
        default=[],
        help=f"{', '.join(FORMATS)} (default text); to a file where one is named; repeat it",
    )
    parser.add_argument(
        "--fail-on",
        metavar="CONDITION",
        action="append",
        default=[],
        help="any, error, third-party, hardware, driver=NAME, stack=NAME, bugcheck=CODE, bucket=NAME, hash=HASH, "
        "process=NAME, confidence=LEAST; joined by commas all must hold; repeat it",
    )
    add_dump_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """``kdump analyze``. Raises :class:`KdumpError` for what concerns no single dump."""
    from volatility3_kdump.pipelines.analysed import analyse
    from volatility3_kdump.pipelines.conditions import Condition

    conditions = [Condition.parse(condition) for condition in arguments.fail_on]
    outputs = [_output(output) for output in arguments.formats or ["text"]]
    if sum(path is None for _, path in outputs) > 1:
        raise KdumpError("--format: two formats go to standard output: name a file for one, as in --format sarif=FILE")
    options = opening_options(arguments)
    if len(arguments.paths) > 1 and options.member is not None:
        raise KdumpError("--member is about one archive: name it alone")
    dumps = list(analyse(arguments.paths, options, arguments.triage_ini, conditions))
    for make, path in outputs:
        _write(make(dumps), path)
    if any(dump.matched for dump in dumps):
        return FAILS
    return 1 if any(dump.error is not None for dump in dumps) else 0


def _output(text: str) -> tuple[Callable[[Sequence[Analysed]], str], Path | None]:
    """What makes the text of a format, and the file that it goes to."""
    from volatility3_kdump.pipelines import junit, lines, markdown, sarif

    name, equals, file = text.partition("=")
    makers = {
        "text": lines.text,
        "json": lines.as_json,
        "markdown": markdown.markdown,
        "junit": junit.junit,
        "sarif": sarif.sarif,
        "github": lines.github,
    }
    if name not in makers or (equals and not file):
        raise KdumpError(f"--format {text}: choose one of {', '.join(FORMATS)}, with =FILE behind it for a file")
    return makers[name], Path(file) if file else None


def _write(text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    write_text("--format", path, text)


COMMAND = Command("analyze", "say of each dump in one line what crashed: for build pipelines", run, add_arguments)
