"""The memory manager's counters in the words and columns of KD's ``!vm``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.findings.memory_use import MemoryUse
from volatility3_kdump.windows.memory.memory_counters import NOT_IN_KERNEL, NOT_IN_SMALL_DUMP, Counter
from volatility3_kdump.windows.memory.page_file_log import PageFileWrite
from volatility3_kdump.windows.memory.page_files import PageFile

_KILOBYTES = 4
#: Behind which row the debugger puts what a rule has to say; the others come last.
_PLACES = {
    "Free System PTEs": ("system-ptes", "kernel-stack-ptes"),
    "NonPagedPool Max": ("nonpaged-pool",),
    "PagedPool Maximum": ("paged-pool",),
    "Available Pages": ("available-pages",),
    "Commit limit": ("commit-limit", "commit-failures"),
}
_PLACED = {rule for rules in _PLACES.values() for rule in rules}

SMALL_DUMP = (
    "A small memory dump holds a few of the counters at most: page lists, page files, the consumers of commit and the "
    "commit of each process cannot be in it."
)


def lines(use: MemoryUse, small: bool, with_processes: bool) -> Iterator[str]:
    """``!vm``. Rows that the kernel does not have are left out; what cannot be read is a question mark."""
    for page_file in use.files:
        yield from _page_file(page_file)
    if not use.files and not use.problems:
        yield "No paging files"
    yield ""
    for counter in use.counters.values():
        if counter.definition.group == "failures" or counter.reason in (NOT_IN_KERNEL, NOT_IN_SMALL_DUMP):
            continue
        yield _counter(counter)
        rules = _PLACES.get(counter.label, ())
        yield from (warning.text for warning in use.warnings if warning.rule in rules)
    yield from (warning.text for warning in use.warnings if warning.rule not in _PLACED)
    if with_processes and use.processes:
        yield ""
        for process in use.processes:
            pid = "????" if process.pid is None else f"{process.pid:04x}"
            yield _row(f"{pid} {process.name or '?'}", process.pages, "its commit is not in the dump")
    if small:
        yield ""
        yield SMALL_DUMP
    elif use.problems:
        yield ""
        yield from (f"NOTE: {problem}" for problem in use.problems)


def _page_file(file: PageFile) -> Iterator[str]:
    if file.name:
        yield f"Page File: {file.name}"
    elif file.kind == "virtual store":
        yield "No Name for Paging File (virtual store: compressed in memory, no file)"
    else:
        yield "No Name for Paging File" if file.name is not None else "Page File: ? (its name is not in the dump)"
    current, free, minimum, maximum = (_kilobytes(v) for v in (file.size, file.free, file.minimum, file.maximum))
    yield f"  Current: {current:>9} Kb  Free Space: {free:>9} Kb"
    yield f"  Minimum: {minimum:>9} Kb  Maximum:    {maximum:>9} Kb"


def _kilobytes(pages: int | None) -> str:
    return "?" if pages is None else str(pages * _KILOBYTES)


def _counter(counter: Counter) -> str:
    return _row(f"{counter.label}:", counter.value, counter.reason or "")


def _row(label: str, pages: int | None, reason: str) -> str:
    shown = "?" if pages is None else str(pages)
    start = f"{label:<20}{shown:>{max(33 - max(len(label), 20), len(shown) + 1)}}"
    return f"{start} ({reason})" if pages is None else f"{start} ({pages * _KILOBYTES:>11} Kb)"


def page_file_log_lines(writes: Sequence[PageFileWrite]) -> Iterator[str]:
    """The last writes to paging files, the newest first; no page shows KD's layout."""
    yield f"Last writes to page files: {len(writes)}"
    if writes:
        yield f"{'Time':>16}  Status   Pri {'Available':>10} {'Modified':>10} {'PageFile':>10} {'NoWrite':>10}"
    for write in writes:
        status = "?" * 8 if write.status is None else f"{write.status & 0xFFFFFFFF:08x}"
        pages = (write.available, write.modified, write.for_files, write.no_write)
        shown = " ".join(f"{'?' if count is None else count:>10}" for count in pages)
        yield f"{write.time:016x}  {status} {'?' if write.priority is None else write.priority:>4} {shown}"
