"""The page-frame database: an _MMPFN for every page of physical memory, read in large pieces and counted by columns.

``nt!MmPfnDatabase`` points at an array that is indexed by page frame number. It has entries only for memory that the
machine has; the address space between them is not mapped. Where the fields lie comes from the kernel's symbols; what
they mean has not changed since Windows 7:

- ``u3.e1.PageLocation`` (_MMLISTS) is the list that the page is on, or that it is in use.
- A page that can be shared (``u4.PrototypePte``) has the address of its prototype PTE in ``PteAddress``; the content
  that this PTE gets back, ``OriginalPte``, leads to the subsection of a mapped file, or is that of a paging file.
- Any other page in use has the address of its PTE there, which lies in the page tables' self-map, and so tells the
  virtual address that the page is mapped at. ``u4.PteFrame`` is the page table that this PTE is in.

A million entries take about 0.1 s: they are reduced to numbers of pages with the same owner, list and flags.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.layout import Field, LayoutError, Layouts
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.memory.physical_memory import PhysicalMemory

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


ENTRY = "_MMPFN"
#: _MMLISTS, the same in every kernel.
ZEROED, FREE, STANDBY, MODIFIED, MODIFIED_NO_WRITE, BAD, ACTIVE, TRANSITION = range(8)
LISTS = 8

_WORD = 8
#: Entries that are read at once: 3 MB, which is a whole number of pages for entries of 48 bytes; those that are worked
#: on at once, so that their columns stay in the processor's cache; and keys that are sorted at once.
_AT_ONCE, _IN_CACHE, _KEYS = 65536, 16384, 1 << 19

# How a page's owner, list and flags make up one number, from the low bits: flags, the owner's value, the owner's kind.
#: Flags: two bits for what the page counts as, then shared, locked, and modified but not to be written.
VALID, ON_STANDBY, DIRTY, IN_TRANSITION = range(4)
SHARED, LOCKED, NO_WRITE = 4, 8, 16
_FLAG_BITS, _KIND_SHIFT = 5, 57
_VALUE_MASK = (1 << _KIND_SHIFT - _FLAG_BITS) - 1

#: Kinds of owners, and what their value is.
PRIVATE = 0  # a page of a process: the page frame of its page table
SYSTEM = 1  # the index of a stretch of the kernel's address space
VA_TYPE = 2  # _MI_SYSTEM_VA_TYPE of a page in a stretch that is not known
SUBSECTION = 3  # of a mapped file: the low 48 bits of the subsection's address
PAGING_FILE = 4  # shared, with a paging file behind it: 0
USER_TABLE = 5  # page table or large page of a process: page frame of the table above << 9 | index in it
SYSTEM_TABLE = 6  # the same of the kernel: PteAddress less the base of the page tables, in PTEs
KERNEL_STACK = 7  # where a bit says so (Windows 7): 0
AWE = 8  # where a bit says so (Windows 7): 0
OTHER = 9  # PteAddress is no PTE: 0


@dataclass(frozen=True)
class Bits:
    """A bit field: the qword of the entry that it is in, its lowest bit there, and a mask of its width."""

    word: int
    bit: int
    mask: int

    @classmethod
    def of(cls, field: Field) -> Bits:
        within = field.offset % _WORD * 8 + field.bit
        return cls(field.offset // _WORD, within, (1 << (field.bits or field.size * 8)) - 1)


@dataclass(frozen=True)
class FrameLayout:
    """Where the fields of _MMPFN lie in one kernel. ``None`` is a field that this kernel does not have."""

    stride: int
    pte_address: Bits
    original: Bits
    original_prototype: Bits
    subsection: Bits
    frame: Bits
    prototype: Bits
    location: Bits
    modified: Bits
    references: Bits
    shares: Bits
    deleted: Bits | None
    va_type: Bits | None
    kernel_stack: Bits | None
    awe: Bits | None

    @classmethod
    def of(cls, nt: Layouts) -> FrameLayout:
        """Raises :class:`~volatility3_kdump.layout.LayoutError` where an essential field is not in the symbols."""

        stride = nt.size_of(ENTRY)
        if stride % _WORD:
            raise LayoutError(f"{nt.origin}: page frame entries of {stride} bytes: only those of x64 kernels are read")

        def required(path: str) -> Bits:
            return Bits.of(nt.field(ENTRY, path))

        def optional(path: str) -> Bits | None:
            field = nt.find(ENTRY, path)
            return None if field is None else Bits.of(field)

        location, references = required("u3.e1.PageLocation"), required("u3.ReferenceCount")
        if location.mask != LISTS - 1 or location.bit % 8 > 5 or references.bit % 16 or references.mask != 0xFFFF:
            raise LayoutError(f"{nt.origin}: PageLocation or ReferenceCount of _MMPFN is not as in any known kernel")
        return cls(
            stride=stride,
            pte_address=required("PteAddress"),
            original=required("OriginalPte.u.Long"),
            original_prototype=required("OriginalPte.u.Soft.Prototype"),
            subsection=required("OriginalPte.u.Subsect.SubsectionAddress"),
            frame=required("u4.PteFrame"),
            prototype=required("u4.PrototypePte"),
            location=location,
            modified=required("u3.e1.Modified"),
            references=references,
            shares=required("u2.ShareCount"),
            # Before Windows 10 1607, bit 0 of PteAddress says it.
            deleted=optional("u2.DeleteBit"),
            va_type=optional("VaType"),
            kernel_stack=optional("u3.e1.KernelStack"),
            awe=optional("u4.AweAllocation"),
        )


@dataclass(frozen=True)
class SelfMap:
    """Where the page tables are mapped: the base of the PTEs, as an address of ``bits`` bits, and sign-extended."""

    base: int
    bits: int = 48

    @property
    def size(self) -> int:
        """Bytes of address space that the PTEs take: 8 for every 4 KB."""
        return 1 << (self.bits - 9)

    @property
    def low_base(self) -> int:
        return self.base & (1 << self.bits) - 1


@dataclass
class Tally:
    """What the database comes to, in pages.

    ``locations`` are by _MMLISTS. ``cached`` are pages that are in use as their location has it, and yet without a
    reference: on a processor's list of free pages, or between two lists; they are not in ``locations``. ``owners`` maps
    (kind, value, flags) to pages; ``unknown`` are pages whose entries are not in the dump.
    """

    locations: list[int]
    cached: int
    dangling_committed: int
    dangling: int
    unknown: int
    owners: dict[tuple[int, int, int], int]

    @property
    def pages(self) -> int:
        return sum(self.locations) + self.cached + self.unknown


def tally(
    target: Target,
    database: int,
    memory: PhysicalMemory,
    layout: FrameLayout,
    self_map: SelfMap | None,
    stretches: Sequence[tuple[int, bool]],
    progress: Progress | None = None,
) -> Tally:
    """Count the entries of the page-frame database at an address.

    ``stretches`` are the parts of the kernel's address space: (first address, whether it is known what it is),
    ascending. Without ``self_map`` only lists are counted, and shared pages.
    """
    from volatility3_kdump.layers.present import present_memory, signed

    counting = _Counting(layout, self_map, stretches)
    start, end = (database + frame * layout.stride for frame in (memory.runs[0][0], memory.end))
    present = None
    if target.layer_name is not None:
        present = present_memory(target.context.layers[target.layer_name], signed(start), signed(start) + end - start)
    if present is None:
        counting.skip(memory.pages)
        return counting.result()
    origin, whole, counted = signed(database), memory.pages, 0
    for first, number in _entries_within(present.runs(), origin, layout.stride, memory.runs):
        for index in range(first, first + number, _AT_ONCE):
            count = min(_AT_ONCE, first + number - index)
            counting.add(present.read(origin + index * layout.stride, count * layout.stride))
            counted += count
            if progress is not None:
                progress(100 * counted / whole, "Reading the page-frame database")
    counting.skip(whole - counted)
    return counting.result()


def _entries_within(
    runs: Iterable[tuple[int, int]], origin: int, stride: int, frames: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """(first page frame, number) of the entries that runs of memory hold entirely, as far as there are such frames."""
    index = 0
    for address, size in runs:
        low, high = -(-(address - origin) // stride), (address + size - origin) // stride
        while index < len(frames) and sum(frames[index]) <= low:
            index += 1
        for position in range(index, len(frames)):
            first, number = frames[position]
            if first >= high:
                break
            start, end = max(first, low), min(first + number, high)
            if start < end:
                yield start, end - start


# What decides how a page counts, as a number of 7 bits: its location, then these.
_MODIFIED, _IS_SHARED, _IS_LOCKED, _UNREFERENCED = (1 << bit for bit in range(3, 7))
_CODES = 128


def _flags(code: int) -> int | None:
    """The flags of a page; ``None`` for one that has no owner."""
    location = code & LISTS - 1
    if location in (ZEROED, FREE, BAD) or _is_cached(code):
        return None
    flags = {STANDBY: ON_STANDBY, ACTIVE: VALID, TRANSITION: IN_TRANSITION}.get(location, DIRTY)
    if location == TRANSITION and code & _MODIFIED:
        # written to, and yet to go to the list of modified pages
        flags = DIRTY
    if location == ACTIVE and code & _IS_SHARED:
        flags |= SHARED
    if location == MODIFIED_NO_WRITE:
        flags |= NO_WRITE
    # The first reference of a page in use is that of its share count.
    if code & _IS_LOCKED or (location != ACTIVE and not code & _UNREFERENCED):
        flags |= LOCKED
    return flags


def _is_cached(code: int) -> bool:
    return code & LISTS - 1 == ACTIVE and bool(code & _UNREFERENCED)


class _Counting:
    """Adds up entries, piece by piece."""

    def __init__(self, layout: FrameLayout, self_map: SelfMap | None, stretches: Sequence[tuple[int, bool]]) -> None:
        import numpy as np

        self.np: Any = np
        self._layout = layout
        self._map = self_map
        #: The qwords of an entry that have something that is looked at.
        self._words = {bits.word for bits in vars(layout).values() if isinstance(bits, Bits)}
        self._codes = np.zeros(_CODES, np.int64)
        self._dangling_committed = self._dangling = self._unknown = 0
        low = (1 << (self_map.bits if self_map is not None else 64)) - 1
        self._starts = np.array([start & low for start, _ in stretches] or [0], np.uint64)
        self._known = np.array([owned for _, owned in stretches] or [False])
        flags = [_flags(code) for code in range(_CODES)]
        self._flags = np.array([flag or 0 for flag in flags], np.uint64)
        self._owned = np.array([flag is not None for flag in flags])
        #: Keys that are not yet counted, and how many they are.
        self._waiting: list[Any] = []
        self._waiting_size = 0
        self._keys = np.zeros(0, np.uint64)
        self._counts = np.zeros(0, np.int64)

    def skip(self, number: int) -> None:
        """Count entries that are not in the dump."""
        self._unknown += number

    def add(self, data: bytes) -> None:
        """Count whole entries."""
        np, width = self.np, self._layout.stride // _WORD
        entries = np.frombuffer(data, "<u8").reshape(-1, width)
        for start in range(0, len(entries), _IN_CACHE):
            part = entries[start : start + _IN_CACHE]
            self._add([part[:, word].copy() if word in self._words else None for word in range(width)])

    def result(self) -> Tally:
        self._sort()
        owners = {}
        for key, count in zip(self._keys.tolist(), self._counts.tolist(), strict=True):
            flags = key & (1 << _FLAG_BITS) - 1
            owners[(key >> _KIND_SHIFT, key >> _FLAG_BITS & _VALUE_MASK, flags)] = count
        locations, cached = [0] * LISTS, 0
        for code, count in enumerate(self._codes.tolist()):
            if _is_cached(code):
                cached += count
            else:
                locations[code & LISTS - 1] += count
        return Tally(locations, cached, self._dangling_committed, self._dangling, self._unknown, owners)

    def _value(self, columns: Any, bits: Bits) -> Any:
        """A field of every entry. The array may be the column itself: it must not be changed."""
        column = columns[bits.word]
        if bits.bit:
            column = column >> self.np.uint64(bits.bit)
        if bits.mask << bits.bit < 1 << 63:  # else the shift has left nothing above it
            column = column & self.np.uint64(bits.mask)
        return column

    def _is_set(self, columns: Any, bits: Bits) -> Any:
        """Whether a bit is set, for every entry."""
        return (self._bytes(columns, bits) & self.np.uint8(1 << bits.bit % 8)) != 0

    def _bytes(self, columns: Any, bits: Bits) -> Any:
        """The byte of every entry in which a field begins: quicker than the whole qword."""
        return columns[bits.word].view(self.np.uint8)[bits.bit // 8 :: 8]

    def _halves(self, columns: Any, bits: Bits) -> Any:
        """A field of 16 bits of every entry."""
        return columns[bits.word].view("<u2")[bits.bit // 16 :: 4]

    def _add(self, columns: Any) -> None:
        np, layout = self.np, self._layout
        byte = np.uint8
        location, references = layout.location, self._halves(columns, layout.references)
        codes = self._bytes(columns, location) >> byte(location.bit % 8) & byte(location.mask)
        codes |= self._is_set(columns, layout.modified).view(byte) * byte(_MODIFIED)
        codes |= (self._value(columns, layout.shares) > 1).view(byte) * byte(_IS_SHARED)
        codes |= (references > 1).view(byte) * byte(_IS_LOCKED)
        codes |= (references == 0).view(byte) * byte(_UNREFERENCED)
        deleted = self._is_set(columns, layout.deleted or Bits(layout.pte_address.word, 0, 1))
        self._codes += np.bincount(codes, minlength=_CODES)
        with_file = self._is_set(columns, layout.original_prototype)
        if deleted.any():
            # deleted from where they were mapped, and yet in use or in transition
            deleted &= (codes & byte(LISTS - 1)) >= ACTIVE
            self._dangling += int(np.count_nonzero(deleted & with_file))
            self._dangling_committed += int(np.count_nonzero(deleted & ~with_file))
        owned = self._owned[codes]
        keys = self._owners(columns, with_file, owned)
        keys |= self._flags[codes]
        keys = keys[owned]
        self._waiting.append(keys)
        self._waiting_size += len(keys)
        if self._waiting_size >= _KEYS:
            self._sort()

    def _owners(self, columns: Any, with_file: Any, owned: Any) -> Any:
        """The kind and value of the owner of every page that has one; of others, anything."""
        np, subsection = self.np, self._layout.subsection
        shift, low = np.uint64(_KIND_SHIFT), np.uint64(_FLAG_BITS)
        prototype = self._is_set(columns, self._layout.prototype)
        keys = self._private(columns, owned & ~prototype)
        prototype &= owned
        files = np.flatnonzero(prototype & with_file)
        address = columns[subsection.word][files]
        address >>= np.uint64(subsection.bit)
        address <<= low
        address |= np.uint64(SUBSECTION) << shift
        np.copyto(keys, np.uint64(PAGING_FILE) << shift, where=prototype)
        keys[files] = address
        return keys

    def _private(self, columns: Any, wanted: Any) -> Any:
        """The owners of the pages that are wanted, which are not shared: by the address that their PTE maps."""
        np, layout, self_map = self.np, self._layout, self._map
        shift, low = np.uint64(_KIND_SHIFT), np.uint64(_FLAG_BITS)
        if self_map is None:
            return np.full(len(columns[layout.pte_address.word]), OTHER, np.uint64) << shift
        frames = layout.frame
        keys = columns[frames.word] & np.uint64((frames.mask & _HIGHEST_FRAME) << frames.bit)
        if frames.bit:
            keys >>= np.uint64(frames.bit)
        keys <<= low  # kind PRIVATE
        relative = columns[layout.pte_address.word] - np.uint64(self_map.base)
        # The PTEs of the kernel's half are the upper half of all; what is beyond them is none.
        chosen = np.flatnonzero((relative >= np.uint64(self_map.size >> 1)) & wanted)
        if len(chosen):
            relative = relative[chosen]
            owners = self._system(columns, relative, keys[chosen] >> low, chosen)
            keys[chosen] = np.where(relative < np.uint64(self_map.size), owners, np.uint64(OTHER) << shift)
        if layout.awe is not None:
            keys[self._is_set(columns, layout.awe)] = np.uint64(AWE) << shift
        return keys

    def _system(self, columns: Any, relative: Any, frame: Any, chosen: Any) -> Any:
        """The owners of pages that are mapped in the kernel's half."""
        np, layout, self_map = self.np, self._layout, self._map
        shift, low = np.uint64(_KIND_SHIFT), np.uint64(_FLAG_BITS)
        assert self_map is not None
        address = relative >> np.uint64(3) << np.uint64(12)
        index = np.searchsorted(self._starts, address, "right") - 1
        np.maximum(index, 0, out=index)
        keys = np.uint64(SYSTEM) << shift | index.astype(np.uint64) << low
        if layout.va_type is not None:
            unknown = ~self._known[index]
            if unknown.any():
                kinds = self._value(columns, layout.va_type)[chosen[unknown]]
                keys[unknown] = np.uint64(VA_TYPE) << shift | kinds << low
        if layout.kernel_stack is not None:
            keys[self._is_set(columns, layout.kernel_stack)[chosen]] = np.uint64(KERNEL_STACK) << shift
        tables = np.flatnonzero(address - np.uint64(self_map.low_base) < np.uint64(self_map.size))
        if len(tables):
            keys[tables] = self._tables(address[tables], relative[tables], frame[tables])
        return keys

    def _tables(self, address: Any, relative: Any, frame: Any) -> Any:
        """Page tables, and large pages, whose PTE is that of a page table as well."""
        np, self_map = self.np, self._map
        shift, low = np.uint64(_KIND_SHIFT), np.uint64(_FLAG_BITS)
        assert self_map is not None
        base, size = np.uint64(self_map.low_base), np.uint64(self_map.size)
        # Every step leads one level down, to the address that the table maps in the end.
        leaf = address.copy()
        for _ in range(_LEVELS):
            inside = leaf - base < size
            leaf[inside] = (leaf[inside] - base) >> np.uint64(3) << np.uint64(12)
        entry = relative >> np.uint64(3)
        # The entry that maps all page tables is in the top one itself, which is that of one process.
        user = (leaf < np.uint64(1 << self_map.bits - 1)) | (entry == np.uint64(top_entry(self_map) >> 3))
        own = np.uint64(USER_TABLE) << shift | (frame << np.uint64(9) | entry & np.uint64(0x1FF)) << low
        return np.where(user, own, np.uint64(SYSTEM_TABLE) << shift | entry << low)

    def _sort(self) -> None:
        """Count the keys that wait."""
        np = self.np
        if not self._waiting_size:
            return
        keys = np.concatenate(self._waiting)
        self._waiting, self._waiting_size = [], 0
        keys.sort()
        starts = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1))
        counts = np.diff(np.append(starts, len(keys)))
        keys = keys[starts]
        if len(self._keys):
            place = np.searchsorted(self._keys, keys)
            np.minimum(place, len(self._keys) - 1, out=place)
            owned = self._keys[place] == keys
            self._counts[place[owned]] += counts[owned]
            keys, counts = keys[~owned], counts[~owned]
        if len(keys):
            keys, counts = np.concatenate((self._keys, keys)), np.concatenate((self._counts, counts))
            order = np.argsort(keys, kind="stable")
            self._keys, self._counts = keys[order], counts[order]


_LEVELS = 5
#: Page frames of 52 bits of physical address.
_HIGHEST_FRAME = (1 << 40) - 1


def top_entry(self_map: SelfMap) -> int:
    """Where the entry of the top page table that maps the page tables lies, less the base of the PTEs."""
    address = self_map.low_base
    for _ in range(_LEVELS):
        address = self_map.low_base + (address >> 12 << 3)
    return address - self_map.low_base
