"""Hardware errors (0x124) and display drivers (0x116 and its relatives)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.analysis.reasons import KERNEL, TRIAGE, MakeCase, both, value, values
from volatility3_kdump.analysis import rules  # noqa: F401  (registers them)
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import RULES

RECORD = 0xFFFF91894EF51028
STATUS = 0xBE00000000800135
NVLDDMKM = 0xFFFFF80060EE0000


@both
def test_a_machine_check(case: MakeCase, dump_type: int) -> None:
    found = reason(case("machine-check", dump_type))
    record = found.finding("WHEA_ERROR_RECORD")
    assert record is not None and record.address == RECORD
    assert record.note == "fatal, 3 sections, told by Machine Check Exception"
    assert values(found, "WHEA_SECTION_1")[0] == "Processor Generic"
    assert "CPU brand: Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz" in values(found, "WHEA_SECTION_1")
    assert values(found, "WHEA_SECTION_2") == [
        "x86/x64 Processor",
        "local APIC id: 0x4",
        "CPUID: 0x906ea",
        "error 1: cache check",
        "error 1 check information: 0x17",
    ]
    assert values(found, "WHEA_SECTION_3") == [
        "x86/x64 MCA",
        "vendor: GenuineIntel",
        "processor: 2",
        "bank: 0",
        "MCi_STATUS: 0xbe00000000800135",
        "error: DCACHEL1_DRD_ERR",
        "state: uncorrected, reporting enabled, MISC valid, ADDR valid, processor context corrupt",
        "address: 0x1e35fb24540",
        "MCi_MISC: 0x86",
        "instruction pointer: 0xfffff80062a0b2c4",
    ]
    assert value(found, "MCI_STATUS") == f"{STATUS:016x}"
    assert value(found, "CPU_VENDOR") == "GenuineIntel"
    assert found.specifiers == ("0", "GenuineIntel", "PROCESSOR", "CACHE")
    assert found.culprit is not None
    assert (found.culprit.image_name, found.culprit.module_name) == ("GenuineIntel.sys", "GenuineIntel")
    assert found.sentences[0].startswith("Processor 2, bank 0: the machine check says DCACHEL1_DRD_ERR, uncorrected")
    assert found.notes == ()


def test_the_form_of_its_bucket(case: MakeCase) -> None:
    verdict = analyze_crash(case("machine-check").target).verdict
    assert verdict.bucket == "0x124_0_GenuineIntel_PROCESSOR_CACHE_IMAGE_GenuineIntel.sys"


def test_an_error_source_that_nothing_is_known_of_has_the_published_bucket(other_arguments: MakeCase) -> None:
    """P1 = 10 (a device driver), with a record that is not in the dump: the form that WinDbg printed."""
    found = reason(other_arguments(0x124, (0x10, 0xFFFFA00000001000, 0, 0)))
    assert "_".join(("0x124", *found.specifiers, "IMAGE", "GenuineIntel.sys")) == (
        "0x124_16_GenuineIntel__UNKNOWN_IMAGE_GenuineIntel.sys"
    )


@both
def test_a_pci_express_error(case: MakeCase, dump_type: int) -> None:
    found = reason(case("pcie-error", dump_type))
    assert values(found, "WHEA_SECTION_1") == [
        "PCI Express",
        "port type: root port",
        "PCI Express version: 1.1",
        "command, status: 0x0407, 0x0010",
        "device: VEN_8086&DEV_A340, class 060400",
        "location: segment 0, bus 0, device 1d, function 3",
        "uncorrectable errors: completion timeout, unsupported request",
        "of these fatal: completion timeout",
        "correctable errors: advisory non-fatal",
    ]
    assert found.finding("MCI_STATUS") is None
    assert "The PCI Express device is VEN_8086&DEV_A340, class 060400" in found.sentences[0]


def test_without_the_record_the_arguments_tell_the_error(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x124, (0, 0xFFFFA00000001000, 0xBE000000, 0x00800400), dump_type=TRIAGE))
    record = found.finding("WHEA_ERROR_RECORD")
    assert record is not None and "not captured in this small memory dump" in record.note
    status = found.finding("MCI_STATUS")
    assert status is not None and status.value == "be00000000800400" and status.note.startswith("internal timer error")
    assert found.specifiers == ("0", "GenuineIntel", "PROCESSOR", "MAE")


def test_a_record_that_contradicts_the_arguments(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x124, (0, RECORD, 0xBE000000, 0x00800400), "machine-check"))
    assert found.notes == (f"MCi_STATUS is 0xbe00000000800400 in the arguments, but {STATUS:#x} in the error record",)


def test_halves_of_more_than_32_bits(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x124, (0, RECORD, STATUS, 0), "machine-check"))
    assert found.notes == ("arguments 3 and 4 are no halves of MCi_STATUS: they have more than 32 bits",)
    assert value(found, "MCI_STATUS") == f"{STATUS:016x}"


def test_something_else_where_the_record_should_be(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x124, (0, 0xFFFF91894ED94D70, 0, 0)))
    record = found.finding("WHEA_ERROR_RECORD")
    assert record is not None and "not with CPER" in record.note
    assert found.specifiers == ("0", "GenuineIntel", "PROCESSOR", "_UNKNOWN")


def test_a_page_that_changed_in_memory(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x12B, (0xFFFFFFFFC00002C4, 0x3DC, 0xA0, 0xFFFFA00000001000)))
    assert value(found, "FAIL_STATUS") == "0xc00002c4"
    assert "test the memory" in found.sentences[0]


@both
def test_a_display_driver_that_did_not_respond(case: MakeCase, dump_type: int) -> None:
    found = reason(case("display-timeout", dump_type))
    context = found.finding("TDR_RECOVERY_CONTEXT")
    assert context is not None and (context.value, context.note) == ("ffff91894ef60010", "P1")
    assert value(found, "ERROR_CODE") == "(NTSTATUS) 0xc000009a - STATUS_INSUFFICIENT_RESOURCES"
    assert value(found, "OWNER_TAG") == "nvlddmkm+0x15a4"
    assert found.culprit is not None and found.culprit.image_name == "nvlddmkm.sys"
    assert found.sentences[0].endswith("could not be reset; its driver is nvlddmkm.sys.")


def test_its_bucket(case: MakeCase) -> None:
    verdict = analyze_crash(case("display-timeout").target).verdict
    assert verdict.bucket == "0x116_IMAGE_nvlddmkm.sys"
    assert verdict.image_name == "nvlddmkm.sys"


@pytest.mark.parametrize("code", [0x117, 0x141])
def test_the_same_without_a_crash(other_arguments: MakeCase, code: int) -> None:
    found = reason(other_arguments(code, (0xFFFF91894EF60010, NVLDDMKM + 0x10, 0x1234, 0), "display-timeout"))
    assert found.culprit is not None and found.culprit.module_name == "nvlddmkm"
    assert found.finding("ERROR_CODE") is None
    assert "was reset" in found.sentences[0]


def test_an_owner_that_is_no_driver(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x116, (0, 0xFFFFA00000001000, 0, 0)))
    assert found.culprit is None
    assert "P2 lies in no driver that is known" in found.sentences[0]
    found = reason(other_arguments(0x116, (0xFFFF91894ED94D70, 0, 0, 0)))
    context = found.finding("TDR_RECOVERY_CONTEXT")
    assert context is not None and "its signature is" in context.note


def test_an_owner_that_was_unloaded(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x116, (0, 0xFFFFF80060184A10, 0, 0)))
    assert found.culprit is not None and found.culprit.image_name == "hwpolicy.sys"


def test_the_scheduler_s_complaint(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x119, (2, 0xFFFFFFFFC000000D, 0, 0)))
    assert found.specifiers == ("2",)
    assert "DRIVER_FAILED_SUBMIT_COMMAND" in found.sentences[0]


def test_a_thread_stuck_in_a_driver(other_arguments: MakeCase) -> None:
    """The name is any text: here the UNICODE_STRING of a driver object."""
    thread, name = 0xFFFF918952F55080, 0xFFFF91894ED30C80 + 0x38
    found = reason(other_arguments(0xEA, (thread, 0, name, 1)))
    assert found.thread == thread
    assert value(found, "DRIVER_NAME") == "\\Driver\\MYFAULT"
    assert found.culprit is not None and found.culprit.image_name == "myfault.sys"


ADDRESSES = [0, RECORD, RECORD + 1, RECORD - 0x28, 0xFFFF91894EF60010, NVLDDMKM, 0xFFFFF80062600000, 2**64 - 1]
ARGUMENTS = st.one_of(st.sampled_from(ADDRESSES), st.integers(0, 2**64 - 1), st.none())


@settings(max_examples=part(120), deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.sampled_from([0x124, 0x124, 0x12B, 0x3D, 0x116, 0x117, 0x119, 0x141, 0xEA]),
    arguments=st.tuples(st.one_of(st.integers(0, 20), ARGUMENTS), ARGUMENTS, ARGUMENTS, ARGUMENTS),
    dump_type=st.sampled_from([KERNEL, TRIAGE]),
)
def test_any_arguments(other_arguments: MakeCase, code, arguments, dump_type) -> None:
    found = RULES[code](other_arguments(code, arguments, "machine-check", dump_type))
    assert all(sentence.endswith(".") for sentence in found.sentences)
    assert all(word for word in found.specifiers)


@both
def test_an_exception_in_an_interrupt(case: MakeCase, other_arguments: MakeCase, dump_type: int) -> None:
    """0x3D with the records of another scene, which are where an argument points."""
    given_to_7e = [argument.value for argument in case("system-thread", dump_type).bug_check.arguments]
    found = reason(other_arguments(0x3D, (*given_to_7e[2:], 0, 0), "system-thread", dump_type))
    assert value(found, "EXCEPTION_RECORD") == f"{given_to_7e[2]:016x}"
    assert value(found, "EXCEPTION_CODE_STR") == f"{given_to_7e[0] & 0xFFFFFFFF:x}"
    failure = other_arguments(0x3D, (*given_to_7e[2:], 0, 0), "system-thread", dump_type).failure
    assert failure is not None and failure.context_record == given_to_7e[3]


def test_without_its_record(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x3D, (0, 0, 0, 0)))
    finding = found.finding("EXCEPTION_RECORD")
    assert finding is not None and finding.note == "the bug check names none"
    found = reason(other_arguments(0x3D, (0xFFFFA00000001000, 0, 0, 0)))
    finding = found.finding("EXCEPTION_RECORD")
    assert finding is not None and "not mapped" in finding.note
