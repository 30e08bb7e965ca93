"""What real small dumps taught, row by row: on a scene that is laid out as Windows does, and on a real dump.

Rows that other files hold in full are only touched here: stacks (``windows/stacks/test_real_stacks.py``), types of
sibling kernels (``symbols/test_siblings.py``), machines of a batch (``batch/test_machines.py``), tagged data
(``dump/test_tagged.py``).
"""

from __future__ import annotations

import functools
import re
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
from volatility3_kdump.analysis.vendors import vendor_of
from volatility3_kdump.cpu import alignment
from volatility3_kdump.dump.cpuid import processor_identity
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.analyze import analyze
from volatility3_kdump.text.summary import MOST_LINES, summary
from volatility3_kdump.views.analyze import analyze_grid

Scene = Callable[..., Target]
KERNEL, TRIAGE = 6, 4
X64 = tuple(name for name in DUMPS if "x64" in name)


@functools.cache
def _opened(path: Path) -> tuple[Target, Crash]:
    target = volatility3_kdump.open(path)
    return target, analyze_crash(target)


@pytest.fixture
def real(shared_data: Path) -> Callable[[str], tuple[Target, Crash]]:
    """``real(name)``: a real dump and its analysis, made once."""
    return lambda name: _opened(shared_data / "dumps" / f"{name}.dmp")


Real = Callable[[str], tuple[Target, Crash]]


def told(target: Target, crash: Crash) -> list[str]:
    lines = summary(crash, target.has_names)
    assert len(lines) <= MOST_LINES and len(set(lines)) == len(lines)
    return lines


def finding(crash: Crash, tag: str) -> str | None:
    entry = crash.reasoning.finding(tag)
    return None if entry is None else entry.value


# R1: a fault that the instruction cannot have caused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("scene_name", "dump", "outcome"),
    [
        ("acquitted-read", "triage_x64_19041_0x7e", outcomes.CONTRADICTED),
        ("padding-jump", "triage_x64_19041_0x1e", outcomes.PADDING),
        ("legal-instruction", None, outcomes.LEGAL),
        ("misaligned-ip", None, outcomes.MISALIGNED),
    ],
)
def test_acquitted_code(scene: Scene, real: Real, scene_name: str, dump: str | None, outcome: str) -> None:
    made = scene(scene_name, TRIAGE)
    for target, crash in [(made, analyze_crash(made)), *([real(dump)] if dump else [])]:
        judged, verdict = crash.plausibility, crash.verdict
        assert judged is not None and judged.outcome == outcome and judged.acquits
        assert verdict.suspect in ("hardware", "processor", "memory") and verdict.image_name == "hardware"
        # In its first three lines, and the driver only as the place.
        assert any(judged.says[1:] in line for line in told(target, crash)[:3])
        assert verdict.runner_up_rule == "where it showed"
        assert not any("most probably to blame" in line for line in told(target, crash))


def test_a_processor_without_the_instruction(scene: Scene, real: Real) -> None:
    made = scene("missing-feature", TRIAGE)
    for crash in (analyze_crash(made), real("triage_x64_19041_0x7e_q9400")[1]):
        assert crash.plausibility is not None and crash.plausibility.outcome == outcomes.LACKS_FEATURE
        assert crash.verdict.confidence == "high" and crash.verdict.suspect not in ("hardware", None)
        assert "is clear" in crash.verdict.confidence_reason


def test_bytes_that_are_no_code(scene: Scene) -> None:
    """Zeros are no code either, though they decode as ``add [rax],al``."""
    target = scene("unhandled-exception", TRIAGE)
    failure = analyze_crash(target).failure
    assert failure is not None and failure.context.ip is not None
    for data in (bytes(32), b"\xff" * 32):
        crash = analyze_crash(patched(target, {failure.context.ip: data}))
        assert crash.plausibility is not None and crash.plausibility.outcome == outcomes.NOT_DECODABLE
        assert crash.verdict.confidence == "low"


def test_an_illegal_instruction_that_nobody_can_look_at(scene: Scene) -> None:
    target = scene("missing-feature", TRIAGE)
    failure = analyze_crash(target).failure
    assert failure is not None and failure.context.ip is not None
    crash = analyze_crash(patched(target, absent=[failure.context.ip]))
    assert crash.failure is not None and crash.failure.instruction is None
    assert (
        crash.verdict.confidence == "low"
        and "nothing tells what the instruction was" in crash.verdict.confidence_reason
    )


