"""The paging files of the kernel, as its table of them says (_MMPAGING_FILE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.windows.memory.memory_counters import MOST_PAGES, NEEDS_SYMBOLS, NOT_IN_KERNEL, NOT_IN_SMALL_DUMP
from volatility3_kdump.windows.structures import read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_PAGE_FILES = 16


@dataclass(frozen=True)
class PageFile:
    """A paging file (_MMPAGING_FILE). Sizes are pages; ``None`` is not in the dump, or not in this kernel.

    ``kind`` is ``file``, ``virtual store`` (no file: pages compressed in memory) or ``working set swap`` (swapfile.sys,
    for the working sets of suspended applications); ``name`` is empty where the kernel has none.
    """

    address: int
    number: int | None
    name: str | None
    kind: str
    size: int | None
    free: int | None
    minimum: int | None
    maximum: int | None
    peak: int | None


def page_files(target: Target) -> tuple[list[PageFile], list[str]]:
    """The paging files in order, and what is wrong with their table, a line each."""
    nt = target.nt
    if target.dump.triage is not None:
        return [], [f"page files: {NOT_IN_SMALL_DUMP}"]
    if nt is None or not nt.has_type("_MMPAGING_FILE"):
        return [], [f"page files: {NEEDS_SYMBOLS}"]
    located = _page_file_table(target)
    if located is None:
        return [], [f"page files: {NOT_IN_KERNEL if target.has_names else NEEDS_SYMBOLS}"]
    table, count_at, most = located
    count = target.memory.unsigned(count_at, 4)
    if count is None:
        return [], [f"page files: {target.memory.why_unreadable(count_at)}"]
    problems = []
    if count > most:
        problems.append(f"page files: the kernel counts {count}, but its table holds {most} at most")
    files = []
    for index in range(min(count, most)):
        address = target.memory.pointer(table + index * target.memory.pointer_size)
        if address is None or not target.is_kernel_address(address):
            problems.append(f"page file {index}: its entry in the table is not in the dump or no kernel address")
            continue
        row = _page_file(target, address)
        if row is None:
            problems.append(f"page file {index} at {address:x}: {target.memory.why_unreadable(address)}")
        else:
            files.append(row)
    return files, problems


def _page_file_table(target: Target) -> tuple[int, int, int] | None:
    """(address of the pointers, address of their number, how many fit)."""
    nt, partition = target.nt, target.symbol("MiSystemPartition")
    if nt is not None and partition is not None and nt.has("_MI_PARTITION", "Vp.PagingFile"):
        field = nt.field("_MI_PARTITION", "Vp.PagingFile")
        number = nt.offset("_MI_PARTITION", "Vp.NumberOfPagingFiles")
        return partition + field.offset, partition + number, min(field.count or 0, _MOST_PAGE_FILES)
    table = target.symbol("MmPagingFile")
    count = target.variable("MmNumberOfPagingFiles", "MmNumberOfPagingFiles")
    return (table, count, _MOST_PAGE_FILES) if table is not None and count is not None else None


def _page_file(target: Target, address: int) -> PageFile | None:
    nt = target.nt
    assert nt is not None
    reader = nt.reader(
        "_MMPAGING_FILE",
        size="Size",
        free="FreeSpace",
        minimum="MinimumSize",
        maximum="MaximumSize",
        peak="PeakUsage",
        number="PageFileNumber",
        name="PageFileName.Length",
    )
    row = read_row(target.memory, reader, address)
    if row is None:
        return None
    flags = nt.reader("_MMPAGING_FILE", store="VirtualStorePagefile")
    swap = nt.reader("_MMPAGING_FILE", swap="WsSwapPagefile")
    stored = read_row(target.memory, flags, address) if flags.size else None
    swapped = read_row(target.memory, swap, address) if swap.size else None
    kind = "virtual store" if stored and stored.store else "working set swap" if swapped and swapped.swap else "file"
    name = target.memory.unicode_string(address + nt.offset("_MMPAGING_FILE", "PageFileName"))
    sizes = (_pages(value) for value in (row.size, row.free, row.minimum, row.maximum, row.peak))
    return PageFile(address, row.number, name, kind, *sizes)


def _pages(value: int | None) -> int | None:
    return None if value is None or value > MOST_PAGES else value
