"""Does the instruction explain the exception? Made scenes of every outcome, real dumps, and what must not be judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from volatility3_kdump.analysis import plausibility as outcomes
from volatility3_kdump.analysis.bugcheck import describe
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.plausibility import plausibility
from volatility3_kdump.target import Target
from volatility3_kdump.text.summary import MOST_LINES, summary
from volatility3_kdump.views.analyze import _verdict_rows

Scene = Callable[..., Target]
KERNEL, TRIAGE = 6, 4
RIP = 0xFFFFF80060DA1B20


def analysed(target: Target) -> Crash:
    return analyze_crash(target)


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
@pytest.mark.parametrize(
    ("name", "outcome", "word", "suspect"),
    [
        ("acquitted-read", outcomes.CONTRADICTED, None, "hardware"),
        ("padding-jump", outcomes.PADDING, outcomes.CALL_ERROR, "processor"),
        ("misaligned-ip", outcomes.MISALIGNED, outcomes.IP_MISALIGNED, "hardware"),
        ("legal-instruction", outcomes.LEGAL, None, "processor"),
    ],
)
def test_an_acquitted_driver_is_not_named(
    scene: Scene, dump_type: int, name: str, outcome: str, word: str | None, suspect: str
) -> None:
    target = scene(name, dump_type)
    crash = analysed(target)
    judged, verdict = crash.plausibility, crash.verdict
    assert judged is not None and judged.acquits
    assert (judged.outcome, judged.debugger_word) == (outcome, word)
    assert (verdict.module_name, verdict.image_name, verdict.suspect) == ("hardware", "hardware", suspect)
    assert verdict.symbol_name == word and verdict.confidence == "medium"
    assert (verdict.runner_up or "").startswith("myfault+") and verdict.runner_up_rule == "where it showed"
    lines = summary(crash, target.has_names)
    assert len(lines) <= MOST_LINES and judged.says[1:] in lines[1]
    assert not any(line.startswith("myfault") for line in lines)


def test_an_acquitted_access_is_said_once(scene: Scene) -> None:
    """What the instruction contradicts is not told again as a fact: no null pointer, no second sentence."""
    target = scene("acquitted-read", TRIAGE)
    crash = analysed(target)
    address = f"{crash.failure.address:#x}" if crash.failure is not None and crash.failure.address else "?"
    assert sum(address in line for line in summary(crash, target.has_names)) == 1
    assert not any(finding.tag == "AV.Dereference" for finding in crash.reasoning.findings)


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_general_protection_fault_at_a_canonical_address(scene: Scene, dump_type: int) -> None:
    """In 64-bit mode MOV raises one for addresses that are not canonical only (Intel SDM volume 2, MOV)."""
    target = scene("refused-access", dump_type)
    crash = analysed(target)
    judged, verdict = crash.plausibility, crash.verdict
    assert judged is not None and (judged.outcome, judged.remains) == (outcomes.UNEXPLAINED, "hardware")
    assert "0xffff9b000336004c, a canonical address" in judged.says
    assert judged.evidence == ("rbx=ffff9b0003360008",)
    assert (verdict.suspect, verdict.confidence) == ("hardware", "low")
    assert (verdict.module_name, verdict.bucket) == ("hardware", "AV_myfault!unknown_function")
    lines = summary(crash, target.has_names)
    assert not any("myfault.sys is" in line or line.startswith("The processor reported no") for line in lines)
    assert any(line.startswith("Suspect a hypervisor or the hardware, not myfault+") for line in lines)


def test_one_bit_is_told_once(scene: Scene) -> None:
    """Where memory is suspected, the symbol is the place where it showed, and no second row says so again."""
    crash = analysed(scene("wrong-page-number", TRIAGE))
    assert crash.verdict.suspect == "memory" and crash.plausibility is not None
    rows = {cells[1]: cells for _, cells in _verdict_rows(crash)}
    assert rows["Symbol"][4] == "where it showed" and "Runner-up" not in rows
    assert not any(crash.plausibility.flips[0].says in str(cells) for cells in rows.values())


def test_the_debuggers_buckets(scene: Scene) -> None:
    assert analysed(scene("misaligned-ip")).verdict.bucket == "IP_MISALIGNED_GenuineIntel.sys"
    assert analysed(scene("padding-jump")).verdict.bucket == "CPU_CALL_ERROR"
    assert analysed(scene("acquitted-read")).verdict.bucket == "AV_myfault!unknown_function"


def test_what_rip_points_into(scene: Scene) -> None:
    judged = analysed(scene("misaligned-ip")).plausibility
    assert judged is not None and judged.address == RIP + 0x44
    assert judged.evidence[0] == "it points into mov rax,qword ptr [rsp+0F0h] at 0xfffff80060da1b60"


def test_a_call_that_the_processor_did_not_make(scene: Scene) -> None:
    judged = analysed(scene("padding-jump")).plausibility
    assert judged is not None
    assert judged.evidence[0].startswith("8 bytes of int 3 from 0xfffff80060da1b1c on, behind ret")
    assert judged.evidence[1].endswith("but the processor was at 0xfffff80060da1b20; they differ in one bit, 5")


def test_an_old_processor(scene: Scene) -> None:
    crash = analysed(scene("missing-feature"))
    judged, verdict = crash.plausibility, crash.verdict
    assert judged is not None and judged.outcome == outcomes.LACKS_FEATURE and not judged.acquits
    assert judged.says.startswith("this processor (Intel(R) Core(TM)2 Quad CPU Q9400 @ 2.66GHz) lacks POPCNT")
    assert judged.evidence[0] == "CPUID leaf 1h, ECX bit 23 is clear"
    assert (verdict.suspect, verdict.confidence) == ("myfault.sys", "high")


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
def test_a_wild_call_is_the_drivers(scene: Scene, dump_type: int) -> None:
    """The fault is reported at the call, which touches no memory that could fail: it leads to what is no address."""
    crash = analysed(scene("wild-call", dump_type))
    assert crash.plausibility is None or not crash.plausibility.acquits
    assert crash.verdict.suspect == "myfault.sys"


def test_one_bit_of_a_null_pointer(scene: Scene) -> None:
    crash = analysed(scene("null-plus-bit"))
    judged = crash.plausibility
    assert judged is not None and judged.outcome == outcomes.EXPLAINED
    [flip] = judged.flips
    assert (flip.subject, flip.value, flip.repaired, flip.bit) == ("rbx", 0x2000000068, 0x68, 37)
    assert (crash.verdict.suspect, crash.verdict.confidence) == ("myfault.sys", "low")


def test_a_page_that_the_machine_does_not_have(scene: Scene) -> None:
    crash = analysed(scene("wrong-page-number", TRIAGE))
    judged = crash.plausibility
    assert judged is not None
    [flip] = judged.flips
    assert (flip.value, flip.repaired, flip.bit, flip.strong) == (0x2001234, 0x1234, 37, True)
    assert (crash.verdict.suspect, crash.verdict.confidence) == ("memory", "medium")


@pytest.mark.parametrize("dump_type", [KERNEL, TRIAGE])
@pytest.mark.parametrize(
    "name",
    [
        *("myfault", "unhandled-exception", "bad-pointer", "system-thread", "kernel-exception", "list-corruption"),
        *("null-event", "freed-pool", "read-only-write"),
    ],
)
def test_a_fault_of_the_driver_is_explained(scene: Scene, name: str, dump_type: int) -> None:
    crash = analysed(scene(name, dump_type))
    assert crash.plausibility is None or not crash.plausibility.acquits
    # Small memory dumps do not tell rbx, which the operand needs: no trap frame has it.
    if dump_type == KERNEL and name not in ("read-only-write", "bad-pointer"):
        assert crash.plausibility is not None and crash.plausibility.outcome == outcomes.EXPLAINED, name
    assert crash.verdict.module_name != "hardware"


def test_a_flipped_address(scene: Scene) -> None:
    crash = analysed(scene("bit-flip"))
    assert (crash.verdict.suspect, crash.verdict.confidence) == ("memory", "medium")
    judged = crash.plausibility
    assert judged is not None and [(flip.subject, flip.bit) for flip in judged.flips] == [("the operand", 23)]
    judged = analysed(scene("bad-pointer")).plausibility
    assert judged is not None and [flip.bit for flip in judged.flips] == [47]


# real dumps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "outcome", "bits", "suspect"),
    [
        ("triage_x64_19041_0x7e", outcomes.CONTRADICTED, [], "hardware"),
        ("triage_x64_19041_0x1e", outcomes.PADDING, [2], "hardware"),
        ("triage_x64_19041_0x7e_q9400", outcomes.LACKS_FEATURE, [], "nvlddmkm.sys"),
        ("triage_x64_26100_0x3b", outcomes.EXPLAINED, [37], "memory"),
        ("triage_x64_17763", outcomes.EXPLAINED, [], None),
        ("triage_x64_19041", outcomes.UNEXPLAINED, [], "hardware"),
    ],
)
def test_real_dumps(shared_data: Path, name: str, outcome: str, bits: list[int], suspect: str | None) -> None:
    crash = analysed(volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp"))
    judged = crash.plausibility
    assert judged is not None and judged.outcome == outcome
    assert [flip.bit for flip in judged.flips] == bits
    assert suspect is None or crash.verdict.suspect == suspect


def test_a_real_page_number(shared_data: Path) -> None:
    crash = analysed(volatility3_kdump.open(shared_data / "dumps" / "triage_x64_26100_0xbe.dmp"))
    judged = crash.plausibility
    assert judged is not None
    flip = judged.flips[0]
    assert (flip.value, flip.repaired, flip.bit) == (0x21252A8, 0x1252A8, 37)
    assert crash.verdict.suspect == "memory"


def test_a_dump_without_its_modules(sample: Callable[..., Path], tmp_path: Path) -> None:
    """Where the list of modules is cut off, nobody can say that RIP lies in none."""
    path = tmp_path / "cut.dmp"
    path.write_bytes(sample(4, None, "unhandled-exception").read_bytes()[:0x2100])
    judged = analysed(volatility3_kdump.open(path)).plausibility
    assert judged is None or judged.outcome != outcomes.NOWHERE


def test_a_jump_one_bit_away_from_code(scene: Scene) -> None:
    target = scene("myfault", TRIAGE)
    bug_check = describe(0xD1, (RIP ^ 1 << 37, 2, 8, RIP ^ 1 << 37))
    failure = find_failure(target, bug_check)
    assert failure is not None
    registers = {**failure.context.registers, "rip": RIP ^ 1 << 37}
    failure = dataclasses.replace(
        failure,
        context=dataclasses.replace(failure.context, registers=registers),
        at_fault=True,
        address=RIP ^ 1 << 37,
        instruction=None,
    )
    judged = plausibility(target, bug_check, failure)
    assert judged is not None and judged.outcome == outcomes.NOWHERE
    assert [(flip.subject, flip.repaired, flip.bit) for flip in judged.flips][:1] == [("RIP", RIP, 37)]


@pytest.mark.parametrize(("bit", "found"), [(37, True), (12, False)])
def test_links_of_a_list_that_differ_in_one_bit(scene: Scene, bit: int, found: bool) -> None:
    """A high bit only: entries that lie next to each other differ in one low bit, too."""
    target = scene("list-corruption", KERNEL)
    crash = analysed(target)
    assert (crash.failure is not None and crash.plausibility is None) or not crash.plausibility.flips
    place = crash.failure.context.registers["rsp"]
    assert place is not None
    registers = {**crash.failure.context.registers, "rax": place, "rdx": place ^ 1 << bit}
    failure = dataclasses.replace(
        crash.failure, context=dataclasses.replace(crash.failure.context, registers=registers), at_fault=True
    )
    judged = plausibility(target, crash.bug_check, failure)
    bits = [flip.bit for flip in judged.flips] if judged is not None else []
    assert bits == ([bit] if found else [])


# anything -------------------------------------------------------------------------------------------------------------


@settings(max_examples=part(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.sampled_from((0xA, 0xD1, 0x50, 0x1E, 0x3B, 0x7E, 0x8E, 0xBE, 0x139)),
    parameters=st.lists(
        st.one_of(st.none(), st.integers(0, 2**64 - 1), st.sampled_from((RIP, RIP + 1, 0, 0xC000001D, 0x80000003))),
        min_size=4,
        max_size=4,
    ),
    name=st.sampled_from(("myfault", "padding-jump", "misaligned-ip")),
)
def test_arguments_of_any_kind_are_judged_or_left_alone(
    scene: Scene, code: int, parameters: list[int | None], name: str
) -> None:
    target = scene(name, TRIAGE)
    bug_check = describe(code, parameters)
    judged = plausibility(target, bug_check, find_failure(target, bug_check))
    assert judged is None or judged.outcome is not None or judged.flips
    if judged is not None:
        assert dataclasses.asdict(judged)
