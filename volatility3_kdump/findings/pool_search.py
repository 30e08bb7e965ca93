"""Pool blocks by their tag, looked for in all of the pool that a dump holds.

Tags stand in pool headers, which are found by scanning, and in nt!PoolBigPageTable. A header that is found is asked
for at the heap or the page that it lies in: where these say which block is there, they decide; where they are not in
the dump, the header stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layers.present import SIGN, PresentMemory, present_memory, signed
from volatility3_kdump.memory import PAGE_SIZE
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.memory.big_pool import BigPages
from volatility3_kdump.windows.memory.kernel_regions import (
    NONPAGED_POOL,
    PAGED_POOL,
    SESSION,
    SPECIAL_POOL,
    ranges_of_kinds,
)
from volatility3_kdump.windows.memory.pool import (
    ALLOCATED,
    FREE,
    NONPAGED,
    NONPAGED_NX,
    PAGED,
    SESSION_POOL,
    SPECIAL_BLOCK,
    PoolBlock,
    PoolPage,
    pool,
    type_kind,
)
from volatility3_kdump.windows.memory.pool_header import PoolHeader, header_size, tag_text, unpack_header
from volatility3_kdump.windows.memory.pool_tables import table_bounds
from volatility3_kdump.windows.structures import layouts_of

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_CHUNK = 4 << 20
_WRAP = 1 << 64
#: The top bit of a tag marks protected blocks.
_UNPROTECTED = 0x7FFFFFFF

#: What may be searched: its name, the region of the address space, and the kinds of its blocks.
POOLS = {
    "nonpaged": (NONPAGED_POOL, (NONPAGED, NONPAGED_NX)),
    "paged": (PAGED_POOL, (PAGED,)),
    "special": (SPECIAL_POOL, (SPECIAL_BLOCK,)),
    "session": (SESSION, (SESSION_POOL,)),
}


class TagPattern:
    """A tag with wildcards: ``?`` is one character, ``*`` any number. Raises :class:`KdumpError` for none."""

    def __init__(self, text: str) -> None:
        if not text or len(text) > 8 or not text.isascii() or ("*" not in text and len(text) > 4):
            raise KdumpError(f"{text or 'nothing'} is no pool tag: it has four characters, with ? and * for any")
        self.text = text if "*" in text else f"{text:<4}"
        prefix = self.text.partition("*")[0]
        self.mask = int.from_bytes(bytes(0 if char == "?" else 0xFF for char in prefix[:4]), "little") & _UNPROTECTED
        self.value = int.from_bytes(prefix[:4].encode(), "little") & self.mask
        parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in self.text)
        self._fits = re.compile("".join(parts), re.DOTALL)

    @classmethod
    def of_value(cls, value: int) -> TagPattern:
        """The pattern of a tag that is given as a number."""
        letters = tag_text(value & 0xFFFFFFFF)
        if letters is None or value >> 32:
            raise KdumpError(f"{value:#x} is no pool tag: its bytes are not four printable characters")
        return cls(letters.ljust(4))

    @property
    def number(self) -> int:
        """The pattern as the debugger shows it: its characters as a number."""
        return int.from_bytes(self.text.ljust(4)[:4].encode(), "little")

    def fits(self, value: int) -> bool:
        """Whether a stored tag fits; one with unprintable characters never does."""
        letters = tag_text(value)
        return letters is not None and self._fits.fullmatch(letters.ljust(4)) is not None


@dataclass(frozen=True)
class Area:
    """A range that is searched, ``[low, high)``, sign-extended; ``pool`` is a key of :data:`POOLS`, ``None`` where
    nothing says which pool it is."""

    pool: str | None
    low: int
    high: int


class PoolSearch:
    """The blocks of some tags in one pool; ``pools`` are keys of :data:`POOLS`, ``start`` is where the search begins.

    ``small`` are blocks with headers, ``large`` those of nt!PoolBigPageTable.
    """

    def __init__(
        self,
        target: Target,
        pattern: TagPattern,
        pools: tuple[str, ...] = ("nonpaged",),
        start: int = 0,
        small: bool = True,
        large: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.target, self.pattern, self.pools = target, pattern, pools
        self._start, self._small, self._large, self._progress = start, small, large, progress
        #: What could not be searched, and what is not certain, one line each; complete when the search has ended.
        self.notes: list[str] = []
        self._page: PoolPage | None = None
        self.areas = self._areas() if small else ()

    @property
    def table(self) -> tuple[int, int] | None:
        """Where nt!PoolBigPageTable lies, ``[start, end)``; ``None`` where it is not known."""
        nt = self.target.nt
        if nt is None or not nt.has_type("_POOL_TRACKER_BIG_PAGES"):
            return None
        stride = nt.size_of("_POOL_TRACKER_BIG_PAGES")
        bounds = table_bounds(self.target, "PoolBigPageTable", "PoolBigPageTableSize", stride)
        return None if isinstance(bounds, str) else (bounds[0], bounds[0] + bounds[1] * stride)

    def _areas(self) -> tuple[Area, ...]:
        target = self.target
        areas = [
            Area(name, max(low, self._start), high)
            for name in self.pools
            for low, high in ranges_of_kinds(target, {POOLS[name][0]})
            if high > self._start
        ]
        if areas:
            return tuple(areas)
        if any(ranges_of_kinds(target, {kind}) for kind, _ in POOLS.values()):
            if not self._start:
                self.notes.append(f"this machine has no region of {' or '.join(self.pools)} pool")
            return ()
        self.notes.append(
            "nothing in the dump says where the pools are: all kernel memory that it holds is searched, whatever kind "
            "of pool that is"
        )
        return (Area(None, max(target.kernel_start, self._start), _WRAP),)

    def large(self) -> Iterator[PoolBlock]:
        """The blocks of nt!PoolBigPageTable."""
        if not self._large:
            return
        pages: BigPages = pool(self.target).big_pages
        if pages.problem is not None:
            self.notes.append(pages.problem)
        kinds = {kind for name in self.pools for kind in POOLS[name][1]}
        for entry in pages.entries:
            kind = type_kind(entry.pool_type, True)
            if entry.address >= self._start and kind in kinds and self.pattern.fits(entry.tag_value):
                yield PoolBlock(
                    entry.address,
                    entry.size,
                    None,
                    entry.tag_value,
                    entry.tag,
                    ALLOCATED if entry.allocated else FREE,
                    kind,
                    True,
                    "nt!PoolBigPageTable",
                )

    def small(self, area: Area) -> Iterator[PoolBlock]:
        """The blocks with headers in one of the :attr:`areas`, by rising address."""
        memory = self._memory(area)
        if memory is None:
            return
        low, high = signed(area.low), signed(area.high - 1) + 1
        total, done = max(1, memory.size_between(low, high)), 0
        for run in memory.runs(low, high):
            position, end = run.address, run.address + run.size
            while position < end:
                size = min(_CHUNK - position % _CHUNK, end - position)
                if self._progress is not None:
                    self._progress(100 * done / total, f"Searching for {self.pattern.text}")
                yield from self._in_chunk(position, memory.read(position, size), area)
                position += size
                done += size
        self.notes += memory.notes

    def _memory(self, area: Area) -> PresentMemory | None:
        target = self.target
        memory = None
        if target.layer_name is not None:
            low, high = max(signed(area.low), -SIGN), min(signed(area.high - 1) + 1, SIGN - 1)
            memory = present_memory(target.context.layers[target.layer_name], low, high)
        if memory is None:
            self.notes.append("no address of the dump can be translated: its pool cannot be searched")
        return memory

    def _in_chunk(self, position: int, data: bytes, area: Area) -> Iterator[PoolBlock]:
        import numpy as np

        unit = header_size(self.target)
        place = layouts_of(self.target).offset("_POOL_HEADER", "PoolTag")
        whole = len(data) - len(data) % unit
        tags = np.frombuffer(data, "<u4", whole // 4)[place // 4 :: unit // 4]
        mask = np.uint32(self.pattern.mask)
        for index in np.flatnonzero((tags & mask) == np.uint32(self.pattern.value)).tolist():
            address = (position + unit * index) % _WRAP
            header = unpack_header(self.target, address, data, unit * index)
            if header.block_size > unit and self.pattern.fits(header.tag_value):
                block = self._block(header, area)
                if block is not None:
                    yield block

    def _block(self, header: PoolHeader, area: Area) -> PoolBlock | None:
        """The block of a header; ``None`` where the bytes are no header by what the pool itself says."""
        page = self._page
        if page is None or page.page != header.address - header.address % PAGE_SIZE:
            page = self._page = pool(self.target).page(header.address)
        block = next((block for block in page.blocks if block.address <= header.address < block.end), None)
        if block is not None:
            return block if block.header == header.address else None
        heaps = pool(self.target).heaps
        if page.blocks or (heaps.problem is None and not page.problems and heaps.segment_of(header.address)):
            return None
        kind = type_kind(header.pool_type, False) if area.pool is None else POOLS[area.pool][1][0]
        return PoolBlock(
            header.address,
            header.block_size,
            header.address,
            header.tag_value,
            header.tag,
            ALLOCATED if header.allocated else FREE,
            kind,
            False,
            "its header alone",
            header_size=header_size(self.target),
        )
