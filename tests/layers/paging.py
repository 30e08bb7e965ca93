"""Page tables made by hand (Intel SDM volume 3, chapter 4), and a kernel of a few pages that they map."""

from __future__ import annotations

import struct
from collections.abc import Mapping

PAGE = 0x1000
PRESENT_WRITABLE = 0x63
LARGE = 0x80

#: Bits of the virtual address that each level of tables indexes, top level first: (shift, index bits).
MODES = {
    "x64": ((39, 9), (30, 9), (21, 9), (12, 9)),
    "la57": ((48, 9), (39, 9), (30, 9), (21, 9), (12, 9)),
    "pae": ((30, 2), (21, 9), (12, 9)),
    "x86": ((22, 10), (12, 10)),
}

HEADS = {8: (0xFFFFF80312345100, 0xFFFFF80312346200), 4: (0x80555100, 0x80556200)}
SHARED_DATA = {8: 0xFFFFF78000000000, 4: 0xFFDF0000}


class Tables:
    """Maps pages in one of :data:`MODES`; ``memory`` holds the table pages by page frame."""

    def __init__(self, mode: str, root: int, first_free: int) -> None:
        self.mode = mode
        self.root = root
        self.width = 4 if mode == "x86" else 8
        self.memory: dict[int, bytearray] = {root: bytearray(PAGE)}
        self._free = first_free

    def map(self, address: int, pfn: int, large: bool = False, flags: int = PRESENT_WRITABLE) -> None:
        levels = MODES[self.mode]
        table = self.root
        last = len(levels) - 2 if large else len(levels) - 1
        for depth, (shift, bits) in enumerate(levels[: last + 1]):
            index = address >> shift & (1 << bits) - 1
            entry = self._get(table, index)
            if depth == last:
                self._set(table, index, pfn << 12 | flags | (LARGE if large else 0))
            elif not entry & 1:
                table_pfn, self._free = self._free, self._free + 1
                self.memory[table_pfn] = bytearray(PAGE)
                # Entries of the PAE pointer table have no access bits.
                self._set(
                    table, index, table_pfn << 12 | (1 if self.mode == "pae" and depth == 0 else PRESENT_WRITABLE)
                )
                table = table_pfn
            else:
                table = entry >> 12 & (1 << 40) - 1

    def _get(self, pfn: int, index: int) -> int:
        return int.from_bytes(self.memory[pfn][index * self.width : (index + 1) * self.width], "little")

    def _set(self, pfn: int, index: int, value: int) -> None:
        self.memory[pfn][index * self.width : (index + 1) * self.width] = value.to_bytes(self.width, "little")


def kernel_pages(width: int) -> dict[int, bytes]:
    """Page frames 0x30 to 0x32: the pages of the two list heads, each with one entry, and the shared data page."""
    pages: dict[int, bytes] = {}
    code = "<QQ" if width == 8 else "<II"
    for pfn, head in zip((0x30, 0x31), HEADS[width], strict=True):
        page = bytearray(PAGE)
        entry = (head & ~0xFFF) + 0x800
        struct.pack_into(code, page, head & 0xFFF, entry, entry)
        struct.pack_into(code, page, 0x800, head, head)
        pages[pfn] = bytes(page)
    shared = bytearray(PAGE)
    struct.pack_into("<II", shared, 0x26C, 10, 0)
    struct.pack_into("<I", shared, 0x260, 0xF0004A61)
    pages[0x32] = bytes(shared)
    return pages


def machine(mode: str, root: int = 0x40) -> tuple[dict[int, bytes], dict[str, int]]:
    """Physical pages of a tiny kernel, and the header values that belong to it."""
    width = 4 if mode in ("x86", "pae") else 8
    tables = Tables(mode, root, root + 1)
    for pfn, address in zip((0x30, 0x31, 0x32), (*HEADS[width], SHARED_DATA[width]), strict=True):
        tables.map(address & ~0xFFF, pfn)
    memory = {**kernel_pages(width), **{pfn: bytes(table) for pfn, table in tables.memory.items()}}
    values = {
        "DirectoryTableBase": root << 12,
        "PsLoadedModuleList": HEADS[width][0],
        "PsActiveProcessHead": HEADS[width][1],
    }
    return memory, values


def without(memory: Mapping[int, bytes], *pfns: int) -> dict[int, bytes]:
    return {pfn: page for pfn, page in memory.items() if pfn not in pfns}
