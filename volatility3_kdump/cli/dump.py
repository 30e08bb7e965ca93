"""``kdump dump``: write a crash dump of any opened dump or memory image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from volatility3_kdump.cli.command import Command
from volatility3_kdump.cli.dumps import add_dump_options, opening_options
from volatility3_kdump.escape import printable
from volatility3_kdump.progress import ProgressLine

TYPES = (1, 5, 6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump dump``."""
    parser.description = (
        "Write a Windows crash dump of a memory image or of another dump, for WinDbg and whatever else reads dumps."
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the memory image or dump, or an archive with one")
    parser.add_argument("out", metavar="OUT.dmp", type=Path, help="the file to write")
    parser.add_argument(
        "--type",
        dest="dump_type",
        type=int,
        choices=TYPES,
        default=5,
        help="1 all memory in runs, 5 all memory with a bitmap (default), 6 the kernel's pages only",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    add_dump_options(parser, rules=False)


def run(arguments: argparse.Namespace) -> int:
    """``kdump dump``: 0 where the dump is written."""
    from volatility3_kdump.windows.opening import open_target
    from volatility3_kdump.writing import plan, write

    progress = ProgressLine(sys.stderr)
    target = open_target(arguments.image, opening_options(arguments, progress))
    try:
        planned = plan(target, arguments.dump_type, progress)
        write(planned, arguments.out, arguments.force, progress)
    finally:
        progress.clear()
    for line in [*planned.notes, *target.warnings]:
        print(f"NOTE: {printable(line)}")
    print(
        f"{printable(str(arguments.out))}: {planned.size:,} bytes, dump type {planned.dump_type}, "
        f"{planned.pages:,} pages, bug check {planned.bug_check:X}"
    )
    return 0


COMMAND = Command("dump", "write a crash dump of a memory image or of another dump", run, add_arguments)
