"""Power requests that do not end (0x9F), with their IRP and device stack, whole and in pieces."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample import containers
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.scene import KernelStructure
from kdump_sample.scenes import make_scene
from tests import amounts
from tests.amounts import part
from tests.analysis.reasons import KERNEL, TRIAGE, MakeCase, both, value, values
from volatility3_kdump.analysis import rules  # noqa: F401  (registers them)
from volatility3_kdump.analysis.bugcheck import describe, header_bug_check
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import RULES, Case
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.target import Target

IRP, PDO, FILTER, FDO = 0xFFFF91894EF3A010, 0xFFFF91894EF40060, 0xFFFF91894EF41A40, 0xFFFF91894EF42B10
RTSPER = 0xFFFF91894EF45E30
NODE = 0xFFFF91894EF46010
HOLDER = 0xFFFF91894C2E1040
INSTANCE = "PCI\\VEN_10EC&DEV_525A&SUBSYS_382517AA&REV_01\\00000001004CE00000"


@both
def test_the_driver_that_holds_a_power_irp(case: MakeCase, dump_type: int) -> None:
    found = reason(case("blocked-power-irp", dump_type))
    assert value(found, "DRVPOWERSTATE_SUBCODE") == "3"
    assert value(found, "IRP_ADDRESS") == f"{IRP:016x}"
    assert value(found, "IRP_REQUEST") == "IRP_MJ_POWER, IRP_MN_SET_POWER (device power state D3)"
    assert value(found, "DEVICE_OBJECT") == f"{FDO:016x}"
    assert value(found, "DRIVER_OBJECT") == f"{RTSPER:016x}"
    assert value(found, "PHYSICAL_DEVICE_OBJECT") == f"{PDO:016x}"
    assert value(found, "DEVICE_NODE") == INSTANCE
    assert values(found, "DEVICE_STACK") == [f"{address:016x}" for address in (FDO, FILTER, PDO)]
    assert values(found, "POWER_IRP") == [f"{IRP:016x}"]
    listed = found.finding("POWER_IRP")
    assert listed is not None and "at \\Driver\\RtsPer (RtsPer.sys)" in listed.note and INSTANCE in listed.note
    assert found.culprit is not None
    assert (found.culprit.image_name, found.culprit.module_name) == ("RtsPer.sys", "RtsPer")
    assert found.specifiers == ("3", "RtsPer", "IMAGE", "pci.sys")
    assert found.sentences[0].startswith(f"The IRP {IRP:016x} waits for \\Driver\\RtsPer (RtsPer.sys)")
    assert found.notes == ()


@both
def test_its_bucket_is_the_published_one(case: MakeCase, dump_type: int) -> None:
    """Bucket and hash as WinDbg printed them for another machine with this driver."""
    verdict = analyze_crash(case("blocked-power-irp", dump_type).target).verdict
    assert verdict.bucket == "0x9F_3_RtsPer_IMAGE_pci.sys"
    assert verdict.bucket_hash == "ce555a86-e2a6-4bdd-cc96-f64b1a03e85a"
    assert verdict.suspect == "RtsPer.sys"


def test_every_kernel(isf_path: Path, tmp_path: Path) -> None:
    layouts = load_table_file(isf_path)
    for name in ("blocked-power-irp", "pnp-timeout"):
        path = tmp_path / f"{name}.dmp"
        containers.write(path, TRIAGE, make_contents(Machine(make_scene(name, layouts), layouts)))
        found = reason(case_of(volatility3_kdump.open(path, isf_file=isf_path)))
        assert values(found, "DEVICE_NODE")[:1] == [INSTANCE] or not layouts.has_type("_TRIAGE_9F_PNP")
        if name == "blocked-power-irp":
            assert found.specifiers == ("3", "RtsPer", "IMAGE", "pci.sys")
        else:
            assert (found.specifiers, found.thread) == (("4",), HOLDER)
        os.unlink(path)


def case_of(target: Target) -> Case:
    bug_check = header_bug_check(target)
    assert bug_check is not None
    return Case(target, bug_check, find_failure(target, bug_check))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """``pieces(without)``: the small memory dump of the blocked IRP without the blocks at some addresses."""
    directory = tmp_path_factory.mktemp("pieces")
    layouts = load_table_file(kernel_table_path())
    scene = make_scene("blocked-power-irp", layouts)

    def make(*without: int) -> Case:
        kept = tuple(block for block in scene.triage_blocks if block[0] not in without)
        contents = make_contents(Machine(dataclasses.replace(scene, triage_blocks=kept), layouts))
        # The pages that arguments point into are left out as well.
        pages = {address & -0x1000 for address in without}
        blocks = [block for block in contents.triage.blocks if not (block[1] == 0x1000 and block[0] in pages)]
        triage = dataclasses.replace(contents.triage, blocks=blocks)
        path = directory / ("-".join(f"{address & 0xFFFFFF:x}" for address in without) + ".dmp")
        containers.write(path, TRIAGE, dataclasses.replace(contents, triage=triage))
        return case_of(volatility3_kdump.open(path))

    return make


def test_without_the_irp_the_device_s_own_driver_is_named(pieces: Callable[..., Case]) -> None:
    found = reason(pieces(IRP))
    finding = found.finding("IRP_ADDRESS")
    assert finding is not None and finding.note.endswith("not captured in this small memory dump")
    assert found.culprit is not None and found.culprit.image_name == "RtsPer.sys"
    assert found.specifiers == ("3", "RtsPer", "IMAGE", "pci.sys")
    assert found.sentences[0].startswith("Which driver holds the IRP cannot be told")


def test_without_the_holder_s_device(pieces: Callable[..., Case]) -> None:
    """The stack ends above the filter; the device node still names the service, and so the driver."""
    found = reason(pieces(FDO, FILTER))
    assert value(found, "IRP_REQUEST") == "IRP_MJ_POWER, IRP_MN_SET_POWER (device power state D3)"
    assert values(found, "DEVICE_STACK") == [
        f"{PDO:016x}",
        f"{FILTER:016x} above these is not in the dump",
    ]
    assert found.culprit is not None and found.culprit.image_name == "RtsPer.sys"
    assert found.specifiers == ("3", "RtsPer", "IMAGE", "pci.sys")
    assert "the device belongs to the service RtsPer" in found.sentences[0]


def test_without_the_driver_object(pieces: Callable[..., Case]) -> None:
    found = reason(pieces(RTSPER))
    finding = found.finding("DRIVER_OBJECT")
    assert finding is not None and finding.value == f"not in the dump, address {RTSPER:#x}"
    # The next driver that is there, ACPI's, would be the wrong one.
    assert found.culprit is not None and found.culprit.image_name == "RtsPer.sys"
    assert found.specifiers == ("3", "RtsPer", "IMAGE", "pci.sys")


def test_without_anything(pieces: Callable[..., Case]) -> None:
    found = reason(pieces(IRP, PDO, FDO, FILTER, NODE))
    assert found.culprit is None
    assert found.specifiers == ("3",)
    assert found.sentences[0].startswith("Which driver holds the IRP cannot be told")


def test_an_irp_that_is_no_power_request(other_arguments: MakeCase) -> None:
    """The demonstration's device control request, as if it were one."""
    found = reason(other_arguments(0x9F, (3, 0xFFFF91894ED31E00, 0, 0xFFFF91894ED94D70)))
    assert found.notes == ("the IRP ffff91894ed94d70 of argument 4 is no power IRP: it asks for IRP_MJ_DEVICE_CONTROL",)


