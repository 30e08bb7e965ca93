"""``kdump.vm``: counters of every kernel, page files, commit by process, warnings, and what is not there."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.memory_use import MemoryUse, PageFile
from kdump_sample.myfault import high_irql_fault
from tests.amounts import only
from tests.edited import edited, write_scene
from tests.host import host_kernel
from tests.output import lines, parsed
from volatility3_kdump.findings.memory_use import memory_use
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.text import vm as text
from volatility3_kdump.windows.memory import memory_counters

#: Counters that no kernel has.
NOWHERE = {"Locked IO Pages", "NonPagedPoolNx Usage", "SkPagesInUnchargedSlabs"}
SINCE_1607 = {
    *("NonPagedPool Commit", "Boot Commit", "System PageTables", "ProcessLockedFilePages", "Pagefile Hash Pages"),
    "Partition Pages",
}
SINCE_1803 = {"PFN Array Commit", "SmallNonPagedPtesCommit", "SlabAllocatorPages", "Kernel stack PTE failures"}
SINCE_11 = {"ContigMem Pages", "Kernel Shadow Stacks"}
#: What kernels lack, by the size of EPROCESS up to which they are of that kind.
LACKING = (
    (0x4F8, {*SINCE_1607, *SINCE_1803, *SINCE_11} - {"Kernel stack PTE failures"}),
    (0x708, {*SINCE_1607, *SINCE_1803, *SINCE_11, "Kernel Stacks", "PagedPool Commit"}),
    (0x7D0, {*SINCE_1803, *SINCE_11, "Kernel Stacks", "PagedPool Commit"}),
    (0x858, {*SINCE_11, "Kernel Stacks", "PagedPool Commit"}),
    (0xA40, {*SINCE_11, "Kernel Stacks", "PagedPool Commit", "Special Pool"}),
    (0xBC0, {"Kernel Stacks", "PagedPool Commit", "Special Pool", "Partition Pages"}),
)

VALUES = {
    "Physical Memory": 2_096_799,
    "Available Pages": 1_127_091,
    "ResAvail Pages": 1_689_400,
    "Free System PTEs": 33_548_499,
    "Modified Pages": 25_114,
    "Modified PF Pages": 21_430,
    "Modified No Write Pages": 92,
    "NonPagedPool Usage": 61_234,
    "NonPagedPool Max": 1_677_439,
    "PagedPool Usage": 89_552,
    "PagedPool Maximum": 1 << 32,
    "Processor Commit": 408,
    "Session Commit": 7_522,
    "Shared Commit": 31_877,
    "Special Pool": 48,
    "Kernel Stacks": 3_411,
    "Kernel Shadow Stacks": 0,
    "Pages For MDLs": 12_907,
    "ContigMem Pages": 3_344,
    "Partition Pages": 0,
    "Pages For AWE": 512,
    "NonPagedPool Commit": 63_010,
    "PagedPool Commit": 90_112,
    "Driver Commit": 11_903,
    "Boot Commit": 42_118,
    "PFN Array Commit": 24_577,
    "SmallNonPagedPtesCommit": 190,
    "SlabAllocatorPages": 2_048,
    "System PageTables": 4_114,
    "ProcessLockedFilePages": 77,
    "Pagefile Hash Pages": 1_024,
    "Process Commit": 9_950,
    "Committed pages": 265_500,
    "Commit limit": 2_621_087,
    "Peak Commitment": 301_114,
    "Commit limit maximum": 8_388_608,
    "System PTE failures": 0,
    "Kernel stack PTE failures": 0,
    "Commit charge failures": 0,
}


def test_the_debuggers_text(sample, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.vm"))
    assert shown[:9] == [
        "Page File: \\??\\C:\\pagefile.sys",
        "  Current:   2097152 Kb  Free Space:   2000576 Kb",
        "  Minimum:   2097152 Kb  Maximum:      6291456 Kb",
        "Page File: \\??\\C:\\swapfile.sys",
        "  Current:     16384 Kb  Free Space:     16376 Kb",
        "  Minimum:     16384 Kb  Maximum:     12582912 Kb",
        "",
        "Physical Memory:          2096799 (    8387196 Kb)",
        "Available Pages:          1127091 (    4508364 Kb)",
    ]
    assert "Free System PTEs:        33548499 (  134193996 Kb)" in shown
    assert "SmallNonPagedPtesCommit:      190 (        760 Kb)" in shown
    # 265,500 committed, less 202,287 of the system and 7,844 of the processes
    assert "Misc/Transient Commit:      55369 (     221476 Kb)" in shown
    assert not any(line.startswith(("Special Pool", "Locked IO", "NOTE", "*")) for line in shown)
    start = shown.index("1e90 notepad.exe             3452 (      13808 Kb)")
    assert shown[start - 1] == ""
    assert shown[start + 1] == "1c58 notmyfault64.exe         822 (       3288 Kb)"
    assert len(shown) == start + 10
    assert lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.vm", "--no-processes")) == shown[: start - 1]


def test_rows(sample, run_plugin) -> None:
    finished = run_plugin("-q", "-f", sample(), "-r", "json", "kdump.vm")
    assert finished.returncode == 0, finished.stderr
    table = parsed(finished.stdout)
    first = table[0]
    assert (first["Kind"], first["Name"], first["Pages"]) == ("page file", "\\??\\C:\\pagefile.sys", 524_288)
    sizes = [first[f"{name}Pages"] for name in ("Free", "Minimum", "Maximum", "Peak")]
    assert sizes == [500_144, 524_288, 1_572_864, 31_020]
    assert table[1]["Kind"] == "working set swap"
    by_name = {row["Name"]: row for row in table}
    assert by_name["Available Pages"]["Kilobytes"] == 4_508_364
    assert by_name["Available Pages"]["Source"] == "nt!MiSystemPartition.Vp.AvailablePages"
    assert by_name["System PTE failures"]["Count"] == 0
    assert by_name["System PTE failures"]["Pages"] is None
    assert (by_name["Special Pool"]["Pages"], by_name["Special Pool"]["Notes"]) == (None, "not in this kernel")
    processes = [row for row in table if row["Kind"] == "process"]
    assert [row["Pages"] for row in processes] == sorted((row["Pages"] for row in processes), reverse=True)
    assert (processes[0]["Pid"], processes[0]["Process"]) == (0x1E90, 0xFFFF9189527E9080)


def test_every_kernel(isf_path: Path, sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path), isf_file=isf_path)
    assert target.nt is not None
    use = memory_use(target)
    lacking = next(names for size, names in LACKING if target.nt.size_of("_EPROCESS") <= size) | NOWHERE
    sums = {"Sum System Commit", "Total Private", "Misc/Transient Commit"}
    found = {label: counter.value for label, counter in use.counters.items() if label not in sums}
    pools = [found.pop(label) for label in list(found) if label.startswith("PagedPool ") and label[10].isdigit()]
    # segment heaps have no descriptors
    descriptors = target.nt.has_type("_POOL_DESCRIPTOR") and target.nt.has("_POOL_DESCRIPTOR", "ListHeads")
    assert pools == ([40_000, 12_388, 12_388, 12_388, 12_388] if descriptors else [])
    assert found == {**{label: VALUES[label] for label in VALUES if label not in lacking}, **dict.fromkeys(lacking)}
    assert {label for label, counter in use.counters.items() if counter.reason == "not in this kernel"} == lacking
    consumers = [item.value or 0 for item in use.counters.values() if item.definition.group == "commit"]
    assert use.value("Sum System Commit") == sum(consumers)
    assert use.value("Total Private") == sum(process.pages or 0 for process in use.processes) == 7_844
    # On Windows 7, paged pool is a consumer: here the made numbers come to more than what is committed.
    rest = 265_500 - sum(consumers) - 7_844
    assert use.value("Misc/Transient Commit") == (rest if rest >= 0 else None)
    assert [(item.name, item.kind, item.size, item.peak, item.number) for item in use.files] == [
        ("\\??\\C:\\pagefile.sys", "file", 524_288, 31_020, 0),
        (
            "\\??\\C:\\swapfile.sys",
            "working set swap" if target.nt.has("_MMPAGING_FILE", "WsSwapPagefile") else "file",
            4_096,
            2,
            1,
        ),
    ]
    assert (use.warnings, use.problems) == ([], [])
    shown = list(text.lines(use, False, True))
    assert not any(line.startswith(tuple(f"{label}:" for label in lacking)) for line in shown)


@pytest.mark.parametrize("number", only((1,), (1, 12)))
def test_the_host_reads_the_same(isf_paths: list[Path], sample, number: int) -> None:
    """The host's objects over the structures, on its own layers."""
    path = sample(1, isf_paths[number])
    nt = host_kernel(path, isf_paths[number])
    values = memory_counters.read_counters(volatility3_kdump.open(path, isf_file=isf_paths[number]))
    compared = 0
    for counter in values.values():
        for place in counter.definition.places:
            if counter.value is None or place.type_name is None or not nt.has_symbol(place.symbol):
                continue
            value = nt.object(place.type_name, offset=nt.get_symbol(place.symbol).address)
            try:
                for name in place.path.split("."):
                    value = getattr(value, name)
            except AttributeError:
                continue
            assert counter.value == (sum(value) if counter.label == "Commit charge failures" else int(value))
            compared += 1
            break
    assert compared > 25


