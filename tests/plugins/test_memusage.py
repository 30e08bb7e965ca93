"""``kdump.memusage``: the page-frame database of every kernel against the machine that it was made of."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from kdump_sample.machine import Machine
from kdump_sample.page_frames import ACTIVE, MODIFIED, MODIFIED_NO_WRITE, STANDBY, TRANSITION, Frame
from kdump_sample.scene import KernelStructure
from kdump_sample.scenes import make_scene
from tests.edited import edited, write_scene
from tests.host import host_kernel
from tests.output import lines, parsed
from volatility3_kdump.findings.page_owners import MemoryUsage, Use, memory_usage
from volatility3_kdump.layout import Layouts
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.text import memusage as text

NAMES = ("Zeroed", "Free", "Standby", "Modified", "ModifiedNoWrite", "Bad", "Active/Valid", "Transition")
DATABASE = 0xFFFFA98000000000
PAGE, STRIDE = 0x1000, 48
OWNED = (STANDBY, MODIFIED, MODIFIED_NO_WRITE, ACTIVE, TRANSITION)
#: Uses that are parts of the kernel's address space, besides drivers.
NOT_KERNEL = {"process", "mapped file", "image", "page file section", "page tables", "AWE", "no page table entry"}


def by_name(usage: MemoryUsage) -> dict[str, int | None]:
    return {item.name: item.pages for item in usage.lists}


def as_counted(frame: Frame) -> str:
    """The column that a page counts in."""
    if frame.page_table:
        return "page_tables"
    if frame.location == TRANSITION:
        return "dirty" if frame.modified else "transition"
    return {ACTIVE: "valid", STANDBY: "standby"}.get(frame.location, "dirty")


def columns(use: Use) -> Counter[str]:
    found = Counter({name: getattr(use, name) for name in ("valid", "standby", "dirty", "transition", "page_tables")})
    return +found


def made(frames: list[Frame], *owners: Any) -> Counter[str]:
    """The pages of some owners as the machine was made."""
    return Counter(
        as_counted(frame)
        for frame in frames
        if frame.owner in owners and frame.location in OWNED and (frame.location != ACTIVE or frame.references)
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Machine]:
    path = tmp_path_factory.mktemp("memory") / "memory.dmp"
    layouts = load_table_file(kernel_table_path())
    return path, write_scene(path, make_scene("memory", layouts), layouts)


def test_every_kernel(isf_path: Path, tmp_path: Path) -> None:
    layouts = load_table_file(isf_path)
    path = tmp_path / "memory.dmp"
    machine = write_scene(path, make_scene("memory", layouts), layouts)
    target = volatility3_kdump.open(path, isf_file=isf_path)
    usage = memory_usage(target)
    frames = machine.page_frames
    assert usage.problems == []
    check_lists(usage, frames)
    assert usage.uses is not None
    check_shared(usage.uses, frames)
    check_processes(usage.uses, frames, machine)
    check_kernel(usage.uses, frames, machine, layouts)
    # every page in use is someone's
    named = by_name(usage)
    assert sum(use.pages for use in usage.uses) == sum(named[NAMES[location]] or 0 for location in OWNED)
    summary = memory_usage(target, summary=True)
    assert summary.uses is None
    quick = by_name(summary)
    for name in (*NAMES[:6], "TOTAL"):
        assert quick[name] == named[name], name
    assert quick["Active/Valid"] is quick["SLIST/Temp"] is quick["Unknown"] is None


def check_lists(usage: MemoryUsage, frames: list[Frame]) -> None:
    found = by_name(usage)
    cached = sum(frame.location == ACTIVE and not frame.references for frame in frames)
    locations = Counter(NAMES[frame.location] for frame in frames)
    locations["Active/Valid"] -= cached
    assert {name: found[name] for name in NAMES} == {name: locations[name] for name in NAMES}
    assert (found["SLIST/Temp"], found["Unknown"], found["TOTAL"]) == (13, 0, len(frames))
    assert (found["Dangling Yes Commit"], found["Dangling No Commit"]) == (1, 2)
    counters = {item.name: item.counter for item in usage.lists}
    assert counters["TOTAL"] == len(frames)
    assert all(counters[name] == found[name] for name in NAMES[:6])


def check_shared(uses: list[Use], frames: list[Frame]) -> None:
    files = {use.name: use for use in uses if use.kind in ("mapped file", "image")}
    assert files.keys() == {"\\$Mft", "\\Windows\\System32\\shell32.dll"}
    for path, use in files.items():
        assert columns(use) == made(frames, path)
        assert use.control_area in {frame.control_area for frame in frames if frame.owner == path}
        assert use.kind == ("image" if path.endswith(".dll") else "mapped file")
    shell32 = files["\\Windows\\System32\\shell32.dll"]
    # two pages are held by an MDL, and three are in transition
    assert (shell32.shared, shell32.locked) == (51, 5)
    (section,) = (use for use in uses if use.kind == "page file section")
    assert columns(section) == made(frames, "section")
    assert section.shared == 7


def check_processes(uses: list[Use], frames: list[Frame], machine: Machine) -> None:
    found = {use.process: use for use in uses if use.kind == "process"}
    assert None not in found
    for process in machine.scene.processes:
        use = found.pop(process.address)
        assert (use.pid, use.name) == (process.pid, process.image)
        assert columns(use) == made(frames, process.directory_table_base), process.image
        assert use.large == (512 if process.image == "explorer.exe" else 0)
    assert not found


def check_kernel(uses: list[Use], frames: list[Frame], machine: Machine, layouts: Layouts) -> None:
    assert sum((columns(use) for use in uses if use.kind == "page tables"), Counter()) == made(frames, "table")
    without = [use for use in uses if use.kind in ("AWE", "no page table entry")]
    assert [(use.kind, use.valid) for use in without] == [
        ("AWE" if layouts.has("_MMPFN", "u4.AweAllocation") else "no page table entry", 4)
    ]
    kernel = [use for use in uses if use.kind not in NOT_KERNEL]
    assert sum((columns(use) for use in kernel), Counter()) == made(frames, "kernel")

    def within(start: int, size: int) -> int:
        return sum(frame.owner == "kernel" and start <= frame.address | 0xFFFF << 48 < start + size for frame in frames)

    stacks = sum(bool(frame.more.get("u3.e1.KernelStack")) for frame in frames)
    drivers = {use.name: use.valid for use in kernel if use.kind == "driver"}
    for module in machine.images.modules:
        name = module.path.rsplit("\\", 1)[-1]
        assert drivers.pop(name) == within(module.image.base, -(-module.image.size // PAGE) * PAGE), name
    assert not drivers
    kinds: Counter[str] = Counter()
    for use in kernel:
        kinds[use.kind] += use.valid
    regions = machine.scene.regions
    assert kinds["paged pool"] == within(*regions["PagedPool"])
    assert kinds["nonpaged pool"] == within(*regions["NonPagedPool"])
    assert kinds["PFN database"] == within(*regions["PfnDatabase"])
    if "AssignedRegionKernelStacks" in layouts.enum("_MI_ASSIGNED_REGION_TYPES").values():
        stacks = within(*regions["KernelStacks"])
    assert kinds["kernel stack"] == stacks


# what is shown --------------------------------------------------------------------------------------------------------


def test_the_debuggers_text(session: tuple[Path, Machine], run_plugin) -> None:
    path, machine = session
    shown = lines(run_plugin("-q", "-f", path, "-r", "windbg", "kdump.memusage"))
    total = len(machine.page_frames)
    assert shown[0] == "             Zeroed:       60 (     240 kb)"
    assert shown[2] == "            Standby:       70 (     280 kb)"
    assert shown[10] == f"              TOTAL: {total:>8} ({4 * total:>8} kb)"
    assert shown[11] == "Dangling Yes Commit:        1 (       4 kb)"
    assert shown[13:16] == [
        "",
        "  Usage Summary (in Kb):",
        "Control          Valid Standby Dirty Shared Locked PageTables  name",
    ]
    areas = {frame.owner: frame.control_area for frame in machine.page_frames}
    mft, shell32 = areas["\\$Mft"], areas["\\Windows\\System32\\shell32.dll"]
    assert shown[16] == f"{mft:016x}    12     80    52     0     8     0  mapped_file( $Mft )"
    assert shown[17] == (
        f"{shell32:016x}   204    156     0   204    20     0  mapped_file( shell32.dll ) [12 Kb in transition]"
    )
    assert f"{'-' * 16}    28      8    16    28     0     0  Page File Section" in shown
    assert (
        f"{'-' * 16}  2048      0     0     0     0    36  process( explorer.exe 15e8 ) [2048 Kb in large pages]"
        in shown
    )
    assert any(line.endswith("  driver( ntoskrnl.exe )") for line in shown)
    quick = lines(run_plugin("-q", "-f", path, "-r", "windbg", "kdump.memusage", "--summary"))
    assert quick[:5] == shown[:5]
    assert quick[5] == "       Active/Valid:        ?"
    assert len(quick) == 11


def test_rows(session: tuple[Path, Machine], run_plugin) -> None:
    path, _ = session
    finished = run_plugin("-q", "-f", path, "-r", "json", "kdump.memusage")
    assert finished.returncode == 0, finished.stderr
    table = parsed(finished.stdout)
    assert [row["Kind"] for row in table[:13]] == ["list"] * 13
    assert (table[2]["Name"], table[2]["Pages"], table[2]["Kilobytes"], table[2]["CountedPages"]) == (
        *("Standby", 70, 280, 70),
    )
    shell32 = next(row for row in table if row["Name"] == "\\Windows\\System32\\shell32.dll")
    values = {key: shell32[key] for key in ("Kind", "ValidPages", "StandbyPages", "TransitionPages", "SharedPages")}
    assert values == {
        **{"Kind": "image", "ValidPages": 51, "StandbyPages": 39, "TransitionPages": 3, "SharedPages": 51},
    }
    notepad = next(row for row in table if row["Name"] == "notepad.exe")
    assert (notepad["Pid"], notepad["Process"], notepad["ControlArea"]) == (0x1E90, 0xFFFF9189527E9080, None)
    section = next(row for row in table if row["Kind"] == "page file section")
    assert section["Notes"] == "entries of the page-frame database do not say which section"
    assert sum(row["Pages"] for row in table if row["Kind"] not in ("list", "note")) == (
        sum(row["Pages"] for row in table if row["Name"] in [NAMES[location] for location in OWNED])
    )


@pytest.mark.parametrize("number", (1, pytest.param(9, marks=pytest.mark.thorough)))
def test_the_host_reads_the_same(isf_paths: list[Path], tmp_path: Path, number: int) -> None:
    """The host's objects, entry by entry, on its own layers."""
    layouts = load_table_file(isf_paths[number])
    path = tmp_path / "full.dmp"
    scene = make_scene("memory", layouts)
    write_scene(path, scene, layouts, dump_type=1)
    usage = memory_usage(volatility3_kdump.open(path, isf_file=isf_paths[number]))
    nt = host_kernel(path, isf_paths[number])
    locations: Counter[str] = Counter()
    shared = 0
    for first, count in scene.memory:
        for pfn in range(first, first + count):
            entry = nt.object("_MMPFN", offset=(DATABASE + pfn * STRIDE) & 0xFFFFFFFFFFFF, absolute=True)
            location = int(entry.u3.e1.PageLocation)
            if location == ACTIVE and not entry.u3.ReferenceCount:
                locations["SLIST/Temp"] += 1
            else:
                locations[NAMES[location]] += 1
                shared += int(entry.u4.PrototypePte)
    found = by_name(usage)
    assert {name: found[name] for name in locations} == locations
    assert usage.uses is not None
    kinds = ("mapped file", "image", "page file section")
    assert sum(use.pages for use in usage.uses if use.kind in kinds) == shared


