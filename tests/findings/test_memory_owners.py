"""Whose memory an address is, against what the maker put where."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.myfault import high_irql_fault
from volatility3_kdump.findings.memory_owners import MemoryOwners, Owner
from volatility3_kdump.target import Target
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.threads import read_thread, stack_limits

Scenes = Callable[..., Target]


@pytest.fixture(scope="module")
def target(scene: Scenes) -> Target:
    return scene("myfault")


@pytest.fixture(scope="module")
def owners(target: Target) -> MemoryOwners:
    return MemoryOwners(target)


def test_a_driver_with_section_and_symbol(target: Target, owners: MemoryOwners) -> None:
    nt, myfault = target.modules[0], next(module for module in target.modules if module.name == "myfault")
    address = target.symbol("KeBugCheckEx")
    assert address is not None
    image = target.images.headers_of(nt)
    assert image is not None
    section = image.section_of(address - nt.base)
    assert section is not None
    found = owners.of(address + 5)
    offset = address + 5 - nt.base
    assert found == Owner(
        "driver",
        "ntoskrnl.exe",
        nt.base,
        offset,
        f"{section.name}+{offset - section.address:#x}",
        "nt!KeBugCheckEx+0x5",
    )
    found = owners.of(myfault.base + 2)
    assert (found.kind, found.name, found.offset, found.section) == ("driver", "myfault.sys", 2, None)
    assert found.detail == "in its headers"
    assert owners.of(0xFFFFF80060184A10)[:2] == ("unloaded driver", "hwpolicy.sys")


def test_the_stack_of_every_thread(target: Target, owners: MemoryOwners) -> None:
    checked = set()
    for process in process_addresses(target):
        name = read_process(target, process).name
        for address in thread_addresses(target, process):
            thread = read_thread(target, address)
            assert thread.stack_base is not None
            assert thread.stack_limit is not None
            found = owners.of(thread.stack_base - 8)
            assert (found.kind, found.address) == ("kernel stack", thread.stack_limit)
            assert found.name == f"thread {address:x} ({name} {thread.pid:x}.{thread.tid:x})"
            assert found.detail == f"0x8 bytes below its base {thread.stack_base:x}"
            assert owners.of(thread.stack_limit).offset == 0
            assert owners.of(thread.stack_base).address != thread.stack_limit
            checked.add(address)
    expected = {thread.address for process in high_irql_fault().processes for thread in process.threads}
    assert checked
    assert checked <= expected


def test_idle_threads_and_processors(target: Target, owners: MemoryOwners) -> None:
    for processor in processors(target):
        assert processor.prcb is not None
        assert owners.of(processor.prcb + 0x30) == Owner(
            "processor", f"KPRCB of processor {processor.number}", processor.prcb, 0x30
        )
        assert processor.idle_thread is not None
        limits = stack_limits(target, processor.idle_thread)
        assert limits is not None
        found = owners.of(limits[0] + 0x10)
        assert found.kind == "kernel stack"
        assert found.name == f"thread {processor.idle_thread:x} (Idle 0.0)"
    assert any(
        name and name.startswith("DPC stack of processor")
        for name in (owners.of(low).name for low, _ in owners.stack_ranges())
    )
    ranges = owners.stack_ranges()
    assert all(low < high for low, high in ranges)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ranges))


def test_a_pool_block_and_its_tag(scene: Scenes) -> None:
    owners = MemoryOwners(scene("pool-overrun"))
    page = 0xFFFF91894EF70000
    found = owners.of(page + 0x48)
    assert found.kind.endswith("pool")
    assert found.name is not None
    assert found.address is not None
    assert found.address <= page + 0x48
    assert found.offset == page + 0x48 - found.address
    target = scene("pool-overrun")
    assert (target.memory.read(found.address, 8) or b"")[4:8].decode() == found.name
    assert "bytes, " in (found.detail or "")


def test_objects_whose_pool_block_is_not_known(target: Target, owners: MemoryOwners) -> None:
    thread = crash_thread(target)
    assert thread is not None
    found = owners.of(thread.address + 0x20)
    assert found.kind.endswith("pool")
    if found.detail is not None and found.detail.startswith("no pool block"):
        assert (found.address, found.offset) == (thread.address, 0x20)
        assert found.name is not None
        assert found.name.startswith(f"thread {thread.address:x} (notmyfault64.exe ")


def test_page_tables_and_page_frames(target: Target, owners: MemoryOwners) -> None:
    base = target.memory.pointer(target.symbol("MmPteBase") or 0)
    assert base is not None
    address = 0xFFFFF80060DA1981
    entry = base + ((address & 0xFFFFFFFFFFFF) >> 12) * 8
    assert owners.of(entry) == Owner("page tables", detail="the entry of fffff80060da1000")
    assert owners.of(base + (0x7FF612340000 >> 12) * 8).detail == "the entry of 7ff612340000"
    database = target.memory.pointer(target.symbol("MmPfnDatabase") or 0)
    assert database is not None
    assert target.nt is not None
    size = target.nt.size_of("_MMPFN")
    found = owners.of(database + 0x123 * size + 8)
    assert found == Owner("PFN database", "page frame 123", database, 0x123 * size + 8)


def test_user_memory_is_of_the_process(sample: Callable[..., Path]) -> None:
    target = volatility3_kdump.open(sample(1))
    process = next(
        found
        for found in (read_process(target, address) for address in process_addresses(target))
        if found.name == "notmyfault64.exe"
    )
    owners = MemoryOwners(target, process)
    assert process.image_base is not None
    found = owners.of(process.image_base + 0x10)
    assert (found.kind, found.name, found.address) == ("user", f"notmyfault64.exe ({process.pid})", process.address)
    assert owners.of(0x10) == Owner("null page")


def test_small_memory_dumps_name_what_they_know(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp")
    owners = MemoryOwners(target)
    thread = crash_thread(target)
    assert thread is not None
    limits = stack_limits(target, thread.address)
    assert limits is not None
    assert owners.of(limits[1] - 0x20)[:2] == ("kernel stack", f"thread {thread.address:x} (System 4.108)")
    driver = target.modules[3]
    found = owners.of(driver.base + 0x1234)
    assert (found.kind, found.name, found.offset) == ("driver", driver.image_name, 0x1234)
    assert found.symbol == f"{driver.name}+0x1234"
    assert found.detail == "its headers are not in the dump"
    assert owners.of(thread.address + 8).name == f"thread {thread.address:x} (System 4.108)"
    assert owners.of(0xFFFF800000000000) == Owner("kernel")
