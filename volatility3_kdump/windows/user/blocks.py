"""The environment blocks of processes and threads: PEB, process parameters, environment, TEB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import FieldPath
from volatility3_kdump.memory import PAGE_SIZE
from volatility3_kdump.windows.structures import read_row, require_symbols
from volatility3_kdump.windows.user.spaces import UserSpace

#: Bytes of an environment that are read: Windows allows no more than 64 KB for a variable, and few MB in all.
#: From the TEB of a thread to that of its 32-bit code, where the TEB does not say (Windows 7).
_NARROW_DISTANCE = 0x2000
_MOST_ENVIRONMENT = 1 << 20
_MOST_VARIABLES = 4096

_PEB: dict[str, FieldPath] = {
    "inherited": "InheritedAddressSpace",
    "options": "ReadImageFileExecOptions",
    "debugged": "BeingDebugged",
    "image_base": "ImageBaseAddress",
    "ldr": "Ldr",
    "parameters": "ProcessParameters",
    "subsystem": "SubSystemData",
    "heap": "ProcessHeap",
    "global_flags": "NtGlobalFlag",
    "session": "SessionId",
}
_TEXTS = {
    "current_directory": "CurrentDirectory.DosPath",
    "dll_path": "DllPath",
    "image_file": "ImagePathName",
    "command_line": "CommandLine",
    "window_title": "WindowTitle",
    "desktop": "DesktopInfo",
}
_LISTS = ("InInitializationOrderModuleList", "InLoadOrderModuleList", "InMemoryOrderModuleList")
_TEB: dict[str, FieldPath] = {
    "exception_list": "NtTib.ExceptionList",
    "stack_base": "NtTib.StackBase",
    "stack_limit": "NtTib.StackLimit",
    "subsystem_tib": "NtTib.SubSystemTib",
    "fiber_data": "NtTib.FiberData",
    "arbitrary": "NtTib.ArbitraryUserPointer",
    "own": "NtTib.Self",
    "environment": "EnvironmentPointer",
    "pid": "ClientId.UniqueProcess",
    "tid": "ClientId.UniqueThread",
    "rpc": "ActiveRpcHandle",
    "tls": "ThreadLocalStoragePointer",
    "peb": "ProcessEnvironmentBlock",
    "last_error": "LastErrorValue",
    "last_status": "LastStatusValue",
    "owned_locks": "CountOfOwnedCriticalSections",
    "hard_errors": "HardErrorMode",
    "deallocation": "DeallocationStack",
}


@dataclass(frozen=True)
class ProcessBlock:
    """A PEB and what it leads to. ``values`` are fields by name; ``None`` is not in the dump or not in this kernel.

    ``lists`` are the first and last entries of the loader's lists; ``texts`` the strings of the process parameters;
    ``environment_at`` is where the environment lies, ``environment`` its variables as ``NAME=VALUE``, ``None`` where it
    is not in the dump, ``environment_whole`` whether its end was reached. ``loader_initialized`` is PEB_LDR_DATA's.
    """

    address: int
    values: dict[str, int | None]
    lists: dict[str, tuple[int | None, int | None]]
    loader_initialized: int | None
    texts: dict[str, str | None]
    environment_at: int | None
    environment: tuple[str, ...] | None
    environment_whole: bool = True

    def variable(self, name: str) -> str | None:
        """The value of a variable of the environment, whatever the case of its name."""
        for entry in self.environment or ():
            key, _, value = entry.partition("=")
            if key.lower() == name.lower():
                return value
        return None


@dataclass(frozen=True)
class ThreadBlock:
    """A TEB: fields by name, ``None`` where the dump or this kernel does not have them."""

    address: int
    values: dict[str, int | None]


def read_process_block(space: UserSpace, address: int | None = None) -> ProcessBlock:
    """The PEB at an address, by default that of the process. Raises :class:`KdumpError` with the reason for none."""
    target = space.target
    nt = require_symbols(target, "PEBs", "_PEB", "_RTL_USER_PROCESS_PARAMETERS")
    peb = space.process.peb if address is None else address
    if not peb:
        raise KdumpError(f"{target.name}: {space.process.name or '?'} has no PEB")
    row = read_row(space.memory, nt.reader("_PEB", **_PEB), peb)
    if row is None:
        raise KdumpError(f"{target.name}: the PEB at {peb:x}: {space.memory.why_unreadable(peb)}")
    values = row._asdict()
    parameters, ldr = _user(space, values["parameters"]), _user(space, values["ldr"])
    texts = {
        name: _text(space, parameters, nt.find("_RTL_USER_PROCESS_PARAMETERS", path)) for name, path in _TEXTS.items()
    }
    lists: dict[str, tuple[int | None, int | None]] = {}
    initialized = None
    if nt.has_type("_PEB_LDR_DATA"):
        for name in _LISTS:
            head = nt.find("_PEB_LDR_DATA", name)
            if head is not None and ldr is not None:
                width = space.memory.pointer_size
                lists[name] = (
                    space.memory.pointer(ldr + head.offset),
                    space.memory.pointer(ldr + head.offset + width),
                )
        started = nt.find("_PEB_LDR_DATA", "Initialized")
        if started is not None and ldr is not None:
            initialized = space.memory.unsigned(ldr + started.offset, 1)
    environment_at = None
    size = None
    if parameters is not None:
        environment_at = space.pointer(parameters + nt.offset("_RTL_USER_PROCESS_PARAMETERS", "Environment"))
        # Windows 7 and later.
        sized = nt.find("_RTL_USER_PROCESS_PARAMETERS", "EnvironmentSize")
        size = space.memory.unsigned(parameters + sized.offset, sized.size) if sized is not None else None
    environment, whole = _environment(space, environment_at, size)
    return ProcessBlock(peb, values, lists, initialized, texts, environment_at, environment, whole)


def _user(space: UserSpace, value: Any) -> int | None:
    return value if value and value < space.end else None


def _text(space: UserSpace, base: int | None, field: Any) -> str | None:
    return None if base is None or field is None else space.text(base + field.offset)


def _environment(space: UserSpace, address: int | None, size: int | None) -> tuple[tuple[str, ...] | None, bool]:
    """The variables: texts, each ended by a zero, the last by two; and whether the end is there."""
    if address is None:
        return None, False
    limit = min(size or _MOST_ENVIRONMENT, _MOST_ENVIRONMENT)
    data = bytearray()
    while len(data) < limit:
        position = address + len(data)
        piece = space.memory.read(position, min(PAGE_SIZE - position % PAGE_SIZE, limit - len(data)))
        if piece is None:
            break
        data += piece
        if b"\0\0\0\0" in data[-len(piece) - 4 :] and "\0\0" in data[: len(data) & ~1].decode("utf-16-le", "replace"):
            break
    if not data:
        return None, False
    strings = bytes(data[: len(data) & ~1]).decode("utf-16-le", "replace")
    body, end, _ = strings.partition("\0\0")
    entries = body.split("\0") if body else []
    if not end and entries:
        # Cut off: what the last one would have been is not known.
        entries.pop()
    return tuple(entries[:_MOST_VARIABLES]), bool(end) and len(entries) <= _MOST_VARIABLES


def read_thread_block(space: UserSpace, address: int, narrow: bool = False) -> ThreadBlock:
    """The TEB at an address, with ``narrow`` of 32-bit code. Raises :class:`KdumpError` with the reason for none."""
    target = space.target
    type_name = "_TEB32" if narrow else "_TEB"
    nt = require_symbols(target, "TEBs", type_name)
    if not address:
        raise KdumpError(f"{target.name}: the thread has no TEB: it is one of the system's")
    row = read_row(space.memory, nt.reader(type_name, **_TEB), address)
    if row is None:
        raise KdumpError(f"{target.name}: the TEB at {address:x}: {space.memory.why_unreadable(address)}")
    return ThreadBlock(address, row._asdict())


def narrow_block(space: UserSpace, teb: int) -> ThreadBlock | None:
    """The TEB of a thread's 32-bit code; ``None`` for threads without, or where it is not in the dump."""
    nt = space.target.nt
    if nt is None or not space.process.wow64 or space.memory.pointer_size == 4 or not nt.has_type("_TEB32"):
        return None
    field = nt.find("_TEB", "WowTebOffset")
    distance = space.memory.unsigned(teb + field.offset, 4) if field is not None else None
    try:
        return read_thread_block(space, teb + (distance or _NARROW_DISTANCE) & 0xFFFFFFFF, True)
    except KdumpError:
        return None