# what is not there ----------------------------------------------------------------------------------------------------


def test_pages_of_the_database_that_are_not_there(session: tuple[Path, Machine], tmp_path: Path) -> None:
    path, machine = session
    target = volatility3_kdump.open(path)
    # the middle of three pages that have the entries of one run: those that it cuts at both ends are not known either
    gone = (DATABASE + 0x120000 * STRIDE & ~(PAGE - 1)) + PAGE
    usage = memory_usage(edited(target, path, tmp_path / "x.dmp", absent=[gone]))
    first, last = (gone - DATABASE) // STRIDE, (gone + PAGE - 1 - DATABASE) // STRIDE
    lost = [frame for frame in machine.page_frames if first <= frame.pfn <= last]
    found = by_name(usage)
    assert (found["Unknown"], found["TOTAL"]) == (len(lost), len(machine.page_frames))
    assert len(lost) in (86, 87)
    active = sum(frame.location == ACTIVE and bool(frame.references) for frame in machine.page_frames)
    assert found["Active/Valid"] == active - sum(frame.location == ACTIVE for frame in lost)
    assert usage.problems[0] == (
        f"{len(lost)} of {len(machine.page_frames)} entries of the page-frame database are not in the dump: Unknown"
    )


def test_most_of_the_database_is_not_there(session: tuple[Path, Machine], tmp_path: Path) -> None:
    """Where page tables are missing, everything that they map is passed over at once."""
    path, _ = session
    target = volatility3_kdump.open(path)
    data = bytearray(path.read_bytes())
    runs = struct.pack("<IIQ6Q", 3, 0, 0x9F + 0x300 + (1 << 30), 1, 0x9F, 0x120000, 0x300, 0x1000000000, 1 << 30)
    block = target.memory.pointer(target.symbol("MmPhysicalMemoryBlock") or 0)
    assert block is not None
    layer = target.context.layers[target.layer_name]
    physical, _, _ = layer._translate(block & layer.address_mask)
    assert target.dump.pages is not None
    offset = (target.dump.pages.offset_of(physical >> 12) or 0) + (physical & 0xFFF)
    data[offset : offset + len(runs)] = runs
    (tmp_path / "x.dmp").write_bytes(data)
    usage = memory_usage(volatility3_kdump.open(tmp_path / "x.dmp"))
    found = by_name(usage)
    assert (found["Unknown"], found["TOTAL"]) == (1 << 30, (1 << 30) + 0x9F + 0x300)
    assert any(problem.startswith("TOTAL: ") for problem in usage.problems)


