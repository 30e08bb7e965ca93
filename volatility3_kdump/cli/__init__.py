"""The ``kdump`` command: KD's prompt, the sample dump, the state of the installation, and ``vol`` with all of ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volatility3_kdump.cli.streams import run_guarded
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.version import __version__

#: DumpType of the header (``DUMP_TYPE_*``) of every kind of dump that the sample is written as.
SAMPLE_TYPES = (1, 2, 4, 5, 6, 8, 9, 10)
DEFAULT_SCENE = "myfault"
#: Containers that the sample is written in besides.
IMAGE_KINDS = ("avml", "elf", "kdump", "lime", "raw", "vmem")
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
            return run_vol(arguments[1:])
        if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_OPTIONS:
            from volatility3_kdump.console.application import main as run_console

            return run_console(arguments)
        return run(build_parser().parse_args(arguments))

    return run_guarded(chosen)


def _dump_type(text: str) -> int:
    return int(text, 0)


def build_parser() -> argparse.ArgumentParser:
    """The grammar of the command line; ``command`` of the result names the chosen command."""
    from volatility3_kdump.batch import command as batch
    from volatility3_kdump.cli import analyze, dump, mcp, report, slice, symbols, verdict

    parser = argparse.ArgumentParser(
        prog="kdump",
        usage='kdump -z DUMP [-y SYMBOLS] [-i IMAGES] [-c "!analyze -v;q"] ...\n'
        "       %(prog)s [-h] [--version] COMMAND ...",
        description="Windows crash dumps, as KD shows them. `kdump -z DUMP` opens KD's prompt.",
        epilog="`kdump -?` lists the options of the prompt.",
    )
    parser.add_argument("--version", action="version", version=f"kdump {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="write a small crash dump of a known scene")
    sample.add_argument("out", metavar="OUT", type=Path, help="the file to write")
    sample.add_argument(
        "--type",
        dest="dump_type",
        metavar="TYPE",
        type=_dump_type,
        choices=SAMPLE_TYPES,
        default=6,
        help="DumpType of the header: " + ", ".join(map(str, SAMPLE_TYPES)) + " (default 6)",
    )
    sample.add_argument(
        "--isf", type=Path, help="symbol table of the kernel to lay it out for (default: the shipped one)"
    )
    sample.add_argument(
        "--scene",
        default=DEFAULT_SCENE,
        help=f"what the dump shows (default {DEFAULT_SCENE}; a wrong name lists them all)",
    )

    analyze.add_arguments(
        commands.add_parser("analyze", help="say of each dump in one line what crashed: for build pipelines")
    )
    sample.add_argument("--image", choices=IMAGE_KINDS, help="write a memory image instead of a crash dump")
    sample.add_argument("--running", action="store_true", help="with --image: of a machine that has not crashed")

    batch.add_arguments(commands.add_parser("batch", help="analyse many dumps: one JSON line each, and a summary"))
    report.add_arguments(commands.add_parser("report", help="write the analysis of a crash as one HTML page"))
    dump.add_arguments(commands.add_parser("dump", help="write a crash dump of a memory image or of another dump"))
    slice.add_arguments(commands.add_parser("slice", help="write a dump of only what some commands read"))
    symbols.add_arguments(
        commands.add_parser("symbols", help="list the PDB and image files that a dump needs, or fetch them")
    )
    verdict.add_arguments(
        commands.add_parser("verdict", help="give culprit, bucket and hash for a pasted `!analyze -v` or stack")
    )
    mcp.add_arguments(commands.add_parser("mcp", help="serve dumps to programs over the Model Context Protocol"))
    commands.add_parser("doctor", help="tell whether plain `vol` finds the plugins; exit status 0 if it does")
    commands.add_parser("link", help="make plain `vol` find the plugins of an editable install")
    commands.add_parser("unlink", help="undo `link`")
    commands.add_parser(
        "vol", add_help=False, help="run `vol` with the arguments that follow, with our plugins and renderers loaded"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command line."""
    if arguments.command == "sample":
        if arguments.image is not None:
            return write_image(arguments)
        return write_sample(arguments.out, arguments.dump_type, arguments.isf, arguments.scene)
    if arguments.command == "batch":
        from volatility3_kdump.batch import command as batch

        return batch.run(arguments)
    if arguments.command == "analyze":
        from volatility3_kdump.cli import analyze

        return analyze.run(arguments)
    if arguments.command == "report":
        from volatility3_kdump.cli import report

        return report.run(arguments)
    if arguments.command == "dump":
        from volatility3_kdump.cli import dump

        return dump.run(arguments)
    if arguments.command == "mcp":
        from volatility3_kdump.cli import mcp

        return mcp.run(arguments)
    if arguments.command == "slice":
        from volatility3_kdump.cli import slice

        return slice.run(arguments)
    if arguments.command == "symbols":
        from volatility3_kdump.cli import symbols

        return symbols.run(arguments)
    if arguments.command == "verdict":
        from volatility3_kdump.cli import verdict

        return verdict.run(arguments)
    if arguments.command == "doctor":
        return doctor()
    return change_links(arguments.command)


