"""The object manager's namespace: directories of named objects (``\\Driver``, ``\\Device``) and the names in headers.

An object's name is in OBJECT_HEADER_NAME_INFO, one of the optional headers in front of its OBJECT_HEADER, whose
InfoMask says which of them there are. A directory is a hash table of 37 chains of OBJECT_DIRECTORY_ENTRY. Both have
been the same since Windows 7; the type index in the header is obscured since Windows 10 (ObHeaderCookie).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import SymbolsNotFound
from volatility3_kdump.windows.structures import layouts_of

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_CREATOR, _NAME = 1, 2
#: Longest chain of a hash bucket, and most objects of a directory, that are followed.
_LONGEST_CHAIN, _MOST_OBJECTS = 4096, 65536
_LONGEST_NAME = 1024
_DEEPEST = 32


@dataclass(frozen=True)
class NamedObject:
    """An entry of an object directory: address of the object's body, name and type; ``None`` is not in the dump.

    ``bucket`` is the chain of the directory's hash table that it is on.
    """

    address: int
    name: str | None
    type_name: str | None
    bucket: int = 0


@dataclass(frozen=True)
class Directory:
    """What an object directory lists, in the order of its hash table, and what was wrong with it, a line each."""

    path: str
    objects: tuple[NamedObject, ...]
    problems: tuple[str, ...] = ()


def object_name(target: Target, address: int) -> str | None:
    """The name in an object's header, empty for an object without one; ``None`` when the dump does not hold it."""
    layouts = layouts_of(target)
    header = address - layouts.offset("_OBJECT_HEADER", "Body")
    mask = target.memory.unsigned(header + layouts.offset("_OBJECT_HEADER", "InfoMask"), 1)
    if mask is None:
        return None
    if not mask & _NAME:
        return ""
    start = _name_information(target, header, mask)
    own_name = target.memory.unicode_string(start + layouts.offset("_OBJECT_HEADER_NAME_INFO", "Name"))
    return None if own_name is None else own_name[:_LONGEST_NAME]


def _name_information(target: Target, header: int, mask: int) -> int:
    """The OBJECT_HEADER_NAME_INFO in front of a header; the object directory is its first field."""
    layouts = layouts_of(target)
    start = header - layouts.size_of("_OBJECT_HEADER_NAME_INFO")
    return start - layouts.size_of("_OBJECT_HEADER_CREATOR_INFO") if mask & _CREATOR else start


#: The headers that InfoMask names by its bits, from that next to OBJECT_HEADER on.
_OPTIONAL = ("CREATOR", "NAME", "HANDLE", "QUOTA", "PROCESS", "AUDIT", "EXTENDED", "PADDING")


def optional_headers(target: Target, address: int) -> list[tuple[str, int]] | None:
    """(``NameInfo``, address) of the optional headers in front of an object's header; ``None`` if not in the dump.

    Those behind a header that the kernel's symbols do not describe are left out.
    """
    layouts = layouts_of(target)
    start = address - layouts.offset("_OBJECT_HEADER", "Body")
    mask = target.memory.unsigned(start + layouts.offset("_OBJECT_HEADER", "InfoMask"), 1)
    if mask is None:
        return None
    headers: list[tuple[str, int]] = []
    for bit, name in enumerate(_OPTIONAL):
        if mask >> bit & 1:
            type_name = f"_OBJECT_HEADER_{name}_INFO"
            if not layouts.has_type(type_name):
                break
            start -= layouts.size_of(type_name)
            headers.append((f"{name.capitalize()}Info", start))
    return headers


def object_path(target: Target, address: int) -> str | None:
    """The path of a named object (``\\Device\\Harddisk0\\DR0``).

    Without a backslash in front where its directories cannot be followed to the root; empty for an object without a
    name; ``None`` where the dump does not hold its name.
    """
    name = object_name(target, address)
    if not name:
        return name
    parts = [name]
    seen: set[int] = set()
    directory = directory_of(target, address)
    while directory and directory not in seen and len(parts) < _DEEPEST:
        seen.add(directory)
        name = object_name(target, directory)
        if name is None:
            break
        if name in ("", "\\"):
            return "\\" + "\\".join(reversed(parts))
        parts.append(name)
        directory = directory_of(target, directory)
    return "\\".join(reversed(parts))


