"""The options of commands that open dumps."""

from __future__ import annotations

import argparse

from volatility3_kdump.options import Options
from volatility3_kdump.progress import Progress


def add_dump_options(parser: argparse.ArgumentParser, member: bool = True, rules: bool = True) -> None:
    """Where symbols and images are; with ``member`` which dump of an archive is meant, with ``rules`` owner rules."""
    parser.add_argument(
        "-y", "--symbol-path", metavar="PATH", help="where PDB files are, as KD's -y (default _NT_SYMBOL_PATH, srv*)"
    )
    parser.add_argument(
        "-i",
        "--image-path",
        metavar="PATH",
        help="where image files are, as KD's -i (default _NT_EXECUTABLE_IMAGE_PATH)",
    )
    parser.add_argument(
        "--isf-dir", action="append", default=[], metavar="DIR", help="searched for symbol tables before the host's own"
    )
    parser.add_argument("--isf-file", metavar="FILE", help="the kernel's symbol table itself")
    parser.add_argument("--offline", action="store_true", help="ask no symbol server (also KDUMP_OFFLINE)")
    if rules:
        parser.add_argument("--triage-ini", metavar="FILE", help="rules of yours for choosing the culprit")
    if member:
        parser.add_argument("--member", metavar="NAME", help="the dump inside an archive: its name or number")


def opening_options(arguments: argparse.Namespace, progress: Progress | None = None) -> Options:
    """What the dumps of a command are opened with."""
    return Options(
        arguments.isf_dir,
        arguments.isf_file,
        arguments.symbol_path,
        arguments.image_path,
        getattr(arguments, "member", None),
        arguments.offline or None,
        progress,
    )
