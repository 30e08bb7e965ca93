"""``kdump symbols``: write the manifest of a dump, or fetch what one lists."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from volatility3_kdump.cli.command import Command
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import FileFailure, lines_of_stream, read_lines, write_text
from volatility3_kdump.options import Options
from volatility3_kdump.progress import ProgressLine
from volatility3_kdump.stores import stores
from volatility3_kdump.stores.paths import SYMBOL_PATH_VARIABLE, SearchPath
from volatility3_kdump.stores.servers import MICROSOFT, Servers
from volatility3_kdump.stores.transfers import Limits
from volatility3_kdump.symbols.manifest import LARGEST, LONGEST_LINE, ManifestError, entries_of, fetch, lines_of, read

#: More patient than a view is: whoever fetches waits for the files.
_LIMITS = Limits(connect=15.0, stall=30.0, total=7200.0, attempts=4, backoff=1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump symbols``."""
    parser.description = (
        "List the PDB and image files a dump needs (--manifest), or get them on a machine with internet (--fetch); "
        "the directory then serves as -y and -i, --symbol-path and --image-path."
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--manifest", metavar="DUMP", type=Path, help="write the list for a dump")
    action.add_argument(
        "--fetch", nargs=2, metavar=("MANIFEST", "DIR"), help="fill a symbol store; - reads the manifest from stdin"
    )
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=("all", "crash"),
        default="all",
        help="with --manifest: all modules (default), or the kernel and the modules on the stack of the crash",
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="the file for the manifest (default: stdout)")
    parser.add_argument(
        "-y",
        "--symbol-path",
        metavar="PATH",
        help="with --fetch: where files come from, as KD's -y; srv* is Microsoft's public server "
        "(default: _NT_SYMBOL_PATH)",
    )
    parser.add_argument("-i", "--image-path", metavar="PATH", help="with --manifest: image files at hand, as KD's -i")
    parser.add_argument(
        "--isf-dir", metavar="DIR", type=Path, action="append", default=[], help="with --manifest: symbol tables"
    )
    parser.add_argument("--member", metavar="NAME", help="with --manifest: the dump inside an archive")


def run(arguments: argparse.Namespace) -> int:
    """``kdump symbols``: 0 for success, 1 where a server did not answer as it should or a file could not be stored."""
    if arguments.manifest is not None:
        return _write(arguments)
    return _fetch(Path(arguments.fetch[0]), Path(arguments.fetch[1]), arguments.symbol_path)


def _write(arguments: argparse.Namespace) -> int:
    from volatility3_kdump.analysis.crash import crash_modules
    from volatility3_kdump.windows.opening import open_target

    target = open_target(
        arguments.manifest,
        Options(arguments.isf_dir, None, "", arguments.image_path, arguments.member, offline=True),
    )
    modules = target.modules if arguments.purpose == "all" else crash_modules(target)
    entries = list(entries_of(modules, target.images, target.symbol_sources.identity_of))
    if not entries:
        raise KdumpError(f"{target.name}: no module list is in the dump")
    manifest = "".join(f"{line}\n" for line in lines_of(target.name, target.header.architecture, entries))
    if arguments.output is None:
        sys.stdout.write(manifest)
        return 0
    write_text("-o", arguments.output, manifest)
    print(f"{printable(str(arguments.output))}: {len(entries)} modules", file=sys.stderr)
    return 0


def _fetch(manifest: Path, store: Path, symbol_path: str | None) -> int:
    path_text = symbol_path if symbol_path is not None else os.environ.get(SYMBOL_PATH_VARIABLE, "")
    if not path_text.strip():
        raise KdumpError(
            f"nothing says where to fetch from: -y 'srv*' is Microsoft's public server ({MICROSOFT}), "
            f"-y 'srv*URL' another one, -y DIR a directory; or set {SYMBOL_PATH_VARIABLE}"
        )
    progress = ProgressLine(sys.stderr)

    def tell(line: str, stream: TextIO = sys.stderr) -> None:
        progress.clear()
        print(printable(line), file=stream, flush=True)

    servers = Servers(_LIMITS, progress=progress)
    if servers.offline:
        tell("kdump: offline (KDUMP_OFFLINE): no server is asked")
    path = SearchPath.parse(path_text, "symbol path", servers)
    problems: list[str] = []
    for complaint in path.complaints:
        tell(f"kdump: {complaint}")
    try:
        # Checked as a whole before anything is asked for.
        entries = list(read(_lines(manifest)))
    except (FileFailure, ManifestError) as failure:
        raise KdumpError(f"{manifest}: {failure}") from failure
    # Told before a server is asked, and not as files that nobody has.
    stores.prove_writable(store)
    told = 0

    def say(line: str) -> None:
        nonlocal told
        tell(line, sys.stdout)
        for problem in problems[told:]:
            tell(f"kdump: {problem}")
        told = len(problems)

    fetched = fetch(entries, store, path, say, problems)
    say(f"{fetched.present} files in {store}, {fetched.new} of them new; {fetched.absent} not found")
    return 1 if servers.troubled or fetched.unwritten else 0


def _lines(manifest: Path) -> Iterator[str]:
    if str(manifest) == "-":
        return lines_of_stream(sys.stdin.buffer, LONGEST_LINE, LARGEST)
    return read_lines(manifest, LONGEST_LINE, LARGEST)


COMMAND = Command("symbols", "list the PDB and image files that a dump needs, or fetch them", run, add_arguments)
