"""The translation of one virtual address, entry by entry: what ``!pte`` and ``!vtop`` show.

The walk is that of the layers (:mod:`volatility3_kdump.layers.page_tables`), what entries mean is in
:mod:`volatility3_kdump.cpu.paging`, so that what is shown here is what ``db`` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.cpu import paging
from volatility3_kdump.cpu.paging import ARM64_4_LEVEL, PAGE_FILE, PROTOTYPE, TRANSITION, VALID, ZERO
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.memory.pte import entry_forms, pte_base
from volatility3_kdump.windows.processes.processes import read_process

if TYPE_CHECKING:
    from volatility3_kdump.layers.page_tables import Step
    from volatility3_kdump.layers.translation import KdumpTranslation
    from volatility3_kdump.target import Target

_TOP = 1 << 64

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
    """An entry that is not valid. ``kind`` is one of the constants of :mod:`volatility3_kdump.cpu.paging`.

    ``frame`` is the page frame of a page in transition; ``page_file`` and ``offset`` the number of the paging file and
    the page in it; ``prototype`` the address of the prototype entry, ``None`` where it is to be found by the VAD;
    ``protection`` the memory manager's protection value. ``unknown`` says that a bit of the kernel's that may be set in
    the entry is not known, so that what it names is not either.
    """

    kind: str
    frame: int | None = None
    page_file: int | None = None
    offset: int | None = None
    prototype: int | None = None
    protection: int | None = None
    unknown: bool = False

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
    large page; ``invalid`` what it says when it is not valid; ``filler`` that its table holds nothing but this entry,
    and so counts as mapping nothing; ``page_file`` the paging file that its table is in, where it is in one; ``arm64``
    that it is a descriptor of ARM64.
    """

    name: str
    processor_name: str
    address: int | None
    physical: int
    value: int | None
    size: int
    large: bool = False
    invalid: Invalid | None = None
    filler: bool = False
    page_file: int | None = None
    arm64: bool = False

    @property
    def frame(self) -> int | None:
        """The page frame number of a valid entry."""
        mask = paging.ARM64_FRAME if self.arm64 else paging.FRAME_64 if self.size == 8 else paging.FRAME_32
        return None if self.value is None or not self.value & VALID else (self.value & mask) >> paging.PAGE_SHIFT


@dataclass(frozen=True)
class Translation:
    """How an address is translated, from the top-level table down to where it ends.

    ``root`` is the physical address of the top-level table; ``physical`` the address that results, ``None`` when none
    does; ``page_size`` the bytes of the page. ``page_file`` names the paging file in which ``physical`` is the offset,
    where the page is in one that is at hand.
    """

    address: int
    root: int
    entries: tuple[Entry, ...]
    physical: int | None
    page_size: int | None
    page_file: int | None = None


#: (name of the debugger, name of the processor) of the entries, from the top level down, by the number of levels and
#: the size of an entry in bytes.
_NAMES_64 = (("PXE", "PML4E"), ("PPE", "PDPE"), ("PDE", "PDE"), ("PTE", "PTE"))
_NAMES_ARM64 = (("PXE", "L0"), ("PPE", "L1"), ("PDE", "L2"), ("PTE", "L3"))
_NAMES = {(5, 8): (("PML5E", "PML5E"), *_NAMES_64), (4, 8): _NAMES_64, (3, 8): _NAMES_64[1:], (2, 4): _NAMES_64[2:]}


def directory_of(target: Target, process: int | None = None) -> int:
    """The physical address of the top-level table of a process, with its flags; by default that of the dump header.

    Raises :class:`KdumpError`.
    """
    directory = read_process(target, process).directory_table_base if process is not None else None
    directory = directory or target.header.directory_table_base
    if not directory:
        raise KdumpError(f"{target.name}: the dump does not hold the address of the page tables")
    return directory


def directory_at(target: Target, directory: int) -> int:
    """A page directory's address of what was typed: that, or its page frame number, as in ``!vtop 98fd 12f980``."""
    numbered = bool(directory & 0xFFF) and directory < 1 << 40
    return directory << 12 if numbered and target.physical_memory.why_absent(directory << 12) is None else directory


