"""A batch on the workers of a Dask scheduler: processes of this machine, as Dask starts them."""

from __future__ import annotations

import concurrent.futures
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from volatility3_kdump import batch
from volatility3_kdump.batch.fleet import FleetExecutor
from volatility3_kdump.batch.task import WorkerDied
from volatility3_kdump.cli import main
from volatility3_kdump.errors import KdumpError

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.xdist_group("dask"),
    # The tests write to the host's cache; so do workers that inherit the environment.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as started:
        yield started


@pytest.fixture
def executor(cluster: Any) -> Iterator[FleetExecutor]:
    made = FleetExecutor(cluster.scheduler_address)
    yield made
    made.shutdown()


def comparable(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "elapsed_seconds"}


def by_path(lines: Any) -> dict[tuple[str, Any], dict[str, Any]]:
    return {
        (line["file"]["path"], json.dumps(line["file"]["member"])): comparable(line)
        for line in json.loads(json.dumps(list(lines)))
    }


def test_the_same_lines_as_here(dumps: Path, lines: list[Any], executor: FleetExecutor) -> None:
    assert executor.jobs == 2
    assert by_path(batch.batch([dumps], executor=executor, jobs=executor.jobs)) == by_path(lines)


def test_tasks_wait_at_the_workers(dumps: Path, lines: list[Any], cluster: Any) -> None:
    executor = FleetExecutor(cluster.scheduler_address, ahead=1)
    try:
        assert executor.jobs == 4
        assert by_path(batch.batch([dumps], executor=executor, jobs=executor.jobs)) == by_path(lines)
    finally:
        executor.shutdown()


def test_dumps_are_sent(dumps: Path, lines: list[Any], cluster: Any) -> None:
    executor = FleetExecutor(cluster.scheduler_address, send=True)
    try:
        assert by_path(batch.batch([dumps], executor=executor, jobs=2)) == by_path(lines)
    finally:
        executor.shutdown()


def test_workers_do_less_for_themselves_meanwhile(cluster: Any) -> None:
    """And are as they were when the batch is over."""
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        before = client.run(_own_work)
        assert all({"profile", "profile-cycle"} <= set(own) for own in before.values())
        made = FleetExecutor(cluster.scheduler_address)
        meanwhile = client.run(_own_work)
        made.shutdown()
        assert all(not {"profile", "profile-cycle"} & set(own) for own in meanwhile.values())
        assert all(own["tick"] == (True, 500.0) for own in meanwhile.values())
        assert client.run(_own_work) == before


def _own_work(dask_worker: Any) -> dict[str, tuple[bool, float]]:
    """Those that are changed; others of a worker start and stop by themselves."""
    changed = {"profile", "profile-cycle", "tick"}
    callbacks = dask_worker.periodic_callbacks.items()
    return {name: (own.is_running(), own.callback_time) for name, own in callbacks if name in changed}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_workers_keep_memory_meanwhile(cluster: Any) -> None:
    """Dask has glibc give back each 64 KiB, and the system zeroes every page anew: a quarter of an analysis."""
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        before = client.run(_page_faults)
        made = FleetExecutor(cluster.scheduler_address)
        meanwhile = client.run(_page_faults)
        made.shutdown()
        after = client.run(_page_faults)
    assert all(faults > 4000 for faults in [*before.values(), *after.values()])
    assert all(faults < 1500 for faults in meanwhile.values())


def _page_faults() -> int:
    """Those of twenty times 256 pages, each freed before the next."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(1 << 20)[::4096] = bytes(256)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_dump_that_kills_its_workers(executor: FleetExecutor, tmp_path: Path) -> None:
    mark = tmp_path / "deaths"
    future = executor.submit(_die, str(mark))
    with pytest.raises(WorkerDied):
        future.result(timeout=60)
    # The batch tries it again; the scheduler does not.
    assert mark.read_text() == "x"
    assert executor.submit(pow, 2, 5).result(timeout=60) == 32


def _die(mark: str) -> None:
    with open(mark, "a", encoding="ascii") as stream:
        stream.write("x")
    os._exit(1)


def test_a_dead_worker_is_a_line_with_an_error(executor: FleetExecutor, sample: Any, tmp_path: Path) -> None:
    mark = tmp_path / "deaths"

    class Deadly(concurrent.futures.Executor):
        def submit(self, task: Any, /, *arguments: Any, **more: Any) -> concurrent.futures.Future[Any]:
            if "type4" in arguments[0].path:
                return executor.submit(_die, str(mark))
            return executor.submit(task, *arguments)

    # More at a time than there are workers, so that some wait behind the one that kills them.
    dumps = [sample(4), sample(6), sample(1), sample(2), sample(5)]
    lines = {line["file"]["name"]: line for line in batch.batch(dumps, executor=Deadly(), jobs=5)}
    assert lines["myfault-type4.dmp"]["error"]["kind"] == "WorkerDied" and lines["myfault-type4.dmp"]["error"]["again"]
    assert [line["error"] for name, line in lines.items() if "type4" not in name] == [None] * 4
    assert mark.read_text() == "xx"


def test_the_command(cluster: Any, sample: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    command = ["batch", str(sample(4)), str(sample(6)), "--jsonl", str(out), "--scheduler", cluster.scheduler_address]
    assert main([*command, "--parquet", str(tmp_path / "tables")]) == 0
    assert "2 analysed of 1 crash in 1 group, 0 failed" in capsys.readouterr().out
    first = out.read_bytes()
    assert main([*command, "--resume"]) == 0 and out.read_bytes() == first
    assert (tmp_path / "tables" / "dumps.parquet").stat().st_size > 100


def test_a_scheduler_that_goes_away(sample: Any) -> None:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        executor = FleetExecutor(cluster.scheduler_address)
        lines = batch.batch([sample(4), sample(6), sample(1)], executor=executor, jobs=1)
        first = next(lines)
    rest = list(lines)
    executor.shutdown()
    assert first["error"] is None
    assert [line["error"]["kind"] for line in rest] == ["WorkerDied"] * 2
    assert all(line["error"]["again"] and "went away" in line["error"]["message"] for line in rest)


def test_nobody_answers(tmp_path: Path) -> None:
    for address, words in (("tcp://127.0.0.1:9", "no Dask scheduler answers"), ("nonsense://x", "no Dask scheduler")):
        with pytest.raises(KdumpError, match=words):
            FleetExecutor(address)
