"""Addresses in the page-frame database: a made machine that lists its memory, and a real small dump that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.findings.regions import PAGE_FRAMES, region_of
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory.page_entries import database, entry_at, has_page, page_neighbour

BIT = 25


def test_entries_of_a_machine_that_lists_its_memory(scene: Callable[..., Target]) -> None:
    target = scene("wrong-page-number", 4)
    base = database(target)
    assert base is not None
    entry = entry_at(target, base + 0x1234 * 0x30 + 8)
    assert entry is not None and (entry.page, entry.offset, entry.present) == (0x1234, 8, True)
    wrong = entry_at(target, base + (0x1234 | 1 << BIT) * 0x30)
    assert wrong is not None and (wrong.present, wrong.neighbour, wrong.bit) == (False, 0x1234, BIT + 12)
    region = region_of(target, base + (0x1234 | 1 << BIT) * 0x30)
    assert region.kind == PAGE_FRAMES and region.text.endswith("entry of page 2001234, which the machine does not have")
    # Two bits away from every page of the machine: another region, as far as can be told.
    assert entry_at(target, base + (0x1234 | 1 << BIT | 1 << 30) * 0x30) is None
    assert region_of(target, base + (0x1234 | 1 << BIT | 1 << 30) * 0x30).kind != PAGE_FRAMES
    assert entry_at(target, base - 8) is None
    assert has_page(target, 1 << 40) is False and page_neighbour(target, 3 << 40) is None


@pytest.mark.parametrize("dump_type", [2, 6, pytest.param(1, marks=pytest.mark.thorough)])
def test_the_kernel_lists_its_memory_where_the_header_does_not(scene: Callable[..., Target], dump_type: int) -> None:
    """Bitmap dumps that Windows writes leave the header's list unset; nt!MmPhysicalMemoryBlock is in their pages."""
    target = scene("wrong-page-number", dump_type)
    assert (target.header.number_of_runs is None) is (dump_type == 6)
    base = database(target)
    assert base is not None
    right, wrong = (entry_at(target, base + page * 0x30) for page in (0x1234, 0x1234 | 1 << BIT))
    assert right is not None and right.present and wrong is not None
    assert (wrong.present, wrong.neighbour, wrong.bit) == (False, 0x1234, BIT + 12)
    crash = analyze_crash(target)
    assert crash.plausibility is not None and crash.verdict.suspect == "memory"
    [flip] = crash.plausibility.flips
    assert (flip.value, flip.repaired, flip.bit, flip.strong) == (0x2001234, 0x1234, 37, True)


def test_without_a_list_of_memory_nothing_is_said(scene: Callable[..., Target]) -> None:
    target = scene("myfault", 4)
    assert has_page(target, 1) is None
    assert entry_at(target, 0xFFFFA98000000000 + 0x30) is None


def test_a_real_machine(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_26100_0xbe.dmp")
    entry = entry_at(target, 0xFFFF9C00636F7F98)
    assert entry is not None and (entry.page, entry.offset, entry.present) == (0x21252A8, 0x18, False)
    assert (entry.neighbour, entry.bit) == (0x1252A8, 37)
