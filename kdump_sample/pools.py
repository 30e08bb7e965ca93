"""The pool of a made machine: blocks with their headers, big pages, segment heaps, the trackers by tag, and counters.

Everything that the other parts allocate comes from here (:meth:`Pools.allocate`), in the way of the kernel at hand.
Kernels up to Windows 10 1809 cut pages into blocks, each behind a ``_POOL_HEADER`` that has its size and that of the
block before it. Later ones take chunks of variable size subsegments, in segments of a megabyte, of heaps that
``nt!ExPoolState`` names. Blocks of more than a page start a page in both, and are in ``nt!PoolBigPageTable``.

The headers and tables are written by :meth:`Pools.finish`, when everything is allocated. A machine's blocks of pool at
addresses that a scene chooses itself are not among these.
"""

from __future__ import annotations

from collections.abc import Callable

from kdump_sample.pool_blocks import (
    HEADER,
    IN_USE,
    PAGE,
    PAGED_TYPE,
    UNIT,
    Area,
    Big,
    Block,
    Filled,
    Range,
    write_header,
)
from kdump_sample.pool_contents import NONPAGED, PAGED, PoolScene, Slots
from kdump_sample.pool_tables import PoolTables
from kdump_sample.segment_heaps import (
    FIRST_DESCRIPTOR,
    LARGEST_RANGE,
    RANGE_LFH,
    RANGE_USER,
    RANGE_VS,
    SEGMENT,
    SUBSEGMENT_PAGES,
    SegmentHeaps,
    first_large,
    keeps_pool_in_segment_heaps,
    lfh_geometry,
)
from kdump_sample.structures import Structures

