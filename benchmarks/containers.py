"""Opening a dump of 500 MB inside an MSZIP CAB: against ``cabextract -p | wc -c``, and opening it again.

The dump is a bitmap dump of pages that are a third text-like, a third sparse and a third incompressible, packed by
``gcab``. What is timed is :func:`volatility3_kdump.open` in a fresh process with
everything imported, hashing, checksums and writing to an empty cache included; cabextract has the whole command. Times
are times passed. Both tools come with most systems' packages.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from comparison import NotMeasured, Row, Values, alternate, at_most, peak_memory, progress, run_worker
from dumps import PAGE, dense, write_bitmap_dump

_MEGABYTE = 1 << 20
_SIZE = 500
_LIMIT = 1.3
_LONGEST_AGAIN = 1.0
_MEMORY_LIMIT = 64
_ROUNDS = 3


def rows(directory: Path) -> list[Row]:
    """Make the archive in ``directory`` and compare."""
    what = f"open a dump of {_SIZE} MB in a CAB"
    path = directory / "crash.cab"
    progress(f"writing {path.name}, a dump of {_SIZE} MB in MSZIP")
    dump = directory / "MEMORY.DMP"
    _write_dump(dump)
    packer = shutil.which("gcab")
    if packer is None:
        missing = NotMeasured("gcab is not installed")
        return [at_most(what, missing, missing, "cabextract", _LIMIT)]
    subprocess.run([packer, "-c", "-z", "-n", path, dump.name], cwd=directory, check=True, capture_output=True)
    dump.unlink()
    time.sleep(2.5)  # until the archive counts as settled, as archives that someone received do
    found = alternate(
        what,
        _ROUNDS,
        {
            "ours": functools.partial(_first, path, directory / "cache"),
            "cabextract": functools.partial(_cabextract, path),
            "again": functools.partial(run_worker, __file__, path, directory / "cache"),
            "bare": functools.partial(run_worker, __file__, "bare", directory / "cache"),
        },
    )
    ours, again, bare = found["ours"], found["again"], found["bare"]
    lines = [at_most(what, ours, found["cabextract"], "cabextract", _LIMIT)]
    if isinstance(ours, NotMeasured) or isinstance(again, NotMeasured) or isinstance(bare, NotMeasured):
        return lines
    seconds = again["seconds"]
    megabytes = (ours["peak"] - bare["peak"]) / _MEGABYTE
    return [
        *lines,
        Row(f"{what}, again", f"{seconds * 1000:.0f} ms", "-", "-", "< 1 s", seconds < _LONGEST_AGAIN),
        Row(f"memory to {what}", f"{megabytes:.1f} MB", "-", "-", f"< {_MEMORY_LIMIT} MB", megabytes < _MEMORY_LIMIT),
    ]


def _write_dump(path: Path) -> None:
    pages = _SIZE * _MEGABYTE // PAGE
    first = write_bitmap_dump(path, dense(pages))
    choose = random.Random(1)
    words = [choose.randbytes(choose.randint(4, 40)) for _ in range(5000)]
    with path.open("r+b") as file:
        file.seek(first)
        for _ in range(_SIZE):
            text = b"".join(choose.choices(words, k=_MEGABYTE // 60))[: _MEGABYTE // 3]
            sparse = b"".join(choose.randbytes(64) + bytes(960) for _ in range(_MEGABYTE // 3072))
            noise = choose.randbytes(_MEGABYTE // 10)
            file.write((text + sparse + noise).ljust(_MEGABYTE, b"\0"))


def _first(path: Path, cache: Path) -> Values:
    shutil.rmtree(cache, ignore_errors=True)
    return run_worker(__file__, path, cache)


def _cabextract(path: Path) -> Values:
    tool = shutil.which("cabextract")
    if tool is None:
        raise NotMeasured("cabextract is not installed")
    start = time.perf_counter()
    with subprocess.Popen([tool, "-q", "-p", path], stdout=subprocess.PIPE) as source:
        counted = subprocess.run(["wc", "-c"], stdin=source.stdout, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    if int(counted.stdout) < _SIZE * _MEGABYTE:
        raise NotMeasured("cabextract gave too few bytes")
    return {"seconds": seconds}


def _open(path: str, cache: str) -> Values:
    """The worker: open the dump once. ``bare`` instead of a path only imports."""
    os.environ["XDG_CACHE_HOME"] = cache
    import numpy  # noqa: F401
    from volatility3.framework import contexts  # noqa: F401

    import volatility3_kdump
    import volatility3_kdump.layers
    import volatility3_kdump.target

    if path == "bare":
        return {"seconds": 0.0, "peak": peak_memory()}
    start = time.perf_counter()
    target = volatility3_kdump.open(path)
    seconds = time.perf_counter() - start
    assert target.dump.pages is not None
    return {"seconds": seconds, "peak": peak_memory()}


if __name__ == "__main__":
    print(json.dumps(_open(sys.argv[1], sys.argv[2])))
