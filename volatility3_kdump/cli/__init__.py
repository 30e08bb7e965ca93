"""The ``kdump`` command: KD's prompt, and one module for each command beside it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.cli.streams import run_guarded
from volatility3_kdump.version import __version__

if TYPE_CHECKING:
    from volatility3_kdump.cli.command import Command

#: Options of ``kdump`` without a command; all others are those of KD, and open its prompt.
_OWN_OPTIONS = ("-h", "--help", "--version")
#: Each command: its module, and what it is called there.
_PLACES = {
    **{
        name: (name, "COMMAND")
        for name in ("sample", "analyze", "batch", "report", "dump", "slice", "symbols", "verdict", "mcp")
    },
    **{name: ("links", name.upper()) for name in ("doctor", "link", "unlink")},
    "vol": ("vol", "COMMAND"),
}


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
        # The others' modules would cost each start a quarter of a second.
        named = arguments[:1] if arguments and arguments[0] in _PLACES else _PLACES
        parsed = build_parser(named).parse_args(arguments)
        status: int = parsed.run(parsed)
        return status

    return run_guarded(chosen)


def commands(names: Iterable[str] = _PLACES) -> tuple[Command, ...]:
    """Commands by their names, by default all in the order of ``kdump -h``; only their modules are imported."""
    places = (_PLACES[name] for name in names)
    return tuple(
        getattr(importlib.import_module(f"volatility3_kdump.cli.{module}"), attribute) for module, attribute in places
    )


def build_parser(names: Iterable[str] = _PLACES) -> argparse.ArgumentParser:
    """The grammar of the command line, of some commands; ``run`` of the result carries the chosen command out."""
    parser = argparse.ArgumentParser(
        prog="kdump",
        usage='kdump -z DUMP [-y SYMBOLS] [-i IMAGES] [-c "!analyze -v;q"] ...\n'
        "       %(prog)s [-h] [--version] COMMAND ...",
        description="Windows crash dumps, as KD shows them. `kdump -z DUMP` opens KD's prompt.",
        epilog="`kdump -?` lists the options of the prompt.",
    )
    parser.add_argument("--version", action="version", version=f"kdump {__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND", prog="kdump")
    for command in commands(names):
        command.add_to(parsers)
    return parser
