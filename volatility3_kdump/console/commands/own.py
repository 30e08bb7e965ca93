"""What the debugger has not, in its spelling: the verdict in plain words, who waits, large pool blocks, the report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session, refuse_same_file
from volatility3_kdump.console.syntax import Example, file, word
from volatility3_kdump.errors import KdumpError


@command("!kdump.verdict", help="what happened and who is to blame, in plain words")
def verdict(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.analysis.crash import analyze_crash
    from volatility3_kdump.text.summary import summary

    yield from summary(analyze_crash(session.target), session.target.has_names)


@command("!kdump.waits", help="which thread waits for which, and deadlocks")
def waits(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.waits import waits_grid
    from volatility3_kdump.windows.listing.threads import ThreadChoice

    return waits_grid(session.target, ThreadChoice(), session.progress).kd_lines()


@command(
    "!kdump.bigpool",
    help="blocks of pool that are larger than a page",
    arguments=(word("TAG", "only tags that this pattern fits"),),
    examples=(Example("!kdump.bigpool Leak"),),
)
def big_pool(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.pool import big_grid

    return big_grid(session.target, arguments.word("TAG"), progress=session.progress).kd_lines()


@command(
    "!kdump.report",
    help="writes the analysis as JSON to a new file",
    arguments=(file("FILE", "a file that does not exist yet", required=True),),
    examples=(Example("!kdump.report /tmp/crash.json"),),
)
def write_report_file(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.analysis.crash import analyze_crash
    from volatility3_kdump.views.report import write_report

    name = arguments.word("FILE") or ""
    path = Path(os.path.expanduser(name))
    refuse_same_file(str(path), session.current.path)
    if os.path.lexists(path):
        raise KdumpError(f"{name}: not written: it exists, and is not overwritten")
    write_report(path, session.target, analyze_crash(session.target))
    yield f"Wrote {name}"
