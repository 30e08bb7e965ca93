"""The segment heap that the kernel's pool uses from Windows 10 1903 on.

``nt!ExPoolState`` (``_EX_POOL_HEAP_MANAGER_STATE``) has up to four heaps (``_SEGMENT_HEAP``) for each NUMA node. Each
has two segment contexts, of segments of 1 MiB and 16 MiB. A segment starts with 256 descriptors of its page ranges; a
range is an allocation of whole pages, or a subsegment of one of two kinds:

* low fragmentation (LFH): blocks of one size with a bit map of two bits each (bit 0: in use). ``BlockOffsets`` is
  encoded with ``LfhKey`` and the subsegment's page number.
* variable size (VS): chunks in a row, each behind a header whose ``Sizes`` is encoded with ``HeapKey`` and its address.

Blocks of both kinds start with a ``_POOL_HEADER``, whose sizes do not describe the neighbours any more.
Beyond the segments a heap has large allocations, in a tree by address.

Structures, fields and the kinds of ranges (``_HEAP_SEG_RANGE_TYPE``) are those of the kernel's public symbols. What the
symbols do not say: the constants of the signatures, the encodings, the bits of ``RangeFlags`` below the kind, and which
heap serves which pool, which are as published (M. V. Yason, Windows 10 Segment Heap Internals, 2016; C. Bayet and
P. Fariello, Scoop the Windows 10 pool!, 2020). Every use of them is checked against something else that must agree:
a signature with its address, a range with its neighbours, a chunk with the one before it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.lists import walk_list

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.target import Target

#: Constants of the signatures, by publication.
_SEGMENT_MAGIC = 0xA2E64EADA2E64EAD
_HEAP_SIGNATURE = 0xDDEEDDEE
_VS_MAGIC = 0x2BED

#: _HEAP_SEG_RANGE_TYPE, which is RangeFlags >> 2.
USER_RANGE, INTERNAL_RANGE, LFH_RANGE, VS_RANGE = range(4)
_ALLOCATED_FIRST = 3

#: What the heaps of a node serve, by index.
HEAP_KINDS = ("nonpaged", "nonpaged NX", "paged", "paged")
SPECIAL = "special"

_UNIT = 16
_MASKS = (~0xFFFFF & (1 << 64) - 1, ~0xFFFFFF & (1 << 64) - 1)
_DESCRIPTORS = 256
_MOST_NODES = 64
_MOST_SEGMENTS = 1 << 16
_MOST_LARGE = 1 << 18


@dataclass(frozen=True)
class Heap:
    """A _SEGMENT_HEAP. ``kind`` is what it serves, ``None`` for a heap that nt!ExPoolState does not name."""

    address: int
    kind: str | None
    name: str


@dataclass(frozen=True)
class Segment:
    """A _HEAP_PAGE_SEGMENT with the context and heap that it belongs to.

    ``unit`` is how many bytes a descriptor stands for, ``size`` the bytes of the segment.
    """

    address: int
    context: int
    heap: Heap
    unit: int
    size: int
    known_by: str


@dataclass(frozen=True)
class PageRange:
    """An allocated range of a segment: ``kind`` is one of the four of _HEAP_SEG_RANGE_TYPE."""

    segment: Segment
    address: int
    size: int
    kind: int


@dataclass(frozen=True)
class HeapBlock:
    """A block of a subsegment: its first byte and bytes, overhead of the subsegment left out.

    ``allocated`` is ``None`` where the part that says so is not in the dump.
    """

    address: int
    size: int
    allocated: bool | None


@dataclass(frozen=True)
class Blocks:
    """The blocks of a subsegment from its start, as far as they could be read; ``problem`` says what stopped it."""

    found: tuple[HeapBlock, ...]
    problem: str | None = None


@dataclass(frozen=True)
class LargeBlock:
    """A large allocation of a heap, from its tree."""

    heap: Heap
    address: int
    size: int


class SegmentHeaps:
    """The heaps of the pool. ``problem`` says why they cannot be read, ``None`` when they can.

    ``active`` is ``False`` where the kernel has no heap in use, ``None`` where the dump does not say.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._memory = target.memory
        self.problems: list[str] = []
        self._segments: dict[int, Segment | None] = {}
        self._ranges: dict[tuple[int, int], Blocks] = {}
        self.heaps: dict[int, Heap] = {}
        self.active: bool | None = None
        self.problem = self._open()

    def _open(self) -> str | None:
        target, nt = self._target, self._target.nt
        if nt is None or not target.has_names:
            return f"the segment heap needs the kernel's symbols: {target.symbol_status}"
        needed = ("_EX_POOL_HEAP_MANAGER_STATE", "_SEGMENT_HEAP", "_HEAP_PAGE_SEGMENT", "_RTLP_HP_HEAP_GLOBALS")
        state, keys = target.symbol("ExPoolState"), target.symbol("RtlpHpHeapGlobals")
        if state is None or keys is None:
            self.active = False
            return "this kernel has no segment heap"
        missing = next((name for name in needed if not nt.has_type(name)), None)
        if missing is not None:
            return f"the kernel's symbols have no {missing}"
        self._heap_key = self._memory.pointer(keys + nt.offset("_RTLP_HP_HEAP_GLOBALS", "HeapKey"))
        self._lfh_key = self._memory.pointer(keys + nt.offset("_RTLP_HP_HEAP_GLOBALS", "LfhKey"))
        if self._heap_key is None or self._lfh_key is None:
            return f"the keys of the segment heap are not in the dump: {self._memory.why_unreadable(keys)}"
        self._read_heaps(state)
        return None

    def _read_heaps(self, state: int) -> None:
        """The heaps that nt!ExPoolState names."""
        nt, memory = self._nt, self._memory
        count = memory.unsigned(state + nt.offset("_EX_POOL_HEAP_MANAGER_STATE", "NumberOfPools"), 4)
        if count is None:
            self.problems.append(f"nt!ExPoolState is not in the dump: {memory.why_unreadable(state)}")
            return
        if count > _MOST_NODES:
            self.problems.append(f"nt!ExPoolState has an impossible number of pools: {count:#x}")
            count = 0
        nodes = nt.field("_EX_POOL_HEAP_MANAGER_STATE", "PoolNode")
        heaps = nt.field("_EX_HEAP_POOL_NODE", "Heaps")
        stride = nodes.size // (nodes.count or 1)
        for node in range(count):
            for index in range(heaps.count or 0):
                at = state + nodes.offset + node * stride + heaps.offset + index * memory.pointer_size
                kind = HEAP_KINDS[index] if index < len(HEAP_KINDS) else None
                self._add(memory.pointer(at), kind, f"nt!ExPoolState.PoolNode[{node}].Heaps[{index}]")
        special = nt.find("_EX_POOL_HEAP_MANAGER_STATE", "SpecialHeaps")
        for index in range((special.count or 0) if special else 0):
            assert special is not None
            at = state + special.offset + index * memory.pointer_size
            self._add(memory.pointer(at), SPECIAL, f"nt!ExPoolState.SpecialHeaps[{index}]")
        self.active = bool(self.heaps)

    def _add(self, address: int | None, kind: str | None, name: str) -> None:
        if address is None:
            self.problems.append(f"{name} is not in the dump")
        elif address and self._target.is_kernel_address(address):
            self.heaps.setdefault(address, Heap(address, kind, name))

    @property
    def _nt(self) -> Layouts:
        nt = self._target.nt
        assert nt is not None
        return nt

    # segments -----------------------------------------------------------------------------------------------------

    def segment_of(self, address: int) -> Segment | None:
        """The segment that an address lies in, ``None`` when it lies in none that is in the dump."""
        if self.problem is not None or self.active is False:
            return None
        for mask in _MASKS:
            start = address & mask
            if start not in self._segments:
                self._segments[start] = self._by_signature(start, mask) or self._listed.get(start)
            segment = self._segments[start]
            if segment is not None and address < segment.address + segment.size:
                return segment
        return None

    def _by_signature(self, start: int, mask: int) -> Segment | None:
        signature = self._memory.pointer(start + self._nt.offset("_HEAP_PAGE_SEGMENT", "Signature"))
        if signature is None or self._heap_key is None:
            return None
        context = start ^ signature ^ self._heap_key ^ _SEGMENT_MAGIC
        if not self._target.is_kernel_address(context):
            return None
        return self._segment(start, context, mask, "its signature")

    def _segment(self, start: int, context: int, mask: int | None, known_by: str) -> Segment | None:
        """A segment of a context, if the context is one."""
        reader = self._nt.reader("_HEAP_SEG_CONTEXT", mask="SegmentMask", shift="UnitShift", heap="Heap")
        data = self._memory.read(context, reader.size)
        if data is None:
            return None
        row = reader.unpack(data)
        if row.mask not in _MASKS or (mask is not None and row.mask != mask) or start & ~row.mask or row.shift > 16:
            return None
        unit, size = 1 << row.shift, (row.mask ^ (1 << 64) - 1) + 1
        heap = self.heaps.get(row.heap) or self._unnamed(row.heap)
        if unit * _DESCRIPTORS != size or heap is None:
            return None
        return Segment(start, context, heap, unit, size, known_by)

    def _unnamed(self, address: int) -> Heap | None:
        """A heap that nt!ExPoolState does not name, such as those of sessions, by its signature."""
        signature = self._memory.unsigned(address + self._nt.offset("_SEGMENT_HEAP", "Signature"), 4)
        return Heap(address, None, f"segment heap {address:#x}") if signature == _HEAP_SIGNATURE else None

    @functools.cached_property
    def _listed(self) -> dict[int, Segment]:
        """The segments on the lists of the heaps, by address."""
        segments: dict[int, Segment] = {}
        for heap in self.heaps.values():
            for context in self._contexts(heap):
                head = context + self._nt.offset("_HEAP_SEG_CONTEXT", "SegmentListHead")
                for start in walk_list(self._memory, head, _MOST_SEGMENTS, "SegmentListHead").entries:
                    segment = self._segment(start, context, None, "the list of its heap")
                    if segment is not None and segment.heap.address == heap.address:
                        segments.setdefault(start, segment)
        return segments

    def _contexts(self, heap: Heap) -> Iterator[int]:
        field = self._nt.field("_SEGMENT_HEAP", "SegContexts")
        for index in range(field.count or 0):
            yield heap.address + field.offset + index * self._nt.size_of("_HEAP_SEG_CONTEXT")

    def range_of(self, segment: Segment, address: int) -> PageRange | str:
        """The allocated page range of a segment that holds an address, or why there is none."""
        index = (address - segment.address) // segment.unit
        flags, offset = self._descriptor(segment, index)
        if flags is None or offset is None:
            return f"the page range descriptors of the segment {segment.address:#x} are not in the dump"
        first = index
        if flags & 3 != _ALLOCATED_FIRST:
            # UnitOffset of a descriptor that is not the first of its range says how far back that one is
            first = index - offset
            if first < 0 or offset == 0:
                return f"a free page range of the segment {segment.address:#x}"
        first_flags, units = self._descriptor(segment, first)
        if first_flags is None or units is None:
            return f"the page range descriptors of the segment {segment.address:#x} are not in the dump"
        if first_flags & 3 != _ALLOCATED_FIRST or index - first >= units or first + units > _DESCRIPTORS:
            return f"a free page range of the segment {segment.address:#x}"
        start = segment.address + first * segment.unit
        return PageRange(segment, start, units * segment.unit, first_flags >> 2 & 3)

    def _descriptor(self, segment: Segment, index: int) -> tuple[int | None, int | None]:
        """RangeFlags and the unit count or offset of a page range descriptor."""
        size = self._nt.size_of("_HEAP_PAGE_RANGE_DESCRIPTOR")
        reader = self._nt.reader("_HEAP_PAGE_RANGE_DESCRIPTOR", flags="RangeFlags", units="UnitSize")
        data = self._memory.read(segment.address + index * size, reader.size)
        if data is None:
            return None, None
        row = reader.unpack(data)
        return row.flags, row.units

    # blocks -------------------------------------------------------------------------------------------------------

    def blocks_of(self, page_range: PageRange) -> Blocks:
        """The blocks of a subsegment, or the range itself where it is one allocation."""
        key = (page_range.address, page_range.size)
        if key not in self._ranges:
            if page_range.kind == LFH_RANGE:
                self._ranges[key] = self._lfh_blocks(page_range)
            elif page_range.kind == VS_RANGE:
                self._ranges[key] = self._vs_blocks(page_range)
            else:
                self._ranges[key] = Blocks((HeapBlock(page_range.address, page_range.size, True),))
        return self._ranges[key]

    def _lfh_blocks(self, page_range: PageRange) -> Blocks:
        nt, memory, start = self._nt, self._memory, page_range.address
        reader = nt.reader(
            "_HEAP_LFH_SUBSEGMENT", encoded="BlockOffsets.EncodedData", count="BlockCount", bitmap="BlockBitmap"
        )
        where = f"the LFH subsegment {start:#x}"
        data = memory.read(start, reader.size)
        if data is None or self._lfh_key is None:
            return Blocks((), f"{where} is not in the dump: {memory.why_unreadable(start)}")
        row = reader.unpack(data)
        offsets = (row.encoded ^ self._lfh_key ^ start >> 12) & 0xFFFFFFFF
        size, first = offsets & 0xFFFF, offsets >> 16
        bitmap = nt.offset("_HEAP_LFH_SUBSEGMENT", "BlockBitmap")
        if size == 0 or size % _UNIT or first < bitmap or first + row.count * size > page_range.size:
            return Blocks((), f"{where} is damaged: {row.count} blocks of {size:#x} bytes from offset {first:#x}")
        bits = [memory.unsigned(start + bitmap + 8 * index, 8) for index in range(-(-row.count // 32))]
        blocks = []
        for index in range(row.count):
            word = bits[index // 32]
            used = None if word is None else bool(word >> 2 * (index % 32) & 1)
            blocks.append(HeapBlock(start + first + index * size, size, used))
        return Blocks(tuple(blocks))

    def _vs_blocks(self, page_range: PageRange) -> Blocks:
        nt, memory, start = self._nt, self._memory, page_range.address
        reader = nt.reader("_HEAP_VS_SUBSEGMENT", size="Size", signature="Signature")
        where = f"the VS subsegment {start:#x}"
        data = memory.read(start, reader.size)
        if data is None:
            return Blocks((), f"{where} is not in the dump: {memory.why_unreadable(start)}")
        row = reader.unpack(data)
        if (row.size ^ _VS_MAGIC) & 0x7FFF != row.signature:
            return Blocks((), f"{where} is damaged: its signature {row.signature:#x} does not fit its size")
        if row.size * _UNIT > page_range.size:
            return Blocks((), f"{where} is damaged: it is larger than its page range")
        return self._chunks(start, start + row.size * _UNIT, where)

    def _chunks(self, start: int, end: int, where: str) -> Blocks:
        """The chunks of a VS subsegment. Their headers are skipped: a block starts behind its chunk's header."""
        nt, memory = self._nt, self._memory
        header = nt.size_of("_HEAP_VS_CHUNK_HEADER")
        sizes = nt.reader("_HEAP_VS_CHUNK_HEADER_SIZE", size="UnsafeSize", previous="UnsafePrevSize", used="Allocated")
        position = start + -(-nt.size_of("_HEAP_VS_SUBSEGMENT") // _UNIT) * _UNIT
        blocks: list[HeapBlock] = []
        before = None
        while position + header <= end:
            bits = memory.unsigned(position, 8)
            if bits is None or self._heap_key is None:
                return Blocks(tuple(blocks), f"{where} is not in the dump from {position:#x} on")
            row = sizes.unpack((bits ^ self._heap_key ^ position).to_bytes(8, "little"))
            size = row.size * _UNIT
            if size < header or position + size > end or (before is not None and row.previous != before):
                return Blocks(tuple(blocks), f"{where} is damaged at {position:#x}: chunk of {size:#x} bytes")
            blocks.append(HeapBlock(position + header, size - header, bool(row.used)))
            before, position = row.size, position + size
        return Blocks(tuple(blocks))

    # large allocations --------------------------------------------------------------------------------------------

    @functools.cached_property
    def large(self) -> tuple[LargeBlock, ...]:
        """The large allocations of all heaps, by address; what could not be read is in ``problems``."""
        blocks: list[LargeBlock] = []
        for heap in self.heaps.values():
            blocks += self._large_of(heap)
        return tuple(sorted(blocks, key=lambda block: block.address))

    def large_of(self, address: int) -> LargeBlock | None:
        """The large allocation that holds an address."""
        return next((block for block in self.large if block.address <= address < block.address + block.size), None)

    def _large_of(self, heap: Heap) -> Iterator[LargeBlock]:
        nt = self._nt
        tree = heap.address + nt.offset("_SEGMENT_HEAP", "LargeAllocMetadata")
        reader = nt.reader(
            "_HEAP_LARGE_ALLOC_DATA",
            left="TreeNode.Left",
            right="TreeNode.Right",
            address="VirtualAddress",
            pages="AllocatedPages",
        )
        roots = nt.reader("_RTL_RB_TREE", root="Root", least="Min")
        data = self._memory.read(tree, roots.size)
        if data is None:
            self.problems.append(f"the large allocations of {heap.name} are not in the dump")
            return
        row = roots.unpack(data)
        # the low bit of Min says that links are stored relative to where they stand
        encoded = row.least & 1
        waiting = [row.root ^ tree if encoded and row.root else row.root]
        seen: set[int] = set()
        while waiting:
            node = waiting.pop()
            if not node:
                continue
            if node in seen or len(seen) >= _MOST_LARGE or not self._target.is_kernel_address(node):
                self.problems.append(f"the tree of large allocations of {heap.name} is damaged at {node:#x}")
                continue
            seen.add(node)
            data = self._memory.read(node, reader.size)
            if data is None:
                self.problems.append(f"a large allocation of {heap.name} at {node:#x} is not in the dump")
                continue
            entry = reader.unpack(data)
            waiting += [link ^ node if encoded and link else link for link in (entry.left, entry.right)]
            address, size = entry.address & ~0xFFFF, entry.pages << 12
            if self._target.is_kernel_address(address) and size and address + size <= 1 << 64:
                yield LargeBlock(heap, address, size)
