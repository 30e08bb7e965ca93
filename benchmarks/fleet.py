"""``kdump batch`` on the workers of a Dask scheduler, beside its own processes; both have two workers on this machine.

The dumps are kernel memory dumps of some scenes, each with a time of its own. Both executors have analysed some before
the clock starts, so that starting Python and importing are not counted. What is counted is the processor time of the
workers, from the first task to the last line: a scheduler is a machine of its own where there are many workers. These
are set as ``docs/fleet.md`` says.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comparison import Row, Values, alternate, at_most, progress, run_worker

_COUNT, _WARM = 144, 16
_WORKERS = 2
_ROUNDS = 2
#: The same work per worker, at 0.85 of the throughput.
_LIMIT = 1 / 0.85
_SCENES = ("myfault", "double-fault", "locks", "memory")
_SETTINGS = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
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
    what = f"batch of {_COUNT} kernel dumps, two Dask workers"
    return [at_most(what, taken["ours"], taken["local"], "two processes", _LIMIT)]


def _write(directory: Path) -> None:
    import kdump_sample

    for scene in _SCENES:
        kdump_sample.write_sample(directory / scene, 6, None, scene)
    for number in range(_COUNT + _WARM):
        copy = directory / f"{number:04}.dmp"
        shutil.copyfile(directory / _SCENES[number % len(_SCENES)], copy)
        with copy.open("r+b") as stream:
            stream.seek(_SYSTEM_TIME)
            (moment,) = struct.unpack("<Q", stream.read(8))
            stream.seek(_SYSTEM_TIME)
            stream.write(struct.pack("<Q", moment + number * 600_000_000))


def _seconds(directory: Path, executor: Any, jobs: int) -> float:
    from volatility3_kdump import batch

    paths = sorted(directory.glob("*.dmp"))
    _analyse(batch, paths[:_WARM], executor, jobs)
    before = _processor_times()
    _analyse(batch, paths[_WARM:], executor, jobs)
    return _processor_times() - before


def _analyse(batch: Any, paths: list[Path], executor: Any, jobs: int) -> None:
    lines = list(batch.batch(paths, executor=executor, jobs=jobs))
    assert len(lines) == len(paths) and all(line["error"] is None for line in lines)


def _processor_times() -> float:
    """Processor seconds of all processes that this one has started."""
    import psutil

    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return float(sum(taken.user + taken.system for taken in times))


def _local(directory: Path) -> float:
    from volatility3_kdump.batch import WorkerPool

    pool = WorkerPool(_WORKERS)
    try:
        return _seconds(directory, pool, _WORKERS)
    finally:
        pool.stop()


def _fleet(directory: Path) -> float:
    os.environ.update(_SETTINGS)
    import distributed

    from volatility3_kdump.batch.fleet import FleetExecutor

    with distributed.LocalCluster(
        n_workers=_WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        executor = FleetExecutor(cluster.scheduler_address, ahead=1)
        try:
            return _seconds(directory, executor, executor.jobs)
        finally:
            executor.shutdown()


if __name__ == "__main__":
    contenders: dict[str, Callable[[Path], float]] = {"local": _local, "fleet": _fleet}
    values: Values = {"seconds": contenders[sys.argv[1]](Path(sys.argv[2]))}
    print(json.dumps(values))
