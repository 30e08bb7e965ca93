"""Objects and handles in the words of KD's ``!object`` and ``!handle``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.processes.namespace import Directory
from volatility3_kdump.windows.processes.objects import Handle, ObjectInfo


def object_lines(found: ObjectInfo, size: int = 8) -> Iterator[str]:
    """The lines of ``!object`` for an object that is no directory."""

    def plain(value: int | None) -> str:
        return pointer(value, size, tick=False)

    def count(value: int | None) -> str:
        return "?" if value is None else str(value)

    yield f"Object: {plain(found.address)}  Type: ({plain(found.type_address)}) {found.type_name}"
    yield f"    ObjectHeader: {plain(found.header)} (new version)"
    yield f"    HandleCount: {count(found.handle_count)}  PointerCount: {count(found.pointer_count)}"
    if found.name is None:
        yield "    Name: not in the dump"
    elif found.name:
        yield f"    Name: {found.path or found.name}"


def directory_lines(directory: Directory, size: int = 8) -> Iterator[str]:
    """The objects of a directory."""
    yield f"    {'Address':<{2 * size}}  {'Type':<20}  Name"
    yield f"    {'-' * 2 * size}  {'-' * 20}  ----"
    for entry in directory.objects:
        yield f"    {pointer(entry.address, size, tick=False)}  {entry.type_name or '?':<20}  {entry.name or '?'}"
    for problem in directory.problems:
        yield f"    NOTE: {problem}"


def handle_line(handle: Handle, size: int = 8) -> str:
    """The first line of a handle."""
    return (
        f"{handle.value:04x}: Object: {pointer(handle.object, size, tick=False)}  GrantedAccess: {handle.access:08x} "
        f"Entry: {pointer(handle.entry, size, tick=False)}"
    )
