"""Records, registers and arguments that do not agree: what may still be said, and how surely.

Scenes of a sound crash, of which single fields are then changed. What is right follows from the processor's manual
(Intel SDM volume 3, "Interrupt 14"): the address of a page fault is that of the operand or, for a fetch, that of the
instruction; and from the kernel, which writes the same address into argument, record and context.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.analysis.test_mutated_dumps import DUMPS
from tests.patched import patched
from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis import plausibility as outcomes
from volatility3_kdump.analysis.bugcheck import describe
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.plausibility import plausibility
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import Case, contradicted
from volatility3_kdump.analysis.weighing import at_odds, placed
from volatility3_kdump.target import Target
from volatility3_kdump.text.summary import summary

Scene = Callable[..., Target]
TRIAGE = 4
#: Offsets in EXCEPTION_RECORD64 and in CONTEXT of x64 (winnt.h).
CODE, ADDRESS, KIND, WHERE = 0x0, 0x10, 0x20, 0x28
RSP, RIP = 0x98, 0xF8
#: Outside every module, far from the stack and not in the dump.
AWAY = 0xFFFFB00011110000


def changed(target: Target, record: dict[int, int] | None = None, context: dict[int, int] | None = None) -> Crash:
    """The analysis with fields of the exception record and of the context of arguments 3 and 4 changed."""
    arguments = target.header.bug_check_parameters
    parts = {arguments[2] + offset: value for offset, value in (record or {}).items()}
    parts |= {arguments[3] + offset: value for offset, value in (context or {}).items()}
    sizes = {arguments[2] + CODE: "<I"}
    return analyze_crash(
        patched(target, {place: struct.pack(sizes.get(place, "<Q"), value) for place, value in parts.items()})
    )


def told(crash: Crash) -> str:
    return " ".join(summary(crash, named=False))


@pytest.mark.parametrize("field", [{CODE: 0xC0000025}, {ADDRESS: 0xFFFFF80012345678}])
def test_no_certainty_where_record_and_arguments_differ(scene: Scene, field: dict[int, int]) -> None:
    target = scene("system-thread", TRIAGE)
    assert analyze_crash(target).verdict.confidence != "low"
    crash = changed(target, record=field)
    assert crash.verdict.suspect == "myfault.sys" and crash.verdict.confidence == "low"
    assert "do not agree" in crash.verdict.confidence_reason and "Mind: argument" in told(crash)


def test_no_certainty_where_the_operand_is_elsewhere(scene: Scene) -> None:
    """Whether or not its memory is in the dump: the instruction did not access what is reported."""
    crash = changed(scene("acquitted-read", TRIAGE), context={RSP: AWAY})
    assert crash.failure is not None and crash.failure.operand_agrees is False
    assert (crash.verdict.suspect, crash.verdict.confidence) == ("myfault.sys", "low")


@pytest.mark.parametrize("rsp", [1 << 40, 0xFFFF7FFFFFFFFF00])
def test_a_bit_that_does_not_explain_the_fault(scene: Scene, rsp: int) -> None:
    """One bit from null, one bit from canonical: but the processor was at another address altogether."""
    crash = changed(scene("acquitted-read", TRIAGE), context={RSP: rsp})
    assert crash.plausibility is None or not crash.plausibility.flips
    assert "Mind one bit" not in told(crash) and crash.verdict.suspect == "myfault.sys"


def test_a_fetch_that_failed_where_the_processor_was_not(scene: Scene) -> None:
    target = scene("acquitted-read", TRIAGE)
    crash = changed(target, record={KIND: 8})
    judged = crash.plausibility
    assert judged is not None and judged.outcome == outcomes.CONTRADICTED
    assert "an execution of 0xf025 was reported, but the processor was at" in judged.says
    assert crash.verdict.suspect == "hardware"


def test_a_fetch_is_no_access_of_the_operand(scene: Scene) -> None:
    target = scene("acquitted-read", TRIAGE)
    ip = target.header.bug_check_parameters[1]
    crash = changed(target, record={KIND: 8, WHERE: ip})
    assert crash.failure is not None and crash.failure.operand_agrees is None
    assert "but the instruction accesses" not in told(crash)


def test_an_instruction_pointer_one_bit_from_code(scene: Scene) -> None:
    """RIP leads to nothing; what failed was something else, so that no jump did: the bit is what is left to say."""
    target = scene("acquitted-read", TRIAGE)
    ip = target.header.bug_check_parameters[1]
    crash = changed(target, context={RIP: ip ^ 1 << 41})
    assert crash.plausibility is not None
    assert [(flip.subject, flip.repaired, flip.bit) for flip in crash.plausibility.flips] == [("RIP", ip, 41)]
    assert crash.verdict.confidence == "low"


def test_only_a_breakpoint_lies_before_rip(scene: Scene) -> None:
    """An argument one below RIP names the breakpoint, where there is one; else it is wrong."""
    target = scene("acquitted-read", TRIAGE)
    code, ip, record, context = target.header.bug_check_parameters
    bug_check = describe(0x7E, (code, ip - 1, record, context))
    judged = plausibility(target, bug_check, find_failure(target, bug_check))
    assert judged is not None and (judged.outcome, judged.address) == (outcomes.CONTRADICTED, ip)


def test_it_showed_where_the_instruction_is(scene: Scene) -> None:
    """Not at its caller, which a stack without names is blamed by."""
    crash = analyze_crash(scene("acquitted-read", TRIAGE))
    assert crash.failure is not None and crash.failure.name is not None
    called = dataclasses.replace(crash.verdict, runner_up="other+10")
    assert placed(called, crash.failure).runner_up == crash.failure.name.replace("+0x", "+")
    for failure in (None, dataclasses.replace(crash.failure, at_fault=False)):
        assert placed(called, failure).runner_up == "other+10"


def test_an_access_without_an_address(scene: Scene) -> None:
    target = scene("acquitted-read", TRIAGE)
    crash = changed(target, record={WHERE: (1 << 64) - 1})
    assert crash.plausibility is not None
    assert crash.plausibility.says.endswith("yet a read without an address was reported for it")
    assert "The processor reported no address" not in told(crash)


@pytest.mark.parametrize("name", [name for name in DUMPS if "x64" in name])
def test_real_dumps_show_it_where_it_happened(shared_data: Path, name: str) -> None:
    crash = analyze_crash(volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp"))
    verdict, failure = crash.verdict, crash.failure
    if verdict.runner_up_rule == "where it showed" and failure is not None and failure.at_fault and failure.name:
        assert verdict.runner_up == failure.name.replace("+0x", "+")
    if verdict.confidence == "high":
        assert not any("names" in note for note in crash.notes)


# records that no argument names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "third", "fourth"), [(0x3B, "context", 0), (0x1E, 0, 0xF025), (0x8E, 0, 0)], ids=["3b", "1e", "8e"]
)
def test_the_record_on_the_stack_acquits_too(scene: Scene, code: int, third: int | str, fourth: int) -> None:
    """0x3B, 0x1E and 0x8E name no exception record; the dispatcher's own copy on the stack tells what was accessed."""
    target = scene("acquitted-read", TRIAGE)
    status, ip, _, context = target.header.bug_check_parameters
    parameters = (status & 0xFFFFFFFF, ip, context if third == "context" else 0, fourth)
    bug_check = describe(code, parameters)
    failure = find_failure(target, bug_check)
    assert failure is not None and failure.exception is not None and not failure.record_named
    assert (failure.access, failure.address) == ("read", 0xF025)
    if code == 0x3B:
        judged = plausibility(target, bug_check, failure)
        assert judged is not None and judged.outcome == outcomes.CONTRADICTED