# R2: misaligned instruction pointers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0xA, 0x1E, 0x3B, 0x50, 0x7E, 0xBE, 0xD1])
def test_inside_an_instruction(scene: Scene, code: int) -> None:
    """For every code with an instruction address; the registers are those of the scene."""
    target = scene("misaligned-ip", TRIAGE)
    failure = analyze_crash(target).failure
    assert failure is not None and failure.context.ip is not None
    ip = failure.context.ip
    arguments = {0xA: (0, 2, 0, ip), 0xD1: (0, 2, 0, ip), 0x50: (0, 0, ip, 2), 0xBE: (0, 0, 0, 0)}
    bug_check = describe(code, arguments.get(code, (0xC0000005, ip, 0, 0)))
    judged = plausibility(target, bug_check, failure)
    assert judged is not None and (judged.outcome, judged.debugger_word) == (outcomes.MISALIGNED, "IP_MISALIGNED")
    assert any(line.startswith("it points into ") for line in judged.evidence)


def test_sound_dumps_are_aligned(real: Real) -> None:
    for name in X64:
        target, crash = real(name)
        if crash.failure is None or not crash.failure.at_fault or crash.failure.module is None:
            continue
        assert crash.failure.context.ip is not None
        placed = alignment.alignment(target.memory.read, crash.failure.context.ip, "x64")
        # A jump into the fill between functions is not what is asked here.
        if crash.plausibility is None or crash.plausibility.outcome != outcomes.PADDING:
            assert placed.state != alignment.MISALIGNED, name


# R3: culprits from stack residue, R4: switched stacks ----------------------------------------------------------------


@pytest.mark.parametrize("name", DUMPS)
def test_the_faulting_frame_is_on_the_stack(real: Real, name: str) -> None:
    target, crash = real(name)
    failure = crash.failure
    assert failure is not None
    if failure.at_fault:
        # A breakpoint's trap frame points behind it.
        assert any(frame.ip == failure.context.ip for frame in crash.stack.frames)
        place = next(frame.number for frame in crash.stack.frames if frame.ip == failure.context.ip)
        text = list(analyze(crash, target.memory.pointer_size, None))
        rows = text[text.index("STACK_TEXT:  ") + 1 :]
        assert failure.name is not None and failure.name in rows[place]
    number = crash.verdict.frame
    if number is not None and failure.at_fault:
        assert number >= place, "blamed for what lies above the instruction that failed"


def test_a_trap_frame_that_an_argument_names(scene: Scene, real: Real) -> None:
    target, crash = real("triage_x64_26100_0xbe")
    trap = crash.bug_check.arguments[2].value if crash.bug_check else None
    assert crash.failure is not None and crash.failure.trap_frame == trap
    data = target.memory.read((trap or 0) + 0x168, 8)
    assert data is not None and crash.failure.context.ip == struct.unpack("<Q", data)[0]
    crash = analyze_crash(scene("raised-irql-at-exit", TRIAGE))
    assert crash.failure is not None and crash.bug_check is not None and crash.failure.trap_frame is not None
    assert crash.failure.trap_frame + 0x80 == crash.bug_check.arguments[3].value
    assert crash.failure.context.ip == crash.bug_check.arguments[0].value


def test_stacks_that_were_switched(scene: Scene, real: Real) -> None:
    power = {frame.sp for frame in real("triage_x64_19041_0x9f")[1].stack.frames}
    assert 0xFFFFD007D914F040 in power
    _, crash = real("triage_x64_19041_0x1e")
    assert crash.failure is not None
    record = crash.reasoning.finding("EXCEPTION_RECORD")
    assert record is not None and record.address == 0xFFFFF80311A7D298
    assert crash.failure.trap_frame == 0xFFFFF80311A7D340
    assert 0xFFFF92047569EEB0 in {frame.sp for frame in crash.stack.frames}
    made = analyze_crash(scene("exception-in-dpc", TRIAGE))
    assert made.interrupted == "while a DPC ran" and made.verdict.suspect == "myfault.sys"


