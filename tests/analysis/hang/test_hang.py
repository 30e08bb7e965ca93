"""Who holds a machine up: every scene of a hang gives the one that the scene put there, and a sound machine nobody."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.scenes import hangs
from volatility3_kdump.analysis.hang import Hang, analyze_hang
from volatility3_kdump.analysis.hang.evidence import Evidence, Section, Suspicion
from volatility3_kdump.analysis.hang.verdict import judge
from volatility3_kdump.target import Target

Sample = Callable[..., Path]
SECOND = 10_000_000
READER = "the driver RtsPer.sys"


def _target(sample: Sample, scene: str, isf: Path | None = None, dump_type: int = 6) -> Target:
    return volatility3_kdump.open(sample(dump_type, isf, scene), isf_file=isf)


def _facts(hang: Hang, subject: str) -> tuple[Evidence, ...]:
    return next(section for section in hang.sections if section.subject == subject).evidence


def _pointed_at(hang: Hang) -> set[str]:
    """The subjects whose evidence points at somebody."""
    return {section.subject for section in hang.sections if any(fact.suspicions for fact in section.evidence)}


def test_nothing_points_at_a_hang_of_a_sound_machine(isf_path: Path, sample: Sample) -> None:
    hang = analyze_hang(_target(sample, "hang-none", isf_path))
    assert (hang.verdict.suspect, hang.verdict.runner_up) == (None, None)
    assert hang.verdict.sentence.startswith("nothing points at a hang")
    assert _pointed_at(hang) == set()
    assert [section.subject for section in hang.sections if section.absent is not None] == []


@pytest.mark.parametrize(
    ("scene", "who", "subjects", "least"),
    [
        ("hang-resources", "the deadlock of System 4.174 and System 4.170", {"locks"}, 90),
        ("hang-workers", READER, {"worker queues"}, 70),
        ("hang-dpc", READER, {"processors", "ready threads", "timers"}, 90),
        ("hang-spin-lock", READER, {"processors", "spin locks"}, 70),
        ("hang-starved", READER, {"ready threads"}, 70),
        ("hang-power-irp", READER, {"requests"}, 70),
        ("hang-pool", READER, {"memory"}, 80),
    ],
)
def test_who_holds_the_machine_up(scene: str, who: str, subjects: set[str], least: int, sample: Sample) -> None:
    hang = analyze_hang(_target(sample, scene))
    assert hang.verdict.suspect is not None
    assert (hang.verdict.suspect.who, _pointed_at(hang)) == (who, subjects)
    assert hang.verdict.suspect.weight >= least
    assert hang.verdict.runner_up is None
    assert hang.verdict.confidence == ("high" if hang.verdict.suspect.weight >= 80 else "medium")


@pytest.mark.thorough
@pytest.mark.parametrize("scene", ["hang-resources", "hang-workers", "hang-dpc", "hang-starved", "hang-power-irp"])
def test_on_every_kernel(scene: str, isf_path: Path, sample: Sample) -> None:
    hang = analyze_hang(_target(sample, scene, isf_path))
    assert hang.verdict.suspect is not None and hang.verdict.suspect.weight >= 60
    assert "RtsPer" in hang.verdict.suspect.who or "4.174" in hang.verdict.suspect.who


def test_a_deadlock_with_its_age_and_those_behind(sample: Sample) -> None:
    (deadlock,) = _facts(analyze_hang(_target(sample, "hang-resources")), "locks")
    assert set(deadlock.threads) == {hangs.thread_address(0), hangs.thread_address(1)}
    # The younger of the two waits began 59 s ago.
    assert (deadlock.age, deadlock.count) == (59 * SECOND, 2)
    assert deadlock.text == "deadlock 1: 2 threads for 59.0 s, 2 more threads behind them"
    assert {wait.wait.object for wait in deadlock.waits} == set(hangs.RESOURCES)


def test_threads_in_one_place(sample: Sample) -> None:
    (place,) = _facts(analyze_hang(_target(sample, "hang-resources")), "stuck threads")
    assert (place.count, place.age) == (4, 60 * SECOND)
    assert set(place.threads) == {hangs.thread_address(index) for index in range(4)}


def test_workers_that_are_all_busy(sample: Sample) -> None:
    hang = analyze_hang(_target(sample, "hang-workers"))
    (queue,) = _facts(hang, "worker queues")
    assert (queue.object, queue.count, queue.age) == (hangs.QUEUE, 10, 40 * SECOND)
    assert queue.details == ("9 for RtsPer+0x1400", "1 for nt!ExpWorkerThread")
    assert hang.verdict.suspect is not None
    assert "all 6 workers of the ExPoolUntrusted queue are busy while 10 items wait" in hang.verdict.suspect.reasons[0]


def test_a_dpc_that_does_not_end(sample: Sample) -> None:
    hang = analyze_hang(_target(sample, "hang-dpc"))
    busy = _facts(hang, "processors")[hangs.BUSY]
    assert busy.text.endswith("in the DPC RtsPer+0x1500 for 25.0 s (1600 ticks of 1280 allowed)")
    (starved,) = _facts(hang, "ready threads")
    assert (starved.thread, starved.age, starved.processor) == (hangs.thread_address(1), 24 * SECOND, hangs.BUSY)
    (late,) = _facts(hang, "timers")
    assert (late.object, late.age) == (hangs.TIMERS + 0x200, 24 * SECOND)


def test_a_request_is_as_old_as_the_wait_of_its_thread(sample: Sample) -> None:
    requests = _facts(analyze_hang(_target(sample, "hang-power-irp")), "requests")
    assert [(fact.module, fact.count, fact.age) for fact in requests] == [
        ("RtsPer.sys", 1, 120 * SECOND),
        ("Ntfs.sys", 1, requests[1].age),
        # Its thread runs: it may have sent the request just now.
        ("myfault.sys", 1, None),
    ]
    assert requests[0].object == hangs.POWER_IRP


def test_pool_at_its_limit_leads_to_the_driver_with_the_tag(sample: Sample) -> None:
    hang = analyze_hang(_target(sample, "hang-pool"))
    pool = next(fact for fact in _facts(hang, "memory") if fact.text.startswith("nonpaged pool"))
    assert pool.details[0].startswith(f"{hangs.TAG}: 5,")
    assert "this driver alone has it in its code" in pool.suspicions[0].why


def test_a_bug_check_about_something_that_does_not_go_on(sample: Sample) -> None:
    hang = analyze_hang(_target(sample, "blocked-power-irp"))
    assert hang.verdict.suspect is not None
    assert (hang.verdict.suspect.module, hang.verdict.confidence) == ("RtsPer.sys", "high")
    # A crash says nothing of a hang.
    assert analyze_hang(_target(sample, "myfault")).verdict.suspect is None


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=() if code in (0xE2, 0xA0000001) else pytest.mark.thorough)
        for code in (0xE2, 0x133, 0x161, 0x101, 0xA0000001, 0xA0000003)
    ],
)
def test_whatever_the_dump_was_written_for(code: int, sample: Sample, tmp_path: Path) -> None:
    """A dump that somebody asked for, a watchdog's and a live dump name who runs at DISPATCH_LEVEL."""
    data = bytearray(sample(1, None, "hang-dpc").read_bytes())
    # DUMP_HEADER64.BugCheckCode.
    struct.pack_into("<I", data, 0x38, code)
    path = tmp_path / "asked.dmp"
    path.write_bytes(data)
    hang = analyze_hang(volatility3_kdump.open(path))
    assert hang.verdict.suspect is not None
    assert hang.verdict.suspect.who == READER and "processors" in _pointed_at(hang)


