"""Rules about memory accesses, on scenes whose arguments are known."""

from __future__ import annotations

import pytest

from tests.analysis.reasons import KERNEL, TRIAGE, MakeCase, value
from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.reason import reason


def test_the_demonstration(case: MakeCase) -> None:
    found = reason(case("myfault"))
    assert value(found, "READ_ADDRESS") == "ffffd8024aaa8010 Paged pool"
    assert value(found, "CURRENT_IRQL") == "2"
    assert value(found, "AV.Type") == "Read"
    assert value(found, "AV.Dereference") is None
    assert found.sentences[0] == "myfault+0x1981 read 0xffffd8024aaa8010 (paged pool) at IRQL 2."
    assert (found.prefix, found.specifiers, found.culprit, found.notes) == ("AV", (), None, ())
    finding = found.finding("READ_ADDRESS")
    assert finding is not None and finding.note == "by nt!MiState.Vs.SystemVaRegions; paged out"


def test_a_small_memory_dump_names_no_region_that_it_does_not_know(case: MakeCase) -> None:
    found = reason(case("myfault", TRIAGE))
    assert value(found, "READ_ADDRESS") == "ffffd8024aaa8010"
    assert "myfault+0x1981 read 0xffffd8024aaa8010 (kernel address space) at IRQL 2." in found.sentences


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_null_pointer_in_the_kernel(case: MakeCase, dump_type: int) -> None:
    found = reason(case("null-event", dump_type))
    assert value(found, "READ_ADDRESS") == "0000000000000018"
    assert value(found, "AV.Dereference") == "NullPtr"
    assert found.sentences == ("nt!KeSetEvent+0x20 read 0x18 (a null pointer plus 0x18) at IRQL 2.",)
    assert found.prefix == "AV"


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_code_of_an_unloaded_driver(case: MakeCase, dump_type: int) -> None:
    found = reason(case("unloaded-driver", dump_type))
    assert value(found, "EXECUTE_ADDRESS") == "fffff80060184a10"
    assert value(found, "FAILED_INSTRUCTION_ADDRESS") == "fffff80060184a10"
    assert value(found, "UNLOADED_MODULE") == "hwpolicy.sys"
    assert found.culprit is not None
    assert (found.culprit.image_name, found.culprit.module_name) == ("hwpolicy.sys", "hwpolicy")
    assert found.culprit.address == 0xFFFFF80060184A10


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_write_to_memory_that_is_not_there(case: MakeCase, dump_type: int) -> None:
    found = reason(case("freed-pool", dump_type))
    words = " Paged pool" if dump_type == KERNEL else ""
    assert value(found, "WRITE_ADDRESS") == "ffffd80249c31000" + words
    assert value(found, "READ_ADDRESS") is None
    assert value(found, "MM_INTERNAL_CODE") == "2"
    assert (found.prefix, found.specifiers) == ("AV_W", ())
    assert found.notes == ()


def test_a_flipped_bit_between_operand_and_address(case: MakeCase) -> None:
    found = reason(case("bit-flip"))
    assert (found.prefix, found.specifiers) == ("AV_R", ())
    assert found.notes == ()


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_write_to_constants(case: MakeCase, dump_type: int) -> None:
    found = reason(case("read-only-write", dump_type))
    assert value(found, "WRITE_ADDRESS") == "fffff80060da3040"
    finding = found.finding("PTE")
    assert finding is not None and finding.note == "valid, read-only, kernel, no execute"
    assert "The instruction that wrote is at myfault+0x1b20." in found.sentences
    part = "section .rdata of myfault.sys" if dump_type == KERNEL else "myfault.sys"
    assert f"The page belongs to {part} and may only be read." in found.sentences


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_jump_into_data(case: MakeCase, dump_type: int) -> None:
    found = reason(case("no-execute", dump_type))
    words = " Nonpaged pool" if dump_type == KERNEL else ""
    assert value(found, "EXECUTE_ADDRESS") == "ffff91894ee41230" + words
    finding = found.finding("PTE")
    assert finding is not None and finding.note == "valid, writable, kernel, no execute"
    assert found.finding("TRAP_FRAME") is not None


