"""Rows of ``kdump.process``."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import processes as text
from volatility3_kdump.text.times import filetime
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import (
    ADDRESS,
    BLANK,
    BYTES,
    FLAG,
    HEX,
    NUMBER,
    PAGES,
    POINTER,
    SECONDS,
    TEXT,
    TIME,
    Column,
    Missing,
    Part,
    Table,
)
from volatility3_kdump.views.thread import FRAME, THREAD, frame_rows, thread_lines
from volatility3_kdump.windows.listing.processes import ListedProcess, ProcessChoice, ProcessList

#: Levels of detail: KD's flags of ``!process``. 1 adds statistics, 2 threads with what they wait for, 4 stacks.
DETAILS = (0, 1, 3, 7)
STATISTICS, THREADS, STACKS = 1, 2, 4

#: Whose row it is; in the rows of threads and frames as well.
OWNER = Part[ListedProcess](
    "",
    keys.PROCESS(lambda listed: listed.process.address),
    keys.PID(lambda listed: listed.process.pid),
    keys.IMAGE(lambda listed: listed.process.name, "where the path is not known ImageFileName, cut to 15 bytes"),
)


def _session(listed: ListedProcess) -> object:
    return BLANK if listed.process.session_space == 0 else listed.process.session


def _wow64(listed: ListedProcess) -> object:
    return None if listed.process.wow64 is None else listed.process.wow64 != 0


def _image_path(listed: ListedProcess) -> object:
    return listed.process.image_path or (BLANK if listed.process.present else None)


def _missing_from(listed: ListedProcess) -> object:
    missing = listed.missing_from
    return f"{', '.join(missing)}; seen in {', '.join(listed.seen_in)}" if missing else BLANK


def _dlls(listed: ListedProcess) -> object:
    modules = listed.user_mode.modules
    return ", ".join(module.name or f"{module.base:#x}" for module in modules) if modules else None


PROCESS = Part[ListedProcess](
    "A process",
    Column("ParentPid", NUMBER, "InheritedFromUniqueProcessId", lambda listed: listed.process.parent),
    Column("Session", NUMBER, "MM_SESSION_SPACE.SessionId; null outside sessions", _session),
    keys.THREADS(lambda listed: listed.process.active_threads, "ActiveThreads"),
    Column("Handles", NUMBER, "open handles in its HANDLE_TABLE", lambda listed: listed.process.handle_count),
    Column("Peb", POINTER, "user-mode address; null without user mode", lambda listed: listed.process.peb),
    Column(
        "DirectoryTableBase",
        ADDRESS,
        "physical address of its top page table, with flag bits",
        lambda listed: listed.process.directory_table_base,
    ),
    Column(
        "ObjectTable",
        POINTER,
        "HANDLE_TABLE; null once its handles are closed",
        lambda listed: listed.process.object_table,
    ),
    Column("Wow64", FLAG, "a 32-bit process on 64-bit Windows", _wow64),
    keys.STATE(
        lambda listed: listed.process.state,
        "`running`, `exiting`, `exited`, `frozen` (every thread of a suspended packaged application), `minimal` (an "
        "address space without user mode: Registry, Memory Compression)",
    ),
    Column(
        "Protection",
        TEXT,
        "EPROCESS.Protection, signer and type: `Lsa-Light`, `WinSystem-Protected`, `none`; unknown before Windows 8.1",
        lambda listed: listed.process.protection_name or Missing(listed.why_no_protection),
    ),
    Column("CreateTime", TIME, "EPROCESS.CreateTime", lambda listed: listed.process.create_time),
    Column("ExitTime", TIME, "EPROCESS.ExitTime; null while it was never set", lambda listed: listed.process.exit_time),
    Column("ImagePath", TEXT, "SeAuditProcessCreationInfo.ImageFileName, a path of the object manager", _image_path),
    Column(
        "MissingFrom",
        TEXT,
        "lists that should have the process and do not, and those where it was seen; null for a process that is where "
        "it belongs",
        _missing_from,
    ),
    keys.NOTES(lambda listed: listed.process.notes),
)
DETAILED = Part[ListedProcess](
    "From `--detail 1` on",
    Column("ElapsedTime", SECONDS, "from its creation to the crash", lambda listed: listed.elapsed),
    Column("UserTime", SECONDS, "of threads that have exited", lambda listed: listed.process.user_time),
    Column("KernelTime", SECONDS, "of threads that have exited", lambda listed: listed.process.kernel_time),
    Column("ExitStatus", HEX, "NTSTATUS; 0x103 while it runs", lambda listed: listed.process.exit_status),
    keys.TOKEN(lambda listed: listed.process.token),
    Column("DeviceMap", POINTER, "EPROCESS.DeviceMap", lambda listed: listed.process.device_map),
    Column(
        "VadRoot", POINTER, "root of the tree of virtual address descriptors", lambda listed: listed.process.vad_root
    ),
    Column("Vads", NUMBER, "number of virtual address descriptors", lambda listed: listed.process.vad_count),
    Column(
        "CloneRoot",
        POINTER,
        "tree of clone descriptors of a forked process",
        lambda listed: listed.process.clone_root,
    ),
    Column("PrivatePages", PAGES, "NumberOfPrivatePages", lambda listed: listed.process.private_pages),
    Column("ModifiedPages", PAGES, "ModifiedPageCount", lambda listed: listed.process.modified_pages),
    keys.LOCKED_PAGES(lambda listed: listed.process.locked_pages),
    Column("PagedQuota", BYTES, "ProcessQuotaUsage of paged pool", lambda listed: listed.process.paged_quota),
    Column("NonPagedQuota", BYTES, "ProcessQuotaUsage of nonpaged pool", lambda listed: listed.process.nonpaged_quota),
    Column("WorkingSetPages", PAGES, "MMSUPPORT", lambda listed: listed.process.working_set),
    Column("MinimumWorkingSetPages", PAGES, "MMSUPPORT", lambda listed: listed.process.minimum_working_set),
    Column("MaximumWorkingSetPages", PAGES, "MMSUPPORT", lambda listed: listed.process.maximum_working_set),
    Column("PeakWorkingSetPages", PAGES, "MMSUPPORT", lambda listed: listed.process.peak_working_set),
    Column("VirtualSize", BYTES, "EPROCESS.VirtualSize", lambda listed: listed.process.virtual_size),
    Column("PeakVirtualSize", BYTES, "EPROCESS.PeakVirtualSize", lambda listed: listed.process.peak_virtual_size),
    Column("PageFaults", NUMBER, "MMSUPPORT.PageFaultCount", lambda listed: listed.process.page_faults),
    Column("MemoryPriority", TEXT, "`BACKGROUND`, `FOREGROUND`", lambda listed: text.memory_priority(listed.process)),
    Column("BasePriority", NUMBER, "KPROCESS.BasePriority", lambda listed: listed.process.base_priority),
    keys.COMMIT_PAGES(lambda listed: listed.process.commit_charge),
    Column("DebugPort", POINTER, "EPROCESS.DebugPort", lambda listed: listed.process.debug_port),
    Column("Job", POINTER, "EPROCESS.Job", lambda listed: listed.process.job),
    Column("ImageBase", POINTER, "SectionBaseAddress", lambda listed: listed.process.image_base),
    Column(
        "CommandLine", TEXT, "RTL_USER_PROCESS_PARAMETERS.CommandLine", lambda listed: listed.user_mode.command_line
    ),
    Column("LoadedDlls", TEXT, "names in PEB_LDR_DATA.InLoadOrderModuleList, separated by commas", _dlls),
    Column(
        "UserMode",
        TEXT,
        "why the last two are not known: `user pages not in the dump`, or that there is no user mode",
        lambda listed: listed.user_mode.absent or BLANK,
    ),
)


def _table(detail: int) -> Table:
    parts: list[Part[Any]] = [OWNER, PROCESS]
    if detail & STATISTICS:
        parts.append(DETAILED)
    if detail & THREADS:
        parts.append(THREAD)
    if detail & STACKS:
        parts.append(FRAME)
    return Table("kdump.process", *parts)


#: The table with all columns; ``--detail`` leaves some of them out.
PROCESSES = _table(STATISTICS | THREADS | STACKS)


def process_grid(target: Target, chosen: ProcessChoice, detail: int, progress: Progress | None = None) -> KdumpGrid:
    """The chosen processes as rows; threads are rows below theirs, and frames below those, as ``detail`` asks."""
    listing = ProcessList(target, chosen, progress)
    return _table(detail).grid(_rows(listing, detail), lambda: _kd_lines(listing, detail))


def _rows(listing: ProcessList, detail: int) -> Iterator[Row]:
    table = _table(detail)
    for process in listing:
        threads = process.threads if detail & THREADS else []
        problems = process.thread_problems if detail & THREADS else ()
        yield table.row(
            0,
            {OWNER: process, PROCESS: process, DETAILED: process},
            Notes=[*process.process.notes, *problems],
        )
        for thread in threads:
            yield table.row(1, {OWNER: process, THREAD: thread})
            if detail & STACKS:
                yield from frame_rows(table, 2, listing.target, thread.stack, {OWNER: process})
    for problem in listing.problems:
        yield table.row(0, Notes=[problem])


# text -----------------------------------------------------------------------------------------------------------------


def _kd_lines(listing: ProcessList, detail: int) -> Iterator[str]:
    size = listing.target.memory.pointer_size
    if listing.chosen.all:
        yield text.ALL
    for listed in listing:
        process = listed.process
        yield from text.header(process, size)
        if detail & STATISTICS and process.present:
            yield from text.statistics(process, listing.target.header.system_time, size)
        yield from text.notes(process.notes)
        missing = listed.missing_from
        if missing:
            seen = ", ".join(listed.seen_in) or "nowhere"
            yield from text.notes((f"missing from {', '.join(missing)}; seen in {seen}",))
        yield ""
        if detail & THREADS:
            yield from _thread_lines(listing, listed, detail)
    yield from text.notes(tuple(listing.problems), "")


def _thread_lines(listing: ProcessList, process: ListedProcess, detail: int) -> Iterator[str]:
    if not process.threads and not process.thread_problems:
        yield text.INDENT + text.NO_THREADS
        yield ""
    for thread in process.threads:
        block = bool(detail & STATISTICS and detail & STACKS)
        yield from thread_lines(listing.target, thread, text.INDENT, block, bool(detail & STACKS))
    yield from text.notes(process.thread_problems, text.INDENT)


# timeline -------------------------------------------------------------------------------------------------------------


def events(target: Target) -> Iterator[tuple[str, bool, datetime.datetime]]:
    """(description, whether it is the creation, time) of every process that was created or exited."""
    for listed in ProcessList(target, ProcessChoice()):
        process = listed.process
        pid = process.pid if process.pid is not None else "?"
        title = f"Process: {pid} {process.name or '?'} ({process.address:x})"
        created, exited = filetime(process.create_time), filetime(process.exit_time)
        if created is not None:
            yield title, True, created
        if exited is not None:
            yield title, False, exited
