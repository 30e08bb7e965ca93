"""Opening: a physical layer over the bitmap dump of a 64 GB and of a 512 GB machine.

What is timed is what the host does when it stacks layers: our stacker against the host's, from a file layer to a usable
physical layer, and the constructor of kdmp-parser. Each opening takes a fresh process, with everything imported before
the clock starts. The host takes longer than 20 s, so it opens each dump once. Times are processor time: over 20 s, the
other load of a machine adds to the time that passes, which would flatter us.

Memory is the peak of the process that opens the dump. For ours, the peak of a process that imports the host's modules
alone is subtracted, so that what our own modules take counts as well; for kdmp-parser, its peak before it opens.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path

from comparison import NotMeasured, Row, Values, alternate, at_most, faster, peak_memory, progress, run_worker
from dumps import PAGES_PER_GIGABYTE, dense, fragmented, write_bitmap_dump

_MEGABYTE = 1 << 20
_MEMORY_LIMIT = 32
_ROUNDS = 5


def rows(directory: Path) -> list[Row]:
    """Make the dumps in ``directory`` and compare."""
    measured = {}
    for kind, bitmap in (("dense", dense), ("400,000 runs", fragmented)):
        progress(f"writing dumps, {kind}")
        small, large = directory / "64.dmp", directory / "512.dmp"
        pages = bitmap(64 * PAGES_PER_GIGABYTE)
        write_bitmap_dump(small, pages)
        # Ending inside a byte, as the highest page frame of a machine may.
        write_bitmap_dump(large, pages * 8, 512 * PAGES_PER_GIGABYTE - 3)
        measured[kind] = _measure(kind, small, large)
    table = [row for kind, found in measured.items() for row in _times(kind, found)]
    return table + [row for kind, found in measured.items() for row in _memory(kind, found)]


def _measure(kind: str, small: Path, large: Path) -> dict[str, Values | NotMeasured]:
    worker = functools.partial(functools.partial, run_worker, __file__)
    found = alternate(
        f"open, {kind}",
        _ROUNDS,
        {
            "ours 64 GB": worker("ours", small),
            "kdmp-parser 64 GB": worker("kdmp-parser", small),
            "ours 512 GB": worker("ours", large),
            "bare host": worker("bare", small),
        },
    )
    return found | alternate(f"open, {kind}", 1, {"host 64 GB": worker("host", small)})


def _times(kind: str, found: dict[str, Values | NotMeasured]) -> list[Row]:
    ours = found["ours 64 GB"]
    return [
        faster(f"open 64 GB, {kind}", ours, found["host 64 GB"], "host", 500),
        faster(f"open 64 GB, {kind}", ours, found["kdmp-parser 64 GB"], "kdmp-parser", 5),
        at_most(f"open 512 GB, {_eightfold(kind)}", found["ours 512 GB"], ours, "ours, 64 GB", 10),
    ]


def _memory(kind: str, found: dict[str, Values | NotMeasured]) -> list[Row]:
    bare, peer = found["bare host"], found["kdmp-parser 64 GB"]
    lines = []
    for size, name in (("64", kind), ("512", _eightfold(kind))):
        what, floor = f"memory to open {size} GB, {name}", f"< {_MEMORY_LIMIT} MB"
        ours = found[f"ours {size} GB"]
        shown = "-"
        if size == "64" and not isinstance(peer, NotMeasured):
            shown = f"kdmp-parser {(peer['peak'] - peer['before']) / _MEGABYTE:.0f} MB"
        if isinstance(ours, NotMeasured) or isinstance(bare, NotMeasured):
            lines.append(Row(what, "not measured", shown, "-", floor, None))
            continue
        megabytes = (ours["peak"] - bare["peak"]) / _MEGABYTE
        lines.append(Row(what, f"{megabytes:.1f} MB", shown, "-", floor, megabytes < _MEMORY_LIMIT))
    return lines


def _eightfold(kind: str) -> str:
    return kind.replace("400,000", "3,200,000")


def _open(who: str, path: Path) -> Values:
    """The worker: open a dump once."""
    if who == "kdmp-parser":
        import kdmp_parser

        before = peak_memory()
        start = time.process_time()
        dump = kdmp_parser.KernelDumpParser(path)
        seconds = time.process_time() - start
        assert dump.type == kdmp_parser.DumpType.BMPDump
        return {"seconds": seconds, "before": before, "peak": peak_memory()}

    from volatility3.framework import contexts
    from volatility3.framework.layers import crash, physical

    stacker = crash.WindowsCrashDumpStacker
    if who == "ours":
        from volatility3_kdump.layers.stackers import KdumpCrashStacker as stacker
    context = contexts.Context()
    context.config["file.location"] = path.resolve().as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    if who == "bare":
        return {"peak": peak_memory()}
    start = time.process_time()
    layer = stacker.stack(context, "file")
    seconds = time.process_time() - start
    assert layer is not None
    return {"seconds": seconds, "peak": peak_memory()}


if __name__ == "__main__":
    print(json.dumps(_open(sys.argv[1], Path(sys.argv[2]))))