def test_an_overwritten_pointer_in_the_pool(case: MakeCase) -> None:
    found = reason(case("pool-corruption"))
    assert value(found, "READ_ADDRESS") == "4141414141414141"
    assert "not a canonical address" in found.sentences[0]
    assert any("Driver Verifier" in sentence for sentence in found.sentences)


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_corrupt_heap(case: MakeCase, dump_type: int) -> None:
    found = reason(case("heap-corruption", dump_type))
    # heap_failure_segment_lfh_double_free is 0x11 in _HEAP_FAILURE_TYPE of the kernel's public symbols
    assert value(found, "HEAP_FAILURE_TYPE") == "heap_failure_segment_lfh_double_free"
    assert value(found, "CORRUPTING_POOL_ADDRESS") == "ffff91894ee41230"
    assert value(found, "FREED_POOL_TAG") == "Leak"
    assert found.specifiers == ("11", "Leak")


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_the_exception_of_the_store(case: MakeCase, dump_type: int) -> None:
    found = reason(case("store-exception", dump_type))
    assert value(found, "EXCEPTION_CODE_STR") == "c0000006"
    assert value(found, "IO_ERROR_CODE") == "0xc000000e"
    assert value(found, "READ_ADDRESS") == "000001e35fb24000"
    assert found.finding("CONTEXT") is not None
    assert found.specifiers == ("c0000006", "c000000e")


def test_changed_kernel_code(case: MakeCase) -> None:
    found = reason(case("integrity"))
    assert value(found, "CORRUPTED_REGION") == "function changed"
    assert "Argument 3 points at nt!KeSetEvent." in found.sentences
    assert found.specifiers == ("1",)


@pytest.mark.parametrize(
    "parameters, expected",
    [
        ((0xFFFFD80249C31000, 0, 0xFFFFF80060DA1981, 0), "AV_R_(null)"),
        ((0xFFFFD80249C31000, 2, 0xFFFFF80060DA1981, 0xC), "AV_W_(null)"),
        ((0xFFFFD80249C31000, 0, 0xFFFFF80060DA1981, 2), "AV_R_INVALID"),
        ((0xFFFFD80249C31000, 0x10, 0xFFFFF80060DA1981, 2), "AV_X_INVALID"),
        ((0xFFFFD80249C31000, 0x77, 0xFFFFF80060DA1981, 2), "AV"),
    ],
)
def test_the_bucket_of_0x50(other_arguments: MakeCase, parameters: tuple[int, ...], expected: str) -> None:
    subject = other_arguments(0x50, parameters)
    facts = buckets.completed(buckets.failure_facts(subject.target, subject.failure), subject.bug_check)
    assert buckets.head(subject.bug_check, facts, reason(subject)) == expected


def test_an_address_of_the_first_64_kib_is_a_null_pointer_and_the_next_one_is_not(other_arguments: MakeCase) -> None:
    below = reason(other_arguments(0xD1, (0xFFFF, 2, 1, 0xFFFFF80060DA1981)))
    above = reason(other_arguments(0xD1, (0x10000, 2, 1, 0xFFFFF80060DA1981)))
    assert value(below, "AV.Dereference") == "NullPtr"
    assert value(above, "AV.Dereference") is None
    assert value(above, "WRITE_ADDRESS") == "0000000000010000"


def test_contradicting_arguments_are_told(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xD1, (0xFFFFD8024AAA8010, 0x4F, 0, 0xFFFFF80060DA1981)))
    assert "argument 2 is 0x4f, which is no IRQL" in found.notes


def test_at_a_low_irql_the_address_itself_is_wrong(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xA, (0xFFFFD8024AAA8010, 0, 0, 0xFFFFF80060DA1981)))
    assert any("where page faults are allowed" in sentence for sentence in found.sentences)
