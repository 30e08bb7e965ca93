"""The segment heaps that kernels from Windows 10 1903 on keep their pool in: segments of a megabyte with page ranges,
subsegments of blocks of variable size (VS) and of one size (LFH), and a tree of the allocations that are larger."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

from kdump_sample.pool_blocks import IN_USE, PAGE, PAGED_TYPE, UNIT, Area, Big, Block, Filled, write_header
from kdump_sample.pool_contents import NONPAGED, PAGED, Slots
from volatility3_kdump.layout import Layouts

SEGMENT, FIRST_DESCRIPTOR = 0x100000, 2
SUBSEGMENT_PAGES = 16
#: The largest number of pages that are taken from a segment.
LARGEST_RANGE = 0x80
RANGE_USER, RANGE_LFH, RANGE_VS = 0, 2, 3

_DESCRIPTORS = 256
#: Where the heaps themselves lie, from the start of nonpaged pool, and large allocations, from the start of paged pool.
_HEAPS = 0x100000000
_LARGE = 0x140000000
_ALLOCATED, _FIRST = 1, 2
_HEAP_KEY, _LFH_KEY = 0xC8A15D3E97F24B61, 0x6D03F2B85A9C71E4
_SEGMENT_MAGIC = 0xA2E64EADA2E64EAD
_TREE_MAGIC, _HEAP_MAGIC, _VS_MAGIC = 0xCCDDCCDD, 0xDDEEDDEE, 0x2BED


def keeps_pool_in_segment_heaps(layouts: Layouts) -> bool:
    return layouts.has_type("_SEGMENT_HEAP") and not layouts.has("_POOL_DESCRIPTOR", "ListHeads")


def first_large(starts: dict[str, int]) -> int:
    """Where allocations lie that are larger than a segment."""
    return starts[PAGED] + _LARGE


def lfh_geometry(layouts: Layouts, slots: Slots) -> tuple[int, int]:
    """The offset of the first block of an LFH subsegment, and its pages."""
    bitmap = layouts.offset("_HEAP_LFH_SUBSEGMENT", "BlockBitmap")
    bitmap_words = -(-slots.count // 32)
    pages = -(-(bitmap + 8 * bitmap_words + slots.count * slots.size) // PAGE) + 1
    offset = -(-(bitmap + 8 * bitmap_words + 2 * pages) // UNIT) * UNIT
    return offset, -(-(offset + slots.count * slots.size) // PAGE)


class SegmentHeaps:
    """Writes the heaps of pools that are filled."""

    def __init__(self, filled: Filled) -> None:
        self._filled = filled

    def write(self) -> None:
        """The heaps of nt!ExPoolState: kernels from Windows 10 1803 have it, and use it from 1903 on."""
        layouts, memory = self._filled.layouts, self._filled.memory
        state, keys = self._filled.symbol("ExPoolState"), self._filled.symbol("RtlpHpHeapGlobals")
        if state is None or keys is None:
            return
        globals_ = self._filled.structures.at("_RTLP_HP_HEAP_GLOBALS", keys)
        globals_.fill({"HeapKey": _HEAP_KEY, "LfhKey": _LFH_KEY})
        size = -(-layouts.size_of("_SEGMENT_HEAP") // PAGE) * PAGE
        heaps = [self._filled.starts[NONPAGED] + _HEAPS + index * size for index in range(4)]
        manager = self._filled.structures.at("_EX_POOL_HEAP_MANAGER_STATE", state)
        manager.fill({"NumberOfPools": int(self._filled.modern), "HeapManager.Globals": keys})
        for path in ("PoolNode", "SpecialHeaps"):
            # the whole node is present, and the heaps that there are none of
            place = layouts.field("_EX_POOL_HEAP_MANAGER_STATE", path)
            length = layouts.size_of("_EX_HEAP_POOL_NODE") if path == "PoolNode" else place.size
            memory.write(state + place.offset, bytes(length))
        if not self._filled.modern:
            return
        node = state + layouts.offset("_EX_POOL_HEAP_MANAGER_STATE", "PoolNode")
        memory.write(node + layouts.offset("_EX_HEAP_POOL_NODE", "Heaps"), struct.pack("<4Q", *heaps))
        for index, heap in enumerate(heaps):
            kind = {1: NONPAGED, 2: PAGED}.get(index)
            self._write_heap(heap, self._filled.areas[kind] if kind else None)

    def _write_heap(self, heap: int, area: Area | None) -> None:
        layouts = self._filled.layouts
        self._filled.memory.write(heap, bytes(layouts.size_of("_SEGMENT_HEAP")))
        made = self._filled.structures.at("_SEGMENT_HEAP", heap)
        made.set("Signature", _HEAP_MAGIC)
        field_ = layouts.field("_SEGMENT_HEAP", "SegContexts")
        stride = layouts.size_of("_HEAP_SEG_CONTEXT")
        contexts = [heap + field_.offset + index * stride for index in range(field_.count or 0)]
        link = layouts.offset("_HEAP_SEG_CONTEXT", "SegmentListHead")
        for index, context in enumerate(contexts):
            segments = self._segments(area, context) if index == 0 and area is not None else []
            unit = 12 + 4 * index
            self._filled.structures.at("_HEAP_SEG_CONTEXT", context).fill(
                {
                    "SegmentMask": ~((1 << unit + 8) - 1),
                    "UnitShift": unit,
                    "PagesPerUnitShift": unit - 12,
                    "FirstDescriptorIndex": FIRST_DESCRIPTOR - index,
                    "Heap": heap,
                    "LfhContext": heap + layouts.offset("_SEGMENT_HEAP", "LfhContext"),
                    "VsContext": heap + layouts.offset("_SEGMENT_HEAP", "VsContext"),
                    "SegmentCount": len(segments),
                }
            )
            self._filled.structures.link(context + link, segments)
        subsegments = heap + layouts.offset("_SEGMENT_HEAP", "VsContext.SubsegmentList")
        self._filled.structures.link(subsegments, list(area.parts) if area is not None else [])
        for start, blocks in (area.parts if area is not None else {}).items():
            self._write_subsegment(start, blocks)
        for slots, start, blocks in self._filled.slots:
            if area is not None and slots.kind == area.kind:
                self._write_lfh(slots, start, blocks)
        large = [
            big
            for big in self._filled.big
            if area is not None and big.kind == area.kind and big.address >= first_large(self._filled.starts)
        ]
        self._write_large(heap, [big for big in large if not big.freed])

    def _segments(self, area: Area, context: int) -> list[int]:
        """The segments of an area with the descriptors of their page ranges."""
        size = self._filled.layouts.size_of("_HEAP_PAGE_RANGE_DESCRIPTOR")
        starts = sorted({page_range.address & ~(SEGMENT - 1) for page_range in area.ranges})
        for start in starts:
            self._filled.memory.write(start, bytes(self._filled.layouts.size_of("_HEAP_PAGE_SEGMENT")))
            self._filled.structures.at("_HEAP_PAGE_SEGMENT", start).set(
                "Signature", start ^ context ^ _HEAP_KEY ^ _SEGMENT_MAGIC
            )
            end = FIRST_DESCRIPTOR
            for page_range in (
                page_range for page_range in area.ranges if page_range.address & ~(SEGMENT - 1) == start
            ):
                first = (page_range.address - start) // PAGE
                self._free_range(start, end, first)
                end = first + page_range.pages
                for index in range(page_range.pages):
                    made = self._filled.structures.at("_HEAP_PAGE_RANGE_DESCRIPTOR", start + (first + index) * size)
                    made.set("RangeFlags", page_range.kind << 2 | _ALLOCATED | (0 if index else _FIRST))
                    made.set("CommittedPageCount", 1)
                    made.set("UnitOffset" if index else "UnitSize", index or page_range.pages)
                    if index == 0:
                        made.set("TreeSignature", _TREE_MAGIC)
            self._free_range(start, end, _DESCRIPTORS)
        return starts

    def _free_range(self, segment: int, first: int, end: int) -> None:
        if first < end:
            place = segment + first * self._filled.layouts.size_of("_HEAP_PAGE_RANGE_DESCRIPTOR")
            made = self._filled.structures.at("_HEAP_PAGE_RANGE_DESCRIPTOR", place)
            made.fill({"RangeFlags": _FIRST, "UnitSize": end - first})

    def _write_subsegment(self, start: int, blocks: Sequence[Block]) -> None:
        """A variable size subsegment: its header, and in front of every block that of its chunk."""
        size = SUBSEGMENT_PAGES * PAGE // UNIT
        made = self._filled.structures.at("_HEAP_VS_SUBSEGMENT", start)
        made.fill({"Size": size, "Signature": (size ^ _VS_MAGIC) & 0x7FFF, "FullCommit": 1})
        made.set("CommitBitmap", (1 << SUBSEGMENT_PAGES) - 1)
        paged = self._filled.layouts.size_of("_HEAP_VS_CHUNK_HEADER")
        previous = 0
        for block in blocks:
            chunk, units = block.address - paged, (block.size + paged) // UNIT
            sizes = units << 16 | previous << 32 | (0 if block.tag is None else 1 << 48)
            self._filled.memory.write(chunk, (sizes ^ _HEAP_KEY ^ chunk).to_bytes(8, "little") + bytes(8))
            if block.tag is not None:
                write_header(self._filled.structures, block, 0, IN_USE | (PAGED_TYPE if block.kind == PAGED else 0))
            previous = units

    def _write_lfh(self, slots: Slots, start: int, blocks: Sequence[Block]) -> None:
        """A low fragmentation subsegment. Blocks that are free keep the header of their last owner."""
        offset, _ = lfh_geometry(self._filled.layouts, slots)
        made = self._filled.structures.at("_HEAP_LFH_SUBSEGMENT", start)
        free = sum(block.tag is None for block in blocks)
        made.fill({"FreeCount": free, "BlockCount": slots.count, "CommitUnitShift": 12})
        made.set("BlockOffsets.EncodedData", (slots.size | offset << 16) ^ _LFH_KEY ^ start >> 12)
        bits = sum(1 << 2 * index for index, block in enumerate(blocks) if block.tag is not None)
        bitmap = self._filled.layouts.offset("_HEAP_LFH_SUBSEGMENT", "BlockBitmap")
        self._filled.memory.write(start + bitmap, bits.to_bytes(8 * -(-slots.count // 32), "little"))
        paged = PAGED_TYPE if slots.kind == PAGED else 0
        for block in blocks:
            write_header(
                self._filled.structures,
                dataclasses.replace(block, tag=slots.tag),
                0,
                paged | (IN_USE if block.tag is not None else 0),
            )

    def _write_large(self, heap: int, large: Sequence[Big]) -> None:
        """The tree of large allocations: the first is the root, each further one the right child of the one before."""
        layouts = self._filled.layouts
        size = layouts.size_of("_HEAP_LARGE_ALLOC_DATA")
        nodes = [heap + PAGE - (index + 1) * size for index in range(len(large))]
        tree = self._filled.structures.at("_RTL_RB_TREE", heap + layouts.offset("_SEGMENT_HEAP", "LargeAllocMetadata"))
        tree.fill({"Root": nodes[0] if nodes else 0, "Min": nodes[0] if nodes else 0})
        for index, (node, big) in enumerate(zip(nodes, large, strict=True)):
            made = self._filled.structures.at("_HEAP_LARGE_ALLOC_DATA", node)
            made.fill({"VirtualAddress": big.address, "AllocatedPages": big.size // PAGE})
            made.set("TreeNode.Right", nodes[index + 1] if index + 1 < len(nodes) else 0)