def test_no_database(sample, session: tuple[Path, Machine], tmp_path: Path) -> None:
    usage = memory_usage(volatility3_kdump.open(sample()))
    assert usage.uses is None
    assert usage.problems[0].startswith(f"the page-frame database at {DATABASE:x} is not in the dump; the numbers are")
    assert by_name(usage)["Standby"] == 703_218
    path, _ = session
    target = volatility3_kdump.open(path)
    pointer = target.symbol("MmPfnDatabase")
    assert pointer is not None
    for value in (0, 0x1234, 0xFFFFFFFFFFFFF000):
        damaged = edited(target, path, tmp_path / "x.dmp", {pointer: struct.pack("<Q", value)})
        usage = memory_usage(damaged)
        assert usage.uses is None
        assert by_name(usage)["Zeroed"] == 60


def test_counters_that_disagree(session: tuple[Path, Machine], tmp_path: Path) -> None:
    path, _ = session
    target = volatility3_kdump.open(path)
    partition = target.symbol("MiSystemPartition")
    assert partition is not None and target.nt is not None
    head = partition + target.nt.offset("_MI_PARTITION", "PageLists.StandbyPageListHead.Total")
    usage = memory_usage(edited(target, path, tmp_path / "x.dmp", {head: struct.pack("<Q", 71)}))
    assert usage.problems == ["Standby: 70 pages in the page-frame database, the memory manager counts 71"]


