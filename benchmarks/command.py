"""The whole command ``kdump.info``: on the dump of a 64 GB machine against the sample dump.

The large dump is the sample dump with more memory: all its pages are where the sample has them, among zeros. Both
commands are the host's own command line with our plugins, in a process of its own, offline, with a warm cache.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

from comparison import NotMeasured, Row, Values, alternate, at_most, progress, run
from dumps import PAGES_PER_GIGABYTE, dense, enlarge, fragmented

_LIMIT = 1.3
_ROUNDS = 9


def rows(directory: Path) -> list[Row]:
    """Make the dumps in ``directory`` and compare."""
    progress("writing the sample dump, and the same with 64 GB of memory")
    sample = directory / "sample.dmp"
    run("-m", "volatility3_kdump", "sample", sample)
    cache = directory / "cache"
    contenders = {"sample": functools.partial(_info, sample, None, cache)}
    for kind, bitmap in (("dense", dense), ("400,000 runs", fragmented)):
        path = directory / f"sample-{kind.split()[0]}.dmp"
        pages = enlarge(sample, path, bitmap(64 * PAGES_PER_GIGABYTE))
        contenders[kind] = functools.partial(_info, path, pages, cache)
    for warm in contenders.values():
        warm()
    found = alternate("kdump.info", _ROUNDS, contenders)
    small = found.pop("sample")
    return [at_most(f"kdump.info, 64 GB, {kind}", large, small, "sample", _LIMIT) for kind, large in found.items()]


def _info(path: Path, pages: int | None, cache: Path) -> Values:
    """Run the command and see that it found the kernel and counted the pages."""
    start = time.perf_counter()
    output = run(
        *("-m", "volatility3_kdump", "vol", "-q", "--offline", "-r", "csv", "-f", path, "kdump.info"), cache=cache
    )
    seconds = time.perf_counter() - start
    if "ntkrnlmp.pdb" not in output or (pages is not None and f'"{pages:,}"' not in output):
        raise NotMeasured("kdump.info did not print the kernel and the number of pages")
    return {"seconds": seconds}
