"""Counters of the memory manager, in every place where the kernel at hand keeps them.

Kernels since Windows 10 1607 have them in MiSystemPartition and MiState, earlier ones in variables.
"""

from __future__ import annotations

from collections.abc import Mapping

from kdump_sample.lists import session_space
from kdump_sample.memory_use import PageFile
from kdump_sample.processors import Processors
from kdump_sample.structures import Value
from kdump_sample.workspace import Workspace

#: By name: a field of _MI_PARTITION or of _MI_SYSTEM_INFORMATION, and the variables of earlier kernels with their size.
PARTITION: dict[str, str] = {
    "resident available": "Vp.ResidentAvailablePages",
    "paging file": "Vp.TotalPagesForPagingFile",
    "shared commit": "Vp.SharedCommit",
    "kernel shadow stacks": "Vp.KernelShadowStackPages",
    "awe pages": "Vp.VadPhysicalPages",
    "slab pages": "Vp.SlabAllocatorPages",
    "locked file pages": "Vp.ProcessLockedFilePages",
    "committed": "Vp.TotalCommittedPages",
    "commit limit": "Vp.TotalCommitLimit",
    "peak commitment": "Commit.PeakCommitment",
    "commit limit maximum": "Commit.TotalCommitLimitMaximum",
}
STATE: dict[str, str] = {
    "system ptes": "Vs.SystemPteInfo.TotalSystemPtes",
    "free system ptes": "Vs.SystemPteInfo.TotalFreeSystemPtes",
    "view ptes": "SystemPtes.SystemViewPteInfo.TotalSystemPtes",
    "free view ptes": "SystemPtes.SystemViewPteInfo.TotalFreeSystemPtes",
    "stack ptes": "SystemPtes.KernelStackPteInfo.TotalSystemPtes",
    "free stack ptes": "SystemPtes.KernelStackPteInfo.TotalFreeSystemPtes",
    "nonpaged pool": "Pools.AllocatedNonPagedPool",
    "nonpaged pool maximum": "Vs.MaximumNonPagedPoolInPages",
    "paged pool": "Vs.PagedPoolInfo.AllocatedPagedPool",
    "paged pool maximum": "Vs.SizeOfPagedPoolInPages",
    "shared commit": "Vs.SharedCommit",
    "special pool": "Vs.SpecialPagesInUse",
    "mdl pages": "Vs.MdlPagesAllocated",
    "contiguous pages": "Vs.ContiguousPagesAllocated",
    "partition pages": "Partitions.TotalPagesInChildPartitions",
    "nonpaged pool commit": "Vs.NonPagedPoolCommit",
    "driver commit": "Vs.DriverCommit",
    "boot commit": "Vs.BootCommit",
    "pfn commit": "Vs.PfnDatabaseCommit",
    "small ptes": "Vs.SmallNonPagedPtesCommit",
    "page tables": "Vs.SystemPageTableCommit",
    "hash pages": "Vs.PagefileHashPages",
    "process commit": "Vs.ProcessCommit",
    "system pte failures": "Vs.SystemPteInfo.PteFailures",
    "stack pte failures": "SystemPtes.KernelStackPteInfo.PteFailures",
}
VARIABLES: dict[str, tuple[str, int]] = {
    "resident available": ("MmResidentAvailablePages", 8),
    "paging file": ("MmTotalPagesForPagingFile", 8),
    "nonpaged pool": ("MmAllocatedNonPagedPool", 8),
    "nonpaged pool maximum": ("MmMaximumNonPagedPoolInPages", 8),
    "paged pool maximum": ("MmSizeOfPagedPoolInPages", 8),
    "shared commit": ("MmSharedCommit", 8),
    "special pool": ("MmSpecialPagesInUse", 8),
    "kernel stacks": ("MmKernelStackResident", 8),
    "mdl pages": ("MmMdlPagesAllocated", 8),
    "awe pages": ("MmVadPhysicalPages", 8),
    "paged pool commit": ("MmPagedPoolCommit", 8),
    "driver commit": ("MmDriverCommit", 4),
    "process commit": ("MmProcessCommit", 8),
    "committed": ("MmTotalCommittedPages", 8),
    "commit limit": ("MmTotalCommitLimit", 8),
    "peak commitment": ("MmPeakCommitment", 8),
    "commit limit maximum": ("MmTotalCommitLimitMaximum", 8),
}
_PAGE = 0x1000
_MOST_PAGE_FILES = 16


