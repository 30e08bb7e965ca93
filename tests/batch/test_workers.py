"""The run of a batch: whatever happens to a worker, or to the run."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import children
from tests.batch import dying
from tests.batch.executors import Here, posix
from tests.batch.results import EXPECTED, Line, place, without_time
from volatility3_kdump import batch, cli
from volatility3_kdump.batch import Options, task, workers

CHECKOUT = Path(__file__).resolve().parents[2]


def test_processes_give_the_same_lines(dumps: Path, lines: list[Line]) -> None:
    progress: list[tuple[int, int]] = []
    found = list(batch.batch([dumps], jobs=2, progress=lambda *counts: progress.append(counts)))
    assert without_time(found) == without_time(lines)
    assert progress[-1] == (len(EXPECTED), len(EXPECTED))


@pytest.mark.thorough
@posix
def test_a_worker_that_dies_costs_its_own_file_a_line(grim: Callable[..., Path]) -> None:
    root = grim("a.dmp", "b-killed.dmp", "c.dmp", "d-killed.dmp", "e.dmp")
    found = {line["file"]["name"]: line for line in batch.batch([root], executor=dying.Pool, jobs=2)}
    assert len(found) == 5
    for name, line in found.items():
        if "killed" in name:
            assert line["error"]["kind"] == "WorkerDied" and line["error"]["again"]
            assert line["file"]["sha256"] is None and line["file"]["size"] == (root / name).stat().st_size
        else:
            assert line["error"] is None and line["verdict"]["hash"]


@posix
@pytest.mark.parametrize("how", ["loops", pytest.param("hangs", marks=pytest.mark.thorough)])
def test_the_time_limit_ends_what_does_not_end(
    how: str, grim: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GRACE", 60.0)  # what the batch waits at most; that of the processes is shorter
    root = grim("a.dmp", f"b-{how}.dmp", "c.dmp")
    found = list(batch.batch([root], Options(time_limit=1), executor=dying.Pool, jobs=1))
    assert [line["error"] and line["error"]["kind"] for line in found] == [None, "TimeLimit", None]
    assert found[1]["error"]["message"] == "not analysed within the time limit of 1 s" and found[1]["error"]["again"]
    # Only what can be interrupted lives to read the file.
    assert (found[1]["file"]["sha256"] is None) == (how == "hangs")


def test_an_executor_that_breaks_is_replaced(dumps: Path, lines: list[Line], unread: None) -> None:
    made: list[Here] = []

    def make(workers: int) -> Here:
        made.append(Here(dies="small.dmp"))
        return made[-1]

    found = list(batch.batch([dumps], executor=make, jobs=1))
    died = [line for line in found if line["error"] and line["error"]["kind"] == "WorkerDied"]
    assert [line["file"]["name"] for line in died] == ["small.dmp", "small.dmp.gz"]
    assert len(made) == 3
    assert [place(line)[0] for line in found] == [place(line)[0] for line in lines]


def test_an_executor_that_breaks_and_cannot_be_replaced(dumps: Path) -> None:
    found = list(batch.batch([dumps], executor=Here(dies="small.dmp"), jobs=1))
    assert [line["file"]["name"] for line in found[:3]] == ["cut.cab", "empty.dmp", "kernel.dmp"]
    assert all(line["error"]["kind"] == "WorkerDied" and line["error"]["again"] for line in found[3:])
    assert {line["file"]["name"] for line in found[3:]} > {"small.dmp", "three.zip", "zeros.dmp"}


def test_threads_give_up_waiting(grim: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing interrupts a thread, so the file has its line and the batch goes on with a new executor."""
    go_on = []

    def slow(file: batch.File, *arguments: Any) -> Line:
        while "slow" in file.path and not go_on:
            time.sleep(0.01)
        return task.line_of(file, {}, 0.0, None, {})

    monkeypatch.setattr(workers, "analyze_file", slow)
    monkeypatch.setattr(workers, "_TICK", 0.02)
    root = grim("a.dmp", "b-slow.dmp", "c.dmp")
    try:
        found = list(batch.batch([root], Options(time_limit=0.5), concurrent.futures.ThreadPoolExecutor, jobs=1))
        assert [line["error"] and line["error"]["kind"] for line in found] == [None, "TimeLimit", None]
        # An executor of the caller's cannot be replaced.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            found = list(batch.batch([root], Options(time_limit=0.5), executor, jobs=1))
            assert [line["error"] and line["error"]["kind"] for line in found] == [None, "TimeLimit", "WorkerDied"]
            go_on.append(True)
    finally:
        go_on.append(True)


_RUN = """
import sys
from tests.batch import dying
from volatility3_kdump import cli
from volatility3_kdump.batch import workers
workers.WorkerPool = dying.Pool
if __name__ == "__main__":
    sys.exit(cli.main(["batch", *sys.argv[1:]]))
"""


def start(*arguments: str | Path) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    return children.running(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True


@pytest.mark.thorough
@posix
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["loops", "hangs"])
def test_an_interrupt_leaves_a_file_to_go_on_with(how: str, sent: signal.Signals, grim: Callable[..., Path]) -> None:
    root = grim("a.dmp", f"b-{how}.dmp", "c.dmp")
    out = root / "out.jsonl"
    stuck = root / f"b-{how}.dmp.pid"
    with start(root, "--jsonl", out, "--jobs", "1") as running:
        wait_for(stuck, running)
        running.send_signal(sent)
        printed, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said == f"kdump: interrupted: --resume goes on with {out}\n"
    assert "\n1 analysed in 1 group, 0 failed\n" in printed
    assert [json.loads(line)["file"]["name"] for line in out.read_text().splitlines()] == ["a.dmp"]
    assert gone(int(stuck.read_text()))
    stuck.unlink()
    # Without what keeps it, the rest.
    (root / f"b-{how}.dmp").rename(root / "b.dmp")
    assert cli.main(["batch", str(root), "--jsonl", str(out), "--resume", "--jobs", "1"]) == 0
    assert [json.loads(line)["file"]["name"] for line in out.read_text().splitlines()] == ["a.dmp", "b.dmp", "c.dmp"]


@posix
def test_workers_do_not_outlive_a_batch_that_is_killed(grim: Callable[..., Path]) -> None:
    root = grim("loops.dmp")
    with start(root, "--jsonl", root / "out", "--jobs", "1") as running:
        wait_for(root / "loops.dmp.pid", running)
        running.kill()
        running.communicate()
    while not gone(int((root / "loops.dmp.pid").read_text())):
        time.sleep(0.01)
