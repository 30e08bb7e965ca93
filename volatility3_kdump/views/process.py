"""Rows of ``kdump.process``."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import processes as text
from volatility3_kdump.text.times import filetime
from volatility3_kdump.views.cells import joined, moment, number, optional, seconds
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.views.grid import text as text_cell
from volatility3_kdump.views.thread import (
    FRAME_COLUMNS,
    NO_FRAME,
    NO_THREAD,
    THREAD_COLUMNS,
    frame_cells,
    stack_of,
    thread_cells,
    thread_lines,
)
from volatility3_kdump.windows.processes import processes
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.processes.crossview import CrossView, cross_view
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.threads import Thread, read_thread
from volatility3_kdump.windows.processes.user_mode import UserMode, read_user_mode
from volatility3_kdump.windows.stacks.frames import Stack

#: Levels of detail: KD's flags of ``!process``. 1 adds statistics, 2 threads with what they wait for, 4 stacks.
DETAILS = (0, 1, 3, 7)
STATISTICS, THREADS, STACKS = 1, 2, 4

_COLUMNS: list[tuple[str, type]] = [
    ("Process", format_hints.Hex),
    ("PID", int),
    ("PPID", int),
    ("Image", str),
    ("Session", int),
    ("Threads", int),
    ("Handles", int),
    ("Peb", format_hints.Hex),
    ("DirectoryTableBase", format_hints.Hex),
    ("ObjectTable", format_hints.Hex),
    ("Wow64", bool),
    ("State", str),
    ("CreateTime", datetime.datetime),
    ("ExitTime", datetime.datetime),
    ("ImagePath", str),
    ("MissingFrom", str),
    ("Notes", str),
]
_STATISTICS_COLUMNS: list[tuple[str, type]] = [
    ("ElapsedTime", float),
    ("UserTime", float),
    ("KernelTime", float),
    ("ExitStatus", format_hints.Hex),
    ("Token", format_hints.Hex),
    ("DeviceMap", format_hints.Hex),
    ("VadRoot", format_hints.Hex),
    ("Vads", int),
    ("CloneRoot", format_hints.Hex),
    ("PrivatePages", int),
    ("ModifiedPages", int),
    ("LockedPages", int),
    ("PagedQuota", int),
    ("NonPagedQuota", int),
    ("WorkingSetPages", int),
    ("MinimumWorkingSetPages", int),
    ("MaximumWorkingSetPages", int),
    ("PeakWorkingSetPages", int),
    ("VirtualSize", int),
    ("PeakVirtualSize", int),
    ("PageFaults", int),
    ("MemoryPriority", str),
    ("BasePriority", int),
    ("CommitPages", int),
    ("DebugPort", format_hints.Hex),
    ("Job", format_hints.Hex),
    ("ImageBase", format_hints.Hex),
    ("CommandLine", str),
    ("LoadedDlls", str),
    ("UserMode", str),
]
_SHORT_NAME = 14


class Processes:
    """Which processes ``kdump.process`` shows: those that fit everything that is given; by default all.

    ``names`` are parts of image names; with ``whole`` they are whole ones.
    """

    def __init__(
        self,
        addresses: Sequence[int] = (),
        pids: Sequence[int] = (),
        names: Sequence[str] = (),
        whole: bool = False,
    ) -> None:
        self.whole = whole
        self.addresses = list(addresses)
        self.pids = list(pids)
        self.names = [name.lower() for name in names]

    @property
    def all(self) -> bool:
        """Whether nothing is asked for in particular."""
        return not (self.addresses or self.pids or self.names)

    def fits(self, process: Process) -> bool:
        """Whether a process of the list is asked for."""
        if self.pids and process.pid not in self.pids:
            return False
        known = [name.lower() for name in (process.name, process.image_name) if name]
        if self.whole:
            # EPROCESS.ImageFileName holds the first 14 characters.
            known += [wanted for wanted in self.names if (process.image_name or "?").lower() == wanted[:_SHORT_NAME]]
            return not self.names or any(wanted in known for wanted in self.names)
        return not self.names or any(wanted in name for wanted in self.names for name in known)


class Listing:
    """The chosen processes, with what the views of them have in common. Everything is read when first asked for."""

    def __init__(self, target: Target, chosen: Processes, progress: Progress | None = None) -> None:
        self.target = target
        self.chosen = chosen
        self.progress = progress
        #: Gaps in the lists themselves, one line each.
        self.problems: list[str] = []
        self.cross: CrossView | None = None
        self.processes = self._find()
        if not self.processes and not (chosen.all and self.problems):
            raise KdumpError(f"{target.name}: no process found: {self._why_none()}")

    def _find(self) -> list[Process]:
        target = self.target
        if self.chosen.addresses:
            return [read_process(target, found) for found in self.chosen.addresses]
        self.cross = cross_view(target)
        addresses: Sequence[int]
        if self.cross is not None:
            addresses, problems = self.cross.order, self.cross.problems
        else:
            walk = processes.walk_processes(target)
            addresses, problems = walk.entries, walk.problems
        if target.dump.triage is not None:
            addresses, problems = self._of_triage(addresses)
        self.problems += problems
        if 0 in self.chosen.pids:
            # The idle process is in no list.
            variable = target.symbol("PsIdleProcess")
            idle = target.memory.pointer(variable) if variable is not None else None
            addresses = [*addresses, *([idle] if idle and target.is_kernel_address(idle) else [])]
        found = []
        for index, process in enumerate(addresses):
            if self.progress is not None and index % 64 == 0:
                self.progress(100 * index / len(addresses), "Reading processes")
            value = read_process(target, process)
            if self.chosen.fits(value):
                found.append(value)
        return found

    def _of_triage(self, listed: Sequence[int]) -> tuple[list[int], tuple[str, ...]]:
        """A small memory dump copies one process; the list's neighbours of it are not there."""
        crashed = crash_process(self.target)
        there = [process for process in listed if self.target.memory.read(process, 1) is not None]
        if crashed is not None and crashed.address not in there:
            there.insert(0, crashed.address)
        words = "a small memory dump holds the process that crashed: the others are not in the dump"
        return there, (words if there else f"{words}, and neither is that one",)

    def _why_none(self) -> str:
        target = self.target
        if target.dump.triage is not None:
            return "a small memory dump holds the process that crashed, and no others"
        if self.problems:
            return self.problems[0]
        if self.chosen.all:
            return f"the process list is empty ({target.symbol_status})"
        return "none is like that"

    def missing(self, process: Process) -> tuple[str, ...]:
        """The places where a process should have been found."""
        return self.cross.missing_from(process) if self.cross is not None else ()

    def threads(self, process: Process) -> tuple[list[Thread], tuple[str, ...]]:
        """The threads of a process, and what is wrong with their list."""
        target = self.target
        if target.dump.triage is not None:
            thread = crash_thread(target)
            note = "the other threads are not in the dump"
            return ([thread] if thread is not None and thread.process == process.address else []), (note,)
        walk = processes.walk_threads(target, process.address)
        return [read_thread(target, thread) for thread in walk.entries], walk.problems

    def user_mode(self, process: Process) -> UserMode:
        """What its user-mode pages say."""
        return read_user_mode(self.target, process)


