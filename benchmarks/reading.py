"""Reading every page of a dump of 256 MB, run by run: in reads of at most 1 MB, and page by page.

The dump is of DumpType 5, which every reader opens, and its pages are in the page cache. A read does not cross the end
of a run. Each reader runs in a process of its own, and its figure there is the best of three passes, after one in which
the bytes are compared with those of the other readers.
"""

from __future__ import annotations

import functools
import json
import mmap
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from comparison import NotMeasured, Row, alternate, faster, progress, run_worker
from dumps import PAGE, Run, bitmap_of, fill_with_pages, runs_of_varied_length, write_bitmap_dump

_MEGABYTE = 1 << 20
_PAGES = 256 * _MEGABYTE // PAGE
_PASSES = 3
_ROUNDS = 5

Read = Callable[[int, int], bytes]
#: A reader, and what to call before each pass to make it forget what it has read.
Reader = tuple[Read, Callable[[], object]]


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    path = directory / "pages.dmp"
    progress("writing a dump with pages")
    runs = runs_of_varied_length(_PAGES)
    fill_with_pages(path, write_bitmap_dump(path, bitmap_of(runs)), _PAGES)
    path.with_suffix(".json").write_text(json.dumps(runs))
    table = []
    for what, size, floors in (
        ("1 MB", _MEGABYTE, {"leechcorepyc": 1.0, "host": None, "mmap": None}),
        ("4 KB", PAGE, {"host": 2.0, "leechcorepyc": 1.0, "mmap": None}),
    ):
        contenders = {who: functools.partial(run_worker, __file__, who, path, size) for who in ("ours", *floors)}
        found = alternate(f"{what} reads", _ROUNDS, contenders)
        sums = {values["crc"] for values in found.values() if not isinstance(values, NotMeasured)}
        if len(sums) > 1:
            raise SystemExit(f"the readers disagree about the bytes of {path}")
        for who, floor in floors.items():
            table.append(
                faster(f"read 256 MB in {len(runs)} runs, {what} reads", found["ours"], found[who], who, floor)
            )
    path.unlink()
    return table


def _pieces(runs: list[Run], size: int) -> list[tuple[int, int]]:
    """(address, length) of the reads that fetch every page."""
    pieces = []
    for first, count in runs:
        address, end = first * PAGE, (first + count) * PAGE
        while address < end:
            pieces.append((address, min(size, end - address)))
            address += size
    return pieces


def _reader(who: str, path: Path) -> Reader:
    """A function that reads physical memory."""
    if who == "leechcorepyc":
        _find_libusb()
        import leechcorepyc

        return leechcorepyc.LeechCore(f"file://{path.resolve()}").read, _nothing

    from volatility3.framework import contexts
    from volatility3.framework.layers import crash, physical

    stacker = crash.WindowsCrashDumpStacker
    if who == "ours":
        from volatility3_kdump.layers.stackers import KdumpCrashStacker as stacker
    context = contexts.Context()
    context.config["file.location"] = path.resolve().as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    layer = stacker.stack(context, "file")
    assert layer is not None
    context.add_layer(layer)
    # The host keeps the results of its last 512 reads, which is more than there are reads of 1 MB.
    return layer.read, getattr(type(layer).read, "cache_clear", _nothing)


def _nothing() -> None:
    """For readers that keep no results."""


def _find_libusb() -> None:
    """Load the libusb that leechcorepyc links, from the distribution libusb-package where the system has none."""
    import ctypes

    try:
        import libusb_package
    except ImportError:
        return
    ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)


def _mapped(path: Path, pieces: list[tuple[int, int]]) -> tuple[Read, list[tuple[int, int]]]:
    """The file itself in memory, and the same reads as file offsets: what no reader of the format can beat."""
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (offset,) = struct.unpack_from("<Q", view, 0x2020)
    located = []
    for _, length in pieces:
        located.append((offset, length))
        offset += length
    return lambda start, length: view[start : start + length], located


def _read_all(who: str, path: Path, size: int) -> dict[str, float]:
    """The worker: read every page several times."""
    pieces = _pieces(json.loads(path.with_suffix(".json").read_text()), size)
    if who == "mmap":
        read, pieces = _mapped(path, pieces)
        forget: Callable[[], object] = _nothing
    else:
        read, forget = _reader(who, path)
    crc = 0
    for address, length in pieces:
        crc = zlib.crc32(read(address, length), crc)
    best = float("inf")
    for _ in range(_PASSES):
        forget()
        start = time.perf_counter()
        for address, length in pieces:
            read(address, length)
        best = min(best, time.perf_counter() - start)
    return {"seconds": best, "crc": crc}


if __name__ == "__main__":
    print(json.dumps(_read_all(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