def test_without_symbols(isf_paths: list[Path], sample, tmp_path: Path) -> None:
    """KDDEBUGGER_DATA64 names the variables of Windows 7; later kernels have no variables to name."""
    oldest = next(path for path in isf_paths if load_table_file(path).size_of("_EPROCESS") == 0x4F8)
    use = memory_use(volatility3_kdump.open(sample(6, oldest)))
    known = {label: counter.value for label, counter in use.counters.items() if counter.value is not None}
    # With types of a sibling the processes can be listed, and what they own summed up.
    summed = known.pop("Total Private", None)
    assert summed is None or summed == sum(process.pages or 0 for process in use.processes)
    assert known == {label: VALUES[label] for label in known}
    assert {"Physical Memory", "Available Pages", "Modified Pages", "Commit limit", "Driver Commit"} < known.keys()
    assert use.counters["Free System PTEs"].reason == "needs the kernel's symbols"
    assert use.problems[0] == "page files: needs the kernel's symbols"


def test_no_counter_at_all(sample, run_plugin, isf_paths: list[Path]) -> None:
    newest = next(path for path in isf_paths if load_table_file(path).size_of("_EPROCESS") == 0xBC0)
    finished = run_plugin("-q", "-f", sample(6, newest), "kdump.vm")
    if "Physical Memory" not in finished.stdout:
        assert finished.returncode == 1
        assert "the memory manager's counters need symbols" in finished.stderr