@both
def test_the_thread_that_holds_the_pnp_lock(case: MakeCase, dump_type: int) -> None:
    found = reason(case("pnp-timeout", dump_type))
    assert value(found, "DRVPOWERSTATE_SUBCODE") == "4"
    assert value(found, "FAULTING_THREAD") == f"{HOLDER:016x}"
    assert value(found, "DEVICE_NODE") == INSTANCE
    assert found.thread == HOLDER
    assert found.specifiers == ("4",)
    assert "waited for 300 seconds" in found.sentences[0]
    assert found.sentences[1] == f"Plug and Play waits for the device {INSTANCE}."


def test_without_that_thread_s_stack_the_pending_device_names_a_driver(case: MakeCase) -> None:
    assert reason(case("pnp-timeout", KERNEL)).culprit is None
    found = reason(case("pnp-timeout", TRIAGE))
    assert found.culprit is not None and found.culprit.image_name == "RtsPer.sys"
    assert analyze_crash(case("pnp-timeout", TRIAGE).target).verdict.suspect == "RtsPer.sys"


def test_that_thread_s_driver_is_blamed(case: MakeCase) -> None:
    crash = analyze_crash(case("pnp-timeout").target)
    assert crash.thread is not None and crash.thread.address == HOLDER
    assert crash.verdict.bucket == "0x9F_4_RtsPer!unknown_function"