def process_grid(target: Target, chosen: Processes, detail: int, progress: Progress | None = None) -> KdumpGrid:
    """The chosen processes as rows; threads are rows below theirs, and frames below those, as ``detail`` asks."""
    listing = Listing(target, chosen, progress)
    columns = list(_COLUMNS)
    if detail & STATISTICS:
        columns += _STATISTICS_COLUMNS
    if detail & THREADS:
        columns += THREAD_COLUMNS
    if detail & STACKS:
        columns += FRAME_COLUMNS
    return KdumpGrid(columns, _rows(listing, detail), lambda: _kd_lines(listing, detail))


def _steps(listing: Listing, what: str) -> Iterator[Process]:
    for index, process in enumerate(listing.processes):
        if listing.progress is not None and len(listing.processes) > 1:
            listing.progress(100 * index / len(listing.processes), what)
        yield process


# rows -----------------------------------------------------------------------------------------------------------------


def _rows(listing: Listing, detail: int) -> Iterator[Row]:
    target = listing.target
    statistics = (absent(),) * (len(_STATISTICS_COLUMNS) if detail & STATISTICS else 0)
    no_thread = NO_THREAD if detail & THREADS else ()
    no_frame = NO_FRAME if detail & STACKS else ()
    for process in _steps(listing, "Reading threads"):
        cells = _process_cells(listing, process)
        threads: list[Thread] = []
        if detail & THREADS:
            threads, problems = listing.threads(process)
            cells = (*cells[:-1], joined([*process.notes, *problems]))
        if detail & STATISTICS:
            cells += _statistics_cells(listing, process)
        yield 0, (*cells, *no_thread, *no_frame)
        head = (*cells[:2], absent(), cells[3], *((absent(),) * (len(_COLUMNS) - 4)), *statistics)
        for thread in threads:
            yield 1, (*head, *thread_cells(target, thread), *no_frame)
            if detail & STACKS:
                for frame in frame_cells(target, stack_of(target, thread)):
                    yield 2, (*head, *NO_THREAD, *frame)
    for problem in listing.problems:
        blank = (absent(),) * (len(_COLUMNS) - 1)
        yield 0, (*blank, problem, *statistics, *no_thread, *no_frame)