#: The largest request that a block with a header is made for.
_LARGEST_BLOCK = PAGE - 2 * UNIT


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
        layouts = structures.layouts
        modern = keeps_pool_in_segment_heaps(layouts)
        first = FIRST_DESCRIPTOR * PAGE if modern else 0
        areas = {kind: Area(kind, start, start + first) for kind, start in starts.items()}
        self._filled = Filled(structures, symbol, starts, modern, areas)
        self._processors = processors
        self._scene = scene
        self._large_at = first_large(starts)

    @property
    def modern(self) -> bool:
        """Whether the kernel keeps its pool in segment heaps."""
        return self._filled.modern

    @property
    def big(self) -> list[Big]:
        """Every big allocation."""
        return self._filled.big

    @property
    def slots(self) -> list[tuple[Slots, int, list[Block]]]:
        """The scene's slots, each with the address of its subsegment and its blocks."""
        return self._filled.slots

    @property
    def blocks(self) -> list[Block]:
        """Every block with a header, free ones included, but for those of the slots."""
        return [block for area in self._filled.areas.values() for part in area.parts.values() for block in part]

    # allocation -----------------------------------------------------------------------------------------------------

    def allocate(self, kind: str, size: int, tag: str = "None") -> int:
        """The address of a new allocation of ``paged`` or ``nonpaged`` pool, 16-byte aligned."""
        if size > _LARGEST_BLOCK:
            return self.allocate_big(kind, size, tag).address
        area = self._filled.areas[kind]
        block = self._take(area, max(HEADER + -(-size // UNIT) * UNIT, 2 * UNIT), tag)
        self._filled.use(kind, tag).add(1, 0, block.size)
        return block.data

    def allocate_big(self, kind: str, size: int, tag: str, executable: bool = False, freed: bool = False) -> Big:
        """A new allocation of whole pages, outside of the segments where it is larger than they are."""
        size = -(-size // PAGE) * PAGE
        if self._filled.modern and size > LARGEST_RANGE * PAGE:
            address, self._large_at = self._large_at, self._large_at + -(-size // SEGMENT) * SEGMENT
        else:
            area = self._filled.areas[kind]
            address = self._pages(area, size // PAGE, RANGE_USER)
            if freed and area.ranges:
                area.ranges.pop()
        made = Big(kind, address, size, tag, executable, freed)
        self._filled.big.append(made)
        self._filled.use(kind, tag).add(1, int(freed), 0 if freed else size)
        return made

    def _take(self, area: Area, size: int, tag: str | None) -> Block:
        chunk = UNIT if self.modern else 0
        if area.position + 3 * chunk + size > area.end:
            self._close(area)
            self._open(area)
        if self._filled.modern and (area.position + chunk + HEADER) % PAGE == 0:
            # data never starts a page, where big pages are looked for
            self._put(area, Block(area.kind, area.position + chunk, UNIT, None))
        block = Block(area.kind, area.position + chunk, size, tag)
        self._put(area, block)
        return block

    def _put(self, area: Area, block: Block) -> None:
        area.parts[area.part].append(block)
        area.position = block.address + block.size

    def _open(self, area: Area) -> None:
        """A new page of the classic pool, or a new subsegment."""
        if self._filled.modern:
            area.part = self._pages(area, SUBSEGMENT_PAGES, RANGE_VS)
            size = self._filled.structures.size("_HEAP_VS_SUBSEGMENT")
            area.position = area.part + -(-size // UNIT) * UNIT
            area.end = area.part + SUBSEGMENT_PAGES * PAGE
        else:
            area.position = area.part = self._pages(area, 1, RANGE_USER)
            area.end = area.part + PAGE
        area.parts[area.part] = []

    def _close(self, area: Area) -> None:
        """Make what is left of the page or subsegment one free block."""
        chunk = UNIT if self.modern else 0
        left = area.end - area.position
        if left >= 2 * UNIT:
            self._put(area, Block(area.kind, area.position + chunk, left - chunk, None))
        elif left:
            area.parts[area.part][-1].size += left

    def _pages(self, area: Area, count: int, kind: int) -> int:
        """So many whole pages; in segment heaps a range of a segment."""
        if self._filled.modern:
            left = SEGMENT - (area.next_page - area.start) % SEGMENT
            if left < count * PAGE or left == SEGMENT:
                area.next_page += left % SEGMENT + FIRST_DESCRIPTOR * PAGE
            area.ranges.append(Range(kind, area.next_page, count))
        address = area.next_page
        area.next_page += count * PAGE
        return address

    # the rest -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write headers, tables and counters. Nothing can be allocated afterwards."""
        for big in self._scene.big:
            made = self.allocate_big(big.kind, big.size, big.tag, big.executable, big.freed)
            if not made.freed:
                self._filled.memory.write(made.address, bytes(64))
        for history in self._scene.history:
            for kind, (allocs, frees, size) in ((NONPAGED, history.nonpaged), (PAGED, history.paged)):
                if allocs:
                    self._filled.use(kind, history.tag).add(allocs, frees, size)
        for slots in self._scene.slots:
            self._slots(slots)
        tables = PoolTables(self._filled, self.allocate, self.allocate_big, self._processors)
        for area in self._filled.areas.values():
            self._close(area)
        SegmentHeaps(self._filled).write()
        if not self.modern:
            self._write_pages()
        tables.write()

    def _slots(self, slots: Slots) -> None:
        """Blocks of one size, some of them free."""
        used = [index for index in range(slots.count) if slots.used >> index & 1]
        if not self._filled.modern:
            for index in range(slots.count):
                block = self._take(self._filled.areas[slots.kind], slots.size, slots.tag if index in used else None)
                self._filled.memory.write(block.address, bytes(slots.size))
            self._filled.use(slots.kind, slots.tag).add(slots.count, slots.count - len(used), len(used) * slots.size)
            return
        offset, pages = lfh_geometry(self._filled.layouts, slots)
        start = self._pages(self._filled.areas[slots.kind], pages, RANGE_LFH)
        blocks = [
            Block(slots.kind, start + offset + index * slots.size, slots.size, slots.tag if index in used else None)
            for index in range(slots.count)
        ]
        self._filled.slots.append((slots, start, blocks))
        self._filled.use(slots.kind, slots.tag).add(slots.count, slots.count - len(used), len(used) * slots.size)

    # classic pool -----------------------------------------------------------------------------------------------------

    def _write_pages(self) -> None:
        for area in self._filled.areas.values():
            paged = PAGED_TYPE if area.kind == PAGED else 0
            for part in area.parts.values():
                previous = 0
                for block in part:
                    write_header(self._filled.structures, block, previous, 0 if block.tag is None else paged | IN_USE)
                    previous = block.size
