"""The summary of every scene: at most six lines, each one statement, none twice, and none against a row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdump_sample.scenes import scene_names
from volatility3_kdump.analysis.buckets import asked_for
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.target import Target
from volatility3_kdump.text.analyze import _exception_keys
from volatility3_kdump.text.summary import MOST_LINES, summary

#: Scenes of kinds that differ; the rest with the thorough tests.
FEW = (
    "myfault",
    "acquitted-read",
    "blocked-power-irp",
    "critical-process",
    "dpc-timeout",
    "live-dump",
    "hung-processor",
    "instruction-fetch",
    "raised-irql-at-exit",
    "store-exception",
    "machine-check",
    "refused-access",
    "flipped-pte",
)


#: What an instruction may begin with.
_MNEMONICS = {
    *(
        "mov",
        "lea",
        "add",
        "sub",
        "call",
        "jmp",
        "ret",
        "popcnt",
        "int",
        "div",
        "idiv",
        "cmp",
        "test",
        "xor",
        "ldr",
        "str",
    ),
}


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.thorough) for name in scene_names()]
)
def test_six_lines_of_one_statement(scene: Callable[..., Target], name: str) -> None:
    target = scene(name, 4)
    crash = analyze_crash(target)
    lines = summary(crash, target.has_names)
    assert 3 <= len(lines) <= MOST_LINES
    assert len({line.casefold() for line in lines}) == len(lines)
    assert all((line.endswith((".", "!")) and ". " not in line.replace("e.g. ", "")) or "; " in line for line in lines)
    assert lines[-1].startswith("Next: ")
    judged, verdict = crash.plausibility, crash.verdict
    if judged is not None and judged.acquits:
        assert not any(line.startswith(f"{verdict.runner_up}") or "is most probably to blame" in line for line in lines)
    # Nobody is blamed for what somebody asked for.
    if crash.bug_check is not None and asked_for(crash.bug_check.code):
        assert lines[-2].startswith("No component is to blame")
        assert not any(" itself stopped the system" in line for line in lines)
    if crash.facts.live:
        assert not any("The system stopped" in line for line in lines)
    if crash.interrupted is not None and crash.process is not None and crash.process.name:
        assert not any(f"in process {crash.process.name}" in line for line in lines)

    # A sentence begins as a person would begin it, and gives no reason twice.
    assert all(line.split()[0].strip(".,:").lower() not in _MNEMONICS for line in lines)
    reasons = [line.partition(": ")[2].rstrip(".").casefold() for line in lines if ": " in line]
    assert all(sum(reason in line.casefold() for line in lines) == 1 for reason in reasons if len(reason) > 20)


def told(target: Target) -> list[str]:
    return summary(analyze_crash(target), target.has_names)


def test_a_processor_that_answered_nobody_is_not_the_doing_of_a_driver(scene: Callable[..., Target]) -> None:
    crash = analyze_crash(scene("hung-processor", 4))
    assert crash.verdict.confidence == "low" and "answered nobody" in crash.verdict.confidence_reason


def test_a_page_that_could_not_be_read_blames_nobody_on_the_stack(scene: Callable[..., Target]) -> None:
    assert analyze_crash(scene("store-exception", 4)).verdict.confidence == "low"


def test_a_jump_to_nowhere_is_told_once(scene: Callable[..., Target]) -> None:
    lines = told(scene("instruction-fetch", 4))
    assert sum("in no " in line or "tried to execute" in line for line in lines) == 1


def test_a_process_that_was_to_go_on_did_not_jump_to_nowhere(scene: Callable[..., Target]) -> None:
    """0x4A stands at an address of the process, which is no wrong pointer: the level that stayed raised is told."""
    target = scene("raised-irql-at-exit", 4)
    assert analyze_crash(target).plausibility is None
    assert "return to its process at IRQL 2" in " ".join(told(target))


def test_a_violation_says_which_one_it_was(scene: Callable[..., Target]) -> None:
    assert any("leaks pool allocations" in line for line in told(scene("verifier-leak", 4)))


def test_the_keys_of_an_exception(scene: Callable[..., Target]) -> None:
    """As a debugger of 2025 prints them for an instruction that an argument names, and for an exception record."""
    fault = dict(_exception_keys(analyze_crash(scene("myfault", 4))))
    assert fault == {
        "Failure.Exception.IP.Address": "0xfffff80060da1981",
        "Failure.Exception.IP.Module": "myfault",
        "Failure.Exception.IP.Offset": "0x1981",
    }
    fast_fail = dict(_exception_keys(analyze_crash(scene("list-corruption", 4))))
    assert fast_fail["Failure.Exception.Code"] == "0xffffffffc0000409"
    assert "Failure.Exception.IP.Address" not in fast_fail


def test_what_a_page_refused_is_told_from_the_error_code(scene: Callable[..., Target]) -> None:
    """Argument 2 is 11h: present, an instruction fetch (Intel's manual, volume 3, "Page-Fault Exceptions")."""
    assert "The page was there, but its memory must not be executed." in told(scene("instruction-fetch", 4))


def test_a_flipped_bit_is_told_once_and_nothing_else_of_the_address(scene: Callable[..., Target]) -> None:
    lines = told(scene("bit-flip"))
    assert sum("0xffffd80249c31000" in line for line in lines) == 1
    assert any(line.endswith("while reading 0xffffd80249431000.") for line in lines)
    assert not any(line.startswith("No memory is mapped there") for line in lines)


def test_driver_verifier_needs_no_instruction_that_failed(scene: Callable[..., Target]) -> None:
    lines = told(scene("verifier-deadlock"))
    assert any("the system was stopped in a function that it called" in line for line in lines)


def test_whoever_asked_for_a_dump_is_sent_to_what_hangs(scene: Callable[..., Target]) -> None:
    assert "kdump.hang" in told(scene("manual", 4))[-1]


def test_an_address_that_the_processor_could_not_report_is_told_from_the_instruction(
    scene: Callable[..., Target],
) -> None:
    lines = told(scene("wild-call"))
    assert "The instruction call rbx leads to 0x4141414141414141, which is not canonical." in lines
    assert not any("reported no address" in line for line in lines)
