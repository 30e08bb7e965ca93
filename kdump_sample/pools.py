"""The pool of a made machine: blocks with their headers, big pages, segment heaps, the trackers by tag, and counters.

Everything that the other parts allocate comes from here (:meth:`Pools.allocate`), in the way of the kernel at hand.
Kernels up to Windows 10 1809 cut pages into blocks, each behind a ``_POOL_HEADER`` that has its size and that of the
block before it. Later ones take chunks of variable size subsegments, in segments of a megabyte, of heaps that
``nt!ExPoolState`` names. Blocks of more than a page start a page in both, and are in ``nt!PoolBigPageTable``.

The headers and tables are written by :meth:`Pools.finish`, when everything is allocated. A machine's blocks of pool at
addresses that a scene chooses itself are not among these.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kdump_sample.structures import Structures
from volatility3_kdump.layout import Layouts

PAGE = 0x1000
PAGED, NONPAGED = "paged", "nonpaged"

_UNIT = 16
_HEADER = 16
#: The largest request that a block with a header is made for.
_LARGEST_BLOCK = PAGE - 2 * _UNIT
_IN_USE, _PAGED_TYPE, _NX = 2, 1, 0x200

_SEGMENT, _DESCRIPTORS, _FIRST_DESCRIPTOR = 0x100000, 256, 2
_SUBSEGMENT_PAGES = 16
_LARGEST_RANGE = 0x80
#: Where the heaps themselves lie, from the start of nonpaged pool.
_HEAPS = 0x100000000
_LARGE = 0x140000000
_RANGE_USER, _RANGE_LFH, _RANGE_VS = 0, 2, 3
_ALLOCATED, _FIRST = 1, 2
_HEAP_KEY, _LFH_KEY = 0xC8A15D3E97F24B61, 0x6D03F2B85A9C71E4
_SEGMENT_MAGIC = 0xA2E64EADA2E64EAD
_TREE_MAGIC, _HEAP_MAGIC, _VS_MAGIC = 0xCCDDCCDD, 0xDDEEDDEE, 0x2BED

_TRACKER_ROWS, _EXPANSION_ROWS = 129, 16
#: The last paged pools of a machine: one for prototype PTEs and what is usual beside it.
_PAGED_POOLS = 4
#: Blocks of 1 % of a pool wait in lookaside lists.
_LOOKASIDE = 100


@dataclass(frozen=True)
class TagHistory:
    """What a tag has used besides the blocks that the made machine holds: allocations, frees and bytes still in use."""

    tag: str
    nonpaged: tuple[int, int, int] = (0, 0, 0)
    paged: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class BigBlock:
    """A big allocation of a scene; nothing but its first bytes is in memory. ``freed`` ones leave their entry."""

    kind: str
    size: int
    tag: str
    executable: bool = False
    freed: bool = False


@dataclass(frozen=True)
class Slots:
    """Blocks of one size: ``used`` has a bit for each that is in use. Segment heaps keep them in an LFH subsegment."""

    kind: str
    size: int
    tag: str
    used: int
    count: int


@dataclass(frozen=True)
class PoolScene:
    """What a scene has in its pools besides what it is made of."""

    history: tuple[TagHistory, ...] = ()
    big: tuple[BigBlock, ...] = ()
    slots: tuple[Slots, ...] = ()


#: The pools of the demonstration machine, some hours after it was started.
USUAL = PoolScene(
    history=(
        TagHistory("EtwB", (1428, 116, 0x626_4000), (6, 0, 0x30000)),
        TagHistory("Cont", (412, 9, 0x2C5_1000)),
        TagHistory("FMfn", paged=(951_236, 930_007, 0x94_6A40)),
        TagHistory("Irp ", (3_912_504_118, 3_912_503_660, 0x3_6A00)),
        TagHistory("Leak", (20_480, 0, 0x320_0000)),
        TagHistory("MmSt", paged=(88_412, 61_077, 0xD3B_0F60)),
        TagHistory("NtfF", paged=(72_001, 44_820, 0x130_CE20)),
        TagHistory("Thre", (61_800, 60_212, 0x27_E180)),
    ),
    big=(
        BigBlock(NONPAGED, 0x5000, "MyFa"),
        BigBlock(NONPAGED, 0x12000, "Cont", executable=True),
        BigBlock(PAGED, 0x23400, "CM16"),
        BigBlock(PAGED, 0x900000, "MmSt"),
        BigBlock(PAGED, 0x8000, "Gone", freed=True),
    ),
    slots=(
        Slots(NONPAGED, 0x70, "Leak", 0x5_F0F3_FFFF, 40),
        Slots(PAGED, 0xC0, "FMfn", 0xFF_FFFD, 24),
    ),
)


@dataclass
class Block:
    """A block with a header: ``address`` and ``size`` include it. Free blocks have no tag."""

    kind: str
    address: int
    size: int
    tag: str | None

    @property
    def data(self) -> int:
        return self.address + _HEADER


@dataclass
class Big:
    """A big allocation: its bytes are those that the table has."""

    kind: str
    address: int
    size: int
    tag: str
    executable: bool = False
    freed: bool = False


@dataclass
class _Range:
    """A page range of a segment: kind of _HEAP_SEG_RANGE_TYPE, address and pages."""

    kind: int
    address: int
    pages: int


@dataclass
class _Area:
    """The pages of one pool that are given out, from its start upwards."""

    kind: str
    start: int
    next_page: int
    #: The page or subsegment that small blocks are being taken from.
    position: int = 0
    end: int = 0
    ranges: list[_Range] = field(default_factory=list)
    #: Blocks of each page (classic pool) or subsegment, by where that starts.
    parts: dict[int, list[Block]] = field(default_factory=dict)
    part: int = 0


@dataclass
class _Sum:
    """The use of one tag in one pool."""

    allocs: int = 0
    frees: int = 0
    size: int = 0

    def add(self, allocs: int, frees: int, size: int) -> None:
        self.allocs += allocs
        self.frees += frees
        self.size += size


class Pools:
    """The pools while they are filled."""

    def __init__(
        self,
        structures: Structures,
        symbol: Callable[[str], int | None],
        starts: dict[str, int],
        processors: int,
        scene: PoolScene,
    ) -> None:
        self._structures = structures
        self._layouts: Layouts = structures.layouts
        self._memory = structures.memory
        self._symbol = symbol
        self._processors = processors
        self._scene = scene
        #: Whether the kernel keeps its pool in segment heaps.
        self.modern = self._layouts.has_type("_SEGMENT_HEAP") and not self._layouts.has("_POOL_DESCRIPTOR", "ListHeads")
        first = _FIRST_DESCRIPTOR * PAGE if self.modern else 0
        self._areas = {kind: _Area(kind, start, start + first) for kind, start in starts.items()}
        self._heaps_at = starts[NONPAGED] + _HEAPS
        self._large_at = starts[PAGED] + _LARGE
        #: Every big allocation, and the blocks of the scene's slots.
        self.big: list[Big] = []
        self.slots: list[tuple[Slots, int, list[Block]]] = []
        self._sums: dict[tuple[str, str], _Sum] = {}

    @property
    def blocks(self) -> list[Block]:
        """Every block with a header, free ones included, but for those of the slots."""
        return [block for area in self._areas.values() for part in area.parts.values() for block in part]

    # allocation -----------------------------------------------------------------------------------------------------

    def allocate(self, kind: str, size: int, tag: str = "None") -> int:
        """The address of a new allocation of ``paged`` or ``nonpaged`` pool, 16-byte aligned."""
        if size > _LARGEST_BLOCK:
            return self.allocate_big(kind, size, tag).address
        area = self._areas[kind]
        block = self._take(area, max(_HEADER + -(-size // _UNIT) * _UNIT, 2 * _UNIT), tag)
        self._sum(kind, tag).add(1, 0, block.size)
        return block.data

    def allocate_big(self, kind: str, size: int, tag: str, executable: bool = False, freed: bool = False) -> Big:
        """A new allocation of whole pages, outside of the segments where it is larger than they are."""
        size = -(-size // PAGE) * PAGE
        if self.modern and size > _LARGEST_RANGE * PAGE:
            address, self._large_at = self._large_at, self._large_at + -(-size // _SEGMENT) * _SEGMENT
        else:
            area = self._areas[kind]
            address = self._pages(area, size // PAGE, _RANGE_USER)
            if freed and area.ranges:
                area.ranges.pop()
        made = Big(kind, address, size, tag, executable, freed)
        self.big.append(made)
        self._sum(kind, tag).add(1, int(freed), 0 if freed else size)
        return made

    def _take(self, area: _Area, size: int, tag: str | None) -> Block:
        chunk = _UNIT if self.modern else 0
        if area.position + 3 * chunk + size > area.end:
            self._close(area)
            self._open(area)
        if self.modern and (area.position + chunk + _HEADER) % PAGE == 0:
            # data never starts a page, where big pages are looked for
            self._put(area, Block(area.kind, area.position + chunk, _UNIT, None))
        block = Block(area.kind, area.position + chunk, size, tag)
        self._put(area, block)
        return block

    def _put(self, area: _Area, block: Block) -> None:
        area.parts[area.part].append(block)
        area.position = block.address + block.size

    def _open(self, area: _Area) -> None:
        """A new page of the classic pool, or a new subsegment."""
        if self.modern:
            area.part = self._pages(area, _SUBSEGMENT_PAGES, _RANGE_VS)
            size = self._structures.size("_HEAP_VS_SUBSEGMENT")
            area.position = area.part + -(-size // _UNIT) * _UNIT
            area.end = area.part + _SUBSEGMENT_PAGES * PAGE
        else:
            area.position = area.part = self._pages(area, 1, _RANGE_USER)
            area.end = area.part + PAGE
        area.parts[area.part] = []

    def _close(self, area: _Area) -> None:
        """Make what is left of the page or subsegment one free block."""
        chunk = _UNIT if self.modern else 0
        left = area.end - area.position
        if left >= 2 * _UNIT:
            self._put(area, Block(area.kind, area.position + chunk, left - chunk, None))
        elif left:
            area.parts[area.part][-1].size += left

    def _pages(self, area: _Area, count: int, kind: int) -> int:
        """So many whole pages; in segment heaps a range of a segment."""
        if self.modern:
            left = _SEGMENT - (area.next_page - area.start) % _SEGMENT
            if left < count * PAGE or left == _SEGMENT:
                area.next_page += left % _SEGMENT + _FIRST_DESCRIPTOR * PAGE
            area.ranges.append(_Range(kind, area.next_page, count))
        address = area.next_page
        area.next_page += count * PAGE
        return address

    def _sum(self, kind: str, tag: str) -> _Sum:
        return self._sums.setdefault((tag, kind), _Sum())

    # the rest -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write headers, tables and counters. Nothing can be allocated afterwards."""
        for big in self._scene.big:
            made = self.allocate_big(big.kind, big.size, big.tag, big.executable, big.freed)
            if not made.freed:
                self._memory.write(made.address, bytes(64))
        for item in self._scene.history:
            for kind, (allocs, frees, size) in ((NONPAGED, item.nonpaged), (PAGED, item.paged)):
                if allocs:
                    self._sum(kind, item.tag).add(allocs, frees, size)
        for slots in self._scene.slots:
            self._slots(slots)
        descriptors = [] if self.modern else self._descriptors()
        tables, expansion = self._tracker_tables()
        table, rows = self._big_table()
        for area in self._areas.values():
            self._close(area)
        self._write_heaps()
        if not self.modern:
            self._write_pages()
        self._write_trackers(tables, expansion)
        self._write_big_table(table, rows)
        self._write_counters(descriptors)

    def _slots(self, slots: Slots) -> None:
        """Blocks of one size, some of them free."""
        used = [index for index in range(slots.count) if slots.used >> index & 1]
        if not self.modern:
            for index in range(slots.count):
                block = self._take(self._areas[slots.kind], slots.size, slots.tag if index in used else None)
                self._memory.write(block.address, bytes(slots.size))
            self._sum(slots.kind, slots.tag).add(slots.count, slots.count - len(used), len(used) * slots.size)
            return
        offset, pages = self._lfh_geometry(slots)
        start = self._pages(self._areas[slots.kind], pages, _RANGE_LFH)
        blocks = [
            Block(slots.kind, start + offset + index * slots.size, slots.size, slots.tag if index in used else None)
            for index in range(slots.count)
        ]
        self.slots.append((slots, start, blocks))
        self._sum(slots.kind, slots.tag).add(slots.count, slots.count - len(used), len(used) * slots.size)

    def _lfh_geometry(self, slots: Slots) -> tuple[int, int]:
        """The offset of the first block of an LFH subsegment, and its pages."""
        bitmap = self._layouts.offset("_HEAP_LFH_SUBSEGMENT", "BlockBitmap")
        words = -(-slots.count // 32)
        pages = -(-(bitmap + 8 * words + slots.count * slots.size) // PAGE) + 1
        offset = -(-(bitmap + 8 * words + 2 * pages) // _UNIT) * _UNIT
        return offset, -(-(offset + slots.count * slots.size) // PAGE)

    # classic pool -----------------------------------------------------------------------------------------------------

    def _header(self, block: Block, previous: int, kind: int) -> None:
        made = self._structures.at("_POOL_HEADER", block.address)
        made.set("PreviousSize", previous // _UNIT)
        made.set("BlockSize", block.size // _UNIT)
        made.set("PoolType", kind)
        made.set("PoolTag", _tag(block.tag or "Free"))

    def _write_pages(self) -> None:
        for area in self._areas.values():
            paged = _PAGED_TYPE if area.kind == PAGED else 0
            for part in area.parts.values():
                previous = 0
                for block in part:
                    self._header(block, previous, 0 if block.tag is None else paged | _IN_USE)
                    previous = block.size

    def _descriptors(self) -> list[tuple[str, int]]:
        """The _POOL_DESCRIPTORs: those of nonpaged pool are the kernel's variables, those of paged pool allocated."""
        size = self._structures.size("_POOL_DESCRIPTOR")
        found = []
        variable = self._symbol("NonPagedPoolDescriptor")
        if variable is not None:
            room = (self._layouts.extent("NonPagedPoolDescriptor") or size) // size
            found += [(NONPAGED, variable + index * size) for index in range(min(room, 2))]
        found += [(PAGED, self.allocate(NONPAGED, size, "Pool")) for _ in range(_PAGED_POOLS + 1)]
        return found

    # segment heap -----------------------------------------------------------------------------------------------------

    def _write_heaps(self) -> None:
        """The heaps of nt!ExPoolState: kernels from Windows 10 1803 have it, and use it from 1903 on."""
        layouts, memory = self._layouts, self._memory
        state, keys = self._symbol("ExPoolState"), self._symbol("RtlpHpHeapGlobals")
        if state is None or keys is None:
            return
        globals_ = self._structures.at("_RTLP_HP_HEAP_GLOBALS", keys)
        globals_.fill({"HeapKey": _HEAP_KEY, "LfhKey": _LFH_KEY})
        size = -(-layouts.size_of("_SEGMENT_HEAP") // PAGE) * PAGE
        heaps = [self._heaps_at + index * size for index in range(4)]
        manager = self._structures.at("_EX_POOL_HEAP_MANAGER_STATE", state)
        manager.fill({"NumberOfPools": int(self.modern), "HeapManager.Globals": keys})
        for path in ("PoolNode", "SpecialHeaps"):
            # the whole node is present, and the heaps that there are none of
            place = layouts.field("_EX_POOL_HEAP_MANAGER_STATE", path)
            length = layouts.size_of("_EX_HEAP_POOL_NODE") if path == "PoolNode" else place.size
            memory.write(state + place.offset, bytes(length))
        if not self.modern:
            return
        node = state + layouts.offset("_EX_POOL_HEAP_MANAGER_STATE", "PoolNode")
        memory.write(node + layouts.offset("_EX_HEAP_POOL_NODE", "Heaps"), struct.pack("<4Q", *heaps))
        for index, heap in enumerate(heaps):
            kind = {1: NONPAGED, 2: PAGED}.get(index)
            self._write_heap(heap, self._areas[kind] if kind else None)

    def _write_heap(self, heap: int, area: _Area | None) -> None:
        layouts = self._layouts
        self._memory.write(heap, bytes(layouts.size_of("_SEGMENT_HEAP")))
        made = self._structures.at("_SEGMENT_HEAP", heap)
        made.set("Signature", _HEAP_MAGIC)
        field_ = layouts.field("_SEGMENT_HEAP", "SegContexts")
        stride = layouts.size_of("_HEAP_SEG_CONTEXT")
        contexts = [heap + field_.offset + index * stride for index in range(field_.count or 0)]
        link = layouts.offset("_HEAP_SEG_CONTEXT", "SegmentListHead")
        for index, context in enumerate(contexts):
            segments = self._segments(area, context) if index == 0 and area is not None else []
            unit = 12 + 4 * index
            self._structures.at("_HEAP_SEG_CONTEXT", context).fill(
                {
                    "SegmentMask": ~((1 << unit + 8) - 1),
                    "UnitShift": unit,
                    "PagesPerUnitShift": unit - 12,
                    "FirstDescriptorIndex": _FIRST_DESCRIPTOR - index,
                    "Heap": heap,
                    "LfhContext": heap + layouts.offset("_SEGMENT_HEAP", "LfhContext"),
                    "VsContext": heap + layouts.offset("_SEGMENT_HEAP", "VsContext"),
                    "SegmentCount": len(segments),
                }
            )
            self._structures.link(context + link, segments)
        subsegments = heap + layouts.offset("_SEGMENT_HEAP", "VsContext.SubsegmentList")
        self._structures.link(subsegments, list(area.parts) if area is not None else [])
        for start, blocks in (area.parts if area is not None else {}).items():
            self._write_subsegment(start, blocks)
        for slots, start, blocks in self.slots:
            if area is not None and slots.kind == area.kind:
                self._write_lfh(slots, start, blocks)
        large = [
            big for big in self.big if area is not None and big.kind == area.kind and big.address >= self._first_large
        ]
        self._write_large(heap, [big for big in large if not big.freed])

    @property
    def _first_large(self) -> int:
        return self._areas[PAGED].start + _LARGE

    def _segments(self, area: _Area, context: int) -> list[int]:
        """The segments of an area with the descriptors of their page ranges."""
        size = self._layouts.size_of("_HEAP_PAGE_RANGE_DESCRIPTOR")
        starts = sorted({item.address & ~(_SEGMENT - 1) for item in area.ranges})
        for start in starts:
            self._memory.write(start, bytes(self._layouts.size_of("_HEAP_PAGE_SEGMENT")))
            self._structures.at("_HEAP_PAGE_SEGMENT", start).set(
                "Signature", start ^ context ^ _HEAP_KEY ^ _SEGMENT_MAGIC
            )
            end = _FIRST_DESCRIPTOR
            for item in (item for item in area.ranges if item.address & ~(_SEGMENT - 1) == start):
                first = (item.address - start) // PAGE
                self._free_range(start, end, first)
                end = first + item.pages
                for index in range(item.pages):
                    made = self._structures.at("_HEAP_PAGE_RANGE_DESCRIPTOR", start + (first + index) * size)
                    made.set("RangeFlags", item.kind << 2 | _ALLOCATED | (0 if index else _FIRST))
                    made.set("CommittedPageCount", 1)
                    made.set("UnitOffset" if index else "UnitSize", index or item.pages)
                    if index == 0:
                        made.set("TreeSignature", _TREE_MAGIC)
            self._free_range(start, end, _DESCRIPTORS)
        return starts

    def _free_range(self, segment: int, first: int, end: int) -> None:
        if first < end:
            place = segment + first * self._layouts.size_of("_HEAP_PAGE_RANGE_DESCRIPTOR")
            made = self._structures.at("_HEAP_PAGE_RANGE_DESCRIPTOR", place)
            made.fill({"RangeFlags": _FIRST, "UnitSize": end - first})

    def _write_subsegment(self, start: int, blocks: Sequence[Block]) -> None:
        """A variable size subsegment: its header, and in front of every block that of its chunk."""
        size = _SUBSEGMENT_PAGES * PAGE // _UNIT
        made = self._structures.at("_HEAP_VS_SUBSEGMENT", start)
        made.fill({"Size": size, "Signature": (size ^ _VS_MAGIC) & 0x7FFF, "FullCommit": 1})
        made.set("CommitBitmap", (1 << _SUBSEGMENT_PAGES) - 1)
        paged = self._layouts.size_of("_HEAP_VS_CHUNK_HEADER")
        previous = 0
        for block in blocks:
            chunk, units = block.address - paged, (block.size + paged) // _UNIT
            sizes = units << 16 | previous << 32 | (0 if block.tag is None else 1 << 48)
            self._memory.write(chunk, (sizes ^ _HEAP_KEY ^ chunk).to_bytes(8, "little") + bytes(8))
            if block.tag is not None:
                self._header(block, 0, _IN_USE | (_PAGED_TYPE if block.kind == PAGED else 0))
            previous = units

    def _write_lfh(self, slots: Slots, start: int, blocks: Sequence[Block]) -> None:
        """A low fragmentation subsegment. Blocks that are free keep the header of their last owner."""
        offset, _ = self._lfh_geometry(slots)
        made = self._structures.at("_HEAP_LFH_SUBSEGMENT", start)
        free = sum(block.tag is None for block in blocks)
        made.fill({"FreeCount": free, "BlockCount": slots.count, "CommitUnitShift": 12})
        made.set("BlockOffsets.EncodedData", (slots.size | offset << 16) ^ _LFH_KEY ^ start >> 12)
        bits = sum(1 << 2 * index for index, block in enumerate(blocks) if block.tag is not None)
        bitmap = self._layouts.offset("_HEAP_LFH_SUBSEGMENT", "BlockBitmap")
        self._memory.write(start + bitmap, bits.to_bytes(8 * -(-slots.count // 32), "little"))
        paged = _PAGED_TYPE if slots.kind == PAGED else 0
        for block in blocks:
            self._header(
                dataclasses.replace(block, tag=slots.tag), 0, paged | (_IN_USE if block.tag is not None else 0)
            )

    def _write_large(self, heap: int, large: Sequence[Big]) -> None:
        """The tree of large allocations: the first is the root, each further one the right child of the one before."""
        layouts = self._layouts
        size = layouts.size_of("_HEAP_LARGE_ALLOC_DATA")
        nodes = [heap + PAGE - (index + 1) * size for index in range(len(large))]
        tree = self._structures.at("_RTL_RB_TREE", heap + layouts.offset("_SEGMENT_HEAP", "LargeAllocMetadata"))
        tree.fill({"Root": nodes[0] if nodes else 0, "Min": nodes[0] if nodes else 0})
        for index, (node, big) in enumerate(zip(nodes, large, strict=True)):
            made = self._structures.at("_HEAP_LARGE_ALLOC_DATA", node)
            made.fill({"VirtualAddress": big.address, "AllocatedPages": big.size // PAGE})
            made.set("TreeNode.Right", nodes[index + 1] if index + 1 < len(nodes) else 0)

    # tables and counters --------------------------------------------------------------------------------------------

    def _tracker_tables(self) -> tuple[list[int], int]:
        """Room for the tracker table of every processor, and for the one of tags that found no place."""
        size = self._layouts.size_of("_POOL_TRACKER_TABLE")
        tables = [self.allocate(NONPAGED, _TRACKER_ROWS * size, "Pool") for _ in range(self._processors)]
        return tables, self.allocate(NONPAGED, _EXPANSION_ROWS * size, "Pool")

    def _write_trackers(self, tables: Sequence[int], expansion: int) -> None:
        layouts = self._layouts
        size = layouts.size_of("_POOL_TRACKER_TABLE")
        for address, rows in (*((table, _TRACKER_ROWS) for table in tables), (expansion, _EXPANSION_ROWS)):
            self._memory.write(address, bytes(rows * size))
        self._variable("PoolTrackTable", tables[0])
        self._variable("PoolTrackTableSize", _TRACKER_ROWS)
        self._variable("PoolTrackTableMask", _TRACKER_ROWS - 2)
        self._variable("PoolTrackTableExpansion", expansion)
        self._variable("PoolTrackTableExpansionSize", _EXPANSION_ROWS)
        array = self._symbol("ExPoolTagTables")
        if array is not None:
            room = min(layouts.extent("ExPoolTagTables") or PAGE, PAGE)
            self._memory.write(array, b"".join(table.to_bytes(8, "little") for table in tables).ljust(room, b"\0"))
        tags = sorted({tag for tag, _ in self._sums})
        taken: set[int] = set()
        for number, tag in enumerate(tags):
            uses = [self._sums.get((tag, kind), _Sum()) for kind in (NONPAGED, PAGED)]
            if number == len(tags) - 1:
                self._write_tracker(expansion, tag, uses)
                continue
            # any hash will do: the row of a tag is the same in the tables of all processors
            row = sum(tag.encode("ascii")) % (_TRACKER_ROWS - 1)
            while row in taken:
                row = (row + 1) % (_TRACKER_ROWS - 1)
            taken.add(row)
            for table, share in zip(tables, _shares(uses, len(tables)), strict=True):
                self._write_tracker(table + row * size, tag, share)

    def _write_tracker(self, address: int, tag: str, uses: Sequence[_Sum]) -> None:
        made = self._structures.at("_POOL_TRACKER_TABLE", address)
        made.set("Key", _tag(tag))
        for prefix, use in zip(("NonPaged", "Paged"), uses, strict=True):
            made.fill({f"{prefix}Allocs": use.allocs, f"{prefix}Frees": use.frees, f"{prefix}Bytes": use.size})

    def _big_table(self) -> tuple[int, int]:
        """Room for the table of big pages, which is the last of its own entries."""
        rows = 1 << (2 * (len(self.big) + 1)).bit_length()
        return self.allocate_big(
            NONPAGED, rows * self._layouts.size_of("_POOL_TRACKER_BIG_PAGES"), "Pool"
        ).address, rows

    def _write_big_table(self, table: int, rows: int) -> None:
        size = self._layouts.size_of("_POOL_TRACKER_BIG_PAGES")
        self._variable("PoolBigPageTable", table)
        self._variable("PoolBigPageTableSize", rows)
        self._variable("ExpPoolBigEntriesInUse", sum(not big.freed for big in self.big), 4)
        # entries that were never used are free, and of address 0
        self._memory.write(table, (b"\x01".ljust(size, b"\0")) * rows)
        taken: set[int] = set()
        for big in self.big:
            row = (big.address >> 12 ^ big.address >> 20) % rows
            while row in taken:
                row = (row + 1) % rows
            taken.add(row)
            kind = _PAGED_TYPE if big.kind == PAGED else 0 if big.executable or not self._has_nx else _NX
            made = self._structures.at("_POOL_TRACKER_BIG_PAGES", table + row * size)
            made.fill(
                {"Va": big.address | big.freed, "Key": _tag(big.tag), "PoolType": kind, "NumberOfBytes": big.size}
            )

    @property
    def _has_nx(self) -> bool:
        return "NonPagedPoolNx" in self._layouts.enum("_POOL_TYPE").values()

    def _write_counters(self, descriptors: Sequence[tuple[str, int]]) -> None:
        """What the descriptors count: a little more than the tags use. Pages are counted by the memory manager."""
        used = {kind: sum(use.size for (_, pool), use in self._sums.items() if pool == kind) for kind in self._areas}
        self._write_descriptors(descriptors, {kind: size + size // _LOOKASIDE for kind, size in used.items()})

    def _write_descriptors(self, descriptors: Sequence[tuple[str, int]], totals: dict[str, int]) -> None:
        if not descriptors:
            return
        size = self._structures.size("_POOL_DESCRIPTOR")
        paged = [address for kind, address in descriptors if kind == PAGED]
        for kind, address in descriptors:
            count = sum(other == kind for other, _ in descriptors)
            first = address == next(place for other, place in descriptors if other == kind)
            share = totals[kind] // count + (totals[kind] % count if first else 0)
            self._memory.write(address, bytes(min(size, 0x140)))
            made = self._structures.at("_POOL_DESCRIPTOR", address)
            made.set("PoolType", _PAGED_TYPE if kind == PAGED else 0)
            if self._layouts.has("_POOL_DESCRIPTOR", "TotalBytes"):
                made.set("TotalBytes", share)
            else:
                made.fill({"BytesAllocated": share + 0x10000, "BytesDeallocated": 0x10000})
        self._variable("ExpNumberOfPagedPools", _PAGED_POOLS, 4)
        self._variable("ExpNumberOfNonPagedPools", 1, 4)
        for name, addresses in (("ExpPagedPoolDescriptor", paged), ("ExpNonPagedPoolDescriptor", [])):
            array = self._symbol(name)
            if array is not None:
                self._memory.write(array, struct.pack(f"<{len(addresses)}Q", *addresses).ljust(0x40, b"\0"))

    def _variable(self, name: str, value: int, size: int = 8) -> None:
        address = self._symbol(name)
        if address is not None:
            self._memory.write(address, value.to_bytes(size, "little"))


def _tag(text: str) -> int:
    return int.from_bytes(text.encode("ascii"), "little")


def _shares(uses: Sequence[_Sum], processors: int) -> Iterator[list[_Sum]]:
    """A tag's use over the tables of the processors: the first allocates, the others free what it allocated.

    What a processor frees beyond what it allocated makes its bytes negative, as in Windows.
    """
    for number in range(processors):
        share = []
        for use in uses:
            given = _Sum(use.allocs // processors, use.frees // processors, 0)
            if number == 0:
                given = _Sum(use.allocs - (processors - 1) * given.allocs, use.frees - (processors - 1) * given.frees)
            freed = 0x1000 * use.frees // processors if use.frees and processors > 1 else 0
            given.size = use.size + freed * (processors - 1) if number == 0 else -freed
            share.append(given)
        yield share
