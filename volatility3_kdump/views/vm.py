"""Rows of ``kdump.vm``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from volatility3_kdump.errors import KdumpError, SymbolsNotFound
from volatility3_kdump.findings.kernel_space import kernel_space, usage
from volatility3_kdump.findings.memory_use import MemoryUse, ProcessCommit, Warning, memory_use
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import vm as text
from volatility3_kdump.text.regions import usage_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, PAGES, Column, table
from volatility3_kdump.views.thread import thread_lines
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer, every_thread
from volatility3_kdump.windows.listing.working_sets import working_set_owners
from volatility3_kdump.windows.memory.memory_counters import Counter
from volatility3_kdump.windows.memory.page_file_log import page_file_writes
from volatility3_kdump.windows.memory.page_files import PageFile
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import read_process

_KILOBYTES = 4
_SYSTEM = 4
#: Where threads of memory management begin: its own routines, the balance set manager, the swapper.
_MEMORY_ROUTINES = ("nt!Mi", "nt!Mm", "nt!KeBalanceSetManager", "nt!KeSwapProcessOrStack")


def _of_file(name: str, says: str, get: Callable[[PageFile], int | None]) -> Column[Any]:
    return Column(name, PAGES, f"{says} of a paging file (_MMPAGING_FILE)", {PageFile: get})


def _unit(counter: Counter, pages: bool, value: object) -> object:
    """A value for a counter of pages, or one for another counter."""
    return value if (counter.definition.unit == "pages") == pages else BLANK


def _kilobytes(pages: int | None) -> int | None:
    return None if pages is None else pages * _KILOBYTES


VM = table(
    "kdump.vm",
    keys.KIND(
        {
            PageFile: lambda file: "page file" if file.kind == "file" else file.kind,
            Counter: lambda counter: counter.definition.group,
            Warning: lambda warning: "warning",
            ProcessCommit: lambda process: "process",
        },
        "see below",
    ),
    keys.NAME(
        {
            PageFile: lambda file: BLANK if file.name == "" else file.name,
            Counter: lambda counter: counter.label,
            Warning: lambda warning: warning.rule,
            ProcessCommit: lambda process: process.name,
        },
        "the counter by the debugger's word, the paging file, the process's image, or the rule of a warning",
    ),
    keys.PAGES(
        {
            PageFile: lambda file: file.size,
            Counter: lambda counter: _unit(counter, True, counter.value),
            ProcessCommit: lambda process: process.pages,
        },
        "the counter's value, the current size of a paging file, the commit of a process",
    ),
    keys.KILOBYTES(
        {
            PageFile: lambda file: _kilobytes(file.size),
            Counter: lambda counter: _unit(counter, True, _kilobytes(counter.value)),
            ProcessCommit: lambda process: _kilobytes(process.pages),
        }
    ),
    keys.COUNT({Counter: lambda counter: _unit(counter, False, counter.value)}, "of counters that count no pages"),
    keys.PID({ProcessCommit: lambda process: process.pid}),
    keys.PROCESS({ProcessCommit: lambda process: process.address}),
    _of_file("FreePages", "unused pages", lambda file: file.free),
    _of_file("MinimumPages", "the least size", lambda file: file.minimum),
    _of_file("MaximumPages", "the largest size", lambda file: file.maximum),
    _of_file("PeakPages", "the most that was used", lambda file: file.peak),
    keys.SOURCE({Counter: lambda counter: counter.source}),
    keys.NOTES(
        {
            Counter: lambda counter: [counter.reason] if counter.reason is not None else BLANK,
            Warning: lambda warning: [warning.text.strip("* ")],
        },
        "why there is no value: `not in this kernel`, `not in small memory dumps`, the page that is not in the dump; "
        "for a warning, what it says",
    ),
)


def vm_grid(target: Target, with_processes: bool = True, progress: Progress | None = None) -> KdumpGrid:
    """A row for each page file, counter and process, and for what is running out.

    Raises :class:`~volatility3_kdump.errors.SymbolsNotFound` where nothing can be read without symbols.
    """
    small = target.dump.triage is not None
    use = memory_use(target, progress)
    if not small and target.nt is None and all(counter.value is None for counter in use.counters.values()):
        raise SymbolsNotFound(f"{target.name}: the memory manager's counters need symbols: {target.symbol_status}")
    return VM.grid(_rows(use, with_processes), lambda: text.lines(use, small, with_processes))


def _rows(use: MemoryUse, with_processes: bool) -> Iterator[Row]:
    processes = use.processes if with_processes else ()
    for record in (*use.files, *use.counters.values(), *use.warnings, *processes):
        yield VM.row(0, record)
    for problem in use.problems:
        yield VM.row(0, Kind="note", Notes=[problem])


def more_vm_lines(target: Target, flags: int, progress: Progress | None = None) -> Iterator[str]:
    """What flags of ``!vm`` add: 2 threads of memory management, 4 sessions, 8 writes to page files, 10 threads that
    own working sets, 20 the kernel's address space. What one of them lacks is a line, and the others follow."""
    if flags & 2:
        yield ""
        for listed in _memory_threads(target, progress):
            yield from thread_lines(target, listed, "", True, True)
    if flags & 8:
        yield ""
        yield from _or_why(lambda: text.page_file_log_lines(page_file_writes(target)))
    if flags & 0x10:
        yield ""
        yield from _or_why(lambda: _owner_lines(target, progress))
    if flags & 4:
        yield ""
        yield "Terminal Server Memory Usage By Session:"
        for number, (count, pages) in sorted(_commit_by_session(target).items()):
            yield ""
            amount = "?" if pages is None else f"{pages} pages ({_kilobytes(pages)} Kb)"
            yield f"Session ID {number:x}: {count} processes, {amount} committed by them"
    if flags & 0x20:
        yield ""
        yield from usage_lines(usage(target, kernel_space(target, progress)))


def _or_why(lines: Callable[[], Iterator[str]]) -> Iterator[str]:
    try:
        yield from lines()
    except KdumpError as error:
        yield f"NOTE: {error}"


def _owner_lines(target: Target, progress: Progress | None) -> Iterator[str]:
    owners = 0
    for listed, held in working_set_owners(target, progress):
        owners += 1
        yield f"{' '.join(held)}:"
        yield from thread_lines(target, listed, "", True, True)
    if not owners:
        yield "No thread that is in the dump owns a working set"


def _memory_threads(target: Target, progress: Progress | None) -> Iterator[ListedThread]:
    """Threads of the process System that begin in the memory manager or swap processes and stacks."""
    if not target.has_names:
        raise SymbolsNotFound(f"{target.name}: threads of memory management need symbols: {target.symbol_status}")
    namer = ThreadNamer(target)
    for thread in every_thread(target, {_SYSTEM}, progress):
        listed = namer.named(thread)
        if (listed.start_symbol or "").startswith(_MEMORY_ROUTINES):
            yield listed


def _commit_by_session(target: Target) -> dict[int, tuple[int, int | None]]:
    """The number and the commit in pages of the processes of each session, ``None`` where one is not in the dump."""
    sessions: dict[int, tuple[int, int | None]] = {}
    for address in process_addresses(target):
        process = read_process(target, address)
        if process.session is not None:
            count, pages = sessions.get(process.session, (0, 0))
            charged = pages is not None and process.commit_charge is not None
            sessions[process.session] = count + 1, (pages or 0) + (process.commit_charge or 0) if charged else None
    return sessions
