"""Rows of ``kdump.peb`` and ``kdump.teb``: what user mode says of processes and threads."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import user_mode as text
from volatility3_kdump.text.drivers import built
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.process import OWNER
from volatility3_kdump.views.table import BLANK, FLAG, HEX, NUMBER, POINTER, TEXT, Column, Part, Table
from volatility3_kdump.windows.listing.processes import ListedProcess, ProcessChoice, ProcessList
from volatility3_kdump.windows.listing.threads import ListedThread
from volatility3_kdump.windows.machine.error_codes import ErrorCode, error_codes
from volatility3_kdump.windows.user.blocks import (
    ProcessBlock,
    ThreadBlock,
    narrow_block,
    read_process_block,
    read_thread_block,
)
from volatility3_kdump.windows.user.loader import UserModule, user_modules
from volatility3_kdump.windows.user.spaces import UserSpace, user_space

# processes ------------------------------------------------------------------------------------------------------------


def _value(name: str) -> Any:
    return lambda block: block.values[name]


def _text(name: str) -> Any:
    return lambda block: block.texts.get(name)


_BLOCK = Part[ProcessBlock](
    "A process",
    Column("PebAddress", POINTER, "the PEB", lambda block: block.address),
    Column("CommandLine", TEXT, "RTL_USER_PROCESS_PARAMETERS.CommandLine", _text("command_line")),
    Column("CurrentDirectory", TEXT, "RTL_USER_PROCESS_PARAMETERS.CurrentDirectory", _text("current_directory")),
    Column("ImageFile", TEXT, "RTL_USER_PROCESS_PARAMETERS.ImagePathName", _text("image_file")),
    Column("WindowTitle", TEXT, "RTL_USER_PROCESS_PARAMETERS.WindowTitle", _text("window_title")),
    Column("Desktop", TEXT, "RTL_USER_PROCESS_PARAMETERS.DesktopInfo", _text("desktop")),
    Column("ImageBaseAddress", POINTER, "PEB.ImageBaseAddress", _value("image_base")),
    Column("BeingDebugged", FLAG, "PEB.BeingDebugged", lambda block: _flag(block.values["debugged"])),
    Column("NtGlobalFlag", HEX, "PEB.NtGlobalFlag", _value("global_flags")),
    Column("ProcessHeap", POINTER, "PEB.ProcessHeap", _value("heap")),
    Column("Environment", POINTER, "where the environment lies", lambda block: block.environment_at),
)
_MODULE = Part[UserModule](
    "A module",
    keys.ADDRESS(lambda module: module.base),
    keys.SIZE(lambda module: module.size, "SizeOfImage"),
    Column(
        "TimeStamp",
        TEXT,
        "TimeDateStamp as a time, UTC; a hash where the build is reproducible",
        lambda module: built(module.timestamp),
    ),
    keys.PATH(lambda module: module.path, "FullDllName"),
    Column(
        "Loader",
        POINTER,
        "its LDR_DATA_TABLE_ENTRY; null for an image that only a VAD names",
        lambda module: module.entry or BLANK,
    ),
    Column(
        "ModuleBits",
        NUMBER,
        "32 for a module of the 32-bit loader of a 64-bit Windows",
        lambda module: 32 if module.narrow else BLANK,
    ),
    keys.KNOWN_BY(lambda module: module.known_by),
)
PEBS = Table(
    "kdump.peb",
    Part[object]("", keys.KIND(more="`process`; `variable` of its environment; `module`")),
    OWNER,
    _BLOCK,
    Part[object]("", keys.NAME(more="of the variable or module"), keys.TEXT(more="of the variable")),
    _MODULE,
    Part[object]("", keys.NOTES()),
)


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _space(target: Target, listed: ListedProcess) -> UserSpace:
    return user_space(target, listed.process.address)


def peb_grid(
    target: Target, chosen: ProcessChoice, modules: bool = True, progress: Progress | None = None
) -> KdumpGrid:
    """A row for each process with a PEB, below it the variables of its environment, and with ``modules`` these.

    A process whose PEB is not in the dump says why.
    """
    processes = ProcessList(target, chosen, progress)

    def rows() -> Iterator[Row]:
        for listed in processes:
            yield from _process_rows(target, listed, modules)
        for problem in processes.problems:
            yield PEBS.row(0, Notes=[problem])

    return PEBS.grid(rows(), lambda: _peb_texts(target, processes))


def _process_rows(target: Target, listed: ListedProcess, modules: bool) -> Iterator[Row]:
    try:
        space = _space(target, listed)
        block = read_process_block(space)
    except KdumpError as error:
        yield PEBS.row(0, {OWNER: listed}, Kind="process", Notes=[_reason(target, error)])
        return
    notes = [] if block.environment_whole or block.environment_at is None else ["the environment is not whole"]
    yield PEBS.row(0, {OWNER: listed, _BLOCK: block}, Kind="process", Notes=notes or BLANK)
    for variable in block.environment or ():
        # Names may begin with the sign: =C:=C:\Windows.
        name, _, value = variable[1:].partition("=")
        yield PEBS.row(1, {OWNER: listed}, Kind="variable", Name=variable[:1] + name, Text=value)
    listing = user_modules(space) if modules else None
    for module in listing.modules if listing is not None else ():
        yield PEBS.row(1, {OWNER: listed, _MODULE: module}, Kind="module", Name=module.name)
    for problem in listing.problems if listing is not None else ():
        yield PEBS.row(1, {OWNER: listed}, Kind="module", Notes=[problem])


def _reason(target: Target, error: KdumpError) -> str:
    return str(error).removeprefix(f"{target.name}: ")


def _peb_texts(target: Target, processes: ProcessList) -> Iterator[str]:
    for index, listed in enumerate(processes):
        if index:
            yield ""
        if not processes.chosen.addresses:
            yield f"{listed.process.name or '?'} {listed.process.pid or 0:x}"
        try:
            yield from peb_lines(target, listed.process.address)
        except KdumpError as error:
            yield _reason(target, error)


def peb_lines(target: Target, process: int, address: int | None = None) -> Iterator[str]:
    """``!peb`` of a process, or of a PEB in its address space. Raises :class:`KdumpError` with the reason for none."""
    space = user_space(target, process)
    block = read_process_block(space, address)
    listing = user_modules(space)
    native = [module for module in listing.modules if not module.narrow]
    yield from text.peb_lines(block, native, listing.problems, target.memory.pointer_size)
    narrow = [module for module in listing.modules if module.narrow]
    if narrow:
        yield "    Wow64: modules of the 32-bit loader"
        for module in narrow:
            stamp = "????????" if module.timestamp is None else f"{module.timestamp:08x}"
            yield f"    {module.base:>16x} {stamp} {built(module.timestamp) or '?':<20} {module.path or '?'}"


# threads --------------------------------------------------------------------------------------------------------------


def _code(name: str, status: bool) -> Any:
    def get(block: ThreadBlock) -> object:
        value = block.values[name]
        if value is None:
            return None
        return next((code.name for code in error_codes(value, status) if code.name), None) or BLANK

    return get


_THREAD = Part[ListedThread](
    "",
    keys.THREAD(lambda listed: listed.thread.address),
    keys.TID(lambda listed: listed.thread.tid),
)
_TEB = Part[ThreadBlock](
    "",
    Column("TebAddress", POINTER, "the TEB", lambda block: block.address),
    Column("UserStackBase", POINTER, "NtTib.StackBase: the first address above the user stack", _value("stack_base")),
    Column("UserStackLimit", POINTER, "NtTib.StackLimit: its lowest committed address", _value("stack_limit")),
    Column("LastError", HEX, "LastErrorValue", _value("last_error")),
    Column("LastErrorName", TEXT, "its name in winerror.h; null where it has none", _code("last_error", False)),
    Column("LastStatus", HEX, "LastStatusValue, an NTSTATUS", _value("last_status")),
    Column("LastStatusName", TEXT, "its name; null where it has none", _code("last_status", True)),
    Column("OwnedCriticalSections", NUMBER, "CountOfOwnedCriticalSections", _value("owned_locks")),
)
TEBS = Table("kdump.teb", OWNER, _THREAD, _TEB, Part[object]("", keys.NOTES()))


def teb_grid(target: Target, chosen: ProcessChoice, progress: Progress | None = None) -> KdumpGrid:
    """A row for each thread of the chosen processes: its TEB, or why there is none."""
    processes = ProcessList(target, chosen, progress)

    def threads() -> Iterator[tuple[ListedProcess, ListedThread]]:
        for listed in processes:
            for thread in listed.threads:
                yield listed, thread

    def rows() -> Iterator[Row]:
        for listed, thread in threads():
            records: dict[Part[Any], Any] = {OWNER: listed, _THREAD: thread}
            try:
                block = thread_block(target, thread)
            except KdumpError as error:
                yield TEBS.row(0, records, Notes=[_reason(target, error)])
            else:
                yield TEBS.row(0, {**records, _TEB: block})

    def lines() -> Iterator[str]:
        for _, thread in threads():
            try:
                yield from teb_lines(target, thread)
            except KdumpError as error:
                yield _reason(target, error)
            yield ""

    return TEBS.grid(rows(), lines)


def thread_block(target: Target, listed: ListedThread) -> ThreadBlock:
    """The TEB of a thread. Raises :class:`KdumpError` with the reason for none."""
    process, teb = listed.process, listed.thread.teb
    if not process or teb is None:
        raise KdumpError(f"{target.name}: the process or TEB of thread {listed.thread.address:x} is not in the dump")
    if not teb:
        raise KdumpError(f"{target.name}: thread {listed.thread.address:x} has no TEB: it is one of the system's")
    return read_thread_block(user_space(target, process), teb)


def teb_lines(target: Target, listed: ListedThread, address: int | None = None) -> Iterator[str]:
    """``!teb`` of a thread, or of a TEB in its process; with that of its 32-bit code. Raises :class:`KdumpError`."""
    size = target.memory.pointer_size
    process = listed.process
    if process is None:
        raise KdumpError(f"{target.name}: the process of thread {listed.thread.address:x} is not in the dump")
    space = user_space(target, process)
    block = read_thread_block(space, address) if address is not None else thread_block(target, listed)
    narrow = narrow_block(space, block.address)
    if narrow is not None:
        yield from text.teb_lines(narrow, 4, True)
        yield ""
    yield from text.teb_lines(block, size)


def last_error_lines(target: Target, listed: ListedThread) -> Iterator[str]:
    """``!gle`` of a thread. Raises :class:`KdumpError` with the reason where its TEB is not in the dump."""
    values = thread_block(target, listed).values

    @functools.lru_cache(maxsize=2)
    def codes(name: str, status: bool) -> tuple[ErrorCode, ...] | None:
        value = values[name]
        return None if value is None else tuple(error_codes(value, status))

    yield from text.last_error_lines(codes("last_error", False), codes("last_status", True))
