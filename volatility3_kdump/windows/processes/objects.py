"""Objects by their headers, and the handles of a process.

Sources: ``_OBJECT_HEADER`` in front of every object, ``ObTypeIndexTable`` for its type, ``_HANDLE_TABLE`` with its
``_HANDLE_TABLE_ENTRY``. An entry of a process's table names the header, not the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.handle_table import read_entries
from volatility3_kdump.windows.processes.namespace import (
    directory_of,
    object_name,
    object_path,
    object_type,
    read_directory,
)
from volatility3_kdump.windows.structures import layouts_of, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_LARGEST_HANDLE = 1 << 26


@dataclass(frozen=True)
class ObjectInfo:
    """An object: ``address`` is that of its body. ``None`` is not in the dump.

    ``type_name`` and ``type_address`` are its type; ``handle_count`` and ``pointer_count`` those of its header;
    ``path`` its name with those of the directories above it, empty without a name; ``directory`` lists it, 0 where
    none does.
    """

    address: int
    header: int
    type_name: str | None
    type_address: int | None
    handle_count: int | None
    pointer_count: int | None
    name: str | None
    path: str | None
    directory: int | None = None


@dataclass(frozen=True)
class Handle:
    """An entry of a handle table: its value, where the entry lies, the object and the access that it grants."""

    value: int
    entry: int
    object: int
    access: int


def read_object(target: Target, address: int) -> ObjectInfo:
    """The object whose body is at an address. Raises :class:`KdumpError` where no object can be."""
    layouts = layouts_of(target)
    header = (address - layouts.offset("_OBJECT_HEADER", "Body")) % (1 << 64)
    if target.memory.read(header, layouts.size_of("_OBJECT_HEADER")) is None:
        raise KdumpError(f"{address:x}: the object's header is not in the dump: {target.memory.why_unreadable(header)}")
    type_name = object_type(target, address)
    if type_name is None:
        raise KdumpError(f"{address:x}: Not a valid object (ObjectType invalid)")

    def signed(field: str) -> int | None:
        place = layouts.field("_OBJECT_HEADER", field)
        data = target.memory.read(header + place.offset, place.size)
        return None if data is None else int.from_bytes(data, "little", signed=True)

    return ObjectInfo(
        address,
        header,
        type_name,
        _type_address(target, type_name),
        signed("HandleCount"),
        signed("PointerCount"),
        object_name(target, address),
        object_path(target, address),
        directory_of(target, address),
    )


def link_target(target: Target, address: int) -> str | None:
    """Where a symbolic link leads; ``None`` where the dump does not hold it, or a routine of the kernel says it."""
    nt = require_symbols(target, "symbolic links")
    field = nt.find("_OBJECT_SYMBOLIC_LINK", "LinkTarget")
    if field is None:
        return None
    start = target.memory.pointer(address + field.offset)
    # Links with a routine have its address where the others have the lengths of the text.
    if start is None or target.is_kernel_address(start):
        return None
    return target.memory.unicode_string(address + field.offset) or None


def _type_address(target: Target, name: str) -> int | None:
    """The address of an object type, by the name that the object's index led to."""
    layouts = layouts_of(target)
    table = target.symbol("ObTypeIndexTable")
    offset = layouts.offset("_OBJECT_TYPE", "Name")
    for index in range(256) if table is not None else ():
        candidate = target.memory.pointer((table or 0) + index * target.memory.pointer_size)
        if (
            candidate
            and target.is_kernel_address(candidate)
            and target.memory.unicode_string(candidate + offset) == name
        ):
            return candidate
    return None


def find_object(target: Target, path: str) -> int | None:
    """The address of the object of a path (``\\Driver\\ACPI``); ``None`` where there is none in the dump."""
    parent, _, name = path.rstrip("\\").rpartition("\\")
    directory = read_directory(target, parent)
    return next((named.address for named in directory.objects if (named.name or "").lower() == name.lower()), None)


def read_handles(target: Target, table: int, problems: list[str]) -> Iterator[Handle]:
    """The used entries of a process's HANDLE_TABLE by value (x64); what is wrong is appended to ``problems``."""
    nt = require_symbols(target, "handle tables")
    body = nt.offset("_OBJECT_HEADER", "Body")
    granted = nt.find("_HANDLE_TABLE_ENTRY", ("GrantedAccessBits", "GrantedAccess"))
    mask = (1 << (granted.bits if granted is not None and granted.bits else 32)) - 1
    for entry in read_entries(target, nt, table, problems, f"handle table {table:x}"):
        if entry.handle < _LARGEST_HANDLE:
            yield Handle(entry.handle, entry.address, entry.pointer + body, entry.rest & mask)