def test_a_small_dump_says_what_it_does_not_hold(sample: Sample) -> None:
    hang = analyze_hang(_target(sample, "hang-resources", None, 4))
    absent = {section.subject: section.absent for section in hang.sections if section.absent is not None}
    assert absent["locks"] == "a small memory dump holds one thread and its stack"
    assert {"stuck threads", "requests", "worker queues", "timers"} <= absent.keys()
    assert hang.verdict.suspect is None
    assert hang.verdict.confidence == "low" and "not known: locks" in hang.verdict.confidence_reason


def test_real_small_dumps(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041_0x9f.dmp")
    hang = analyze_hang(target)
    assert hang.verdict.suspect is not None
    # The dump's README: the blocked power IRP is held by iaStorAC.
    assert hang.verdict.suspect.module == "iaStorAC.sys"


# the verdict ----------------------------------------------------------------------------------------------------------


def _section(*suspicions: Suspicion) -> Section:
    return Section("locks", tuple(Evidence("a fact", suspicions=(suspicion,)) for suspicion in suspicions))


def test_facts_about_the_same_add_up_and_others_cast_doubt() -> None:
    alone = judge([_section(Suspicion("a", "a", "one", 60))])
    assert alone.suspect is not None and (alone.suspect.weight, alone.confidence) == (60, "medium")
    twice = judge([_section(Suspicion("a", "a", "one", 60), Suspicion("a", "a", "two", 60))])
    assert twice.suspect is not None and twice.suspect.weight == round(100 - 40 * (1 - 0.25 * 0.6))
    rivals = judge([_section(Suspicion("a", "a", "one", 60), Suspicion("b", "b", "two", 55))])
    assert rivals.runner_up is not None and (rivals.runner_up.who, rivals.confidence) == ("b", "low")
    # The same reason twice is one fact.
    same = judge([_section(Suspicion("a", "a", "one", 60), Suspicion("a", "a", "one", 60))])
    assert same.suspect is not None and same.suspect.weight == 60


def test_weak_facts_point_at_nobody() -> None:
    weak = judge([_section(Suspicion("a", "a", "one", 30)), Section("timers", absent="not there")])
    assert weak.suspect is None
    assert weak.sentence == "nothing points at a hang; not known: timers"
    assert judge([Section("timers", absent="not there")]).sentence.endswith("the dump holds none of what would show it")
