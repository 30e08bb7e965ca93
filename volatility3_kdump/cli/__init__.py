"""The ``kdump`` command: KD's prompt, and one module for each command beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.cli.streams import run_guarded
from volatility3_kdump.version import __version__

if TYPE_CHECKING:
    from volatility3_kdump.cli.command import Command

#: Options of ``kdump`` without a command; all others are those of KD, and open its prompt.
_OWN_OPTIONS = ("-h", "--help", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``kdump`` with the given arguments (by default those of the process); returns the exit status.

    0 for success, 1 for a failure that one line on stderr names. A wrong command line ends in argparse's
    ``SystemExit(2)``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def chosen() -> int:
        if arguments[:1] == ["vol"]:  # its options are not ours to parse
            from volatility3_kdump.cli.vol import run_vol

            return run_vol(arguments[1:])
        if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_OPTIONS:
            from volatility3_kdump.console.application import main as run_console

            return run_console(arguments)
        parsed = build_parser().parse_args(arguments)
        status: int = parsed.run(parsed)
        return status

    return run_guarded(chosen)


def commands() -> tuple[Command, ...]:
    """All commands, in the order of ``kdump -h``."""
    from volatility3_kdump.cli import analyze, batch, dump, links, mcp, report, sample, slice, symbols, verdict, vol

    modules = (sample, analyze, batch, report, dump, slice, symbols, verdict, mcp)
    return (*(module.COMMAND for module in modules), links.DOCTOR, links.LINK, links.UNLINK, vol.COMMAND)


def build_parser() -> argparse.ArgumentParser:
    """The grammar of the command line; ``run`` of the result carries the chosen command out."""
    parser = argparse.ArgumentParser(
        prog="kdump",
        usage='kdump -z DUMP [-y SYMBOLS] [-i IMAGES] [-c "!analyze -v;q"] ...\n'
        "       %(prog)s [-h] [--version] COMMAND ...",
        description="Windows crash dumps, as KD shows them. `kdump -z DUMP` opens KD's prompt.",
        epilog="`kdump -?` lists the options of the prompt.",
    )
    parser.add_argument("--version", action="version", version=f"kdump {__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND", prog="kdump")
    for command in commands():
        command.add_to(parsers)
    return parser
