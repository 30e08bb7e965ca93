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
from volatility3_kdump.analysis import plausibility as outcomes
from volatility3_kdump.analysis.bugcheck import describe
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.plausibility import plausibility
from volatility3_kdump.analysis.weighing import placed
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
