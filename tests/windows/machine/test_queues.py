"""Work queues, timers and queued spin locks on every kernel layout; timers beside the host's own reading of them."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import hangs
from tests.edited import edited
from tests.host import ADDRESS, host_kernel
from tests.output import rows_of
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views.queues import exqueue_grid, queued_locks_grid, timers_grid
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.machine.spin_locks import read_queued_locks
from volatility3_kdump.windows.machine.timers import read_timers
from volatility3_kdump.windows.machine.work_queues import read_work_queues

Sample = Callable[..., Path]
SECOND = 10_000_000


def _target(sample: Sample, scene: str, isf: Path | None = None) -> Target:
    return volatility3_kdump.open(sample(6, isf, scene), isf_file=isf)


# work queues ----------------------------------------------------------------------------------------------------------


def test_work_queues_of_every_kernel(isf_path: Path, sample: Sample) -> None:
    target = _target(sample, "hang-workers", isf_path)
    queue = read_work_queues(target)[0]
    # Windows 7 has an array of them in its data; later kernels allocate them.
    old = target.nt is not None and not target.nt.has("_EX_WORK_QUEUE", "WorkPriQueue")
    assert queue.name == ("Critical" if old else "ExPoolUntrusted")
    assert queue.address == target.symbol("ExWorkerQueue") if old else hangs.QUEUE
    assert queue.threads == tuple(hangs.thread_address(index) for index in range(6))
    assert (len(queue.items), queue.concurrency, queue.running, queue.processed) == (10, 3, 0, 88_310)
    assert queue.most_threads == (None if old else 6)
    # By falling priority, where there are priorities.
    assert [item.priority for item in queue.items] == [None] * 10 if old else [12] * 9 + [8]
    assert {item.routine for item in queue.items} == {
        hangs.READER + hangs.WAIT_RVA,
        target.symbol("ExpWorkerThread"),
    }
    assert queue.problems == ()


def test_idle_workers_wait_for_their_queue(isf_path: Path, sample: Sample) -> None:
    target = _target(sample, "hang-none", isf_path)
    roles = [row["Role"] for _, row in rows_of(exqueue_grid(target)) if row["Kind"] == "worker"]
    assert roles == ["idle"]


def test_text_of_exqueue(sample: Sample) -> None:
    target = _target(sample, "hang-workers")
    shown = list(exqueue_grid(target).kd_lines())
    assert shown[0] == "**** NUMA Node 0 ExPoolUntrusted WorkQueue ( Threads: 6/6, Concurrency: 0/3 )"
    assert shown[1].startswith(f"THREAD {hangs.thread_address(0):016x}  Cid 0004.0170  Teb: 0000000000000000")
    assert shown[7].startswith("PENDING: WorkerRoutine: RtsPer+0x1400 Parameter: ")
    assert shown[7].endswith(" (priority 12)")
    stacks = list(exqueue_grid(target, threads="stacks").kd_lines())
    assert sum("RtsPer+0x144c" in line for line in stacks) == 6
    with pytest.raises(KdumpError, match="no work queue named delayed is in the dump"):
        exqueue_grid(target, ["Delayed"])


def test_no_work_queues(sample: Sample) -> None:
    assert read_work_queues(_target(sample, "myfault")) == []


def test_a_torn_queue_says_so(sample: Sample, tmp_path: Path) -> None:
    source = sample(1, None, "hang-workers")
    original = volatility3_kdump.open(source)
    assert original.nt is not None
    head = hangs.QUEUE + original.nt.offset("_EX_WORK_QUEUE", "WorkPriQueue.ThreadListHead")
    target = edited(original, source, tmp_path / "torn.dmp", {head: struct.pack("<QQ", 0x1234, 0x1234)})
    queue = read_work_queues(target)[0]
    assert queue.threads == () and "threads: Flink at" in queue.problems[0]


# timers ---------------------------------------------------------------------------------------------------------------


def test_timers_of_every_kernel(isf_path: Path, sample: Sample) -> None:
    target = _target(sample, "hang-dpc", isf_path)
    listed = read_timers(target)
    assert listed.problems == ()
    now = hangs._NOW * hangs._TICK
    assert [
        (timer.address, timer.processor, timer.hand, timer.due, timer.period, timer.overdue) for timer in listed.timers
    ] == [
        (hangs.TIMERS, 0, 17, now + 2 * SECOND, 1000, 0),
        (hangs.TIMERS + 0x100, hangs.BUSY, 3, now + SECOND // 2, 0, 0),
        (hangs.TIMERS + 0x200, hangs.BUSY, 4, now - 24 * SECOND, 0, 24 * SECOND),
    ]
    assert [timer.routine for timer in listed.timers] == [target.symbol("KiProcessExpiredTimerList"), 0, 0]
    assert [timer.thread for timer in listed.timers] == [0, 0xFFFF91894C2B3040, hangs.thread_address(1)]
    assert listed.system_time is not None
    assert listed.fires_at(listed.timers[0]) == listed.system_time + 2 * SECOND


@pytest.mark.newest_host
def test_the_host_decodes_the_same(isf_path: Path, sample: Sample) -> None:
    """``windows.timers`` of the host: KTIMER.get_dpc on its own layers and types."""
    importlib.import_module("volatility3.framework.symbols.windows.extensions")
    target = _target(sample, "hang-dpc", isf_path)
    kernel = host_kernel(sample(1, isf_path, "hang-dpc"), isf_path)
    for timer in read_timers(target).timers:
        theirs = kernel.object("_KTIMER", offset=timer.address, absolute=True)
        assert theirs.valid_type()
        assert int(theirs.DueTime.QuadPart) == timer.due
        dpc = theirs.get_dpc()
        assert timer.dpc is not None
        assert int(dpc.vol.offset) == timer.dpc & ADDRESS
        if timer.dpc:
            assert int(dpc.DeferredRoutine) == (timer.routine or 0) & ADDRESS


def test_text_of_timers(sample: Sample) -> None:
    shown = list(timers_grid(_target(sample, "hang-dpc")).kd_lines())
    assert shown[:3] == [
        "Dump system timers",
        "",
        "Interrupt time: ba43b740 00000000 [Thu Oct  7 20:33:12.945 2021 (UTC + 9:00)]",
    ]
    assert shown[6] == (
        " 17  ffff91894ef61000 P bb74e440 00000000 [Thu Oct  7 20:33:14.945 2021 (UTC + 9:00)]  "
        "nt!KiProcessExpiredTimerList (DPC @ ffff91894ef61050)"
    )
    assert shown[-1] == "Total Timers: 3, Maximum List: 1"


# queued spin locks ----------------------------------------------------------------------------------------------------

_CANCEL = 7
LOCK = 0xFFFFF80063301000


def _with_locks(sample: Sample, path: Path, entries: dict[int, tuple[int | None, int]]) -> Target:
    """The lock IO - Cancel: by processor, whose entry is next in line and the flags."""
    source = sample(1)
    original = volatility3_kdump.open(source)
    assert original.nt is not None
    offset = original.nt.offset("_KPRCB", "LockQueue") + 16 * _CANCEL
    places = {processor.number: (processor.prcb or 0) + offset for processor in processors(original)}
    changes = {}
    for number, place in places.items():
        following, flags = entries.get(number, (None, 0))
        changes[place] = struct.pack("<QQ", places[following] if following is not None else 0, LOCK | flags)
    return edited(original, source, path, changes)


def test_owner_and_order_of_those_that_wait(sample: Sample, tmp_path: Path) -> None:
    target = _with_locks(sample, tmp_path / "locks.dmp", {1: (2, 2), 2: (0, 1), 0: (None, 1)})
    lock = read_queued_locks(target).locks[_CANCEL]
    assert (lock.name, lock.address, lock.owner, lock.waiting, lock.corrupt) == (
        "IO   - Cancel",
        LOCK,
        1,
        (2, 0),
        (),
    )
    assert "IO   - Cancel          2  O  1" in list(queued_locks_grid(target).kd_lines())


def test_two_owners_are_corrupt(sample: Sample, tmp_path: Path) -> None:
    target = _with_locks(sample, tmp_path / "locks.dmp", {1: (None, 2), 2: (None, 2)})
    lock = read_queued_locks(target).locks[_CANCEL]
    assert (lock.owner, lock.corrupt) == (1, (2,))


def test_one_that_waits_and_is_in_no_line_is_corrupt(sample: Sample, tmp_path: Path) -> None:
    target = _with_locks(sample, tmp_path / "locks.dmp", {1: (1, 2), 2: (None, 1)})
    lock = read_queued_locks(target).locks[_CANCEL]
    assert (lock.owner, lock.waiting, lock.corrupt) == (1, (2,), (2,))


def test_a_queued_lock_that_somebody_waits_for_points_at_its_owner(sample: Sample, tmp_path: Path) -> None:
    from volatility3_kdump.analysis.hang import analyze_hang

    target = _with_locks(sample, tmp_path / "locks.dmp", {1: (2, 2), 2: (None, 1)})
    section = next(section for section in analyze_hang(target).sections if section.subject == "spin locks")
    assert [fact.text for fact in section.evidence] == [
        "processor 1 owns the spin lock IO - Cancel, for which processor 2 waits"
    ]
