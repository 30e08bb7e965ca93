"""Objects by their headers, and the handles of a process.

Sources: ``_OBJECT_HEADER`` in front of every object, ``ObTypeIndexTable`` for its type, ``_HANDLE_TABLE`` with its
``_HANDLE_TABLE_ENTRY``. An entry of a process's table names the header, not the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.handle_table import FreeEntry, all_entries
from volatility3_kdump.windows.processes.namespace import (
    directory_of,
    object_name,
    object_path,
    object_type,
    optional_headers,
    read_directory,
)
from volatility3_kdump.windows.structures import layouts_of, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_LARGEST_HANDLE = 1 << 26
_PROTECTED, _INHERITED, _PROTECTED_ACCESS = 1, 2, 0x2000000


@dataclass(frozen=True)
class ObjectInfo:
    """An object: ``address`` is that of its body. ``None`` is not in the dump.

    ``type_name`` and ``type_address`` are its type; ``handle_count`` and ``pointer_count`` those of its header;
    ``path`` its name with those of the directories above it, empty without a name; ``directory`` lists it, 0 where
    none does; ``headers`` are the names and addresses of its optional headers.
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
    headers: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True)
class Handle:
    """An entry of a handle table: its value, where the entry lies, the object and the access that it grants.

    ``protected`` handles cannot be closed, ``inherited`` ones go on to child processes.
    """

    value: int
    entry: int
    object: int
    access: int
    protected: bool = False
    inherited: bool = False


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
        target.once(_type_addresses).get(type_name),
        signed("HandleCount"),
        signed("PointerCount"),
        object_name(target, address),
        object_path(target, address),
        directory_of(target, address),
        None if (headers := optional_headers(target, address)) is None else tuple(headers),
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


def _type_addresses(target: Target) -> dict[str, int]:
    """The addresses of the object types by name: ObTypeIndexTable."""
    layouts = layouts_of(target)
    table = target.symbol("ObTypeIndexTable")
    offset = layouts.offset("_OBJECT_TYPE", "Name")
    addresses: dict[str, int] = {}
    for index in range(256) if table is not None else ():
        candidate = target.memory.pointer((table or 0) + index * target.memory.pointer_size)
        if candidate and target.is_kernel_address(candidate):
            name = target.memory.unicode_string(candidate + offset)
            if name:
                addresses.setdefault(name, candidate)
    return addresses


def find_object(target: Target, path: str) -> int | None:
    """The address of the object of a path (``\\Driver\\ACPI``); ``None`` where there is none in the dump."""
    parent, _, name = path.rstrip("\\").rpartition("\\")
    directory = read_directory(target, parent)
    return next((named.address for named in directory.objects if (named.name or "").lower() == name.lower()), None)


def read_handles(target: Target, table: int, problems: list[str]) -> Iterator[Handle]:
    """The used entries of a process's HANDLE_TABLE by value (x64); what is wrong is appended to ``problems``."""
    return (handle for handle in read_slots(target, table, problems) if isinstance(handle, Handle))


def read_slots(target: Target, table: int, problems: list[str]) -> Iterator[Handle | FreeEntry]:
    """As :func:`read_handles`, with the entries that are free."""
    nt = require_symbols(target, "handle tables")
    body = nt.offset("_OBJECT_HEADER", "Body")
    granted = nt.find("_HANDLE_TABLE_ENTRY", ("GrantedAccessBits", "GrantedAccess"))
    mask = (1 << (granted.bits if granted is not None and granted.bits else 32)) - 1
    with_attributes = nt.find("_HANDLE_TABLE_ENTRY", "Attributes") is not None
    for entry in all_entries(target, nt, table, problems, f"handle table {table:x}"):
        if entry.handle >= _LARGEST_HANDLE:
            continue
        if isinstance(entry, FreeEntry):
            yield entry
            continue
        access = entry.rest & mask
        # Before Windows 8 bit 0 of the object's address is a lock, and a bit of the access says protected.
        protected = bool(entry.marks & _PROTECTED if with_attributes else access & _PROTECTED_ACCESS)
        if not with_attributes:
            access &= ~_PROTECTED_ACCESS
        inherited = bool(entry.marks & _INHERITED)
        yield Handle(entry.handle, entry.address, entry.pointer + body, access, protected, inherited)
