"""Rows of ``kdump.object``: objects, directories and handles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.objects import (
    CONTENTS,
    NAMES,
    directory_lines,
    free_line,
    handle_line,
    link_line,
    object_lines,
)
from volatility3_kdump.text.processes import header
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, FLAG, HEX, NUMBER, POINTER, TEXT, Column, Part, Table
from volatility3_kdump.windows.listing.handles import (
    ALL_HANDLES,
    HandleChoice,
    ListedHandle,
    ProcessHandles,
    object_of_id,
    objects_of_type,
    process_handles,
)
from volatility3_kdump.windows.processes.handle_table import FreeEntry
from volatility3_kdump.windows.processes.namespace import Directory, NamedObject, directory_at, read_directory
from volatility3_kdump.windows.processes.objects import ObjectInfo, find_object, link_target, read_object
from volatility3_kdump.windows.processes.processes import Process

_OBJECT = Part[Any](
    "",
    keys.OBJECT({ObjectInfo: lambda named: named.address, NamedObject: lambda named: named.address}),
    Column(
        "ObjectType",
        TEXT,
        "name of the type of the object",
        {ObjectInfo: lambda named: named.type_name, NamedObject: lambda named: named.type_name},
    ),
    keys.NAME(
        {
            ObjectInfo: lambda info: BLANK if info.name == "" else info.path or info.name,
            NamedObject: lambda named: named.name,
        },
        "with its path, where that is known; null for an object without a name",
    ),
    Column("TypeObject", POINTER, "the OBJECT_TYPE", {ObjectInfo: lambda info: info.type_address}),
    Column("ObjectHeader", ADDRESS, "the OBJECT_HEADER", {ObjectInfo: lambda info: info.header}),
    Column("HandleCount", NUMBER, "open handles to the object", {ObjectInfo: lambda info: info.handle_count}),
    Column("PointerCount", NUMBER, "references to the object", {ObjectInfo: lambda info: info.pointer_count}),
    keys.NOTES(),
)
_OWNER = Part[Process](
    "",
    keys.PROCESS(lambda process: process.address),
    keys.PID(lambda process: process.pid),
    keys.IMAGE(lambda process: process.name),
)
_HANDLE = Part[ListedHandle](
    "",
    Column("Handle", HEX, "its value", lambda listed: listed.handle.value),
    Column("GrantedAccess", HEX, "the access that it grants", lambda listed: listed.handle.access),
    keys.ENTRY(lambda listed: listed.handle.entry, "HANDLE_TABLE_ENTRY"),
    Column("Protected", FLAG, "whether the handle cannot be closed", lambda listed: listed.handle.protected),
    Column("Inherited", FLAG, "whether child processes inherit it", lambda listed: listed.handle.inherited),
)
OBJECTS = Table("kdump.object", _OBJECT)
HANDLES = Table("kdump.object --handles", _OWNER, _HANDLE, _OBJECT)


def object_grid(target: Target, what: int | str, flags: int = NAMES | CONTENTS) -> KdumpGrid:
    """The object at an address or of a path; the objects of a directory are rows below it.

    ``flags`` are those of ``!object``: what KD's text shows of it.

    Raises :class:`KdumpError` where there is none.
    """
    single: ObjectInfo | None = None
    directory: Directory | None = None
    address = what if isinstance(what, int) else find_object(target, what) if what.strip("\\") else None
    if address is not None:
        single = read_object(target, address)
        if single.type_name == "Directory":
            directory = directory_at(target, address, single.path or "\\")
    elif isinstance(what, str):
        directory = read_directory(target, what)
        if what.strip("\\"):
            problems = directory.problems
            raise KdumpError(f"Object {what} not found" + (f" ({problems[0]})" if problems else ""))

    def rows() -> Iterator[Row]:
        if single is not None:
            yield OBJECTS.row(0, single)
        level = 0 if single is None else 1
        for entry in directory.objects if directory is not None else ():
            yield OBJECTS.row(level, entry)
        for problem in directory.problems if directory is not None else ():
            yield OBJECTS.row(level, Notes=[problem])

    def lines() -> Iterator[str]:
        size = target.memory.pointer_size
        if single is not None:
            yield from object_lines(single, size, flags)
        if flags & (NAMES | CONTENTS) != NAMES | CONTENTS:
            return
        if single is not None and single.type_name == "SymbolicLink":
            yield link_line(link_target(target, single.address))
        if directory is not None:
            yield from directory_lines(directory, size)

    return OBJECTS.grid(rows(), lines)


def typed_grid(target: Target, kind: str) -> KdumpGrid:
    """The objects of a type, as far as something leads to them (``!object 0 Type``)."""
    typed = objects_of_type(target, kind)

    def rows() -> Iterator[Row]:
        yield from (OBJECTS.row(0, listed) for listed in typed.objects)
        yield from (OBJECTS.row(0, Notes=[problem]) for problem in typed.problems)

    def lines() -> Iterator[str]:
        yield f"{len(typed.objects)} objects of type {kind} that handles, names and lists lead to"
        for listed in typed.objects:
            yield ""
            yield from object_lines(listed, target.memory.pointer_size)
        yield from (f"NOTE: {problem}" for problem in typed.problems)

    return OBJECTS.grid(rows(), lines)


def identified_grid(target: Target, number: int) -> KdumpGrid:
    """The process or thread of an id (``!handle ID 20``)."""
    identified = object_of_id(target, number)
    return OBJECTS.grid([OBJECTS.row(0, identified)], lambda: object_lines(identified, target.memory.pointer_size))


def handles_grid(target: Target, process: int, choice: HandleChoice = ALL_HANDLES) -> KdumpGrid:
    """The handles of the process at an EPROCESS that are asked for."""
    handles = process_handles(target, process, choice)
    return HANDLES.grid(_handle_rows(handles), lambda: _handle_lines(handles, target.memory.pointer_size))


def _handle_rows(handles: ProcessHandles) -> Iterator[Row]:
    for listed in handles.handles:
        records: dict[Part[Any], Any] = {_OWNER: handles.process, _HANDLE: listed, _OBJECT: listed.object}
        yield HANDLES.row(0, records, Object=listed.handle.object, Notes=[listed.problem or ""])
    for problem in handles.problems:
        yield HANDLES.row(0, {_OWNER: handles.process}, Notes=[problem])


def _handle_lines(handles: ProcessHandles, size: int) -> Iterator[str]:
    yield from header(handles.process, size)
    yield ""
    what = "Kernel handle table" if handles.kernel else "Handle table"
    yield f"{what} at {pointer(handles.table, size, tick=False)} with {handles.count} entries in use" + (
        " that can be read" if handles.problems else ""
    )
    slots: list[tuple[int, ListedHandle | FreeEntry]] = [(entry.handle, entry) for entry in handles.free]
    slots += [(entry.handle.value, entry) for entry in handles.handles]
    for _, listed in sorted(slots, key=lambda slot: slot[0]):
        yield ""
        if isinstance(listed, FreeEntry):
            yield free_line(listed, size)
            continue
        yield handle_line(listed.handle, size)
        if listed.object is not None:
            yield from object_lines(listed.object, size)
        elif listed.problem is not None:
            yield f"    {listed.problem}"
    for problem in handles.problems:
        yield f"NOTE: {problem}"