def test_paged_pools(isf_paths: list[Path], sample, tmp_path: Path) -> None:
    oldest = next(path for path in isf_paths if load_table_file(path).size_of("_EPROCESS") == 0x4F8)
    path = sample(6, oldest)
    target = volatility3_kdump.open(path, isf_file=oldest)
    shown = list(text.lines(memory_use(target), False, False))
    position = shown.index("PagedPool 0 Usage:          40000 (     160000 Kb)")
    assert shown[position + 1] == "PagedPool 1 Usage:          12388 (      49552 Kb)"
    assert shown[position + 5].startswith("PagedPool Usage: ")
    table, count = target.symbol("ExpPagedPoolDescriptor"), target.symbol("ExpNumberOfPagedPools")
    assert table is not None and count is not None
    changes = {table: struct.pack("<QQ", 0xFFFFF00000001000, 0), count: struct.pack("<I", 0xFFFFFFFF)}
    found = memory_counters.paged_pools(edited(target, path, tmp_path / "x.dmp", changes, isf_file=oldest))
    assert (found[0].label, found[0].reason) == ("PagedPool 0 Usage", "its descriptor is not in the dump")
    assert len(found) < 66


# what is running out --------------------------------------------------------------------------------------------------


def use_of(tmp_path: Path, **changes) -> tuple:
    """The counters of a machine whose memory is used in another way."""
    plain = MemoryUse()
    counters = {**plain.counters, **changes.pop("counters", {})}
    scene = dataclasses.replace(high_irql_fault(), memory_use=dataclasses.replace(plain, counters=counters, **changes))
    path = tmp_path / "x.dmp"
    write_scene(path, scene, load_table_file(kernel_table_path()))
    use = memory_use(volatility3_kdump.open(path))
    return use, list(text.lines(use, False, False))


def test_pools_and_ptes_run_out(tmp_path: Path) -> None:
    pools = {"nonpaged pool": 1_341_952, "paged pool": 3_435_973_837}
    use, shown = use_of(tmp_path, counters={**pools, "stack pte failures": 351_175, "system pte failures": 2})
    assert [item.rule for item in use.warnings] == [
        "nonpaged-pool",
        "paged-pool",
        "system-ptes",
        "kernel-stack-ptes",
    ]
    position = next(index for index, line in enumerate(shown) if line.startswith("Free System PTEs"))
    assert shown[position + 1 : position + 3] == [
        "******* 2 system PTE allocations have failed ******",
        "******* 351175 kernel stack PTE allocations have failed ******",
    ]
    assert "********** Excessive NonPaged Pool Usage *****" in shown
    assert "********** Excessive Paged Pool Usage *****" in shown


def test_pools_just_below_the_limit(tmp_path: Path) -> None:
    use, _ = use_of(tmp_path, counters={"nonpaged pool": 1_341_951, "paged pool": 3_435_973_836})
    assert use.warnings == []


def test_commit_and_memory_run_out(tmp_path: Path) -> None:
    full = PageFile("\\??\\D:\\pagefile.sys", 1_000, 49, 100, 1_000, 951)
    store = PageFile("", 8_000, 10, 8_000, 9_000, 1)
    use, shown = use_of(
        tmp_path,
        counters={"committed": 2_490_033},
        lists={"Zeroed": 10, "Free": 20_937, "Standby": 20, "Modified": 1, "ModifiedNoWrite": 0, "Bad": 0},
        commit_failures=(1, 0, 2, 4),
        page_files=(full, store),
    )
    rules = ["commit-failures", "commit-limit", "available-pages", "page-file"]
    assert [item.rule for item in use.warnings] == rules
    assert "******* 7 commit requests have failed ******" in shown
    assert shown[-1] == "********** Page file \\??\\D:\\pagefile.sys is full and cannot grow ********"
    assert shown[3] == "No Name for Paging File (virtual store: compressed in memory, no file)"
    assert use.files[1].kind == "virtual store"


