"""Addresses in the page-frame database: which page an entry is for, and whether the machine has that page.

nt!MmPfnDatabase is an array of _MMPFN, indexed by page frame number. It is as long as the machine's memory is high, so
that an address behind its end belongs to a page that the machine does not have: a page frame number that was wrong,
read from a page-table entry as a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.dump.cpuid import processor_identity
from volatility3_kdump.windows.memory.physical_memory import physical_memory

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_PAGE_SHIFT = 12
#: Size of _MMPFN on every x64 kernel from Vista on, for dumps without symbols.
_ENTRY_SIZE = 0x30
#: Bits of a physical address where CPUID does not tell; what Windows 8 and earlier support.
_PHYSICAL_BITS = 44


@dataclass(frozen=True)
class PageEntry:
    """An entry of the page-frame database.

    ``page`` is the page frame number, ``offset`` the place in the entry in bytes. ``present`` says whether the machine
    has the page. ``neighbour`` is the one page that the machine has
    and whose number differs in one bit, which is ``bit`` of the physical address.
    """

    page: int
    offset: int
    present: bool
    neighbour: int | None = None
    bit: int | None = None


def database(target: Target) -> int | None:
    """The address of the page-frame database; ``None`` where the dump does not tell.

    The header has it, or the address of the variable that has it.
    """
    if target.header.architecture != "x64":
        return None
    base = target.header.pfn_database
    if base is None:
        return None
    if base & 0xFFF or target.names.module_of(base) is not None:
        base = target.memory.pointer(base)
    return base or None


def entry_at(target: Target, address: int) -> PageEntry | None:
    """The entry that an address lies in: of a page of the machine, or of one whose number is one bit away from such.

    ``None`` for every other address, and where the dump does not list the machine's memory.
    """
    base = database(target)
    if base is None or address < base:
        return None
    size = target.nt.size_of("_MMPFN") if target.nt is not None and target.nt.has_type("_MMPFN") else _ENTRY_SIZE
    page, offset = divmod(address - base, size)
    if page >= 1 << (_physical_bits(target) - _PAGE_SHIFT):
        return None
    present = has_page(target, page)
    if present:
        return PageEntry(page, offset, present)
    # Other regions may begin before the largest address that an entry can have: only a page that is one bit away from
    # one of the machine is taken for an entry of the database.
    neighbour = page_neighbour(target, page) if present is False else None
    return None if neighbour is None else PageEntry(page, offset, False, *neighbour)


def has_page(target: Target, page: int) -> bool | None:
    """Whether the machine has a page, by the memory that the kernel, or else the dump header, lists; ``None`` where
    neither lists any."""
    runs = _runs(target)
    if not runs:
        return None
    return any(first <= page < first + count for first, count in runs)


def page_neighbour(target: Target, page: int) -> tuple[int, int] | None:
    """(page, bit of the physical address) of the only page of the machine whose number differs in one bit.

    ``None`` when there is none, or more than one that is above the machine's memory: then nothing is said.
    """
    highest = max((first + count for first, count in _runs(target)), default=0)
    neighbours = []
    for bit in range(_physical_bits(target) - _PAGE_SHIFT):
        # A bit within the machine's memory says little: holes in it are next to memory in many ways.
        if 1 << bit >= highest and has_page(target, page ^ 1 << bit):
            neighbours.append((page ^ 1 << bit, bit + _PAGE_SHIFT))
    return neighbours[0] if len(neighbours) == 1 else None


def _runs(target: Target) -> tuple[tuple[int, int], ...]:
    """(first page, pages). Headers of kernel dumps that Windows writes as a rule list no memory; their kernel does."""
    memory = target.once(physical_memory)
    return memory.runs if memory is not None else ()


def _physical_bits(target: Target) -> int:
    identity = processor_identity(target.dump.source, target.dump.tagged)
    return (identity.address_bits() if identity is not None else None) or _PHYSICAL_BITS
