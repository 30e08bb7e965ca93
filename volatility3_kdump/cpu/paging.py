"""Page tables: the levels that the processor walks, and what Windows writes into entries that the processor skips.

This is the only place that knows the bits of an entry. Valid entries are the processor's (Intel SDM volume 3, 4.3 for
32-bit paging, 4.4 for PAE, 4.5 for 4-level and 5-level paging; Arm ARM, D8.3 for the 4 KB granule of ARM64). An entry
whose valid bit is clear is the memory manager's: ``_MMPTE_SOFTWARE``, ``_MMPTE_TRANSITION``, ``_MMPTE_PROTOTYPE`` and
``_MMPTE_SUBSECTION`` of the kernel's symbols, tested in the order prototype, transition, page file. The bits Prototype
(10) and Transition (11) have not moved since Windows XP; the number of the paging file has.

Against L1TF, later kernels write every entry that is not valid with one bit set that lies above all memory
(nt!MiSwizzleInvalidPte, ``MiState.Hardware.InvalidPteMask``): where SwizzleBit is clear, the mask is to be cleared.

Windows on ARM64 has T0SZ and T1SZ of 17 and the table of TTBR1 behind that of TTBR0, half a page each (TCR_EL1,
TTBR0_EL1 and TTBR1_EL1 in the KPRCB of a real dump): one page of 512 entries maps both halves, and maps itself, as on
x64. What entries that are not valid have where is ``_MMPTE_SOFTWARE`` of the kernels 22000 and 26100; they have no
SwizzleBit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PAGE_SIZE, PAGE_SHIFT = 0x1000, 12

VALID, WRITE, USER, LARGE = 1 << 0, 1 << 1, 1 << 2, 1 << 7
PROTOTYPE_BIT, TRANSITION_BIT = 1 << 10, 1 << 11
NO_EXECUTE = 1 << 63
#: Bits of a 64-bit entry that name a table or a page of 4 KB.
FRAME_64 = 0x000FFFFFFFFFF000
FRAME_32 = 0xFFFFF000

_WIDE = 0xFFFFFFFFFFFFFFFF
#: The address of a prototype entry that is to be found through the VAD: all ones above the low 32 bits.
IN_VAD = 0xFFFFFFFF00000000
#: Bits above the frame of an entry in transition are leftovers, but 17 ones make it a kernel address (a subsection).
POINTER_SHIFT, POINTER = 47, 0x1FFFF
#: Page frames of machines whose header does not tell how many they have: the L1TF bit is bit 45 there, if not lower.
_UNKNOWN_WIDTH = 45 - PAGE_SHIFT


class TableLevel(NamedTuple):
    """A level of page tables: the lowest address bit that indexes it, and how many do.

    ``large`` says whether its entries may map pages. ``reserved`` are the bits that must be as in ``expected`` (clear)
    in a valid entry, ``reserved_large`` those that must be clear in one that maps a large page: the processor faults
    otherwise, so nothing is mapped.
    """

    shift: int
    bits: int
    large: bool = False
    reserved: int = 0
    reserved_large: int = 0
    expected: int = 0


@dataclass(frozen=True)
class PagingMode:
    """A paging mode: levels from the top down, bytes of an entry, bits of an address.

    ``root`` and ``frame`` mask the address of the top table (out of CR3) and that of a table or page (out of an entry).
    An entry whose bit ``large_bit`` is ``large_set`` maps a large page. ``marks_invalid`` says whether the kernel may
    set a bit above all memory in entries that are not valid.
    """

    name: str
    levels: tuple[TableLevel, ...]
    width: int
    address_bits: int
    root: int
    frame: int
    large_bit: int = LARGE
    large_set: bool = True
    marks_invalid: bool = True

    def is_large(self, entry: int, level: TableLevel) -> bool:
        """Whether a valid entry maps a large page."""
        return level.large and bool(entry & self.large_bit) == self.large_set

    def large_base(self, entry: int, level: TableLevel) -> int:
        """The physical address of the large page that an entry maps; its PAT bit (12) is no address bit."""
        base = entry & self.frame & -(1 << level.shift)
        if self.width == 4:
            # PSE-36: bits 13 to 20 are address bits 32 to 39.
            base |= (entry >> 13 & 0xFF) << 32
        return base


_LOW_13_20, _LOW_13_29 = 0x1FE000, 0x3FFFE000
_HIGH_52_62 = 0x7FF << 52
INTEL_32 = PagingMode("32-bit", (TableLevel(22, 10, True, 0, 1 << 21), TableLevel(12, 10)), 4, 32, FRAME_32, FRAME_32)
INTEL_PAE = PagingMode(
    "PAE",
    (
        TableLevel(30, 2, False, 0xFFF << 52 | 0x1E6),
        TableLevel(21, 9, True, _HIGH_52_62, _HIGH_52_62 | _LOW_13_20),
        TableLevel(12, 9, False, _HIGH_52_62),
    ),
    8,
    32,
    0xFFFFFFE0,
    FRAME_64,
)
_LOWER_LEVELS = (
    TableLevel(39, 9, False, LARGE),
    TableLevel(30, 9, True, 0, _LOW_13_29),
    TableLevel(21, 9, True, 0, _LOW_13_20),
    TableLevel(12, 9),
)
INTEL_4_LEVEL = PagingMode("4-level", _LOWER_LEVELS, 8, 48, FRAME_64, FRAME_64)
#: Bits 47 to 12 name a table or page of 4 KB; bit 1 tells a table, or a page of the last level, from a large page.
ARM64_FRAME, _NOT_LARGE = 0x0000FFFFFFFFF000, 1 << 1
ARM64_4_LEVEL = PagingMode(
    "ARM64",
    (
        TableLevel(39, 9, False, _NOT_LARGE, expected=_NOT_LARGE),
        TableLevel(30, 9, True),
        TableLevel(21, 9, True),
        TableLevel(12, 9, False, _NOT_LARGE, expected=_NOT_LARGE),
    ),
    8,
    48,
    ARM64_FRAME,
    ARM64_FRAME,
    _NOT_LARGE,
    False,
    False,
)
INTEL_5_LEVEL = PagingMode("5-level", (TableLevel(48, 9, False, LARGE), *_LOWER_LEVELS), 8, 57, FRAME_64, FRAME_64)

#: What an entry that is not valid says.
ZERO, PROTOTYPE, TRANSITION, PAGE_FILE, DEMAND_ZERO = "zero", "prototype", "transition", "page file", "demand zero"


@dataclass(frozen=True)
class EntryForms:
    """Where a kernel keeps what in entries that are not valid: bit positions of ``_MMPTE_SOFTWARE``.

    ``page_file`` is the lowest of the four bits of PageFileLow, ``None`` where it is not known; ``protection`` that of
    the five of Protection; ``swizzle`` the SwizzleBit, ``None`` in kernels without one. ``mask`` is the kernel's
    InvalidPteMask, ``None`` where it is not known.
    """

    page_file: int | None = None
    protection: int = 5
    swizzle: int | None = 4
    mask: int | None = None

    def plain(self, entry: int) -> int | None:
        """An entry as it was before the L1TF bit was set in it; ``None`` where that cannot be told."""
        if self.swizzle is None or entry >> self.swizzle & 1:
            return entry
        if self.mask is not None:
            return entry & ~self.mask
        # Without the mask only an entry that has none of the bits that it may be is known not to have it.
        return entry if not entry & POSSIBLE_MASKS else None


#: The L1TF bit is the highest of a physical address, which has 36 to 52 bits.
POSSIBLE_MASKS = 0x1FFFF << 35
#: The first build whose kernels, of any revision, keep PageFileLow at bit 12 and have a SwizzleBit.
_FIRST_SWIZZLED_BUILD = 17763
#: The first build whose form on ARM64 is known.
_FIRST_ARM64_BUILD = 22000


def default_forms(build: int | None, width: int, arm64: bool = False) -> EntryForms:
    """What is known without the kernel's symbols. Kernels of x64 before 17763 got the newer form by an update."""
    if arm64:
        place = 6 if build is not None and build >= _FIRST_ARM64_BUILD else None
        return EntryForms(page_file=place, protection=1, swizzle=None, mask=0)
    if width == 4:
        return EntryForms(page_file=1, swizzle=None, mask=0)
    return EntryForms(page_file=12 if build is not None and build >= _FIRST_SWIZZLED_BUILD else None)