def test_no_paging_file(tmp_path: Path) -> None:
    use, shown = use_of(tmp_path, page_files=())
    assert shown[0] == "No paging files"
    assert use.problems == []


# what is not there ----------------------------------------------------------------------------------------------------


def test_small_memory_dumps_against_their_bytes(shared_data: Path) -> None:
    """DUMP_MM_STORAGE stands at 0x2080: seven counters from offset 0x18."""
    labels = (
        *("NonPagedPool Max", "NonPagedPool Usage", "PagedPool Maximum", "PagedPool Usage"),
        *("Committed pages", "Peak Commitment", "Commit limit maximum"),
    )
    seen = 0
    for path in sorted((shared_data / "dumps").glob("triage_*.dmp")):
        data = path.read_bytes()
        assert struct.unpack_from("<I", data, 0x2014) == (0x2080,)
        stored = struct.unpack_from("<7Q", data, 0x2098)
        use = memory_use(volatility3_kdump.open(path))
        assert tuple(use.value(label) or 0 for label in labels) == stored
        assert all(use.value(label) is None for label in use.counters if label not in labels)
        seen += any(stored)
    assert seen >= 2


def test_a_small_memory_dump_says_what_cannot_be_there(shared_data: Path, run_plugin) -> None:
    shown = lines(run_plugin("-q", "-f", shared_data / "dumps" / "triage_x64_17763.dmp", "-r", "windbg", "kdump.vm"))
    assert shown[1] == "NonPagedPool Usage:         13016 (      52064 Kb)"
    assert shown[-1] == text.SMALL_DUMP
    assert len(shown) == 10


def test_pages_of_the_counters_that_are_not_there(sample, tmp_path: Path) -> None:
    path = sample()
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    partition, session = target.symbol("MiSystemPartition"), 0xFFFFC30150002000
    assert partition is not None
    gone = partition + target.nt.offset("_MI_PARTITION", "Vp.TotalCommittedPages")
    use = memory_use(edited(target, path, tmp_path / "x.dmp", absent=[gone, session]))
    assert use.value("Committed pages") is None
    assert "not mapped" in (use.counters["Committed pages"].reason or "")
    assert "the session at ffffc30150002000" in (use.counters["Session Commit"].reason or "")
    assert use.counters["Misc/Transient Commit"].reason == "one of the sums is not known"
    shown = list(text.lines(use, False, False))
    assert any(line.startswith("Committed pages:                ? (not mapped") for line in shown)
    assert use.value("NonPagedPool Usage") == 61_234


def test_damaged_counters_and_page_files(sample, tmp_path: Path) -> None:
    path = sample()
    target = volatility3_kdump.open(path)
    nt, partition = target.nt, target.symbol("MiSystemPartition")
    assert nt is not None and partition is not None

    def at(field: str) -> int:
        return partition + nt.offset("_MI_PARTITION", field)

    use = memory_use(
        edited(
            target,
            path,
            tmp_path / "x.dmp",
            {
                at("Vp.AvailablePages"): struct.pack("<q", -7),
                at("Vp.ResidentAvailablePages"): struct.pack("<q", -7),
                at("Vp.NumberOfPhysicalPages"): struct.pack("<Q", 1_000),
                at("Vp.NumberOfPagingFiles"): struct.pack("<I", 400),
            },
        )
    )
    assert use.counters["Available Pages"].reason == "the counter holds -7, which is no number of pages"
    assert use.value("ResAvail Pages") == -7
    assert "page files: the kernel counts 400, but its table holds 16 at most" in use.problems
    assert any(problem.startswith("page file 2: its entry") for problem in use.problems)
    assert len(use.files) == 2
    assert "Physical Memory is 1000 pages, but the runs of nt!MmPhysicalMemoryBlock have 2096799" in use.problems
    assert list(text.lines(use, False, False))[-1].startswith("NOTE: ")


def test_processes_that_cannot_be_read(sample, tmp_path: Path) -> None:
    path = sample()
    target = volatility3_kdump.open(path)
    assert target.nt is not None
    gone = 0xFFFF91894F200080 + target.nt.offset("_EPROCESS", "CommitCharge")
    use = memory_use(edited(target, path, tmp_path / "x.dmp", absent=[gone]))
    assert use.value("Total Private") is None
    assert use.processes[-1].pages is None
    assert any("of 10 processes is not known" in problem for problem in use.problems)
