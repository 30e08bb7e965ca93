"""``kdump.ready``: what processors run, what is next, and what is ready."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import waits as scene
from tests.edited import edited
from tests.output import lines, parsed
from volatility3_kdump.windows.processes.ready import processor_states, shared_queues


def test_processors_of_the_session(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.ready"))
    assert shown[:4] == [
        "System Processors:  (0000000000000007)",
        "  Idle Processors:  (0000000000000003)",
        "",
        "       Prcbs             Current         (pri) Next            (pri) Idle",
    ]
    assert shown[6] == (
        "  2    ffffc3014f460180  ffff918952f55080 (12)                       ffffc3014f46c140  ................"
    )
    assert "Processor 2: busy, IRQL 2 (DISPATCH_LEVEL), no DPC active, DPCs queued (normal + threaded): 0 + 0" in shown
    assert "Processor 0: No threads in READY state" in shown


def test_next_and_ready_by_falling_priority(sample, run_plugin) -> None:
    path = sample(6, None, "waits")
    shown = lines(run_plugin("-q", "-f", path, "-r", "windbg", "kdump.ready"))
    assert (
        "  1    ffffc3014f3c0180  ffffc3014f3cc140 ( 0) ffff91896100a080 (13) ffffc3014f3cc140  ................"
        in shown
    )
    start = shown.index("Processor 1: Ready Threads at priority 11")
    assert [line.split("  Cid")[0] for line in shown[start : start + 4]] == [
        "Processor 1: Ready Threads at priority 11",
        "    THREAD ffff918961008080",
        "Processor 1: Ready Threads at priority 9",
        "    THREAD ffff918961009080",
    ]
    finished = run_plugin("-q", "-f", path, "-r", "json", "kdump.ready")
    assert finished.returncode == 0, finished.stderr
    table = parsed(finished.stdout)
    assert [(row["Processor"], row["Role"]) for row in table] == [(0, "idle"), (1, "idle"), (2, "running")]
    assert [(row["Role"], row["Tid"], row["Priority"]) for row in table[1]["__children"]] == [
        ("next", 0x205C, 13),
        ("ready", 0x2054, 11),
        ("ready", 0x2058, 9),
    ]
    assert (table[2]["Irql"], table[2]["DpcActive"], table[2]["Image"]) == (2, False, "notmyfault64.exe")


def test_every_kernel(isf_path: Path, sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path, "waits"), isf_file=isf_path)
    states = processor_states(target)
    assert [state.idle for state in states] == [True, True, False]
    assert states[1].next == scene.thread_address(0, 6)
    assert states[1].queue.threads == ((11, scene.thread_address(0, 4)), (9, scene.thread_address(0, 5)))
    assert [state.irql for state in states] == [0, 0, 2]
    assert [state.locks for state in states] == ["." * 16] * 3
    assert [state.dpc_depths for state in states] == [(0, 0)] * 3
    queues = shared_queues(target, states)
    assert target.nt is not None
    shared = target.nt.has("_KPRCB", "LocalSharedReadyQueue")
    assert [queue.affinity for queue in queues] == ([1, 2, 4] if shared else [])


def test_what_the_fields_of_a_processor_say(sample, tmp_path: Path) -> None:
    """Ready threads of a shared queue, queued locks and DPCs."""
    path = sample(6, None, "waits")
    target = volatility3_kdump.open(path)
    nt = target.nt
    assert nt is not None
    states = processor_states(target)
    prcb, shared = states[0].prcb, states[0].shared_queue
    thread = scene.thread_address(0, 0)
    link = thread + nt.offset("_KTHREAD", "WaitListEntry")
    head = shared + nt.offset("_KSHARED_READY_QUEUE", "ReadyListHead") + 16 * 15
    depth = nt.offset("_KPRCB", "DpcData") + nt.offset("_KDPC_DATA", "DpcQueueDepth")
    lock = nt.offset("_KPRCB", "LockQueue")
    found = edited(
        target,
        path,
        tmp_path / "queue.dmp",
        {
            shared + nt.offset("_KSHARED_READY_QUEUE", "ReadySummary"): struct.pack("<I", 1 << 15),
            head: struct.pack("<QQ", link, link),
            link: struct.pack("<QQ", head, head),
            prcb + depth: struct.pack("<I", 3),
            prcb + nt.offset("_KPRCB", "DpcRoutineActive"): b"\x01",
            prcb + lock: struct.pack("<QQQQ", 0, shared | 2, 0, shared | 1),
        },
    )
    states = processor_states(found)
    assert (states[0].dpc_depths, states[0].dpc_active, states[0].locks) == ((3, 0), True, "OW" + "." * 14)
    assert shared_queues(found, states)[0].threads == ((15, thread),)


@pytest.mark.parametrize("value", (0x1234, 0xFFFFBEEF00000000))
def test_a_torn_ready_list(sample, tmp_path: Path, value: int) -> None:
    path = sample(6, None, "waits")
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    prcb = processor_states(target)[1].prcb
    assert prcb is not None
    head = prcb + target.nt.offset("_KPRCB", "DispatcherReadyListHead") + 16 * 11
    state = processor_states(edited(target, path, tmp_path / "torn.dmp", {head: struct.pack("<Q", value)}))[1]
    assert (9, scene.thread_address(0, 5)) in state.queue.threads
    # From behind the thread is still there.
    assert (11, scene.thread_address(0, 4)) in state.queue.threads
    assert len(state.queue.problems) >= 1


def test_small_memory_dumps(shared_data: Path, run_plugin) -> None:
    isf = ("--isf-dir", shared_data / "isf")
    shown = lines(
        run_plugin("-q", "-f", shared_data / "dumps" / "triage_x64_19041.dmp", "-r", "windbg", "kdump.ready", *isf)
    )
    assert shown[0] == "System Processors:  (000000000000ffff)"
    assert shown[4].startswith("  0    fffff804782d4180  ffffc08bde9e1640 (13) ")
    finished = run_plugin("-q", "-f", shared_data / "dumps" / "triage_arm64_22000.dmp", "kdump.ready", *isf)
    # With the types of a sibling the processor that was copied is read.
    assert finished.returncode == 0 and "System" in finished.stdout
