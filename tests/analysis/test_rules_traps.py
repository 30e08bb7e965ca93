"""Rules about exceptions and processor traps, on scenes whose records are known."""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from tests.analysis.reasons import MakeCase, both, value
from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import Case
from volatility3_kdump.text.summary import summary
from volatility3_kdump.windows.processes.threads import stack_limits


@both
def test_an_exception_that_nobody_handles(case: MakeCase, dump_type: int) -> None:
    found = reason(case("unhandled-exception", dump_type))
    assert value(found, "WRITE_ADDRESS") == "0000000000000010"
    assert value(found, "AV.Dereference") == "NullPtr"
    assert value(found, "EXCEPTION_CODE_STR") == "c0000005"
    assert value(found, "EXCEPTION_PARAMETER1") == "0000000000000001"
    assert value(found, "EXCEPTION_PARAMETER2") == "0000000000000010"
    # the record that the dispatcher built on the stack, which no argument names
    assert value(found, "EXCEPTION_RECORD") is not None
    assert (found.prefix, found.specifiers, found.notes) == ("AV_W", (), ())


@both
def test_a_corrupt_pointer_in_a_system_call(case: MakeCase, dump_type: int) -> None:
    subject = case("bad-pointer", dump_type)
    found = reason(subject)
    assert value(found, "CONTEXT") == f"{subject.argument(3):016x}"
    assert value(found, "READ_ADDRESS") == "ffffffffffffffff"
    assert value(found, "OPERAND_ADDRESS") == "ffff118953118260"
    assert found.prefix == "AV"


def test_a_write_for_which_the_processor_reported_no_address(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp")
    crash = analyze_crash(target)
    said = (
        "The processor reported no address for the write; "
        "amdppm+0x334c would have accessed 0xffff9b000336004c (kernel address space)."
    )
    assert said in crash.reasoning.sentences
    assert value(crash.reasoning, "WRITE_ADDRESS") == "ffffffffffffffff"
    assert value(crash.reasoning, "OPERAND_ADDRESS") == "ffff9b000336004c"
    lines = summary(crash, target.has_names)
    # The line on what the instruction cannot have caused names the address, and says more.
    assert ["0xffff9b000336004c" in line for line in lines].count(True) == 1
    assert "0xffff9b000336004c, a canonical address" in lines[1]
    assert not any("ffffffffffffffff" in line for line in (*crash.reasoning.sentences, *lines))
    notes = {finding.tag: finding.note for finding in crash.reasoning.findings}
    assert notes["WRITE_ADDRESS"] == "the processor reported no address"


@both
def test_an_exception_in_a_thread_of_the_system(case: MakeCase, dump_type: int) -> None:
    subject = case("system-thread", dump_type)
    found = reason(subject)
    assert value(found, "EXCEPTION_RECORD") == f"{subject.argument(3):016x}"
    assert value(found, "CONTEXT") == f"{subject.argument(4):016x}"
    assert value(found, "ERROR_CODE") == "(NTSTATUS) 0xc0000094 - Integer divide-by-zero"
    assert (found.prefix, found.specifiers, found.notes) == (None, ("c0000094",), ())


@both
def test_a_trap_frame_that_an_argument_names(case: MakeCase, dump_type: int) -> None:
    subject = case("kernel-exception", dump_type)
    found = reason(subject)
    assert value(found, "TRAP_FRAME") == f"{subject.argument(3):016x}"
    assert value(found, "READ_ADDRESS") == "0000000000000000"
    assert "myfault+0x1b20 read 0x0 (a null pointer)." in found.sentences


@both
def test_a_fast_fail(case: MakeCase, dump_type: int) -> None:
    subject = case("list-corruption", dump_type)
    found = reason(subject)
    assert value(found, "FAST_FAIL_CODE") == "CORRUPT_LIST_ENTRY"
    assert value(found, "TRAP_FRAME") == f"{subject.argument(2):016x}"
    assert value(found, "EXCEPTION_RECORD") == f"{subject.argument(3):016x}"
    assert value(found, "EXCEPTION_CODE_STR") == "c0000409"
    assert (found.prefix, found.specifiers, found.notes) == (None, (), ())


@pytest.mark.parametrize(
    "code, words",
    [
        (0x1D, "1d_INVALID_BALANCED_TREE"),
        (2, "MISSING_GSFRAME"),
        (4, "MISSING_GSFRAME"),
        (3, "3_CORRUPT_LIST_ENTRY"),
        (0x12345, "12345"),
    ],
)
def test_fast_fail_codes(other_arguments: MakeCase, code: int, words: str) -> None:
    subject = other_arguments(0x139, (code, 0, 0, 0))
    assert buckets.head(subject.bug_check, buckets.FailureFacts(), reason(subject)) == f"0x139_{words}"


def test_a_fast_fail_code_that_the_record_contradicts(case: MakeCase, other_arguments: MakeCase) -> None:
    subject = case("list-corruption")
    parameters = (0x1D, subject.argument(2), subject.argument(3), 0)
    found = reason(other_arguments(0x139, parameters, "list-corruption"))
    assert found.notes == ("argument 1 is fast-fail code 0x1d, but the exception record has 0x3",)


@both
def test_a_kernel_stack_that_was_used_up(case: MakeCase, dump_type: int) -> None:
    subject = case("double-fault", dump_type)
    found = reason(subject)
    assert value(found, "TRAP_FRAME") == f"{subject.argument(2):016x}"
    overflow = found.finding("STACK_OVERFLOW")
    assert overflow is not None and overflow.address == subject.argument(3)
    limits = stack_limits(subject.target, 0xFFFF918952F55080)
    assert limits == (0xFFFFD48F77AF4000, 0xFFFFD48F77AFA000)
    assert overflow.address is not None and overflow.address < limits[0]
    assert value(found, "STACKUSAGE_IMAGE") == "myfault.sys"
    assert int(value(found, "STACKUSAGE_RECURSION_COUNT") or "") > 20
    assert found.specifiers == ("8",)
    assert found.culprit is not None and found.culprit.image_name == "myfault.sys"


@both
def test_a_double_fault_on_a_stack_with_room(case: MakeCase, other_arguments: MakeCase, dump_type: int) -> None:
    found = reason(other_arguments(0x7F, (8, 0, 0, 0), dump_type=dump_type))
    assert value(found, "STACK_OVERFLOW") is None
    assert any("was not used up" in sentence for sentence in found.sentences)


def test_another_trap_says_nothing_about_the_stack(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x7F, (0xD, 0, 0, 0)))
    assert value(found, "STACK_POINTER") is None
    assert found.sentences[0].startswith("The processor raised trap 0xd (general protection fault")


