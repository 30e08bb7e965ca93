"""``kdump.thread``: the crashing thread, the chosen ones, and who waits for whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdump_sample.scenes import waits as scene
from tests import transcript
from tests.output import lines, rows


def test_the_thread_of_the_crash_by_default(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.thread"))
    assert shown[0] == (
        "THREAD ffff918952f55080  Cid 1c58.1c5c  Teb: 0000007ae6a11000 Win32Thread: ffff91895260d3a0 "
        "RUNNING on processor 2"
    )
    assert shown[1:3] == ["IRP List:", "    ffff91894ed94d70: (0006,0118) Flags: 00060000  Mdl: 00000000"]
    start = next(index for index, line in enumerate(shown) if line.startswith("Child-SP")) + 1
    published = transcript.STACK_TEXT.splitlines()[1:]
    assert [line.split(" (TrapFrame")[0] for line in shown[start:-1]] == published


def test_a_thread_is_not_indented(sample, run_plugin) -> None:
    """The block of ``!thread`` is that of ``!process``, eight columns to the left."""
    shown = lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.thread", "--tid", "0x1e94"))
    published = transcript.NOTEPAD_PROCESS.splitlines()[21:]
    assert shown[: len(published)] == [line[8:] for line in published]


def test_choices(sample, run_plugin) -> None:
    path = sample(6, None, "waits")

    def tids(*options: str) -> list[int]:
        table = rows(run_plugin("-q", "-f", path, "-r", "json", "kdump.thread", "--no-stack", *options))
        return [row["Tid"] for row in table]

    assert tids("--pid", str(scene.DEADLOCK)) == [*range(0x2044, 0x2068, 4)]
    assert tids("--state", "ready") == [0x2054, 0x2058]
    assert tids("--cpu", "2") == [0x1C5C]
    assert tids("--tid", "0x2044", "8264") == [0x2044, 0x2048]
    assert tids("--address", f"{scene.thread_address(0, 2):x}") == [0x204C]
    assert len(tids("--all")) == 23


def test_rows_are_typed(sample, run_plugin) -> None:
    [thread] = rows(run_plugin("-q", "-f", sample(6, None, "waits"), "-r", "json", "kdump.thread", "--tid", "0x2044"))
    assert (thread["Image"], thread["Pid"], thread["SuspendCount"]) == ("deadlock.exe", scene.DEADLOCK, 1)
    assert thread["WaitObjects"].endswith("Mutant - owning thread ffff918961005080 (deadlock.exe 2040.2048)")
    assert thread["Irps"].count("Flags: 000600") == 2
    assert thread["ThreadName"] == "Watch\\x07dog"
    assert [frame["Frame"] for frame in thread["__children"]] == [*range(len(thread["__children"]))]
    assert len(thread["__children"]) > 5
    [other] = rows(run_plugin("-q", "-f", sample(6, None, "waits"), "-r", "json", "kdump.thread", "--tid", "0x2048"))
    assert other["Impersonation"] == "ffffd802491aa060 Impersonation"


def test_variants_in_words(sample, run_plugin) -> None:
    shown = lines(
        run_plugin("-q", "-f", sample(6, None, "waits"), "-r", "windbg", "kdump.thread", "--pid", "0x2040", "0x2300")
    )
    for line in (
        "    SuspendCount 1",
        "Impersonation token:  ffffd802491aa060 (Level Impersonation)",
        "Attached Process          ffff918961060080       Image:         SearchApp.exe",
        "    ffff918961800320  Semaphore Limit 0x10",
        "    ffff918961020080  ProcessObject",
        "    ffff918961004080  Thread",
        "    ffff918961800120  Mutant - owning thread ffff918961005080",
        "Kernel stack not resident.",
        "No stack: the thread is terminated: it has no stack",
    ):
        assert line in shown
    assert [line.rsplit("  ", 1)[1] for line in shown if line.startswith("THREAD")][4:8] == [
        "Teb: 0000007a02054000 Win32Thread: 0000000000000000 READY on processor 1",
        "Teb: 0000007a02058000 Win32Thread: 0000000000000000 READY on processor 1",
        "Teb: 0000007a0205c000 Win32Thread: 0000000000000000 STANDBY",
        "Teb: 0000007a02060000 Win32Thread: 0000000000000000 TERMINATED",
    ]


def test_deadlocks(sample, run_plugin) -> None:
    path = sample(6, None, "waits")
    shown = lines(run_plugin("-q", "-f", path, "-r", "windbg", "kdump.thread", "--waits"))
    assert [line for line in shown if line.startswith("DEADLOCK")] == ["DEADLOCK 1:", "DEADLOCK 2:"]
    assert shown[0] == (
        "deadlock.exe 2040.2044 (ffff918961004080) waits for the mutant ffff918961800120 "
        "of deadlock.exe 2040.2048 (ffff918961005080)"
    )
    assert (
        "System 4.64 (ffff9189610e5080) waits for the resource ffff918961801000 of System 4.60 (ffff9189610e4080)"
        in shown
    )
    table = rows(run_plugin("-q", "-f", path, "-r", "json", "kdump.thread", "--waits", "--tid", "0x204c"))
    assert [(row["WaitsFor"], row["Deadlock"]) for row in table] == [("mutant", 1), ("mutant", 1), ("thread", None)]
    assert {row["Sure"] for row in table} == {True}


def test_a_small_memory_dump(shared_data: Path, run_plugin) -> None:
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    shown = lines(run_plugin("-q", "-f", dump, "-r", "windbg", "kdump.thread", "--isf-dir", shared_data / "isf"))
    assert shown[0].startswith("THREAD ffffc08bde9e1640  Cid 0004.0108  Teb: 0000000000000000 ")
    assert "Win32 Start Address nt!ExpWorkerThread (0xfffff8047bc25870)" in shown
    # It was never seen in user mode by the clock. What a tick is is not in the dump, so the other time is no number.
    assert "UserTime                  00:00:00.000" in shown and "KernelTime                ?" in shown
    assert "    NOTE: its times are not known: KeMaximumIncrement is not in the dump" in shown
    for options in (("--tid", "4"), ("--waits",)):
        finished = run_plugin("-q", "-f", dump, "kdump.thread", *options, "--isf-dir", shared_data / "isf")
        assert finished.returncode == 1
        assert "small memory dump" in finished.stderr


@pytest.mark.parametrize("options", [("--tid", "1"), ("--state", "Sleeping"), ("--cpu", "77"), ("--pid", "3")])
def test_nothing_found(sample, run_plugin, options) -> None:
    finished = run_plugin("-q", "-f", sample(), "kdump.thread", *options)
    assert finished.returncode == 1
    assert finished.stderr.endswith("no thread found: none is like that\n")