def write_memory_counters(work: Workspace, processors: Processors) -> None:
    """Counters, page lists' lengths and page files of the scene."""
    use = work.scene.memory_use
    pages = sum(count for _, count in work.scene.memory)
    write_list_lengths(work, use.lists)
    partition = {path: use.counters[name] for name, path in PARTITION.items()}
    partition["Vp.NumberOfPhysicalPages"] = pages
    _fill(work, "MiSystemPartition", "_MI_PARTITION", partition)
    _fill(work, "MiSystemPartition", "_MI_PARTITION", {"Vp.ChargeCommitmentFailures": use.commit_failures})
    _fill(work, "MiState", "_MI_SYSTEM_INFORMATION", {path: use.counters[name] for name, path in STATE.items()})
    for name, (symbol, size) in VARIABLES.items():
        work.variable(symbol, use.counters[name], size)
    work.variable("MmMaximumNonPagedPoolInBytes", use.counters["nonpaged pool maximum"] * _PAGE)
    work.variable("MmSizeOfPagedPoolInBytes", use.counters["paged pool maximum"] * _PAGE)
    work.variable("MiChargeCommitmentFailures", use.commit_failures, 4)
    _fill(work, "MmPagedPoolInfo", "_MM_PAGED_POOL_INFO", {"AllocatedPagedPool": use.counters["paged pool"]})
    for symbol, kind in (("MiSystemPteInfo", "system"), ("MiKernelStackPteInfo", "stack")):
        values = {
            "TotalSystemPtes": use.counters[f"{kind} ptes"],
            "TotalFreeSystemPtes": use.counters[f"free {kind} ptes"],
            "PteFailures": use.counters[f"{kind} pte failures"],
        }
        _fill(work, symbol, "_MI_SYSTEM_PTE_TYPE", values)
    for number, block in enumerate(processors.blocks):
        cached = use.processor_commit[min(number, len(use.processor_commit) - 1)]
        work.structure("_KPRCB", block, {"CachedCommit": cached})
    for session, committed in use.session_commit.items():
        if any(process.session == session for process in work.scene.processes):
            work.structure("_MM_SESSION_SPACE", session_space(work.scene, session), {"CommittedPages": committed})
    _page_files(work, use.page_files)


def write_list_lengths(work: Workspace, lists: Mapping[str, int]) -> None:
    """The lengths of the lists of page frames, and how many pages are available."""
    available = sum(lists[name] for name in ("Zeroed", "Free", "Standby"))
    partition = {"Vp.AvailablePages": available}
    for name, length in lists.items():
        partition.update({f"PageLists.{name}PageListHead.Total": length, f"Vp.{name}PageListHead.Total": length})
        _fill(work, f"Mm{name}PageListHead", "_MMPFNLIST", {"Total": length})
    _fill(work, "MiSystemPartition", "_MI_PARTITION", partition)
    work.variable("MmAvailablePages", available)


def _fill(work: Workspace, symbol: str, type_name: str, values: Mapping[str, Value]) -> None:
    """Store what the structure at a symbol has of some fields: most kernels have only a part of the counters."""
    address = work.symbol(symbol)
    if address is None or not work.layouts.has_type(type_name):
        return
    _fill_at(work, address, type_name, values)


def _fill_at(work: Workspace, address: int, type_name: str, values: Mapping[str, Value]) -> None:
    made = work.structures.at(type_name, address)
    for path, value in values.items():
        if work.layouts.has(type_name, path):
            made.set(path, value)


def _page_files(work: Workspace, files: tuple[PageFile, ...]) -> None:
    addresses = []
    for number, page_file in enumerate(files):
        address = work.pool("nonpaged", work.structures.size("_MMPAGING_FILE"))
        work.zeroed("_MMPAGING_FILE", address)
        values = {
            "Size": page_file.size,
            "FreeSpace": page_file.free,
            "MinimumSize": page_file.minimum,
            "MaximumSize": page_file.maximum,
            "PeakUsage": page_file.peak,
            "PageFileNumber": number,
            "VirtualStorePagefile": not page_file.name,
            "WsSwapPagefile": page_file.swap,
        }
        _fill_at(work, address, "_MMPAGING_FILE", values)
        if page_file.name:
            made = work.structures.at("_MMPAGING_FILE", address)
            made.unicode("PageFileName", page_file.name, work.pool("paged", 2 * len(page_file.name) + 2))
        addresses.append(address)
    _fill(
        work,
        "MiSystemPartition",
        "_MI_PARTITION",
        {
            "Vp.NumberOfPagingFiles": len(addresses),
            "Vp.PagingFile": addresses + [0] * (_MOST_PAGE_FILES - len(addresses)),
        },
    )
    work.variable("MmNumberOfPagingFiles", len(addresses), 4)
    work.variable("MmPagingFile", addresses)


def write_paged_pools(work: Workspace) -> None:
    """The pages of each paged pool, in the descriptors that the pools have made."""
    table = work.symbol("ExpPagedPoolDescriptor")
    if table is None or not work.layouts.has("_POOL_DESCRIPTOR", "ListHeads"):
        return
    freed = 1_000_000
    for index, pages in enumerate(work.scene.memory_use.paged_pools):
        descriptor = int.from_bytes(work.memory.read(table + 8 * index, 8) or b"", "little")
        if descriptor:
            values = {"TotalPages": pages, "PagesAllocated": pages + freed, "PagesDeallocated": freed}
            _fill_at(work, descriptor, "_POOL_DESCRIPTOR", values)
