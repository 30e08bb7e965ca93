"""Rules about watchdogs, on scenes in which a driver spins."""

from __future__ import annotations

import pytest

from tests.analysis.reasons import TRIAGE, MakeCase, both, value
from volatility3_kdump.analysis.reason import reason


@both
def test_one_dpc_that_runs_too_long(case: MakeCase, dump_type: int) -> None:
    found = reason(case("dpc-timeout", dump_type))
    assert value(found, "DPC_TIMEOUT_TYPE") == "SINGLE_DPC_TIMEOUT_EXCEEDED"
    assert (value(found, "DPC_RUNTIME"), value(found, "DPC_TIMELIMIT")) == ("501", "500")
    assert value(found, "DPC_ADDRESS") == "ffff91894ed40100"
    assert value(found, "DPC_ROUTINE") == "myfault+0x1a40"
    assert value(found, "DPC_ROUTINE_ON_STACK") == "myfault+0x1a60"
    assert value(found, "DPC_STACK_BASE") == "FFFFD48F76A4DFB0"
    assert found.prefix == "0x133_DPC"
    # the driver is on the stack, where the walk finds it: the arguments name nobody
    assert found.culprit is None


def test_ticks_are_turned_into_time_where_the_length_of_a_tick_is_known(case: MakeCase) -> None:
    known = reason(case("dpc-timeout"))
    assert known.sentences[0] == "One DPC or interrupt routine ran 20.016 s; 20.000 s are allowed."
    unknown = reason(case("dpc-timeout", TRIAGE))
    assert unknown.sentences[0] == "One DPC or interrupt routine ran 1281 ticks; 1280 ticks are allowed."


@both
def test_too_long_at_raised_irql(case: MakeCase, dump_type: int) -> None:
    found = reason(case("dpc-queue-timeout", dump_type))
    assert value(found, "DPC_TIMEOUT_TYPE") == "DPC_QUEUE_EXECUTION_TIMEOUT_EXCEEDED"
    assert value(found, "DPC_TIMELIMIT") == "1e00"
    assert found.prefix == "0x133_ISR"


def test_without_a_dpc_none_is_named(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x133, (0, 0x501, 0x500, 0)))
    assert value(found, "DPC_ROUTINE_ACTIVE") == "no"
    assert value(found, "DPC_ROUTINE") is None
    assert value(found, "DPC_STACK_BASE") is None
    assert value(found, "DPC_ROUTINE_ON_STACK") is None


@both
def test_a_processor_that_hangs(case: MakeCase, dump_type: int) -> None:
    found = reason(case("hung-processor", dump_type))
    assert value(found, "HUNG_PROCESSOR") == "1"
    assert value(found, "HUNG_PROCESSOR_IP") == "myfault+0x1a60"
    assert value(found, "HUNG_PROCESSOR_STATE") == "IpiFrozen 0x5"
    assert found.thread == 0xFFFF91894C2D3040
    assert (found.prefix, found.specifiers, found.notes) == ("CLOCK_WATCHDOG_TIMEOUT", (), ())


def test_a_processor_that_stopped_when_it_was_told_to(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x101, (0x18, 0, 0xFFFFC3014F3C0180, 1)))
    assert value(found, "HUNG_PROCESSOR_STATE") is None
    finding = found.finding("HUNG_THREAD")
    assert finding is not None and finding.note == "its idle thread"


@pytest.mark.parametrize(
    "block, number, note",
    [
        (0xFFFFC3014F3C0180, 2, "argument 3 is the control block of processor 1, argument 4 is 0x2"),
        (0xFFFFC3014F3C0180, 9, "argument 4 names processor 0x9, but there are 3"),
    ],
)
def test_contradicting_processors_are_told(other_arguments: MakeCase, block: int, number: int, note: str) -> None:
    assert note in reason(other_arguments(0x101, (0x18, 0, block, number))).notes


def test_a_control_block_that_is_none(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x101, (0x18, 0, 0xFFFFD48F77AF9B00, 1)))
    finding = found.finding("HUNG_PROCESSOR_STATE")
    assert finding is not None and finding.value == "not in the dump"
    assert finding.note == "0xffffd48f77af9b00 is no control block that KiProcessorBlock lists"
    assert found.specifiers == ("INVALID_CONTEXT",)
    assert found.thread is None
