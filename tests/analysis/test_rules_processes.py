"""Rules about processes, on scenes in which one is ended."""

from __future__ import annotations

import pytest

from tests.analysis.reasons import KERNEL, MakeCase, both, value
from volatility3_kdump.analysis.reason import reason

CSRSS, CRASHING = 0xFFFF91894F241080, 0xFFFF91895301A080
CRASHING_THREAD = 0xFFFF918952F55080


@both
def test_a_critical_process_that_another_one_ends(case: MakeCase, dump_type: int) -> None:
    found = reason(case("critical-process", dump_type))
    assert value(found, "CRITICAL_PROCESS") == "csrss.exe"
    assert value(found, "EXIT_STATUS") == "0x1"
    # small memory dumps hold only the 15 bytes of EPROCESS.ImageFileName
    assert value(found, "TERMINATING_PROCESS") == ("notmyfault64.exe" if dump_type == KERNEL else "notmyfault64.e")
    assert found.process == CSRSS
    ended = f"TERMINATED_BY_{value(found, 'TERMINATING_PROCESS')}"
    assert found.specifiers == ("csrss.exe", "BUGCHECK_CRITICAL_PROCESS", ended, "52f55080")


@both
def test_a_critical_process_that_crashed(case: MakeCase, dump_type: int) -> None:
    found = reason(case("critical-termination", dump_type))
    assert value(found, "CRITICAL_PROCESS") == "csrss.exe"
    assert value(found, "CRITICAL_PROCESS_IMAGE") == "csrss.exe"
    assert value(found, "MESSAGE") == "Terminating critical process 0x%p (%s)"
    finding = found.finding("EXIT_STATUS")
    assert finding is not None and (finding.value, finding.address) == ("0xc0000005", 0xC0000005)
    assert "STATUS_ACCESS_VIOLATION" in finding.note
    assert found.process == CSRSS


def test_a_critical_thread(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xEF, (CRASHING_THREAD, 1, 0, 0)))
    assert value(found, "CRITICAL_THREAD") == f"{CRASHING_THREAD:016x}"
    assert value(found, "CRITICAL_PROCESS") == "notmyfault64.exe"
    assert found.sentences[0].startswith("A thread of the critical process notmyfault64.exe ended")
    assert found.process == CRASHING


def test_a_process_that_ends_itself(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xEF, (CRASHING, 0, 0, 0)))
    assert value(found, "TERMINATING_PROCESS") is None
    assert "It ended itself." in found.sentences


def test_a_process_that_is_not_in_the_dump(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xEF, (0xFFFFA00000001000, 0, 0, 0)))
    finding = found.finding("CRITICAL_PROCESS")
    assert finding is not None and finding.value == "not in the dump"
    assert "not mapped" in finding.note
    assert found.specifiers == ("BUGCHECK_CRITICAL_PROCESS", "52f55080")


@pytest.mark.parametrize(
    "code, arguments, kind, place, against",
    [
        (0xEF, (CSRSS + 1, 0, 0, 0), "process", CSRSS + 1, "it is not aligned as one"),
        (0xEF, (CSRSS + 0x40, 0, 0, 0), "process", CSRSS + 0x40, "its dispatcher header is not that of one"),
        (0xEF, (CRASHING_THREAD, 0, 0, 0), "process", CRASHING_THREAD, "its dispatcher header is not that of one"),
        (0xEF, (CSRSS, 1, 0, 0), "thread", CSRSS, "its dispatcher header is not that of one"),
        (0xF4, (3, 0x1000, 0, 0), "process", 0x1000, "it is no address of the kernel"),
    ],
)
def test_what_is_no_process_or_thread_is_not_read_as_one(
    other_arguments: MakeCase, code: int, arguments: tuple[int, ...], kind: str, place: int, against: str
) -> None:
    found = reason(other_arguments(code, arguments))
    finding = found.finding("CRITICAL_PROCESS")
    assert finding is not None and (finding.value, finding.note) == ("unknown", against)
    assert found.notes.count(f"argument that names the {kind}: no {kind} at {place:#x}: {against}") == 1
    assert (found.process, found.thread) == (None, None)
    assert value(found, "EXIT_STATUS") is None and value(found, "TERMINATING_PROCESS") is None
    assert not any("was ended by" in sentence or hex(place) in sentence for sentence in found.sentences)


def test_who_ended_a_thread_that_is_not_in_the_dump_is_not_said(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xEF, (0xFFFFA00000001000, 1, 0, 0)))
    assert value(found, "CRITICAL_PROCESS") == "not in the dump"
    assert value(found, "TERMINATING_PROCESS") is None


def test_an_unknown_kind_of_object_is_told(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xF4, (5, CSRSS, 0, 0)))
    assert "argument 1 is 0x5, which is neither a process (3) nor a thread (6)" in found.notes


def test_a_crash_on_request(case: MakeCase) -> None:
    found = reason(case("manual"))
    assert found.prefix == "MANUALLY_INITIATED_CRASH"
    assert "on purpose" in found.sentences[0]


@pytest.mark.parametrize(
    "argument, requester", [(0x5461736B6D6772, "Taskmgr"), (0, None), (0x0102030405060708, None), (2**64 - 1, None)]
)
def test_who_asked_for_a_live_dump(other_arguments: MakeCase, argument: int, requester: str | None) -> None:
    found = reason(other_arguments(0x161, (argument, 0, 0, 0)))
    assert value(found, "REQUESTER") == requester
    assert found.sentences[0].startswith("Nothing failed")