@pytest.mark.parametrize(
    ("parameters", "driver"),
    [
        ((1, 0xFFFF91894ED31E00, 0, 0), "myfault.sys"),
        ((2, 0, 0xFFFF91894ED31E00, 0xFFFF91894ED30C80), "myfault.sys"),
        ((0x500, 0, 0xFFFF91894ED31E00, 0), "myfault.sys"),
        ((5, 0xFFFF91894ED31E00, 0, 0), "myfault.sys"),
        ((1, 0xFFFF91894ED94D70, 0, 0), None),
        ((7, 0, 0, 0), None),
    ],
)
def test_other_kinds_name_a_device(other_arguments: MakeCase, parameters: tuple[int, ...], driver: str | None) -> None:
    found = reason(other_arguments(0x9F, parameters))
    assert (found.culprit.image_name if found.culprit else None) == driver
    assert found.specifiers == (f"{parameters[0]:x}",)


def test_the_thread_of_a_power_transition(other_arguments: MakeCase) -> None:
    thread = 0xFFFF918952F55080
    found = reason(other_arguments(0xA0, (0xF0, 5, 2, thread)))
    assert value(found, "SYSTEM_POWER_STATE") == "hibernate (S4)"
    assert value(found, "THREAD") == f"{thread:016x}"
    assert (found.thread, found.specifiers) == (thread, ("f0",))


def test_a_pnp_error_names_the_pdo(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0xCA, (1, 0xFFFF91894ED31E00, 0xFFFF91894ED31E00, 0)))
    assert value(found, "DRIVER_OBJECT") == "ffff91894ed30c80"
    assert found.specifiers == ("1",)


