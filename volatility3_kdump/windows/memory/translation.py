"""The translation of one virtual address, entry by entry: what ``!pte`` and ``!vtop`` show.

Levels and large pages: Intel SDM volume 3, 4.3 (32-bit), 4.4 (PAE), 4.5 (4-level and 5-level paging). Entries that are
not valid are the memory manager's: ``_MMPTE_SOFTWARE``, ``_MMPTE_TRANSITION`` and ``_MMPTE_PROTOTYPE`` of the kernel's
symbols, tested in the order prototype, transition, page file. Page frame numbers of entries in transition and page file
offsets are XORed with the kernel's mask
(:func:`~volatility3_kdump.windows.memory.pte.invalid_pte_mask`) where the entry's SwizzleBit is clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.memory.pte import invalid_pte_mask, pte_base
from volatility3_kdump.windows.processes.processes import read_process

if TYPE_CHECKING:
    from volatility3_kdump.layers.translation import TableLevel
    from volatility3_kdump.target import Target

VALID, LARGE = 1, 1 << 7
_FRAME = 0x000FFFFFFFFFF000
_TOP = 1 << 64
#: The address of a prototype entry that is to be found through the VAD.
_IN_VAD = 0xFFFFFFFFFFFF0000

#: What an entry that is not valid says.
ZERO, PROTOTYPE, TRANSITION, PAGE_FILE, DEMAND_ZERO = "zero", "prototype", "transition", "page file", "demand zero"

#: Names of MM protection values (the low three bits of the Protection field).
_PROTECTIONS = (
    "NoAccess",
    "ReadOnly",
    "Execute",
    "ExecuteRead",
    "ReadWrite",
    "WriteCopy",
    "ExecuteReadWrite",
    "ExecuteWriteCopy",
)


@dataclass(frozen=True)
class Invalid:
    """An entry that is not valid. ``kind`` is one of the constants above.

    ``frame`` is the page frame of a page in transition; ``page_file`` and ``offset`` the number of the paging file and
    the page in it; ``prototype`` the address of the prototype entry, ``None`` where it is to be found by the VAD;
    ``protection`` the memory manager's protection value.
    """

    kind: str
    frame: int | None = None
    page_file: int | None = None
    offset: int | None = None
    prototype: int | None = None
    protection: int | None = None

    @property
    def protection_text(self) -> str:
        """``4 - ReadWrite``."""
        value = self.protection or 0
        name = "Decommitted" if value == 0x10 else _PROTECTIONS[value & 7]
        modifier = {1: " NoCache", 2: " Guard", 3: " WriteCombine"}.get(value >> 3 & 3, "") if value != 0x10 else ""
        return f"{value:x} - {name}{modifier}"


@dataclass(frozen=True)
class Entry:
    """One level. ``name`` is the debugger's (``PXE``...) and ``processor_name`` the processor's (``PML4E``...).

    ``address`` is where the entry lies in the map of page tables, ``None`` where that map is not known; ``physical``
    its physical address; ``value`` its bits, ``None`` where its page is not in the dump. ``large`` says that it maps a
    large page; ``invalid`` what it says when it is not valid.
    """

    name: str
    processor_name: str
    address: int | None
    physical: int
    value: int | None
    size: int
    large: bool = False
    invalid: Invalid | None = None

    @property
    def frame(self) -> int | None:
        """The page frame number of a valid entry."""
        return None if self.value is None or not self.value & VALID else (self.value & _FRAME) >> 12


@dataclass(frozen=True)
class Translation:
    """How an address is translated, from the top-level table down to where it ends.

    ``root`` is the physical address of the top-level table; ``physical`` the address that results, ``None`` when none
    does; ``page_size`` the bytes of the page.
    """

    address: int
    root: int
    entries: tuple[Entry, ...]
    physical: int | None
    page_size: int | None


#: (name of the debugger, name of the processor) of the entries, from the top level down, by the number of levels and
#: the size of an entry in bytes.
_NAMES_64 = (("PXE", "PML4E"), ("PPE", "PDPE"), ("PDE", "PDE"), ("PTE", "PTE"))
_NAMES = {(5, 8): (("PML5E", "PML5E"), *_NAMES_64), (4, 8): _NAMES_64, (3, 8): _NAMES_64[1:], (2, 4): _NAMES_64[2:]}


def directory_of(target: Target, process: int | None = None) -> int:
    """The physical address of the top-level table of a process, with its flags; by default that of the dump header.

    Raises :class:`KdumpError`.
    """
    found = read_process(target, process).directory_table_base if process is not None else None
    found = found or target.header.directory_table_base
    if not found:
        raise KdumpError(f"{target.name}: the dump does not hold the address of the page tables")
    return found


def translate(target: Target, address: int, directory: int | None = None) -> Translation:
    """Walk the page tables for an address; ``directory`` is CR3, by default that of the dump header.

    Raises :class:`KdumpError` for a dump without physical memory, and for processors other than x64 and x86.
    """
    if target.physical_layer_name is None:
        raise KdumpError(f"{target.name}: a small memory dump holds no page tables")
    levels, width = _levels(target)
    root = directory_of(target) if directory is None else directory
    table = root & (_FRAME if width == 8 and len(levels) > 3 else 0xFFFFFFE0 if width == 8 else 0xFFFFF000)
    first = table
    entries: list[Entry] = []
    for number, (level, names) in enumerate(zip(levels, _NAMES[len(levels), width], strict=True)):
        index = address >> level.shift & ((1 << level.bits) - 1)
        at = table + index * width
        value = target.physical_memory.unsigned(at, width)
        valid = value is not None and bool(value & VALID)
        large = valid and level.large and bool((value or 0) & LARGE)
        invalid = None if value is None or valid else describe_invalid(target, value, number == len(levels) - 1)
        bits = 9 * len(levels) + 12
        virtual = _self_mapped(target, address, len(levels) - number, bits) if bits >= 48 else None
        entry = Entry(*names, virtual, at, value, width, large, invalid)
        entries.append(entry)
        if value is None or not valid:
            return Translation(address, first, tuple(entries), None, None)
        if large or level.shift == 12:
            size = 1 << level.shift
            base = value & _FRAME & ~(size - 1)
            return Translation(address, first, tuple(entries), base | address & (size - 1), size)
        table = value & _FRAME
    raise AssertionError("the last level maps a page")


def _levels(target: Target) -> tuple[tuple[TableLevel, ...], int]:
    """The levels of tables that the target's own layer walks, and the bytes of an entry."""
    from volatility3_kdump.layers.paging import paged
    from volatility3_kdump.layers.translation import table_levels

    layer = paged(target.context.layers[target.layer_name]) if target.layer_name is not None else None
    if layer is None:
        raise KdumpError(f"{target.name}: no page tables of {target.header.architecture} can be walked in this dump")
    return table_levels(layer), layer._entry_size


