"""The handles of a process with the objects that they stand for, and the objects of one type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.crashed import crash_process
from volatility3_kdump.windows.processes.handle_table import FreeEntry, all_entries
from volatility3_kdump.windows.processes.namespace import directory_at, object_type, read_directory
from volatility3_kdump.windows.processes.objects import Handle, ObjectInfo, read_handles, read_object, read_slots
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_SYSTEM = 4
_MOST_OBJECTS = 1 << 20
#: A kernel handle is a handle of the system process with the upper bits set.
_KERNEL_HANDLE = 0xFFFF_FFFF_8000_0000


@dataclass(frozen=True)
class ListedHandle:
    """A handle and its object; ``problem`` says why the object is not known, where it is not."""

    handle: Handle
    object: ObjectInfo | None
    problem: str | None = None


@dataclass(frozen=True)
class ProcessHandles:
    """The handles of a process: ``table`` is the HANDLE_TABLE and ``count`` how many of it could be read.

    ``kernel`` says that it is the system's table, not the process's own; ``free`` are the free entries, where they were
    asked for.
    """

    process: Process
    table: int
    count: int
    handles: tuple[ListedHandle, ...]
    problems: tuple[str, ...]
    kernel: bool = False
    free: tuple[FreeEntry, ...] = ()


@dataclass(frozen=True)
class TypedObjects:
    """The objects of a type that handles, names or the lists of processes and threads lead to."""

    kind: str
    objects: tuple[ObjectInfo, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class HandleChoice:
    """Which handles of a process are asked for: all, or the one of the value ``handle``; of ``kind`` (an object type)
    alone, if one is named. ``objects`` says whether with what they stand for, ``free`` whether with free entries,
    ``kernel`` whether of the kernel's table instead of the process's own.
    """

    handle: int = 0
    objects: bool = True
    kind: str | None = None
    free: bool = False
    kernel: bool = False


#: Every handle, with its object.
ALL_HANDLES = HandleChoice()


def process_handles(target: Target, process: int, choice: HandleChoice = ALL_HANDLES) -> ProcessHandles:
    """The handles of the process at an EPROCESS that are asked for.

    Raises :class:`KdumpError` where its table is not in the dump, or it has none any more.
    """
    read = read_process(target, process)
    table = _kernel_table(target) if choice.kernel else read.object_table
    if table is None:
        raise KdumpError(f"the handle table of process {process:x} is not known: its EPROCESS is not in the dump")
    if not table:
        raise KdumpError(f"process {process:x} has no handle table any more")
    problems: list[str] = []
    wanted = choice.handle & ~(_KERNEL_HANDLE | 3)
    count = 0
    listed: list[ListedHandle] = []
    unused: list[FreeEntry] = []
    for slot in read_slots(target, table, problems):
        if isinstance(slot, FreeEntry):
            if slot.handle == wanted if wanted else choice.free:
                unused.append(slot)
            continue
        count += 1
        if wanted and slot.value != wanted:
            continue
        entry = _listed(target, slot) if choice.objects else ListedHandle(slot, None)
        if choice.kind is None or (entry.object is not None and entry.object.type_name == choice.kind):
            listed.append(entry)
    return ProcessHandles(read, table, count, tuple(listed), tuple(problems), choice.kernel, tuple(unused))


def _kernel_table(target: Target) -> int | None:
    """The HANDLE_TABLE of kernel handles: ObpKernelHandleTable, which is that of the system process."""
    require_symbols(target, "handle tables")
    variable = target.symbol("ObpKernelHandleTable")
    table = target.memory.pointer(variable) if variable is not None else None
    return table or read_process(target, process_named(target, _SYSTEM)).object_table


def _listed(target: Target, handle: Handle) -> ListedHandle:
    try:
        return ListedHandle(handle, read_object(target, handle.object))
    except KdumpError as error:
        return ListedHandle(handle, None, str(error))


def object_of_id(target: Target, number: int) -> ObjectInfo:
    """The process or thread of an id, by PspCidTable. Raises :class:`KdumpError` for an id that nobody has."""
    nt = require_symbols(target, "PspCidTable", names=True)
    variable = target.symbol("PspCidTable")
    table = target.memory.pointer(variable) if variable is not None else None
    if not table:
        raise KdumpError(f"{target.name}: nt!PspCidTable is not in the dump")
    problems: list[str] = []
    for entry in all_entries(target, nt, table, problems, "PspCidTable"):
        if not isinstance(entry, FreeEntry) and entry.handle == number & ~3:
            return read_object(target, entry.pointer)
    doubt = f" ({problems[0]})" if problems else ""
    raise KdumpError(f"{target.name}: no process or thread has the id {number:x}{doubt}")


def objects_of_type(target: Target, kind: str) -> TypedObjects:
    """The objects of a type that something in the dump leads to: the kernel keeps no list of them.

    Raises :class:`KdumpError` for a name that no type has.
    """
    problems: list[str] = []
    seen: dict[int, None] = {}
    names: set[str] = set()
    for address in _reachable(target, problems):
        if address in seen or len(seen) >= _MOST_OBJECTS:
            continue
        name = object_type(target, address)
        if name is not None:
            names.add(name)
        if name == kind:
            seen[address] = None
    if not seen:
        same = [name for name in names if name.lower() == kind.lower()]
        hint = f"; its name is written {same[0]}" if same else ""
        doubt = f" ({problems[0]})" if problems else ""
        raise KdumpError(f"{target.name}: no handle and no name leads to an object of type {kind}{hint}{doubt}")
    return TypedObjects(kind, tuple(read_object(target, address) for address in seen), tuple(dict.fromkeys(problems)))


def _reachable(target: Target, problems: list[str]) -> Iterator[int]:
    for address in process_addresses(target):
        yield address
        yield from thread_addresses(target, address)
    yield from _named_objects(target, problems)
    for process in process_addresses(target):
        table = read_process(target, process).object_table
        for handle in read_handles(target, table, problems) if table else ():
            yield handle.object


def _named_objects(target: Target, problems: list[str]) -> Iterator[int]:
    """What the directories list, from the root on."""
    root = read_directory(target, "\\")
    problems += root.problems
    waiting, seen = [root], {0}
    while waiting:
        for named in waiting.pop().objects:
            if named.address in seen:
                continue
            seen.add(named.address)
            yield named.address
            if named.type_name == "Directory":
                directory = directory_at(target, named.address, named.name or "?")
                problems += directory.problems
                waiting.append(directory)


def process_named(target: Target, number: int) -> int:
    """The EPROCESS of an address or a process id. Raises :class:`KdumpError` for an id that no process has."""
    if target.is_kernel_address(number):
        return number
    crashed = crash_process(target)
    for address in process_addresses(target) or ([crashed.address] if crashed is not None else []):
        if read_process(target, address).pid == number:
            return address
    raise KdumpError(f"{target.name}: no process with the id {number:x} is in the dump")