def test_lists_longer_than_memory(session: tuple[Path, Machine], tmp_path: Path) -> None:
    path, _ = session
    target = volatility3_kdump.open(path)
    assert memory_usage(target, summary=True).problems == []
    assert target.nt is not None
    head = (target.symbol("MiSystemPartition") or 0) + target.nt.offset(
        "_MI_PARTITION", "PageLists.FreePageListHead.Total"
    )
    usage = memory_usage(edited(target, path, tmp_path / "x.dmp", {head: struct.pack("<Q", 77777)}), summary=True)
    listed = sum(usage_list.pages or 0 for usage_list in usage.lists if usage_list.name != "TOTAL")
    assert usage.problems == [f"the lists come to {listed} pages, more than TOTAL: a counter is wrong"]


def test_memory_described_by_the_header_alone(sample, tmp_path: Path) -> None:
    """A full dump's header has runs as well; the kernel's block is damaged here."""
    path = tmp_path / "full.dmp"
    layouts = load_table_file(kernel_table_path())
    machine = write_scene(path, make_scene("memory", layouts), layouts, dump_type=1)
    target = volatility3_kdump.open(path)
    variable = target.symbol("MmPhysicalMemoryBlock")
    assert variable is not None
    usage = memory_usage(edited(target, path, tmp_path / "x.dmp", {variable: bytes(8)}))
    found = by_name(usage)
    assert found["TOTAL"] == len(machine.work.physical.pages)
    assert any("taken from the dump header" in problem for problem in usage.problems)