@pytest.mark.parametrize("code, number", [(0x7E, 4), (0x3B, 3)])
def test_a_context_that_is_none_is_told(other_arguments: MakeCase, code: int, number: int) -> None:
    parameters = [0xC0000005, 0xFFFFF80060DA1981, 0xFFFFD48F77AF9B00, 0xFFFFD48F77AF9B00]
    found = reason(other_arguments(code, parameters))
    assert f"argument {number} points at 0xffffd48f77af9b00, where there is no context record" in found.notes


def test_records_that_are_not_in_the_dump_are_told(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x7E, (0xC0000005, 0xFFFFF80060DA1981, 0xFFFFA00000001000, 0xFFFFA00000002000)))
    assert value(found, "EXCEPTION_RECORD") == "not in the dump"
    assert value(found, "CONTEXT") == "not in the dump"
    finding = found.finding("CONTEXT")
    assert finding is not None and "not mapped" in finding.note


def test_a_record_of_another_exception_is_told(case: MakeCase, other_arguments: MakeCase) -> None:
    subject = case("system-thread")
    parameters = (0xC0000005, 0xFFFFF80060DA1000, subject.argument(3), subject.argument(4))
    notes = " ".join(reason(other_arguments(0x7E, parameters, "system-thread")).notes)
    assert "argument 1 names exception 0xc0000005, but the exception record has 0xc0000094" in notes
    assert "argument 2 names the instruction 0xfffff80060da1000, but the exception record has" in notes
    assert "but the context record is at" in notes


# real dumps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "triage_x64_19041.dmp",
            {"EXCEPTION_PARAMETER1": "0000000000000001", "WRITE_ADDRESS": "ffffffffffffffff", "AV.Type": "Write"},
        ),
        (
            "triage_x64_17763.dmp",
            {"EXCEPTION_PARAMETER1": "0000000000000000", "READ_ADDRESS": "0" * 16, "AV.Dereference": "NullPtr"},
        ),
    ],
)
def test_real_dumps_of_0x1000007e(shared_data: Path, name: str, expected: dict[str, str]) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / name, isf_directories=[shared_data / "isf"])
    bug_check = header_bug_check(target)
    assert bug_check is not None and bug_check.raw_code == 0x1000007E
    found = reason(Case(target, bug_check, find_failure(target, bug_check)))
    assert found.notes == ()
    assert found.prefix == "AV"
    assert {tag: value(found, tag) for tag in expected} == expected
    assert value(found, "EXCEPTION_CODE_STR") == "c0000005"


@pytest.mark.parametrize(
    ("found", "complement", "words"),
    [
        (0x0000_3EEC_9A1B_22F7 ^ 1 << 37, ~0x0000_3EEC_9A1B_22F7, "one changed bit (37) of the cookie"),
        (0x4141_4141_4141_4141, ~0x0000_3EEC_9A1B_22F6, "the module's own cookie"),
        (0x4141_4141_4141_4141, ~0x0000_3EEC_9A1B_22F7, None),
    ],
)
def test_a_cookie_that_no_overrun_changed(
    other_arguments: MakeCase, found: int, complement: int, words: str | None
) -> None:
    arguments = (found, 0x0000_3EEC_9A1B_22F7, complement & (1 << 64) - 1, 0)
    uncertain = reason(other_arguments(0xF7, arguments)).uncertain
    assert (words is None and uncertain is None) or (words or "") in (uncertain or "")
