"""x64 four-level page tables, built in the physical memory that they describe.

A table index is nine bits of the address: [47:39] PML4, [38:30] PDPT, [29:21] page directory, [20:12] page table
(Intel SDM volume 3, 4-level paging). Windows points one entry of the upper half of each PML4 at the PML4 itself; the
entry's index follows from MmPteBase. All processes share the tables of the other upper-half entries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdump_sample.physical import PAGE, PhysicalMemory

VALID = 1 << 0
WRITE = 1 << 1
USER = 1 << 2
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7
GLOBAL = 1 << 8
SOFTWARE_WRITE = 1 << 11
NO_EXECUTE = 1 << 63

#: Entry of a table that leads to another table, as the kernel writes it.
TABLE = VALID | WRITE | ACCESSED | DIRTY
KERNEL_DATA = VALID | WRITE | ACCESSED | DIRTY | GLOBAL | SOFTWARE_WRITE | NO_EXECUTE
KERNEL_READ_ONLY = VALID | ACCESSED | GLOBAL | NO_EXECUTE
KERNEL_CODE = VALID | ACCESSED | GLOBAL
USER_DATA = VALID | WRITE | USER | ACCESSED | DIRTY | SOFTWARE_WRITE | NO_EXECUTE
USER_READ_ONLY = VALID | USER | ACCESSED | NO_EXECUTE

_FRAME = 0x000FFFFFFFFFF000
_LARGE_PAGES = 512
_KERNEL_HALF = 256


def self_map_index(pte_base: int) -> int:
    """The PML4 index of the self-map entry for a value of MmPteBase."""
    return (pte_base >> 39) & 0x1FF


@dataclass(frozen=True)
class Mapping:
    """What an entry of a page table leads to.

    ``level`` is 0 for a page, 1 to 3 for a page table (1 also for a large page), 4 for the top table of a process,
    which maps itself. ``address`` is the first that it maps, without sign extension; ``table`` the page frame that the
    entry is in; ``process`` the directory base, 0 in the kernel's half.
    """

    level: int
    address: int
    pfn: int
    table: int
    process: int
    large: bool = False


class AddressSpaces:
    """The kernel half, shared, and the user half of each process."""

    def __init__(self, physical: PhysicalMemory, pte_base: int) -> None:
        self.physical = physical
        self.pte_base = pte_base
        self._kernel_root = [0] * 512
        self._roots: dict[int, list[int]] = {}
        self._cache: dict[tuple[int, int], bytearray] = {}

    def add_process(self, directory_table_base: int) -> None:
        """Make the PML4 of a process at a page-aligned physical address."""
        self.physical.claim(directory_table_base // PAGE)
        self._roots[directory_table_base] = [0] * 512

    def finish(self) -> None:
        """Write the PML4 pages: user half, shared kernel half, self-map."""
        index = self_map_index(self.pte_base)
        for base, user in self._roots.items():
            root = user[:_KERNEL_HALF] + self._kernel_root[_KERNEL_HALF:]
            root[index] = base | TABLE | NO_EXECUTE
            self.physical.pages[base // PAGE][:] = b"".join(entry.to_bytes(8, "little") for entry in root)

    def map(self, address: int, pfn: int, flags: int, process: int = 0) -> None:
        """Point the leaf entry of an address at a PFN. ``process`` is the directory base for user addresses."""
        table, offset = self._leaf(address, process)
        table[offset : offset + 8] = (pfn << 12 | flags).to_bytes(8, "little")

    def map_large(self, address: int, first_pfn: int, flags: int, process: int = 0) -> None:
        """Map a 2 MiB page; its 512 physical pages stay absent until they are written."""
        if address % (_LARGE_PAGES * PAGE) or first_pfn % _LARGE_PAGES:
            raise ValueError("a 2 MiB page is not aligned")
        table, offset = self._leaf(address, process, level=21)
        table[offset : offset + 8] = (first_pfn << 12 | flags | LARGE).to_bytes(8, "little")

    def set_entry(self, address: int, entry: int, process: int = 0) -> None:
        """Write a raw leaf entry, for instance one that is not valid."""
        table, offset = self._leaf(address, process)
        table[offset : offset + 8] = entry.to_bytes(8, "little")

    def page(self, address: int, flags: int = KERNEL_DATA, process: int = 0, purpose: str = "kernel") -> bytearray:
        """The page behind an address, mapped with these flags and allocated from ``purpose`` if it was not there."""
        key = (0 if address >> 47 else process, address // PAGE)
        page = self._cache.get(key)
        if page is None:
            pfn = self.translate(address, process)
            if pfn is None:
                pfn = self.physical.allocate(purpose)
                self.map(address, pfn, flags, process)
            page = self._cache[key] = self.physical.claim(pfn)
        return page

    def write(self, address: int, data: bytes | bytearray, flags: int = KERNEL_DATA, process: int = 0) -> None:
        """Store bytes, making the pages that are missing: user data for a user address, else kernel data."""
        purpose = "kernel" if address >> 47 else "user"
        offset = address % PAGE
        if offset + len(data) <= PAGE:
            # Nearly every write is a field.
            if data:
                self.page(address, flags, process, purpose)[offset : offset + len(data)] = data
            return
        position = 0
        while position < len(data):
            offset = (address + position) % PAGE
            count = min(PAGE - offset, len(data) - position)
            page = self.page(address + position, flags, process, purpose)
            page[offset : offset + count] = data[position : position + count]
            position += count

    def written(self, start: int, size: int) -> list[int]:
        """The addresses of the kernel pages in a range that :meth:`page` and :meth:`write` have made, ascending."""
        first, last = start // PAGE, (start + size - 1) // PAGE
        return sorted(page * PAGE for process, page in self._cache if process == 0 and first <= page <= last)

    def read(self, address: int, size: int, process: int = 0) -> bytes | None:
        """Bytes at an address, or ``None`` where a page is not there."""
        parts = []
        while size > 0:
            pfn = self.translate(address, process)
            if pfn is None or pfn not in self.physical.pages:
                return None
            offset = address % PAGE
            count = min(PAGE - offset, size)
            parts.append(bytes(self.physical.pages[pfn][offset : offset + count]))
            address += count
            size -= count
        return b"".join(parts)

    def translate(self, address: int, process: int = 0) -> int | None:
        """The PFN behind an address, or ``None`` if it is not mapped."""
        entry = self._root(address, process)[(address >> 39) & 0x1FF]
        for shift in (30, 21, 12):
            if not entry & VALID:
                return None
            offset = ((address >> shift) & 0x1FF) * 8
            table = self.physical.pages[(entry & _FRAME) >> 12]
            entry = int.from_bytes(table[offset : offset + 8], "little")
            if shift == 21 and entry & VALID and entry & LARGE:
                return ((entry & _FRAME) >> 12) + ((address >> 12) & 0x1FF)
        return (entry & _FRAME) >> 12 if entry & VALID else None

    def mappings(self) -> Iterator[Mapping]:
        """Every page table and page that is mapped, the kernel's half once."""
        for process, user in self._roots.items():
            yield Mapping(4, 0, process // PAGE, process // PAGE, process)
            yield from self._below(user, process // PAGE, 3, 0, process)
        system = next(iter(self._roots)) // PAGE
        yield from self._below(self._kernel_root, system, 3, 0, 0)

    def _below(self, entries: Sequence[int], table: int, level: int, address: int, process: int) -> Iterator[Mapping]:
        """What the entries of a table map; ``level`` is that of the pages they lead to: 3 to 1 tables, 0 pages."""
        for index, entry in enumerate(entries):
            if not entry & VALID:
                continue
            pfn, start = (entry & _FRAME) >> 12, address | index << (12 + 9 * level)
            large = bool(level == 1 and entry & LARGE)
            yield Mapping(level, start, pfn, table, process, large)
            if level and not large:
                below = struct.unpack("<512Q", self.physical.pages[pfn])
                yield from self._below(below, pfn, level - 1, start, process)

    def _root(self, address: int, process: int) -> list[int]:
        return self._kernel_root if address >> 47 else self._roots[process]

    def _leaf(self, address: int, process: int, level: int = 12) -> tuple[bytearray, int]:
        """The table that holds the entry of an address at the level of this shift, and the entry's offset in it."""
        root = self._root(address, process)
        flags = TABLE if address >> 47 else TABLE | USER
        index = (address >> 39) & 0x1FF
        if not root[index]:
            root[index] = self.physical.allocate("tables") << 12 | flags
        entry = root[index]
        shift = 30
        while True:
            table = self.physical.pages[(entry & _FRAME) >> 12]
            offset = ((address >> shift) & 0x1FF) * 8
            if shift == level:
                return table, offset
            entry = int.from_bytes(table[offset : offset + 8], "little")
            if not entry & VALID:
                entry = self.physical.allocate("tables") << 12 | flags
                table[offset : offset + 8] = entry.to_bytes(8, "little")
            elif entry & LARGE:
                raise ValueError(f"{address:#x} already lies in a large page")
            shift -= 9