def translate(target: Target, address: int, directory: int | None = None) -> Translation:
    """Walk the page tables for an address; ``directory`` is CR3, by default that of the dump header.

    Raises :class:`KdumpError` for a dump without physical memory, and for processors other than x64, x86 and ARM64.
    """
    if target.physical_layer_name is None:
        raise KdumpError(f"{target.name}: a small memory dump holds no page tables")
    from volatility3_kdump.layers.page_tables import PHYSICAL, Place

    layer = _layer(target)
    mode = layer.mode
    space = layer.space_of(directory_of(target) if directory is None else directory)
    steps: list[Step] = []
    place = space.walk(address & ((1 << mode.address_bits) - 1), steps)
    count = len(mode.levels)
    entries = []
    arm64 = mode is ARM64_4_LEVEL
    for number, (step, names) in enumerate(
        zip(steps, _NAMES_ARM64 if arm64 else _NAMES[count, mode.width], strict=False)
    ):
        valid = step.value is not None and bool(step.value & VALID)
        virtual = _self_mapped(target, address, count - number, mode.address_bits) if mode.address_bits >= 48 else None
        entries.append(
            Entry(
                *names,
                virtual,
                step.address,
                step.value,
                mode.width,
                valid and mode.is_large(step.value or 0, step.level),
                None if step.value is None or valid else describe_invalid(target, step.value),
                step.filler,
                None if step.which == PHYSICAL else step.which,
                arm64,
            )
        )
    if not isinstance(place, Place):
        return Translation(address, space.root, tuple(entries), None, None)
    return Translation(
        address,
        space.root,
        tuple(entries),
        place.base | address & (place.size - 1),
        place.size,
        None if place.which == PHYSICAL else place.which,
    )


def _layer(target: Target) -> KdumpTranslation:
    """The target's own layer. Raises :class:`KdumpError` where it walks no page tables."""
    from volatility3_kdump.layers.translation import KdumpTranslation

    layer = target.context.layers[target.layer_name] if target.layer_name is not None else None
    if not isinstance(layer, KdumpTranslation):
        raise KdumpError(f"{target.name}: no page tables of {target.header.architecture} can be walked in this dump")
    return layer


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


def address_of_entry(target: Target, entry: int) -> int | None:
    """The address that an entry in the map of page tables translates; ``None`` where it lies in no such map."""
    base = pte_base(target)
    layer = _layer(target)
    if base is None or layer.mode.address_bits < 48 or entry % 8:
        return None
    mask = (1 << layer.mode.address_bits) - 1
    if not 0 <= entry - base <= mask >> 12 << 3:
        return None
    address = (entry - base) // 8 << 12
    return address | _TOP - 1 - mask if address >> layer.mode.address_bits - 1 else address


def literal_entries(target: Target, address: int) -> tuple[Entry, Entry]:
    """The entry at a virtual address as one of the last level and of the one above. Raises :class:`KdumpError`."""
    layer = _layer(target)
    width = layer.mode.width
    value = target.memory.unsigned(address, width)
    invalid = None if value is None or value & VALID else describe_invalid(target, value)
    arm64 = layer.mode is ARM64_4_LEVEL
    above = layer.mode.levels[-2]
    large = bool(value is not None and value & VALID and layer.mode.is_large(value, above))
    upper, lower = _NAMES_ARM64[-2:] if arm64 else (("PDE", "PDE"), ("PTE", "PTE"))
    return (
        Entry(*upper, address, 0, value, width, large, invalid, arm64=arm64),
        Entry(*lower, address, 0, value, width, False, invalid, arm64=arm64),
    )


def describe_invalid(target: Target, value: int) -> Invalid:
    """What an entry without the valid bit says."""
    width = 8 if value >> 32 or target.header.bits == 64 else _layer(target).mode.width
    kind = paging.kind_of(value, width)
    if kind == ZERO:
        return Invalid(ZERO)
    forms = target.once(entry_forms)
    protection = value >> forms.protection & 0x1F
    if kind == TRANSITION:
        bits = paging.frame_width(target.dump.machine_frames)
        frame = paging.transition_frame(value, bits, width, target.header.architecture != "arm64")
        return Invalid(TRANSITION, frame=frame, protection=protection, unknown=frame is None)
    plain = forms.plain(value)
    if kind == PROTOTYPE:
        if target.header.bits == 64 and _prototype(value, 64) & paging.IN_VAD == paging.IN_VAD:
            return Invalid(PROTOTYPE, protection=protection)
        address = None if plain is None or width == 4 else _prototype(plain, target.header.bits)
        return Invalid(PROTOTYPE, prototype=address, protection=protection, unknown=address is None)
    if kind == PAGE_FILE:
        number, page = paging.page_file_place(value, forms, width) or (None, None)
        return Invalid(PAGE_FILE, page_file=number, offset=page, protection=protection, unknown=page is None)
    return Invalid(kind, protection=protection)


def _prototype(plain: int, bits: int) -> int:
    """ProtoAddress, sign-extended."""
    if bits == 32:
        return plain >> 32
    return plain >> 16 | (0xFFFF << 48 if plain >> 63 else 0)
