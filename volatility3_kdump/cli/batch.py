"""``kdump batch``: options, the file of lines, the summary."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from volatility3_kdump.batch import parquet
from volatility3_kdump.batch.lines import Done, LineFile
from volatility3_kdump.batch.places import collect_everywhere
from volatility3_kdump.batch.summary import Summary, counted
from volatility3_kdump.batch.task import Line, Options
from volatility3_kdump.batch.watching import watched
from volatility3_kdump.batch.workers import MOST_JOBS, Progress, lines_of
from volatility3_kdump.cli.command import Command
from volatility3_kdump.cli.numbers import seconds, whole_number
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import write_text
from volatility3_kdump.stores.servers import offline_by_default

if TYPE_CHECKING:
    from volatility3_kdump.batch.fleet import FleetExecutor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump batch``."""
    parser.add_argument("paths", metavar="DIR", nargs="+", help="directories, dumps, archives with dumps; URLs")
    parser.add_argument("--jsonl", metavar="OUT", type=Path, required=True, help="the file that gets the lines")
    parser.add_argument(
        "--jobs", metavar="N", type=whole_number(1, MOST_JOBS), help="dumps analysed at a time (default: processors)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with OUT: files that have a line are left out")
    parser.add_argument("--summary", metavar="FILE", type=Path, help="write the summary as JSON as well")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the summary as one HTML page as well")
    parser.add_argument(
        "--parquet",
        metavar="DIR",
        type=Path,
        help="write the lines as Parquet files as well: dumps, frames, modules, ...",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="have the workers of a Dask scheduler analyse: tcp://HOST:8786"
    )
    parser.add_argument("--send", action="store_true", help="with --scheduler: send the bytes of the dumps along")
    parser.add_argument(
        "--watch", action="store_true", help="go on with what appears in the directories, until it is interrupted"
    )
    parser.add_argument(
        "--pattern", metavar="GLOB", action="append", default=[], help="only names in the directories that match"
    )
    parser.add_argument("--time-limit", metavar="S", type=seconds, help="give up on a dump after so many seconds")
    for options, explanation in (
        (("--isf-dir",), "directories searched for symbol tables before the host's own"),
        (
            ("-y", "--symbol-path"),
            "where PDB and image files are, as KD's -y (default _NT_SYMBOL_PATH); only then servers are asked",
        ),
        (("-i", "--image-path"), "where image files are, as KD's -i (default _NT_EXECUTABLE_IMAGE_PATH)"),
    ):
        parser.add_argument(*options, metavar="DIR", action="append", default=[], help=explanation)
    parser.add_argument("--offline", action="store_true", help="ask no symbol server, whatever the paths say")
    parser.add_argument("--triage-ini", metavar="FILE", help="rules of yours for choosing the culprit")


def run(arguments: argparse.Namespace) -> int:
    """``kdump batch``: 0 if every dump was analysed, 1 if some failed, 130 when it was interrupted.

    Raises :class:`KdumpError` for what concerns no single dump.
    """
    options = Options(
        isf_directories=tuple(map(os.path.abspath, arguments.isf_dir)),
        symbol_path=tuple(arguments.symbol_path) or None,
        image_path=tuple(arguments.image_path) or None,
        # A directory of dumps would send many requests: only a path named here says that it may.
        offline=True if arguments.offline or not arguments.symbol_path else None,
        triage_ini=arguments.triage_ini,
        time_limit=arguments.time_limit,
    )
    if arguments.html is not None:
        from volatility3_kdump.pages import rendering

        rendering.require()
    if options.triage_ini is not None:
        from volatility3_kdump.analysis.owners import OwnerRules

        OwnerRules.load(options.triage_ini)  # raises now what would be wrong with every line
    if not arguments.symbol_path and not arguments.offline and not offline_by_default():
        print("kdump batch: no symbol server is asked; -y 'srv*' asks Microsoft's", file=sys.stderr)
    if arguments.parquet is not None:
        parquet.require()
    if arguments.send and arguments.scheduler is None:
        raise KdumpError("--send is for the workers of a --scheduler")
    executor = None
    if arguments.scheduler is not None:
        from volatility3_kdump.batch.fleet import FleetExecutor

        # What waits at a worker counts as under way: its time would pass, and its bytes would be sent.
        ahead = 0 if arguments.send or arguments.time_limit is not None else 1
        executor = FleetExecutor(arguments.scheduler, arguments.send, ahead)
    try:
        out = LineFile(arguments.jsonl, arguments.resume)
        try:
            return _run(arguments, options, out, executor)
        finally:
            out.close()
    finally:
        if executor is not None:
            executor.shutdown()


def _run(arguments: argparse.Namespace, options: Options, out: LineFile, executor: FleetExecutor | None = None) -> int:
    files, left = collect_everywhere(arguments.paths, arguments.pattern)
    left_out = [left]
    done, summary = Done(), Summary()
    wanted = {file.shown_path for file in files}
    earlier = 0
    for line in out.read(lambda line: line["file"]["path"] in wanted):
        done.add(line)
        summary.add(line)
        earlier += 1
    show = _progress_line() if sys.stderr.isatty() else None
    jobs = arguments.jobs or (executor.jobs if executor is not None else None)
    if arguments.watch:
        lines = watched(arguments.paths, arguments.pattern, options, executor, jobs, done, show)
    else:
        lines = lines_of(files, options, executor, jobs, done, show, left_out)
    interrupted = False
    # Whoever ends it in an orderly way gets the summary of what is done, and leaves no process behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for line in lines:
            out.write(line)
            summary.add(line)
            if arguments.watch:
                print(_told(line), flush=True)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        lines.close()  # type: ignore[attr-defined]
        signal.signal(signal.SIGTERM, before)
        if show is not None:
            sys.stderr.write(f"\r{' ' * 79}\r")
    if arguments.summary is not None:
        _write_summary(arguments.summary, summary)
    if arguments.html is not None:
        from volatility3_kdump.pages.batch import batch_page
        from volatility3_kdump.pages.rendering import write_page

        write_page("--html", arguments.html, batch_page(summary.document()))
    if arguments.parquet is not None:
        parquet.write(arguments.parquet, out.read(lambda line: False))
    for line_of_summary in summary.text():
        print(line_of_summary)
    if earlier:
        print(f"from before: {counted(earlier, 'line')}")
    if left_out[0]:
        print(f"left out: {counted(left_out[0], 'other file')} in the directories, without a crash dump")
    if interrupted:
        print(f"kdump: interrupted: --resume goes on with {printable(str(arguments.jsonl))}", file=sys.stderr)
        return 130
    if not summary.analysed and not summary.failed:
        raise KdumpError("no crash dump found in " + ", ".join(map(str, arguments.paths)))
    return 1 if summary.failed else 0


def _told(line: Line) -> str:
    """What `--watch` says of a dump."""
    error, verdict = line["error"], line.get("verdict") or {}
    bug_check = line.get("bug_check") or {}
    said = error["message"] if error is not None else f"{bug_check.get('name') or bug_check.get('code')}"
    held = verdict.get("suspect")
    return printable(f"{line['file']['path']}: {said}" + (f", {held}" if held else ""))


def _progress_line() -> Progress:
    def show(lines: int, expected: int) -> None:
        sys.stderr.write(f"\r{lines} of {expected} dumps".ljust(60))
        sys.stderr.flush()

    return show


def _write_summary(path: Path, summary: Summary) -> None:
    write_text("--summary", path, json.dumps(summary.document(), indent=2) + "\n")


COMMAND = Command("batch", "analyse many dumps: one JSON line each, and a summary", run, add_arguments)
