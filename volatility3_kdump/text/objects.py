"""Objects and handles in the words of KD's ``!object`` and ``!handle``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.windows.processes.handle_table import FreeEntry
from volatility3_kdump.windows.processes.namespace import Directory
from volatility3_kdump.windows.processes.objects import Handle, ObjectInfo

#: Bits of the flags of ``!object``: names and counts, what a directory holds or a link leads to, optional headers, the
#: whole path.
NAMES, CONTENTS, HEADERS, PATH = 1, 8, 0x10, 0x20


def object_lines(info: ObjectInfo, size: int = 8, flags: int = NAMES) -> Iterator[str]:
    """The lines of ``!object`` for an object, without what it holds."""

    def plain(value: int | None) -> str:
        return pointer(value, size, tick=False)

    yield f"Object: {plain(info.address)}  Type: ({plain(info.type_address)}) {info.type_name}"
    yield f"    ObjectHeader: {plain(info.header)} (new version)"
    if flags & NAMES:
        yield from _names(info, plain, flags)
    if flags & HEADERS:
        yield "Optional Headers:"
        if info.headers is None:
            yield "    not in the dump"
        yield from (f"    {name}({plain(address)})" for name, address in info.headers or ())


def _names(info: ObjectInfo, plain: Callable[[int | None], str], flags: int) -> Iterator[str]:
    yield f"    HandleCount: {decimal(info.handle_count)}  PointerCount: {decimal(info.pointer_count)}"
    if info.name is None:
        yield "    Name: not in the dump"
    elif info.name:
        name = info.path or info.name if flags & PATH else info.name
        yield f"    Directory Object: {plain(info.directory)}  Name: {name}"


def directory_lines(directory: Directory, size: int = 8) -> Iterator[str]:
    """The objects of a directory, by the chains of its hash table."""
    width = 2 * size
    yield ""
    yield f"    Hash {'Address':<{width}} {'Type':<13} Name"
    yield f"    ---- {'-------':<{width}} {'----':<13} ----"
    at = None
    for entry in directory.objects:
        number = "" if entry.bucket == at else f" {entry.bucket:02d}"
        at = entry.bucket
        address = pointer(entry.address, size, tick=False)
        yield f"    {number:<4} {address} {entry.type_name or '?':<13} {entry.name or '?'}"
    for problem in directory.problems:
        yield f"    NOTE: {problem}"


def link_line(leads_to: str | None) -> str:
    """Where a symbolic link leads."""
    if leads_to is None:
        return "    Target String is not known: it is not in the dump, or a routine of the kernel gives it"
    return f"    Target String is '{leads_to}'"


def handle_line(handle: Handle, size: int = 8) -> str:
    """The first line of a handle."""
    marks = ("(Protected) " if handle.protected else "") + ("(Inherit) " if handle.inherited else "")
    return (
        f"{handle.value:04x}: Object: {pointer(handle.object, size, tick=False)}  GrantedAccess: {handle.access:08x} "
        f"{marks}Entry: {pointer(handle.entry, size, tick=False)}"
    )


def free_line(entry: FreeEntry, size: int = 8) -> str:
    """An entry that no handle has."""
    address, following = pointer(entry.address, size, tick=False), pointer(entry.following, size, tick=False)
    return f"{entry.handle:04x}: free handle, Entry address {address}, Next Entry {following}"
