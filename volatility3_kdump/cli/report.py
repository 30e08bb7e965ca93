"""``kdump report``: the analysis of a crash as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from volatility3_kdump.cli.command import Command
from volatility3_kdump.cli.dumps import add_dump_options, opening_options
from volatility3_kdump.escape import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump report``."""
    parser.description = (
        "Analyse a crash and write one HTML page: it needs no script, loads nothing, and can be mailed and printed."
    )
    parser.add_argument("dump", metavar="DUMP", help="a dump, or an archive")
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True, help="the page to write")
    add_dump_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """``kdump report``: 0 when the page is written. Raises :class:`KdumpError`."""
    from volatility3_kdump.analysis.crash import analyze_crash
    from volatility3_kdump.analysis.owners import OwnerRules
    from volatility3_kdump.pages import rendering
    from volatility3_kdump.pages.crash import crash_page
    from volatility3_kdump.windows.opening import open_target

    rendering.require()
    rendering.refuse_other_files("-o", arguments.out)
    rules = OwnerRules.load(arguments.triage_ini)
    target = open_target(arguments.dump, opening_options(arguments))
    target.memory.budget.begin()
    page = crash_page(target, analyze_crash(target, rules))
    rendering.write_page("-o", arguments.out, page)
    print(f"{printable(str(arguments.out))}: {arguments.out.stat().st_size:,} bytes")
    return 0


COMMAND = Command("report", "write the analysis of a crash as one HTML page", run, add_arguments)