def write_sample(out: Path, dump_type: int, isf: Path | None, scene: str) -> int:
    """``kdump sample``."""
    import kdump_sample as sample

    try:
        sample.write_sample(out, dump_type, isf, scene)
        size = out.stat().st_size
    except OSError as error:
        raise KdumpError(f"{error.filename or out}: {error.strerror or error}") from error
    print(f"{out}: {size:,} bytes, dump type {dump_type}")
    return 0


def write_image(arguments: argparse.Namespace) -> int:
    """``kdump sample --image``."""
    import kdump_sample as sample

    out = arguments.out
    try:
        sample.write_image_sample(out, arguments.image, arguments.isf, arguments.scene, arguments.running)
        size = out.stat().st_size
    except OSError as error:
        raise KdumpError(f"{error.filename or out}: {error.strerror or error}") from error
    print(f"{out}: {size:,} bytes, memory image ({arguments.image})")
    return 0


def doctor() -> int:
    """``kdump doctor``: print every check; 0 only if none failed."""
    from volatility3_kdump import installation

    checks = installation.examine()
    for check in checks:
        print(check)
    failed = sum(check.passed is False for check in checks)
    print("plain vol finds everything" if not failed else f"{failed} of {len(checks)} checks failed")
    return 1 if failed else 0


def change_links(command: str) -> int:
    """``kdump link`` and ``kdump unlink``."""
    from volatility3_kdump import installation

    if command == "link" and installation.installed_distribution() is None:
        # The plugins that a link leads to would fail to import this package.
        raise installation.InstallationError(f"{installation.DISTRIBUTION} is not installed here: pip install it first")
    places = installation.find_places()
    done = installation.link(places) if command == "link" else installation.unlink(places)
    nothing = "nothing to do: vol finds the plugins" if command == "link" else "nothing to do: there is no link of ours"
    print("\n".join(done or [nothing]))
    return 0


def _spare_symbol_cache() -> None:
    """Keep the host from indexing every symbol table of its directories before one of our plugins runs.

    That takes 0.15 s for each table that is new to its cache, and our plugins find tables by name. In this process of
    ours only; plugins of the host get its cache as ever.
    """
    from volatility3.framework import automagic
    from volatility3.framework.automagic.symbol_cache import SymbolCacheMagic

    choose = automagic.choose_automagic

    def chosen(automagics: list[Any], plugin: type[Any]) -> list[Any]:
        found: list[Any] = choose(automagics, plugin)
        if plugin.__module__.startswith("volatility3.plugins.kdump."):
            found = [magic for magic in found if not isinstance(magic, SymbolCacheMagic)]
        return found

    automagic.choose_automagic = chosen


def run_vol(arguments: Sequence[str]) -> int:
    """``kdump vol``: the host's own command line, on our plugins even where nothing is installed or linked.

    Hosts before 2.28 list their renderers before they import plugins, so ours are imported first.
    """
    from volatility3_kdump import installation

    places = installation.find_places()
    sys.argv = ["vol", *arguments]  # the host takes its name from there when it is imported
    from volatility3 import cli
    from volatility3.framework import constants

    import volatility3_kdump.renderers  # noqa: F401

    # Not through the settings, which an explicit -p or -s would override.
    for kind, directories in (
        (installation.PLUGINS, constants.PLUGINS_PATH),
        (installation.SYMBOLS, constants.SYMBOL_BASEPATHS),
    ):
        parent = str(places.ours[kind.directory].parent)
        if parent not in directories:
            directories.insert(0, parent)
    _spare_symbol_cache()
    try:
        cli.main()
    except SystemExit as stopped:
        if stopped.code is None or isinstance(stopped.code, int):
            return stopped.code or 0
        raise
    return 0
