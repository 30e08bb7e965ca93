"""Handle tables of x64: those of processes, and PspCidTable, which has processes and threads by their ids.

Sources: ``_HANDLE_TABLE`` and ``_HANDLE_TABLE_ENTRY``. A handle is four times the number of its entry; the first entry
of each page is none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import PAGE_SIZE

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_ENTRIES = 1 << 20
_LEVELS = 3
_ENTRY = struct.Struct("<QQ")
_ATTRIBUTES = 7


class TableEntry(NamedTuple):
    """A used entry: ``handle`` is its value, ``address`` where it lies, ``rest`` its second half.

    ``pointer`` is what it names: in a process's table the header of an object, in PspCidTable its body. ``marks`` are
    OBJ_INHERIT (2), OBJ_AUDIT_OBJECT_CLOSE (4), and bit 0: OBJ_PROTECT_CLOSE since Windows 8, a lock before.
    """

    handle: int
    address: int
    pointer: int
    rest: int
    marks: int


class FreeEntry(NamedTuple):
    """An entry that no handle has: ``following`` is its link to the next free one."""

    handle: int
    address: int
    following: int


def read_entries(target: Target, nt: Layouts, table: int, problems: list[str], what: str) -> Iterator[TableEntry]:
    """The used entries of a HANDLE_TABLE, by handle; a line about what is not in the dump is appended to ``problems``.

    ``what`` is the table's name in these lines.
    """
    return (entry for entry in all_entries(target, nt, table, problems, what) if isinstance(entry, TableEntry))


def all_entries(
    target: Target, nt: Layouts, table: int, problems: list[str], what: str
) -> Iterator[TableEntry | FreeEntry]:
    """As :func:`read_entries`, with those that are free; the first of each page, which is no entry, counts as free."""
    bits = nt.find("_HANDLE_TABLE_ENTRY", "ObjectPointerBits")
    attributes = nt.find("_HANDLE_TABLE_ENTRY", "Attributes") if bits is not None else None
    entries = 0
    for number, page in handle_pages(target, nt, table, problems, what):
        data = target.memory.read(page, PAGE_SIZE)
        if data is None:
            problems.append(f"{what}: a page of entries at {page:#x} is not in the dump")
            continue
        first = number * (PAGE_SIZE // _ENTRY.size)
        for index, (value, rest) in enumerate(_ENTRY.iter_unpack(data)):
            handle, address = (first + index) * 4, page + index * _ENTRY.size
            if not index or not (value if bits is None else value >> bits.bit):
                yield FreeEntry(handle, address, rest)
                continue
            # Since Windows 8 the entry holds bits 4 to 47 of the address, from bit 20 on.
            pointer = value & ~7 if bits is None else value >> bits.bit << 4
            if bits is not None and pointer >> 47:
                pointer |= 0xFFFF000000000000
            if target.is_kernel_address(pointer):
                entries += 1
                marks = value & _ATTRIBUTES if attributes is None else value >> attributes.bit & _ATTRIBUTES
                yield TableEntry(handle, address, pointer, rest, marks)
        if entries > _MOST_ENTRIES:
            problems.append(f"{what}: more than {_MOST_ENTRIES} entries")
            return


def handle_pages(target: Target, nt: Layouts, table: int, problems: list[str], what: str) -> Iterator[tuple[int, int]]:
    """(number, address) of the pages of 256 entries of a HANDLE_TABLE on x64; what is not in the dump is a problem.

    TableCode names a tree of pages of up to three levels (its low bits): pages of pointers over pages of entries.
    """
    code_at = nt.find("_HANDLE_TABLE", "TableCode")
    if code_at is None or target.memory.pointer_size != 8:
        return
    code = target.memory.pointer(table + code_at.offset)
    if code is None:
        problems.append(f"{what}: the table at {table:#x} is not in the dump")
        return
    level = code & 7
    if level >= _LEVELS or not target.is_kernel_address(code):
        problems.append(f"{what}: TableCode {code:#x} is no table")
        return
    yield from _leaves(target, code & ~7, level, problems, what, set())


def _leaves(
    target: Target, page: int, level: int, problems: list[str], what: str, seen: set[int]
) -> Iterator[tuple[int, int]]:
    """(number, address) of the pages of entries below a page."""
    if page in seen or len(seen) > _MOST_ENTRIES:
        problems.append(f"{what}: the table refers to {page:#x} twice")
        return
    seen.add(page)
    if level == 0:
        yield 0, page
        return
    data = target.memory.read(page, PAGE_SIZE)
    if data is None:
        problems.append(f"{what}: a page of the table at {page:#x} is not in the dump")
        return
    for index, following in enumerate(struct.unpack("<512Q", data)):
        if not following:
            continue
        if not target.is_kernel_address(following) or following % PAGE_SIZE:
            problems.append(f"{what}: {following:#x} is no page of the table")
            continue
        for number, leaf in _leaves(target, following, level - 1, problems, what, seen):
            yield index * 512 ** (level - 1) + number, leaf
