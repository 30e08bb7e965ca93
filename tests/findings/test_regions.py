"""The region of an address, against addresses whose region is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from volatility3_kdump.findings import regions
from volatility3_kdump.findings.regions import Region, canonical, processor_stacks, region_of
from volatility3_kdump.target import Target
from volatility3_kdump.windows.memory import kernel_regions
from volatility3_kdump.windows.processes.crashed import crash_processor

Scenes = Callable[..., Target]
KERNEL, TRIAGE = 6, 4


@pytest.mark.parametrize(
    "address, kind",
    [
        (0, regions.NULL_PAGE),
        (0xFFFF, regions.NULL_PAGE),
        (0x10000, regions.USER),
        (0x00007FFFFFFFFFFF, regions.USER),
        (0x0000800000000000, regions.NON_CANONICAL),
        (0xFFFF7FFFFFFFFFFF, regions.NON_CANONICAL),
        (0xFFFFF78000000008, regions.SHARED_DATA),
        (0x7FFE0000, regions.SHARED_DATA),
        (0x7FFE0FFF, regions.SHARED_DATA),
        (0x7FFDFFFF, regions.USER),
        (0x7FFE1000, regions.USER),
        (0xFFFFF80060DA1981, regions.DRIVER),
        (0xFFFFF80062600000, regions.DRIVER),
        (0xFFFFF80060184A10, regions.UNLOADED),
        (0xFFFFD48F77AF9698, kernel_regions.STACK),
        (0xFFFFD48F77AF3FF8, kernel_regions.STACK),
        (0xFFFFBD0000000000, kernel_regions.PAGE_TABLES),
        (0xFFFFBD7FFFFFFFFF, kernel_regions.PAGE_TABLES),
        (0xFFFFBD8000000000, kernel_regions.HYPERSPACE),
        (0xFFFF918953118260, kernel_regions.NONPAGED_POOL),
        (0xFFFFD8024AAA8010, kernel_regions.PAGED_POOL),
        (0xFFFFA98000000000, kernel_regions.PFN_DATABASE),
        (0xFFFFF87000000000, kernel_regions.IMAGES),
        (0xFFFF800000000000, regions.KERNEL),
    ],
)
def test_every_kind(scene: Scenes, address: int, kind: str) -> None:
    assert region_of(scene("myfault"), address).kind == kind


@pytest.mark.parametrize(
    "address, kind",
    [
        (0xFFFFD8024AAA8010, regions.KERNEL),
        (0xFFFFF80060DA1981, regions.DRIVER),
        (0xFFFFF80060184A10, regions.UNLOADED),
        (0xFFFFBD0000000000, kernel_regions.PAGE_TABLES),
        (0x1234, regions.NULL_PAGE),
    ],
)
def test_a_small_memory_dump_knows_what_needs_no_memory_manager(scene: Scenes, address: int, kind: str) -> None:
    assert region_of(scene("myfault", TRIAGE), address).kind == kind


def test_names_of_drivers_and_threads(scene: Scenes) -> None:
    target = scene("myfault")
    assert region_of(target, 0xFFFFF80060DA1981).text == "image of myfault.sys"
    assert region_of(target, 0xFFFFF80060184A10).text == "where hwpolicy.sys was, which is unloaded"
    assert region_of(target, 0xFFFFD48F77AF9698).text == "kernel stack of thread ffff918952f55080"
    assert region_of(target, 0xFFFFD48F77AF3FF8).text.startswith("guard page below the kernel stack")
    assert region_of(target, 0xFFFFD48F76A4D800).text == "DPC stack of processor 2"


def test_the_shared_data_of_the_kernel_and_of_processes(scene: Scenes) -> None:
    target = scene("myfault", TRIAGE)
    said = region_of(target, 0xFFFFF78000000014)
    assert (said.text, said.source) == ("shared user data page: KUSER_SHARED_DATA+0x14", "its fixed address")
    assert region_of(target, 0x7FFE0014).text == "shared user data page as processes see it: KUSER_SHARED_DATA+0x14"


def test_words_of_the_debugger() -> None:
    assert Region(kernel_regions.PAGED_POOL, "", "").debugger_words == "Paged pool"
    assert Region(kernel_regions.STACK, "", "").debugger_words == ""


@pytest.mark.thorough
def test_every_kernel_that_says_it_places_the_pools(scene: Scenes, isf_paths: list[Path]) -> None:
    answers = {}
    for path in isf_paths:
        target = scene("myfault", KERNEL, path)
        assert target.nt is not None
        found = region_of(target, 0xFFFFD8024AAA8010)
        if target.nt.has("_MI_SYSTEM_INFORMATION", "Vs.SystemVaRegions"):
            assert found.kind == kernel_regions.PAGED_POOL, path
            answers[path] = found.source
    assert len(answers) > 8
    assert set(answers.values()) == {"nt!MiState.Vs.SystemVaRegions"}


def test_the_type_of_512_gib_serves_where_no_region_is_assigned(scene: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    target = scene("myfault")
    monkeypatch.setattr(kernel_regions, "_assigned", lambda target: iter(()))
    monkeypatch.setattr(target, "_made", {})
    found = region_of(target, 0xFFFFD8024AAA8010)
    assert (found.kind, found.source) == (kernel_regions.PAGED_POOL, "nt!MiState.Vs.SystemVaType")


def test_windows_7_has_a_fixed_layout(scene: Scenes, isf_paths: list[Path]) -> None:
    oldest = next(path for path in isf_paths if "339E7413" in path.name)
    target = scene("myfault", KERNEL, oldest)
    assert target.header.build_number == 7601
    assert region_of(target, 0xFFFFF8A000100000).kind == kernel_regions.PAGED_POOL
    assert region_of(target, 0xFFFFF68000100000).kind == kernel_regions.PAGE_TABLES


def test_stacks_of_a_processor_start_where_it_says(scene: Scenes) -> None:
    target = scene("double-fault")
    processor = crash_processor(target)
    assert processor is not None
    stacks = {name: high for name, _, high in processor_stacks(target, processor.prcb)}
    assert stacks == {"DPC stack": 0xFFFFD48F76A4E000, "interrupt stack table entry 1": 0xFFFFC3014F47C000}
    assert processor_stacks(target, None) == []


@pytest.mark.parametrize("bits, address, expected", [(48, 1 << 47, False), (57, 1 << 47, True), (57, 1 << 56, False)])
def test_five_levels_make_more_addresses_canonical(
    scene: Scenes, monkeypatch: pytest.MonkeyPatch, bits: int, address: int, expected: bool
) -> None:
    monkeypatch.setattr(regions, "address_bits", lambda target: bits)
    assert canonical(scene("myfault"), address) is expected


def test_ranges_of_a_kind_leave_out_what_is_known_more_exactly() -> None:
    ranges = (
        kernel_regions.KernelRange(0x3000, 0x4000, kernel_regions.KernelRegion("page tables", "")),
        kernel_regions.KernelRange(0x1000, 0x6000, kernel_regions.KernelRegion("paged pool", "")),
        kernel_regions.KernelRange(0x5000, 0x9000, kernel_regions.KernelRegion("nonpaged pool", "")),
        kernel_regions.KernelRange(0x8000, 0xB000, kernel_regions.KernelRegion("paged pool", "")),
    )
    target: Any = SimpleNamespace(once=lambda make: ranges)

    chosen = kernel_regions.ranges_of_kinds(target, {"paged pool"})
    assert chosen == [(0x1000, 0x3000), (0x4000, 0x6000), (0x9000, 0xB000)]
    both = kernel_regions.ranges_of_kinds(target, {"paged pool", "nonpaged pool"})
    assert both == [(0x1000, 0x3000), (0x4000, 0xB000)]
    for address in range(0, 0xC000, 0x800):
        region = kernel_regions.kernel_region(target, address)
        assert any(low <= address < high for low, high in both) == bool(region and "pool" in region.kind)
