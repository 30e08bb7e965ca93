"""Whole commands: ``kdump.info`` and ``kdump.analyze`` on the dump of a 64 GB machine against the sample dump.

The large dump is the sample dump with more memory: all its pages are where the sample has them, among zeros. Every
command is the host's own command line with our plugins, in a process of its own, offline, with a warm cache.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

from comparison import NotMeasured, Row, Values, alternate, at_most, progress, run
from dumps import PAGES_PER_GIGABYTE, dense, enlarge, fragmented

_INFO_LIMIT, _ANALYZE_LIMIT, _ANALYZE_TO_INFO = 1.3, 1.2, 1.5
_ROUNDS = 7


def rows(directory: Path) -> list[Row]:
    """Make the dumps in ``directory`` and compare."""
    progress("writing the sample dump, and the same with 64 GB of memory")
    sample = directory / "sample.dmp"
    run("-m", "volatility3_kdump", "sample", sample)
    cache = directory / "cache"
    dumps: dict[str, tuple[Path, int | None]] = {"sample": (sample, None)}
    for kind, bitmap in (("dense", dense), ("400,000 runs", fragmented)):
        path = directory / f"sample-{kind.split()[0]}.dmp"
        dumps[kind] = path, enlarge(sample, path, bitmap(64 * PAGES_PER_GIGABYTE))
    contenders = {
        (name, kind): functools.partial(command, path, pages, cache)
        for kind, (path, pages) in dumps.items()
        for name, command in (("kdump.info", _info), ("kdump.analyze", _analyze))
    }
    for warm in contenders.values():
        warm()
    measured = alternate("commands", _ROUNDS, {" ".join(key): command for key, command in contenders.items()})
    info, analyze = measured["kdump.info sample"], measured["kdump.analyze sample"]
    table = [at_most("kdump.analyze, sample", analyze, info, "kdump.info", _ANALYZE_TO_INFO)]
    for name, small, limit in (("kdump.info", info, _INFO_LIMIT), ("kdump.analyze", analyze, _ANALYZE_LIMIT)):
        for kind in list(dumps)[1:]:
            table.append(at_most(f"{name}, 64 GB, {kind}", measured[f"{name} {kind}"], small, "sample", limit))
    return table


def _info(path: Path, pages: int | None, cache: Path) -> Values:
    """Run kdump.info and see that it found the kernel and counted the pages."""
    values, output = _timed("kdump.info", path, cache)
    if "ntkrnlmp.pdb" not in output or (pages is not None and f'"{pages:,}"' not in output):
        raise NotMeasured("kdump.info did not print the kernel and the number of pages")
    return values


def _analyze(path: Path, pages: int | None, cache: Path) -> Values:
    """Run kdump.analyze and see that it reached its verdict."""
    values, output = _timed("kdump.analyze", path, cache)
    if "AV_myfault!unknown_function" not in output:
        raise NotMeasured("kdump.analyze did not print the verdict")
    return values


def _timed(plugin: str, path: Path, cache: Path) -> tuple[Values, str]:
    start = time.perf_counter()
    output = run(*("-m", "volatility3_kdump", "vol", "-q", "--offline", "-r", "csv", "-f", path, plugin), cache=cache)
    return {"seconds": time.perf_counter() - start}, output