def _process_cells(listing: Listing, process: Process) -> tuple[Any, ...]:
    session = absent() if process.session_space == 0 else number(process.session)
    missing = listing.missing(process)
    where = ""
    if missing and listing.cross is not None:
        where = f"{', '.join(missing)}; seen in {', '.join(listing.cross.seen_in(process.address))}"
    return (
        format_hints.Hex(process.address),
        number(process.pid),
        number(process.parent),
        text_cell(process.name),
        session,
        number(process.active_threads),
        number(process.handle_count),
        optional(process.peb),
        address(process.directory_table_base),
        optional(process.object_table),
        text_cell(None) if process.wow64 is None else process.wow64 != 0,
        text_cell(process.state),
        moment(process.create_time),
        moment(process.exit_time),
        process.image_path or absent() if process.present else text_cell(None),
        where or absent(),
        joined(process.notes),
    )


def _statistics_cells(listing: Listing, process: Process) -> tuple[Any, ...]:
    user = listing.user_mode(process)
    return (
        seconds(process.elapsed(listing.target.header.system_time)),
        seconds(process.user_time),
        seconds(process.kernel_time),
        address(process.exit_status),
        optional(process.token),
        optional(process.device_map),
        optional(process.vad_root),
        number(process.vad_count),
        optional(process.clone_root),
        number(process.private_pages),
        number(process.modified_pages),
        number(process.locked_pages),
        number(process.paged_quota),
        number(process.nonpaged_quota),
        number(process.working_set),
        number(process.minimum_working_set),
        number(process.maximum_working_set),
        number(process.peak_working_set),
        number(process.virtual_size),
        number(process.peak_virtual_size),
        number(process.page_faults),
        text_cell(text.memory_priority(process)),
        number(process.base_priority),
        number(process.commit_charge),
        optional(process.debug_port),
        optional(process.job),
        optional(process.image_base),
        text_cell(user.command_line),
        ", ".join(module.name or f"{module.base:#x}" for module in user.modules) if user.modules else text_cell(None),
        user.absent or absent(),
    )


# text -----------------------------------------------------------------------------------------------------------------


def _kd_lines(listing: Listing, detail: int) -> Iterator[str]:
    size = listing.target.memory.pointer_size
    if listing.chosen.all:
        yield text.ALL
    for process in _steps(listing, "Reading threads"):
        yield from text.header(process, size)
        if detail & STATISTICS and process.present:
            yield from text.statistics(process, listing.target.header.system_time, size)
        yield from text.notes(process.notes)
        missing = listing.missing(process)
        if missing and listing.cross is not None:
            seen = ", ".join(listing.cross.seen_in(process.address)) or "nowhere"
            yield from text.notes((f"missing from {', '.join(missing)}; seen in {seen}",))
        yield ""
        if detail & THREADS:
            yield from _thread_lines(listing, process, detail)
    yield from text.notes(tuple(listing.problems), "")


def _thread_lines(listing: Listing, process: Process, detail: int) -> Iterator[str]:
    threads, problems = listing.threads(process)
    if not threads and not problems:
        yield text.INDENT + text.NO_THREADS
        yield ""
    for thread in threads:
        stack: Stack | None = stack_of(listing.target, thread) if detail & STACKS else None
        yield from thread_lines(
            listing.target, thread, process, text.INDENT, bool(detail & STATISTICS and detail & STACKS), stack
        )
    yield from text.notes(problems, text.INDENT)


# timeline -------------------------------------------------------------------------------------------------------------


def events(target: Target) -> Iterator[tuple[str, bool, datetime.datetime]]:
    """(description, whether it is the creation, time) of every process that was created or exited."""
    for process in Listing(target, Processes()).processes:
        title = (
            f"Process: {process.pid if process.pid is not None else '?'} {process.name or '?'} ({process.address:x})"
        )
        created, exited = filetime(process.create_time), filetime(process.exit_time)
        if created is not None:
            yield title, True, created
        if exited is not None:
            yield title, False, exited
