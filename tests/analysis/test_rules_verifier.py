"""Broken rules: of Driver Verifier, KMDF, the USB stack; and arguments in general, by what the table says they are."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.analysis.reasons import KERNEL, TRIAGE, MakeCase, both, value
from volatility3_kdump import tables
from volatility3_kdump.analysis import rules  # noqa: F401  (registers them)
from volatility3_kdump.analysis.arguments import irql_name, text_at
from volatility3_kdump.analysis.bugcheck import describe
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import RULES, Reasoning

#: Of the demonstration: its request, its device, its driver object, the thread, code, and a driver no longer loaded.
IRP, DEVICE, DRIVER, THREAD = 0xFFFF91894ED94D70, 0xFFFF91894ED31E00, 0xFFFF91894ED30C80, 0xFFFF918952F55080
CODE, KERNEL_CODE, UNLOADED = 0xFFFFF80060DA1981, 0xFFFFF80062A0B2C4, 0xFFFFF80060184A10


def blamed(found: Reasoning) -> str | None:
    return found.culprit.image_name if found.culprit is not None else None


@both
def test_executable_pool(case: MakeCase, dump_type: int) -> None:
    found = reason(case("verifier-pool-type", dump_type))
    assert value(found, "VERIFIER_STOP") == "2000"
    assert value(found, "CODE_ADDRESS") == "myfault+0x1b1c"
    assert value(found, "POOL_TYPE") == "0 (NonPagedPoolExecute)"
    assert value(found, "POOL_TAG") == "MyFa"
    assert blamed(found) == "myfault.sys"
    assert found.specifiers == ()


@both
def test_leaked_pool(case: MakeCase, dump_type: int) -> None:
    found = reason(case("verifier-leak", dump_type))
    assert value(found, "DRIVER_NAME") == "leaky.sys"
    assert value(found, "UNFREED_ALLOCATIONS") == "3"
    assert blamed(found) == "leaky.sys"
    verdict = analyze_crash(case("verifier-leak", dump_type).target).verdict
    assert verdict.image_name == "leaky.sys"
    assert verdict.bucket == "0xc4_62_LEAKED_POOL_IMAGE_leaky.sys"


@pytest.mark.parametrize(
    ("code", "parameters", "tag", "text", "driver"),
    [
        # an IRP leads to the driver that has it
        (0x10D, (0xD, 0, IRP, 0), "IRP_REQUEST", "IRP_MJ_DEVICE_CONTROL", "myfault.sys"),
        (0xC9, (6, 0x103, IRP, 0), "IRP_ADDRESS", f"{IRP:016x}", "myfault.sys"),
        (0xC9, (6, 0x103, IRP, 0), "STATUS_CODE", "0x103", "myfault.sys"),
        # a device object to its driver
        (0xC9, (5, DEVICE, 0, 2), "DEVICE_OBJECT", f"{DEVICE:016x}", "myfault.sys"),
        (0x144, (1, 0, 0, DEVICE), "DRIVER_OBJECT", f"{DRIVER:016x}", "myfault.sys"),
        (0xCA, (2, DEVICE, DRIVER, 0), "DRIVER_OBJECT", f"{DRIVER:016x}", "myfault.sys"),
        # code to its module
        (0xC9, (0x201, CODE, 0, 0), "CODE_ADDRESS", "myfault+0x1981", "myfault.sys"),
        (0xC9, (0x201, UNLOADED, 0, 0), "CODE_ADDRESS", f"{UNLOADED:016x}", "hwpolicy.sys"),
        (0x10D, (4, 0, CODE, 0), "CODE_ADDRESS", "myfault+0x1981", "myfault.sys"),
        (0x10D, (0xF, CODE, 0, 0), "CODE_ADDRESS", "myfault+0x1981", "myfault.sys"),
        # the kernel is never the culprit of an argument
        (0xC9, (0x201, KERNEL_CODE, 0, 0), "CODE_ADDRESS", None, None),
        # numbers stay numbers
        (0xC4, (1, 2, 1, 0x100), "IRQL", "2 (DISPATCH_LEVEL)", None),
        (0xC4, (1, 2, 1, 0x100), "POOL_TYPE", "1 (PagedPool)", None),
        (0xC9, (0xE, 15, IRP, 0), "IRQL", "f (HIGH_LEVEL)", "myfault.sys"),
        (0xA0, (0xF1, 1, 2, THREAD), "THREAD", f"{THREAD:016x}", None),
    ],
)
def test_what_arguments_are(
    other_arguments: MakeCase, code: int, parameters: tuple[int, ...], tag: str, text: str | None, driver: str | None
) -> None:
    found = reason(other_arguments(code, parameters))
    assert found.finding(tag) is not None
    if text is not None:
        assert value(found, tag) == text
    assert blamed(found) == driver


def test_arguments_that_point_nowhere_say_why(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x10D, (0xD, 0, 0xFFFFA00000001000, 0), dump_type=TRIAGE))
    finding = found.finding("IRP_ADDRESS")
    assert finding is not None and "not captured in this small memory dump" in finding.note
    assert found.culprit is None


def test_the_text_of_a_rule(other_arguments: MakeCase) -> None:
    """Any 8-bit text will do: here the build string of the kernel."""
    case = other_arguments(0xC4, (0x20004, 0, 0, 0))
    address = case.target.symbol("NtBuildLab")
    assert address is not None
    found = reason(other_arguments(0xC4, (0x20004, address, 0, 0)))
    assert value(found, "RULE") == "19041.vb_release.191206-1406"
    assert found.sentences[0] == "The rule says: 19041.vb_release.191206-1406."


def test_a_rule_whose_text_is_gone(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xC4, (0x20004, 0xFFFFA00000001000, 0, 0)))
    finding = found.finding("RULE")
    assert finding is not None and finding.value == "not in the dump" and "not mapped" in finding.note
    assert not any("rule says" in sentence for sentence in found.sentences)


def test_texts_of_every_form(case: MakeCase) -> None:
    target = case("verifier-leak").target
    assert text_at(target, 0xFFFFD80248B05010) == "leaky.sys"
    assert text_at(target, DRIVER + 0x38) == "\\Driver\\MYFAULT"
    assert text_at(target, 0xFFFFA00000001000) is None
    assert text_at(target, DRIVER) is None


def test_irqls_of_each_architecture(case: MakeCase) -> None:
    target = case("verifier-leak").target
    assert [irql_name(target, level) for level in (0, 1, 2, 5, 15, 31)] == [
        "PASSIVE_LEVEL",
        "APC_LEVEL",
        "DISPATCH_LEVEL",
        None,
        "HIGH_LEVEL",
        None,
    ]


def test_a_plug_and_play_watchdog(other_arguments: MakeCase) -> None:
    service = int.from_bytes(b"RtsPer\0\0", "little")
    found = reason(other_arguments(0x1D5, (service, 0, THREAD, 300000)))
    assert (value(found, "SERVICE"), value(found, "WATCHDOG_TIME")) == ("RtsPer", "300000 ms")
    assert found.thread == THREAD


CODES = (0xC4, 0xC9, 0xE6, 0x10D, 0x144, 0xFE, 0xCA, 0xA0)
ADDRESSES = (0, 1, IRP, IRP + 8, DEVICE, DRIVER, THREAD, CODE, UNLOADED, 0xFFFFA00000001000, 2**64 - 1)


def kinds() -> list[tuple[int, int]]:
    found = []
    for record in tables.json_lines(tables.BUG_CHECKS):
        code = int(record["code"], 16)
        if code in CODES:
            for variant in record.get("variants", ()):
                found += [(code, int(when.split("-")[0], 16)) for when in variant["when"]]
    return sorted(set(found))


def test_every_kind_with_arguments_that_lead_everywhere(other_arguments: MakeCase) -> None:
    """Every line of the table: nothing raises, and what is no pointer is not followed."""
    assert len(kinds()) > 400
    for number, (code, kind) in enumerate(kinds()):
        rest = [ADDRESSES[(number + step) % len(ADDRESSES)] for step in (0, 3, 7)]
        case = other_arguments(code, (kind, *rest))
        found = RULES[code](case)
        assert found.specifiers[:1] == (() if code == 0xC4 else (f"{kind:x}",))
        meanings = [argument.meaning or "" for argument in describe(code, (kind, *rest)).arguments]
        for finding in found.findings:
            if finding.tag == "DEVICE_OBJECT" and finding.note.startswith("P"):
                assert any(word in finding.note.lower() for word in ("device", "pdo")), meanings


ARGUMENTS = st.one_of(st.sampled_from(ADDRESSES), st.integers(0, 2**64 - 1), st.none())


@settings(max_examples=part(150), deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from(kinds()),
    rest=st.tuples(ARGUMENTS, ARGUMENTS, ARGUMENTS),
    dump_type=st.sampled_from([KERNEL, TRIAGE]),
)
def test_any_arguments(other_arguments: MakeCase, which, rest, dump_type) -> None:
    code, kind = which
    found = RULES[code](other_arguments(code, (kind, *rest), dump_type=dump_type))
    assert not any("stopped" in note for note in found.notes)