def kind_of(entry: int, width: int = 8) -> str:
    """What an entry that is not valid says: one of the constants above."""
    if entry == 0:
        return ZERO
    if entry & PROTOTYPE_BIT:
        return PROTOTYPE
    if entry & TRANSITION_BIT:
        return TRANSITION
    return PAGE_FILE if entry >> (32 if width == 8 else PAGE_SHIFT) else DEMAND_ZERO


def frame_width(frames: int) -> int:
    """Bits of the page frame numbers of a machine with memory up to page frame ``frames`` (exclusive, 0: unknown)."""
    return (frames - 1).bit_length() if frames else _UNKNOWN_WIDTH


def transition_frame(entry: int, bits: int, width: int = 8, marked: bool = True) -> int | None:
    """The page frame of an entry in transition, on a machine whose page frame numbers have ``bits`` bits.

    The L1TF bit lies above all memory, so that it can be told from the page frame without the kernel's mask. ``None``
    where more than this bit, or any if no entries are ``marked`` by it, is set above memory: such an entry names no
    page of the machine.
    """
    if width == 4:
        return (entry & FRAME_32) >> PAGE_SHIFT
    if entry >> POINTER_SHIFT == POINTER:
        return None
    frame = (entry & FRAME_64) >> PAGE_SHIFT
    above = frame >> bits
    if above & (above - 1) or (above and not marked):
        return None
    return frame & ((1 << bits) - 1)


def prototype_address(entry: int, forms: EntryForms, mode: PagingMode) -> int | None:
    """The address of the prototype entry (ProtoAddress), as the mode's addresses without sign extension.

    ``None`` where it is not known, is to be found through the VAD, or is no address of such an entry.
    """
    plain = forms.plain(entry)
    if plain is None or mode.width == 4:
        return None
    if mode.address_bits == 32:
        address = plain >> 32
        return address if address >> 31 and not address & 7 else None
    address = plain >> 16 | (0xFFFF << 48 if plain >> 63 else 0)
    if address & IN_VAD == IN_VAD or not address >> 63 or address & 7:
        return None
    return address & ((1 << mode.address_bits) - 1)


def page_file_place(entry: int, forms: EntryForms, width: int = 8) -> tuple[int, int] | None:
    """The number of the paging file and the page in it that an entry names; ``None`` where that cannot be told."""
    plain = forms.plain(entry)
    if plain is None or forms.page_file is None:
        return None
    page = plain >> (32 if width == 8 else PAGE_SHIFT)
    return (plain >> forms.page_file & 0xF, page) if page else None