def test_whoever_was_only_interrupted(scene: Scene, real: Real) -> None:
    made = scene("exception-in-dpc", TRIAGE)
    for target, crash in ((made, analyze_crash(made)), real("triage_x64_19041_0x9f"), real("triage_x64_19041_0x1e")):
        process = crash.process.name if crash.process is not None else None
        assert process and crash.interrupted
        lines = [line for line in told(target, crash) if process in line]
        assert lines and all("was only interrupted" in line for line in lines)


# R5: arguments and codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scene_name", "dump_type", "bucket", "tag", "value"),
    [
        ("raised-irql-at-exit", TRIAGE, r"RAISED_IRQL_FAULT_notmyfault64\.e_", None, None),
        ("instruction-fetch", TRIAGE, r"AV_X_", "AV.Type", "Execute"),
        ("page-read-failure", TRIAGE, r"0x7a_c000000e_", "ERROR_CODE", "(NTSTATUS) 0xc000000e"),
        ("read-only-write", TRIAGE, r"0xBE_myfault", "TRAP_FRAME", "ffffd48f77af97e0"),
        ("stuck-display-thread", KERNEL, r"0xEA_IMAGE_gpudrv\.sys", "LOOPING_DRIVER", "gpudrv.sys"),
        ("stack-cookie", TRIAGE, r"0xF7_.*_myfault", "SECURITY_COOKIE", "Expected 0000f3a1c5d27e88 found"),
        ("borrowed-code", TRIAGE, r"0x65_myfault", "BUGCHECK_CALLER", "myfault+0x1b20"),
        ("raid-power-irp", TRIAGE, r"0x9F_3_pci_IMAGE_RtsPer\.sys", "IRP_REQUEST", "IRP_MJ_POWER, IRP_MN_SET_POWER"),
        ("critical-fast-fail", TRIAGE, r"0xEF_", "FAST_FAIL_RECORD", "c0000409 subcode 23h"),
        ("hung-in-faults", KERNEL, r"CLOCK_WATCHDOG_TIMEOUT_", "NESTED_FAULTS", "12 machine frames"),
        ("dpc-samples", TRIAGE, r"0x133_", "DPC_WATCHDOG_PROFILE", "nt: 38 of 56 sampled addresses"),
    ],
)
def test_codes_and_arguments(
    scene: Scene, scene_name: str, dump_type: int, bucket: str, tag: str | None, value: str | None
) -> None:
    target = scene(scene_name, dump_type)
    crash = analyze_crash(target)
    assert re.match(bucket, crash.verdict.bucket or "")
    if tag is not None:
        assert (finding(crash, tag) or "").startswith(value or "?")
    told(target, crash)


@pytest.mark.parametrize(
    ("build", "value", "kind"),
    [(26100, 0x11, "execute"), (26100, 0x10, "execute"), (26100, 2, "write"), (26100, 3, "write"), (26100, 1, "read")],
)
def test_the_access_of_a_page_fault(scene: Scene, build: int, value: int, kind: str) -> None:
    target = scene("instruction-fetch", TRIAGE)
    failure = find_failure(target, describe(0x50, (0xFFFF91894EE41230, value, 0xFFFF91894EE41230, 2)))
    assert failure is not None and failure.access == kind


def test_one_component_for_a_power_request(real: Real) -> None:
    target, crash = real("triage_x64_19041_0x9f")
    verdict = crash.verdict
    assert {verdict.suspect, verdict.image_name} == {"iaStorAC.sys"} and "iaStorAC.sys" in (verdict.bucket or "")
    assert any(line.startswith("iaStorAC.sys") for line in told(target, crash))
    requests = [entry.note for entry in crash.reasoning.findings if entry.tag == "POWER_IRP"]
    assert requests and all("SET_POWER" in request and "WAIT_WAKE" not in request for request in requests)


def test_why_a_process_ended(real: Real) -> None:
    _, crash = real("triage_x64_19041_0xef")
    record, user = crash.reasoning.finding("FAST_FAIL_RECORD"), crash.reasoning.finding("USER_EXCEPTION")
    assert record is not None and (record.value, record.address) == ("c0000409 subcode 23h", 0xFFFF8C856C3F01D0)
    assert user is not None and user.address == 0x4063EFF0F0


def test_a_dump_that_stopped_nothing(scene: Scene) -> None:
    target = scene("live-dump", TRIAGE)
    lines = told(target, analyze_crash(target))
    assert lines[0].startswith("The system was not stopped") and lines[1].startswith("The dump was taken ")
    assert not any("The system stopped" in line or "It happened" in line for line in lines)


