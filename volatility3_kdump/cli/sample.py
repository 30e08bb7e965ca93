"""``kdump sample``: write the dump or memory image of a known scene."""

from __future__ import annotations

import argparse
import stat
from pathlib import Path

from volatility3_kdump.cli.command import Command
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import mode_of

#: DumpType of the header (``DUMP_TYPE_*``) of every kind of dump that the sample is written as.
TYPES = (1, 2, 4, 5, 6, 8, 9, 10)
DEFAULT_SCENE = "myfault"
#: Containers that the sample is written in besides.
IMAGE_KINDS = ("avml", "elf", "kdump", "lime", "raw", "vmem")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump sample``."""
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write")
    parser.add_argument(
        "--type",
        dest="dump_type",
        metavar="TYPE",
        type=_dump_type,
        choices=TYPES,
        default=6,
        help="DumpType of the header: " + ", ".join(map(str, TYPES)) + " (default 6)",
    )
    parser.add_argument(
        "--isf", type=Path, help="symbol table of the kernel to lay it out for (default: the shipped one)"
    )
    parser.add_argument(
        "--scene",
        default=DEFAULT_SCENE,
        help=f"what the dump shows (default {DEFAULT_SCENE}; a wrong name lists them all)",
    )
    parser.add_argument("--image", choices=IMAGE_KINDS, help="write a memory image instead of a crash dump")
    parser.add_argument("--running", action="store_true", help="with --image: of a machine that has not crashed")


def _dump_type(number: str) -> int:
    return int(number, 0)


def run(arguments: argparse.Namespace) -> int:
    """``kdump sample``: 0 where the file is written."""
    import kdump_sample

    out: Path = arguments.out
    mode = mode_of(out)
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise KdumpError(f"{out}: is no ordinary file")
    try:
        if arguments.image is not None:
            kdump_sample.write_image_sample(out, arguments.image, arguments.isf, arguments.scene, arguments.running)
            kind = f"memory image ({arguments.image})"
        else:
            kdump_sample.write_sample(out, arguments.dump_type, arguments.isf, arguments.scene)
            kind = f"dump type {arguments.dump_type}"
        size = out.stat().st_size
    except OSError as error:
        raise KdumpError(f"{error.filename or out}: {error.strerror or error}") from error
    print(f"{printable(str(out))}: {size:,} bytes, {kind}")
    return 0


COMMAND = Command("sample", "write a small crash dump of a known scene", run, add_arguments)
