"""``kdump.hang`` and ``!analyze -hang``: the verdict first, then the facts, and KD's text."""

from __future__ import annotations

import pytest

import volatility3_kdump
from tests.output import lines, parsed, rows_of
from tests.prompt import session_over
from volatility3_kdump.console.commands import execute
from volatility3_kdump.views.hang import hang_grid


def test_rows(sample) -> None:
    rows = rows_of(hang_grid(volatility3_kdump.open(sample(6, None, "hang-dpc"))))
    verdict = [(depth, row["Kind"], row["Text"]) for depth, row in rows if row["Topic"] == "verdict"]
    assert verdict[:2] == [
        (1, "suspect", "the driver RtsPer.sys"),
        (2, "reason", "its DPC has run on processor 1 for 25.0 s, longer than the watchdog allows (1280 ticks)"),
    ]
    assert (1, "confidence", "high") in verdict
    busy = next(row for _, row in rows if row["Topic"] == "processors" and row["Processor"] == 1)
    assert (busy["Weight"], busy["Age"], busy["Thread"]) == (90, 25.0, "0xffff918961200080")


def test_text(sample) -> None:
    shown = list(hang_grid(volatility3_kdump.open(sample(6, None, "hang-resources"))).kd_lines())
    assert "Scanning for threads blocked on locks ..." in shown
    assert "VERDICT: The deadlock of System 4.174 and System 4.170 most probably holds the machine up." in shown
    assert "LOCK_ADDRESS:  ffff918961a00000 -- (!locks ffff918961a00000)" in shown
    assert "BLOCKING_THREAD:  ffff918961201080" in shown
    start = shown.index("STACK_TEXT:  ")
    assert shown[start + 6].endswith(" : nt!ExAcquireResourceExclusiveLite+0xa8")


def test_verbose_shows_stacks_and_empty_subjects(sample) -> None:
    target = volatility3_kdump.open(sample(6, None, "hang-workers"))
    plain, verbose = (list(hang_grid(target, verbose).kd_lines()) for verbose in (False, True))
    assert "SPIN LOCKS: nothing unusual" in verbose and "SPIN LOCKS: nothing unusual" not in plain
    # In the evidence, and as that of the suspect's thread.
    assert [sum("RtsPer+0x144c" in line and " : " in line for line in text) for text in (plain, verbose)] == [1, 2]


def test_at_the_prompt(sample) -> None:
    session = session_over(sample(6, None, "hang-none"))
    shown = list(execute(session, "!analyze -hang"))
    assert "VERDICT: Nothing points at a hang." in shown
    assert "LOCKS: nothing unusual" in list(execute(session, "!analyze -v -hang"))
    assert "-hung" in next(iter(execute(session, "!analyze -hung")))


@pytest.mark.parametrize("kind", ["lime", "elf"])
def test_images_without_bug_check(image, kind: str) -> None:
    """A LiME image keeps no registers: what runs is known from the DPC that is active."""
    hung = list(hang_grid(volatility3_kdump.open(image(kind, True, "hang-dpc"))).kd_lines())
    assert "    the machine has not crashed" in hung
    assert "VERDICT: The driver RtsPer.sys most probably holds the machine up." in hung
    assert not any("Runner-up: the thread" in line for line in hung)
    well = list(hang_grid(volatility3_kdump.open(image(kind, True, "hang-none"))).kd_lines())
    # Whether a processor spins is seen on its stack, which takes registers.
    unknown = kind == "lime"
    assert f"VERDICT: Nothing points at a hang{'; not known: spin locks' if unknown else ''}." in well
    why = "SPIN LOCKS: not known: no stack of processor 2: a LiME image holds memory only"
    assert (why in well) is unknown


@pytest.mark.parametrize("kind", ["lime", "elf"])
def test_what_the_verdict_says_stands_in_the_rows(image, kind: str) -> None:
    """How long the IRQL of a processor has been raised, and that nothing is known of spin locks without registers."""
    hung = list(hang_grid(volatility3_kdump.open(image(kind, True, "hang-spin-lock"))).kd_lines())
    joined = " ".join(line.strip() for line in hung)
    raised = "at DISPATCH_LEVEL or above for 12.0 s"
    assert f"processor 1 runs System 4.174 at IRQL 2, 12.0 s after it last waited or became ready, {raised}" in joined
    assert "Evidence: processor 1 has been at DISPATCH_LEVEL or above for 12.0 s." in joined
    assert ("one fact; not known: spin locks." in joined) is (kind == "lime")


@pytest.mark.thorough
def test_through_the_host(sample, run_vol) -> None:
    path = sample(6, None, "hang-pool")
    table = parsed(run_vol("-q", "-f", path, "-r", "json", "kdump.hang").stdout)
    assert (table[0]["Topic"], table[0]["Image"]) == ("verdict", "RtsPer.sys")
    shown = lines(run_vol("-q", "-f", path, "-r", "windbg", "kdump.hang"))
    assert "IMAGE_NAME:  RtsPer.sys" in shown
