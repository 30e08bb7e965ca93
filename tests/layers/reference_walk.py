"""A slow walk of page tables, written from the manuals and sharing nothing with the package.

Intel SDM volume 3: tables 4-4 to 4-6 (32-bit), 4-8 to 4-11 (PAE), 4-14 to 4-20 (4-level and 5-level paging). Entries
that are not valid: the memory manager's structures as public symbols give them, in the order prototype, transition,
page file; against L1TF the highest bit of a physical address is set in them where bit 4 (SwizzleBit) is clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PAGE = 4096
SHIFTS = {"x86": (22, 12), "pae": (30, 21, 12), "x64": (39, 30, 21, 12), "la57": (48, 39, 30, 21, 12)}
BITS = {"x86": 32, "pae": 32, "x64": 48, "la57": 57}


@dataclass
class Machine:
    """``memory`` by page frame, ``files`` by number of the paging file; ``highest`` is the machine's last page frame.

    ``l1tf`` is the number of the bit that is set in entries that are not valid, 0 for none, ``None`` where unknown.
    """

    mode: str
    root: int
    memory: Mapping[int, bytes]
    highest: int
    l1tf: int | None = 0
    files: Mapping[int, bytes] = field(default_factory=dict)

    def table(self, where: tuple[int | None, int], size: int) -> bytes | None:
        number, address = where
        page = self.memory.get(address // PAGE) if number is None else self.files[number][address & -PAGE :][:PAGE]
        data = (page or b"")[address % PAGE :][:size]
        width = 4 if self.mode == "x86" else 8
        filler = size == PAGE and len({data[at : at + width] for at in range(0, len(data), width)}) == 1
        return None if len(data) < size or filler else data

    def translate(self, address: int, prototypes: bool = True) -> tuple[int | None, int] | None:
        """(``None``, physical address) or (number of a paging file, offset in it); ``None`` where there is neither."""
        width = 4 if self.mode == "x86" else 8
        where: tuple[int | None, int] = (None, self.root)
        for shift in SHIFTS[self.mode]:
            top_of_pae = self.mode == "pae" and shift == 30
            count = 4 if top_of_pae else PAGE // width
            table = self.table(where, count * width)
            if table is None:
                return None
            index = address >> shift & count - 1
            entry = int.from_bytes(table[index * width : (index + 1) * width], "little")
            if entry & 1:
                large = entry & 0x80 and shift in (
                    (22,) if width == 4 else (21,) if top_of_pae or BITS[self.mode] == 32 else (30, 21)
                )
                if self.reserved(entry, shift, bool(large)):
                    return None
                frame = entry & (0xFFFFF000 if width == 4 else 0xFFFFFFFFFF000)
                if large:
                    frame = frame >> shift << shift
                    frame |= (entry >> 13 & 0xFF) << 32 if width == 4 else 0
                    return None, frame | address & (1 << shift) - 1
                where = None, frame
                continue
            found = self.invalid(entry, shift == 12 and prototypes)
            if found is None:
                return None
            where = found
        return where[0], where[1] | address % PAGE

    def reserved(self, entry: int, shift: int, large: bool) -> bool:
        if self.mode == "x86":
            return large and bool(entry >> 21 & 1)
        if self.mode == "pae" and (entry >> 52 & 0x7FF or (shift == 30 and (entry >> 63 or entry & 0x1E6))):
            return True
        if large:
            return bool(entry & (1 << shift) - 1 & -1 << 13)
        return shift >= 39 and bool(entry & 0x80)

    def invalid(self, entry: int, prototypes: bool) -> tuple[int | None, int] | None:
        wide = self.mode != "x86"
        if entry >> 10 & 1:
            return self.section(entry) if prototypes and wide else None
        if entry >> 11 & 1:
            if wide and entry >> 47 == 0x1FFFF:
                return None
            frame = entry >> 12 & ((1 << 40) - 1 if wide else (1 << 20) - 1)
            extra = frame >> self.highest.bit_length() if wide else 0
            return None if extra.bit_count() > 1 else (None, (frame - (extra << self.highest.bit_length())) * PAGE)
        plain = self.without_l1tf(entry)
        if plain is None:
            return None
        number, page = (plain >> 12 & 15, plain >> 32) if wide else (plain >> 1 & 15, plain >> 12)
        return (number, page * PAGE) if page and (page + 1) * PAGE <= len(self.files.get(number, b"")) else None

    def without_l1tf(self, entry: int) -> int | None:
        if self.mode == "x86" or entry >> 4 & 1:
            return entry
        if self.l1tf is None:
            return entry if entry >> 35 & 0x1FFFF == 0 else None
        return entry & ~(1 << self.l1tf) if self.l1tf else entry

    def section(self, entry: int) -> tuple[int | None, int] | None:
        plain = self.without_l1tf(entry)
        if plain is None:
            return None
        address = plain >> 32 if self.mode == "pae" else plain >> 16
        top = 31 if self.mode == "pae" else 47
        if address % 8 or not address >> top or (top == 47 and address >> 32 == 0xFFFF):
            return None
        if self.mode == "la57":
            address |= 0x1FF << 48
        where = self.translate(address, prototypes=False)
        if where is None:
            return None
        data = self.memory.get(where[1] // PAGE, b"") if where[0] is None else self.files[where[0]][where[1] & -PAGE :]
        value = int.from_bytes(data[where[1] % PAGE :][:8], "little")
        if not data or value & 1:
            return (None, value & 0xFFFFFFFFFF000) if data else None
        return self.invalid(value, False)