@pytest.mark.parametrize(("fourth", "address"), [(0xF025, 0xF025), ((1 << 64) - 1, None)])
def test_parameters_of_a_record_that_is_not_there(scene: Scene, fourth: int, address: int | None) -> None:
    """Of 0x1E: arguments 3 and 4 are the first two parameters of the record."""
    target = scene("acquitted-read", TRIAGE)
    status, ip, record, _ = target.header.bug_check_parameters
    other = patched(target, {record: bytes(0x98)})
    failure = find_failure(other, describe(0x1E, (status, ip, 1, fourth)))
    assert failure is not None and failure.exception is None
    assert (failure.access, failure.address) == ("write", address)


def test_a_real_record_that_no_argument_names(shared_data: Path) -> None:
    for name, place in (("triage_x64_19041_0x1e", 0xFFFFF80311A7D298), ("triage_x64_26100_0x3b", 0xFFFFF6825DE0F6B8)):
        crash = analyze_crash(volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp"))
        assert crash.failure is not None and crash.failure.exception_record == place


def test_no_certainty_for_an_instruction_that_is_not_in_the_dump(scene: Scene) -> None:
    target = scene("acquitted-read", TRIAGE)
    crash = analyze_crash(patched(target, absent=[target.header.bug_check_parameters[1]]))
    assert crash.failure is not None and crash.failure.instruction is None
    assert (crash.verdict.suspect, crash.verdict.confidence) == ("myfault.sys", "medium")


def test_notes_on_arguments_cap_the_confidence(scene: Scene) -> None:
    verdict = dataclasses.replace(analyze_crash(scene("acquitted-read", TRIAGE)).verdict, confidence="high")
    note = contradicted("argument 3 points at 0x1, where there is no trap frame")
    assert at_odds(verdict, [note]).confidence == "medium"
    assert at_odds(verdict, ["the kernel patches code as it loads it"]).confidence == "high"


def test_a_fetch_of_what_the_small_dump_holds_is_not_explained(scene: Scene) -> None:
    """Small memory dumps are written from valid pages: one that is there was not paged out."""
    target = scene("acquitted-read", TRIAGE)
    ip = target.header.bug_check_parameters[1]
    crash = changed(target, record={KIND: 8, WHERE: ip})
    assert crash.plausibility is None or crash.plausibility.outcome != outcomes.EXPLAINED
    assert "was not in memory" not in told(crash) and "its page is in the dump" in told(crash)


@pytest.mark.parametrize("thread", [0x11826400000000, 0x1000])
def test_a_thread_that_can_be_none(scene: Scene, thread: int) -> None:
    target = scene("myfault", TRIAGE)
    bug_check = describe(0xEA, (thread, 0, 0, 0))
    reasoning = reason(Case(target, bug_check, None))
    assert reasoning.thread is None and any("is no address of the kernel" in note for note in reasoning.notes)


@pytest.mark.parametrize("code", [0xB9, 0xFB, 0x111, 0xE0])
def test_codes_that_the_hardware_raises(code: int) -> None:
    record = buckets.record_of(code)
    assert record["remains"] == "hardware" and record["blameless"]


@pytest.mark.parametrize("named", [0, AWAY])
def test_a_record_that_the_argument_misses(scene: Scene, named: int) -> None:
    target = scene("acquitted-read", TRIAGE)
    code, ip, _, context = target.header.bug_check_parameters
    bug_check = describe(0x7E, (code, ip, named, context))
    judged = plausibility(target, bug_check, find_failure(target, bug_check))
    assert judged is not None and judged.outcome == outcomes.CONTRADICTED


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (0x6, "something wrote beyond the end of a block"),
        (0x11, "a block was freed twice"),
        (0x12, "the headers of a group of blocks of various sizes are damaged"),
        (0x2, "of the kind 'generic'"),
    ],
)
def test_damage_of_a_heap_in_words(scene: Scene, kind: int, words: str) -> None:
    """Microsoft's page on bug check 0x13A."""
    bug_check = describe(0x13A, (kind, 0xFFFF918950000000, 0xFFFF918953118260, 0))
    [sentence, *_] = reason(Case(scene("myfault", TRIAGE), bug_check, None)).sentences
    assert sentence.endswith(f": {words}.")