# R6: facts in the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", X64)
def test_the_machine(real: Real, name: str) -> None:
    target, crash = real(name)
    identity = processor_identity(target.dump.source, target.dump.tagged)
    rows = [row for row in analyze_grid(target).records() if row["Topic"] == "Machine"]
    assert identity is not None or name == "triage_x64_9600" or any("rocessor" in row["Field"] for row in rows)
    if crash.verdict.suspect in ("hardware", "memory") and any(row["Field"] == "Board" for row in rows):
        shown = {row["Field"] for row in rows}
        assert {"Processor", "Firmware", "Board"} <= shown and any("emory" in field for field in shown), shown


def test_a_page_that_the_machine_does_not_have(scene: Scene, real: Real) -> None:
    for crash in (analyze_crash(scene("wrong-page-number", TRIAGE)), real("triage_x64_26100_0xbe")[1]):
        assert crash.plausibility is not None and len(crash.plausibility.flips) == 1
        flip = crash.plausibility.flips[0]
        assert (flip.value ^ flip.repaired).bit_count() == 1 and "which the machine does not have" in flip.says
        assert crash.verdict.suspect == "memory"
    assert flip.bit == 37


def test_a_pointer_one_bit_from_null(scene: Scene, real: Real) -> None:
    for crash in (analyze_crash(scene("null-plus-bit", TRIAGE)), real("triage_x64_26100_0x3b")[1]):
        assert crash.plausibility is not None and "null plus" in crash.plausibility.flips[0].says
        assert crash.verdict.confidence == "low"
    assert crash.verdict.suspect == "memory"


@pytest.mark.parametrize("name", ["triage_x64_26100_0xbe", "triage_x64_19041_0x7e"])
def test_keys_of_the_debugger(real: Real, name: str) -> None:
    target, crash = real(name)
    lines = list(analyze(crash, target.memory.pointer_size, None))
    keys = [line.split(": ", 1)[1] for line in lines if line.startswith("    Key  : ")]
    wanted = {"Bugcheck.Code.LegacyAPI", "Bugcheck.Code.TargetModel", "Failure.Bucket", "Failure.Hash"}
    assert wanted <= set(keys) and keys == sorted(keys)
    if crash.facts.attributes is not None and "26100" in name:
        assert any(key.startswith("Dump.Attributes.") for key in keys)


# R8: sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DUMPS)
def test_sentences(real: Real, name: str) -> None:
    target, crash = real(name)
    lines = told(target, crash)
    rows = [(row["Topic"], row["Field"]) for row in analyze_grid(target).records()]
    if crash.failure is not None and not crash.failure.at_fault:
        assert not {("Failure", "At"), ("Failure", "Instruction"), ("Failure", "Operand")} & set(rows)
    assert rows.count(("Warning", "Symbols")) == 1
    text = "\n".join([*lines, *analyze(crash, target.memory.pointer_size, None)])
    assert "may have left none" not in text and "no frame ... (no frame" not in text
    assert "ntoskrnl.exe" not in text or "ntkrnlmp.exe" not in text
    assert re.search(r"time stamp [0-9A-F]{8}, size [0-9a-f]+|\.pdb [0-9A-F]{33} ", target.symbol_remedy or "")


@pytest.mark.parametrize(
    "module",
    [
        *("watchdog", "win32kbase_rs", "symcryptk", "winaccel", "UCPD", "UnionFS", "bfs", "wtd", "uiomap"),
        *("Kerb3961Kernel", "ExecutionContext", "PRM", "IntelPMT", "globmerger", "nvmedisk", "xvdd"),
        *("MpKslDrv", "KslD", "IntelTA", "dump_stornvme", "dump_dumpfve", "hiber_storport"),
    ],
)
def test_vendors(module: str) -> None:
    assert not vendor_of(module, None).third_party


def test_a_dump_that_ends_behind_its_header(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.dmp"
    path.write_bytes((shared_data / "dumps" / "triage_x64_19041_0x1e.dmp").read_bytes()[:0x2000])
    with pytest.raises(
        KdumpError, match=r"bug check 1E \(ffffffff80000003, fffff80330ec2e68, 0, 2\), Windows build 19041"
    ):
        volatility3_kdump.open(path)