def directory_of(target: Target, address: int) -> int | None:
    """The object directory that lists a named object; ``None`` where that is not known, or there is none."""
    layouts = layouts_of(target)
    header = address - layouts.offset("_OBJECT_HEADER", "Body")
    mask = target.memory.unsigned(header + layouts.offset("_OBJECT_HEADER", "InfoMask"), 1)
    if mask is None or not mask & _NAME:
        return None
    return target.memory.pointer(_name_information(target, header, mask))


def object_type(target: Target, address: int) -> str | None:
    """The name of an object's type; ``None`` when the dump does not say."""
    layouts = layouts_of(target)
    memory = target.memory
    header = address - layouts.offset("_OBJECT_HEADER", "Body")
    field = layouts.find("_OBJECT_HEADER", "TypeIndex")
    table = target.symbol("ObTypeIndexTable")
    index = memory.unsigned(header + field.offset, 1) if field is not None else None
    if index is None or table is None:
        return None
    cookie = target.symbol("ObHeaderCookie")
    if cookie is not None:
        value = memory.unsigned(cookie, 1)
        if value is None:
            return None
        index ^= value ^ (header >> 8 & 0xFF)
    type_object = memory.pointer(table + memory.pointer_size * index)
    if not type_object or not target.is_kernel_address(type_object):
        return None
    return memory.unicode_string(type_object + layouts.offset("_OBJECT_TYPE", "Name")) or None


def read_directory(target: Target, path: str) -> Directory:
    """The objects of a directory by its path (``\\Driver``); without objects, and with the reason, if it has no path
    that can be followed in the dump."""
    try:
        address, missing = _root(target)
    except SymbolsNotFound as error:
        return Directory(path, (), (str(error),))
    for name in [part for part in path.split("\\") if part][:_DEEPEST]:
        if address is None:
            break
        objects, problems = _entries(target, address)
        wanted = (named for named in objects if named.name is not None and named.name.lower() == name.lower())
        subdirectory = next((named for named in wanted if named.type_name in ("Directory", None)), None)
        reason = problems[0] if problems else "there is no such directory"
        address, missing = (None if subdirectory is None else subdirectory.address), reason
    if address is None:
        return Directory(path, (), (f"{path}: {missing}",))
    return directory_at(target, address, path)


def directory_at(target: Target, address: int, path: str) -> Directory:
    """The objects of the directory whose body is at an address; ``path`` is what it is called."""
    objects, problems = _entries(target, address)
    return Directory(path, tuple(objects), tuple(f"{path}: {problem}" for problem in problems))


def _root(target: Target) -> tuple[int | None, str]:
    variable = target.symbol("ObpRootDirectoryObject")
    if variable is None:
        if not target.has_names:
            return None, f"the object directory is not reachable without the kernel's symbols: {target.symbol_status}"
        return None, "the symbols do not have ObpRootDirectoryObject"
    address = target.memory.pointer(variable)
    if address is None:
        return None, f"ObpRootDirectoryObject at {variable:#x}: {target.memory.why_unreadable(variable)}"
    if not target.is_kernel_address(address):
        return None, f"ObpRootDirectoryObject is {address:#x}, which is no kernel address"
    return address, ""


def _entries(target: Target, directory: int) -> tuple[list[NamedObject], list[str]]:
    layouts, memory = layouts_of(target), target.memory
    field = layouts.field("_OBJECT_DIRECTORY", "HashBuckets")
    link = layouts.offset("_OBJECT_DIRECTORY_ENTRY", "ChainLink")
    body = layouts.offset("_OBJECT_DIRECTORY_ENTRY", "Object")
    width = memory.pointer_size
    named: list[NamedObject] = []
    problems: list[str] = []
    seen: set[int] = set()
    for bucket in range(field.count or 0):
        place = directory + field.offset + bucket * width
        entry = memory.pointer(place)
        if entry is None:
            problems.append(f"the object directory at {directory:#x}: {memory.why_unreadable(place)}")
            break
        length = 0
        while entry:
            if entry in seen or length >= _LONGEST_CHAIN or len(named) >= _MOST_OBJECTS:
                problems.append(f"the chain of hash bucket {bucket} is cyclic at {entry:#x}")
                break
            seen.add(entry)
            length += 1
            address = memory.pointer(entry + body) if target.is_kernel_address(entry) else None
            if address is None:
                problems.append(f"the chain of hash bucket {bucket} is torn at {entry:#x}")
                break
            if target.is_kernel_address(address):
                named.append(NamedObject(address, object_name(target, address), object_type(target, address), bucket))
            entry = memory.pointer(entry + link)
    return named, problems