def _self_mapped(target: Target, address: int, levels: int, bits: int) -> int | None:
    """Where the entry ``levels`` tables above the page lies in the map of page tables.

    The map is a table that is an entry of itself: the PTEs of all addresses follow one another from its base, and the
    entries of the level above are the PTEs of that range.
    """
    base = pte_base(target)
    if base is None:
        return None
    mask = (1 << bits) - 1
    at = address
    for _ in range(levels):
        at = base + ((at & mask) >> 12) * 8
    return at % _TOP


def describe_invalid(target: Target, value: int, leaf: bool = True) -> Invalid:
    """What an entry without the valid bit says; above the last level only whether it is in transition or zero."""
    if value == 0:
        return Invalid(ZERO)

    def bits(type_name: str, name: str, low: int, count: int) -> int:
        found = target.nt.find(type_name, name) if target.nt is not None else None
        if found is not None and found.bits:
            low, count = found.bit, found.bits
        return value >> low & ((1 << count) - 1)

    protection = bits("_MMPTE_SOFTWARE", "Protection", 5, 5)
    if bits("_MMPTE_SOFTWARE", "Prototype", 10, 1):
        address = bits("_MMPTE_PROTOTYPE", "ProtoAddress", 16, 48)
        if address >> 47:
            address |= 0xFFFF000000000000
        return Invalid(PROTOTYPE, prototype=None if address == _IN_VAD else address, protection=protection)
    mask = 0
    if not bits("_MMPTE_SOFTWARE", "SwizzleBit", 4, 1):
        mask = invalid_pte_mask(target)
    if bits("_MMPTE_SOFTWARE", "Transition", 11, 1):
        frame = bits("_MMPTE_TRANSITION", "PageFrameNumber", 12, 36) ^ (mask >> 12)
        return Invalid(TRANSITION, frame=frame, protection=protection)
    offset = bits("_MMPTE_SOFTWARE", "PageFileHigh", 32, 32)
    if offset and leaf:
        number = bits("_MMPTE_SOFTWARE", "PageFileLow", 12, 4)
        return Invalid(PAGE_FILE, page_file=number, offset=offset ^ (mask >> 32), protection=protection)
    return Invalid(DEMAND_ZERO, protection=protection)