def test_the_power_button_of_a_real_dump(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_arm64_22000.dmp")
    found = reason(case_of(target))
    assert value(found, "POWER_BUTTON_HELD") == "7000 ms"
    assert found.culprit is None and found.notes == ()


ADDRESSES = [
    0,
    1,
    IRP,
    IRP + 1,
    PDO,
    FDO,
    FILTER,
    RTSPER,
    NODE,
    0xFFFF91894EF49800,
    HOLDER,
    0xFFFF91894EF4A010,
    2**64 - 1,
]
ARGUMENTS = st.one_of(st.sampled_from(ADDRESSES), st.integers(0, 2**64 - 1), st.none())


@settings(max_examples=part(150), deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.sampled_from([0x9F, 0x9F, 0xA0, 0xCA, 0x1C8, 0x1D5]),
    kind=st.one_of(st.integers(0, 16), ARGUMENTS),
    rest=st.tuples(ARGUMENTS, ARGUMENTS, ARGUMENTS),
    dump_type=st.sampled_from([KERNEL, TRIAGE]),
)
def test_any_arguments(other_arguments: MakeCase, code, kind, rest, dump_type) -> None:
    case = other_arguments(code, (kind, *rest), "blocked-power-irp", dump_type)
    found = RULES[code](case)
    assert not any("stopped" in note for note in found.notes)
    assert all(sentence.endswith((".", "?")) for sentence in found.sentences)


def test_a_device_that_the_power_framework_waits_for(isf_paths: list[Path], tmp_path: Path) -> None:
    """0x9F, P1 = 5, and 0x15F, P1 = 2: a POP_FX_DEVICE leads to the device node, and that to the service."""
    device = 0xFFFF91894EF4D010
    for isf in isf_paths[-3:] if amounts.thorough else isf_paths[-1:]:
        layouts = load_table_file(isf)
        scene = make_scene("blocked-power-irp", layouts)
        fields = {"Irp": IRP, ("DevNode", "DeviceNode"): NODE}
        scene = dataclasses.replace(
            scene, structures=(*scene.structures, KernelStructure("_POP_FX_DEVICE", device, fields))
        )
        path = tmp_path / "device.dmp"
        containers.write(path, KERNEL, make_contents(Machine(scene, layouts)))
        target = volatility3_kdump.open(path, isf_file=isf)
        for code, parameters in ((0x9F, (6, device, 1, 0)), (0x15F, (2, device, 0, 0))):
            bug_check = describe(code, parameters)
            found = reason(Case(target, bug_check, find_failure(target, bug_check)))
            assert value(found, "POWER_DEVICE") == f"{device:016x}"
            assert value(found, "DEVICE_NODE") == INSTANCE
            assert value(found, "IRP_ADDRESS") == f"{IRP:016x}"
            assert found.culprit is not None and found.culprit.image_name == "RtsPer.sys"
        # As published: DEVICE_USB_VID_0C27_PID_CCDA_MI_00_IMAGE_hidusb.sys.
        hardware = "PCI_VEN_10EC_DEV_525A_SUBSYS_382517AA_REV_01"
        assert found.specifiers == ("DEVICE", hardware, "IMAGE", "RtsPer.sys")


def test_without_symbols_that_know_it(other_arguments: MakeCase) -> None:
    found = reason(other_arguments(0x9F, (6, 0xFFFF91894ED31E00, 1, 0)))
    finding = found.finding("POWER_DEVICE")
    assert finding is not None and "its layout is not in the symbols" in finding.note


def test_nobody_is_certain_where_the_holder_cannot_be_told(pieces: Callable[..., Case]) -> None:
    """Without the IRP the device's driver is named, as in the bucket, but not with certainty."""
    found = reason(pieces(IRP))
    assert found.uncertain == "which driver holds the IRP cannot be told"
    assert reason(pieces(FDO, FILTER)).uncertain == found.uncertain
    assert reason(pieces()).uncertain is None


def _raid(tmp_path: Path, *without: int) -> Target:
    """The small memory dump of an IRP with one of Windows' drivers, above the device of a third party's."""
    layouts = load_table_file(kernel_table_path())
    scene = make_scene("raid-power-irp", layouts)
    kept = tuple(block for block in scene.triage_blocks if block[0] not in without)
    contents = make_contents(Machine(dataclasses.replace(scene, triage_blocks=kept), layouts))
    pages = {address & -0x1000 for address in without}
    blocks = [block for block in contents.triage.blocks if not (block[1] == 0x1000 and block[0] in pages)]
    path = tmp_path / "raid.dmp"
    triage = dataclasses.replace(contents.triage, blocks=blocks)
    containers.write(path, TRIAGE, dataclasses.replace(contents, triage=triage))
    return volatility3_kdump.open(path)


def test_suspect_and_bucket_name_one_component_without_the_irp(tmp_path: Path) -> None:
    crash = analyze_crash(_raid(tmp_path, IRP))
    assert crash.verdict.bucket is not None and crash.verdict.bucket.endswith("IMAGE_RtsPer.sys")
    assert (crash.verdict.suspect, crash.verdict.confidence) == ("RtsPer.sys", "medium")


def test_a_driver_of_windows_above_an_unknown_device(tmp_path: Path) -> None:
    """Who is below it is not in the dump: that it holds the IRP does not say that it keeps it."""
    crash = analyze_crash(_raid(tmp_path, PDO))
    assert (crash.verdict.suspect, crash.verdict.confidence) == ("pci.sys", "medium")
    assert "device lies below is not in the dump" in crash.verdict.confidence_reason


def test_a_real_raid_without_its_irp(shared_data: Path) -> None:
    """disk.sys is the service of the device, iaStorAC drives what lies below: the bucket's image is who is named."""
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041_0x9f.dmp")
    kind, pdo, triage, irp = target.header.bug_check_parameters
    found = reason(Case(target, describe(0x9F, (kind, pdo, triage, irp ^ 0x10)), None))
    assert found.culprit is not None and found.culprit.image_name == "iaStorAC.sys"
    assert found.specifiers == ("3", "disk", "IMAGE", "iaStorAC.sys") and found.uncertain is not None
