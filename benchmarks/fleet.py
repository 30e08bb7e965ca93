"""``kdump batch`` on the workers of a Dask scheduler, beside its own processes; both have two workers on this machine.

The dumps are small memory dumps of the demonstration, each with a time of its own. Both executors have analysed some
before the clock starts, so that starting Python and importing are not counted. What is counted is the processor time of
all processes that take part - the batch, the scheduler, the workers - from the first task to the last line.
"""

from __future__ import annotations

import functools
import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comparison import Row, Values, alternate, at_most, progress, run_worker

_COUNT, _WARM = 150, 20
_WORKERS = 2
_ROUNDS = 2
#: The same work per worker, at 0.85 of the throughput.
_LIMIT = 1 / 0.85
#: DUMP_HEADER64.SystemTime.
_SYSTEM_TIME = 0xFA8


def rows(directory: Path) -> list[Row]:
    """Make the dumps in ``directory`` and compare."""
    progress(f"writing {_COUNT + _WARM} small dumps")
    _write(directory)
    taken = alternate(
        "fleet",
        _ROUNDS,
        {
            "ours": functools.partial(run_worker, __file__, "fleet", directory),
            "local": functools.partial(run_worker, __file__, "local", directory),
        },
    )
    what = f"batch of {_COUNT} small dumps, two Dask workers"
    return [at_most(what, taken["ours"], taken["local"], "two processes", _LIMIT)]


def _write(directory: Path) -> None:
    import kdump_sample

    original = directory / "original"
    kdump_sample.write_sample(original, 4, None, "myfault")
    for number in range(_COUNT + _WARM):
        copy = directory / f"{number}.dmp"
        shutil.copyfile(original, copy)
        with copy.open("r+b") as stream:
            stream.seek(_SYSTEM_TIME)
            (moment,) = struct.unpack("<Q", stream.read(8))
            stream.seek(_SYSTEM_TIME)
            stream.write(struct.pack("<Q", moment + number * 600_000_000))
    original.unlink()


def _seconds(directory: Path, executor: Any) -> float:
    from volatility3_kdump import batch

    paths = sorted(directory.glob("*.dmp"))
    _analyse(batch, paths[:_WARM], executor)
    before = _processor_times()
    _analyse(batch, paths[_WARM:], executor)
    return _processor_times() - before


def _analyse(batch: Any, paths: list[Path], executor: Any) -> None:
    lines = list(batch.batch(paths, executor=executor, jobs=_WORKERS))
    assert len(lines) == len(paths) and all(line["error"] is None for line in lines)


def _processor_times() -> float:
    """Processor seconds of this process and all that it has started."""
    import psutil

    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(taken.user + taken.system for taken in times))


def _local(directory: Path) -> float:
    from volatility3_kdump.batch import WorkerPool

    pool = WorkerPool(_WORKERS)
    try:
        return _seconds(directory, pool)
    finally:
        pool.stop()


def _fleet(directory: Path) -> float:
    import distributed

    from volatility3_kdump.batch.fleet import FleetExecutor

    with distributed.LocalCluster(
        n_workers=_WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        executor = FleetExecutor(cluster.scheduler_address)
        try:
            return _seconds(directory, executor)
        finally:
            executor.shutdown()


if __name__ == "__main__":
    contenders: dict[str, Callable[[Path], float]] = {"local": _local, "fleet": _fleet}
    values: Values = {"seconds": contenders[sys.argv[1]](Path(sys.argv[2]))}
    print(json.dumps(values))