def test_files_that_cannot_be_named(session: tuple[Path, Machine], tmp_path: Path) -> None:
    path, machine = session
    target = volatility3_kdump.open(path)
    nt = target.nt
    assert nt is not None
    area = next(frame.control_area for frame in machine.page_frames if frame.owner == "\\$Mft")
    segment = target.memory.pointer(area + nt.offset("_CONTROL_AREA", "Segment")) or 0
    owner = segment + nt.offset("_SEGMENT", "ControlArea")
    usage = memory_usage(edited(target, path, tmp_path / "x.dmp", {owner: struct.pack("<Q", 0xFFFF800000001000)}))
    assert usage.uses is not None
    unnamed = next(use for use in usage.uses if use.kind == "mapped file" and use.control_area is None)
    assert unnamed.note == "its subsection or control area is not in the dump"
    assert columns(unnamed) == made(machine.page_frames, "\\$Mft")


def test_reversed_bits_of_invalid_ptes(tmp_path: Path) -> None:
    """Kernels that protect from L1TF may keep the address of a subsection with the bits of a mask reversed."""
    layouts, path, mask = load_table_file(kernel_table_path()), tmp_path / "memory.dmp", 0x0000200000000000
    scene = make_scene("memory", layouts)
    state = scene.kernel_base + (layouts.symbol("MiState") or 0)
    hardware = KernelStructure("_MI_SYSTEM_INFORMATION", state, {"Hardware.InvalidPteMask": mask})
    machine = write_scene(path, dataclasses.replace(scene, structures=(*scene.structures, hardware)), layouts)
    original = layouts.offset("_MMPFN", "OriginalPte")
    changes = {
        DATABASE + frame.pfn * STRIDE + original: struct.pack("<Q", frame.original ^ mask)
        for frame in machine.page_frames
        if frame.owner == "\\$Mft"
    }
    usage = memory_usage(edited(volatility3_kdump.open(path), path, tmp_path / "x.dmp", changes))
    assert usage.uses is not None
    mft = next(use for use in usage.uses if use.name == "\\$Mft")
    assert columns(mft) == made(machine.page_frames, "\\$Mft")


def test_processes_that_are_gone(session: tuple[Path, Machine], tmp_path: Path) -> None:
    """Pages whose tables lead to no process that is known are not given to another."""
    path, machine = session
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    notepad = 0xFFFF9189527E9080
    field = notepad + target.nt.offset("_EPROCESS", "Pcb.DirectoryTableBase")
    usage = memory_usage(edited(target, path, tmp_path / "x.dmp", {field: struct.pack("<Q", 0x7777000)}))
    assert usage.uses is not None
    lost = next(use for use in usage.uses if use.kind == "process" and use.process is None)
    assert lost.note == "its page tables lead to no process of the list"
    assert columns(lost) == made(machine.page_frames, 0x1D822D000)


def test_without_symbols_only_what_the_debugger_block_names(isf_paths: list[Path], tmp_path: Path) -> None:
    oldest = next(path for path in isf_paths if load_table_file(path).size_of("_EPROCESS") == 0x4F8)
    layouts = load_table_file(oldest)
    path = tmp_path / "x.dmp"
    write_scene(path, make_scene("memory", layouts), layouts)
    usage = memory_usage(volatility3_kdump.open(path))
    assert by_name(usage)["Standby"] == 70
    assert usage.problems[0].startswith("the page-frame database needs the kernel's symbols")
    assert "Bad: needs the kernel's symbols" in usage.problems


def test_small_memory_dumps(shared_data: Path, run_plugin) -> None:
    finished = run_plugin("-q", "-f", shared_data / "dumps" / "triage_x64_17763.dmp", "kdump.memusage")
    assert finished.returncode == 1
    assert "a small memory dump holds neither the page-frame database nor" in finished.stderr


@pytest.mark.parametrize("seed", range(4))
def test_a_database_of_random_bytes(session: tuple[Path, Machine], tmp_path: Path, seed: int) -> None:
    """Whatever the entries say, every page is counted once; what leads nowhere has no name."""
    path, machine = session
    target = volatility3_kdump.open(path)
    choose = random.Random(seed)
    changes = {
        DATABASE + first * STRIDE: choose.randbytes(count * STRIDE)
        for first, count in machine.scene.memory
        if seed % 2 or count > 1
    }
    usage = memory_usage(edited(target, path, tmp_path / "x.dmp", changes))
    found = by_name(usage)
    assert (found["TOTAL"], found["Unknown"]) == (len(machine.page_frames), 0)
    assert usage.uses is not None
    assert sum(use.pages for use in usage.uses) == sum(found[NAMES[location]] or 0 for location in OWNED)
    assert all(use.name is None for use in usage.uses if use.kind in ("mapped file", "image"))
    assert len(list(text.lines(usage))) > 20
