"""Which pool block an address lies in, and the blocks around it.

Three ways of the kernel to keep pool are told apart by what is in the dump, not by version:

* big pages: ``nt!PoolBigPageTable`` says where they are, and nothing precedes them;
* the segment heap (Windows 10 1903 and later): :mod:`volatility3_kdump.windows.memory.segment_heap`;
* the classic pool before it: pages of blocks, whose headers give their own size and that of the block before, so that
  a page can be walked from its start and every header checked against its neighbour.

:func:`find_block` answers with a block, or with the reason why there is none.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.images.modules import find_module
from volatility3_kdump.memory import PAGE_SIZE
from volatility3_kdump.windows.memory.big_pool import BigPage, BigPages, read_big_pages
from volatility3_kdump.windows.memory.kernel_regions import (
    NONPAGED_POOL,
    PAGED_POOL,
    SESSION,
    SPECIAL_POOL,
    KernelRegion,
    kernel_region,
)
from volatility3_kdump.windows.memory.pool_header import PoolHeader, header_size, read_header, unpack_header
from volatility3_kdump.windows.memory.segment_heap import (
    INTERNAL_RANGE,
    LFH_RANGE,
    SPECIAL,
    VS_RANGE,
    HeapBlock,
    PageRange,
    SegmentHeaps,
)

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

ALLOCATED, FREE, UNKNOWN = "allocated", "free", "unknown"
PAGED, NONPAGED, NONPAGED_NX = "paged", "nonpaged", "nonpaged NX"
SESSION_POOL, SPECIAL_BLOCK = "session", "special"

#: Bits of POOL_TYPE. Headers have the low ones only; NX and what else is above are in the table of big pages.
_PAGED_BIT, _CACHE_ALIGNED, _SESSION_BIT, _NX_BIT = 0x1, 0x4, 0x20, 0x200
_CACHE_LINE = 64
_MOST_REASONS = 3
#: So many headers in a row that agree are no accident.
_ENOUGH_HEADERS = 3


@dataclass(frozen=True)
class PoolBlock:
    """A block of pool.

    ``address`` is its first byte, its header included, and ``size`` its bytes from there. ``header`` is the address of
    its POOL_HEADER, ``None`` where it has none (big pages, free chunks of the segment heap). ``tag_value`` is ``None``
    where nothing gives the tag. ``state`` is one of ALLOCATED, FREE and UNKNOWN; the tag of a free block is that of its
    last owner. ``kind`` is one of PAGED, NONPAGED, NONPAGED_NX, SESSION_POOL and SPECIAL_BLOCK, ``None`` where it is
    not known: the headers of the classic pool do not tell NX from executable. ``big`` says that the block is a big page
    or a large allocation. ``known_by`` says how all this is known, and ``problem`` what is wrong with it.
    ``previous_size`` is the size of the block before it by a classic header; ``header_size`` the bytes of the header, 0
    without one.
    """

    address: int
    size: int
    header: int | None
    tag_value: int | None
    tag: str | None
    state: str
    kind: str | None
    big: bool
    known_by: str
    previous_size: int | None = None
    problem: str | None = None
    header_size: int = 0

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size

    @property
    def data(self) -> int:
        """Where the owner's data starts: what the allocation returned."""
        return self.address if self.header is None else self.header + self.header_size

    @property
    def text(self) -> str:
        """The block in words: ``nonpaged pool block ffff918953118250, 0x70 bytes, tag MyfB, allocated``."""
        kind = f"{self.kind} pool" if self.kind else "pool"
        tag = f"tag {self.tag}" if self.tag else "tag not known" if self.tag_value is None else "no printable tag"
        return f"{kind} {'big ' if self.big else ''}block {self.address:x}, {self.size:#x} bytes, {tag}, {self.state}"


@dataclass(frozen=True)
class Unplaced:
    """An address that no pool block could be named for, and why: it lies elsewhere, or something is not in the dump."""

    reason: str


@dataclass(frozen=True)
class PoolPage:
    """The blocks around an address, as ``!pool`` shows them.

    ``blocks`` are those that touch its page, or the big block. ``region`` is where the page lies, ``None`` when nothing
    says it; ``problems`` is what is wrong or missing on the page. ``found`` is the block that holds the address.
    """

    address: int
    region: KernelRegion | None
    blocks: tuple[PoolBlock, ...]
    found: PoolBlock | Unplaced
    problems: tuple[str, ...] = ()

    @property
    def page(self) -> int:
        return self.address - self.address % PAGE_SIZE


def find_block(target: Target, address: int) -> PoolBlock | Unplaced:
    """The pool block that holds a virtual address (sign-extended), or the reason why none is known."""
    return pool(target).page(address).found


def pool(target: Target) -> Pool:
    """The pool of a target, one for all who ask, so that its tables are read once."""
    return target.once(Pool)


class Pool:
    """The pool of a target. Tables and heaps are read when they are first asked for, and kept: :func:`pool`."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @functools.cached_property
    def big_pages(self) -> BigPages:
        """nt!PoolBigPageTable."""
        return read_big_pages(self._target)

    @functools.cached_property
    def heaps(self) -> SegmentHeaps:
        """The segment heaps."""
        return SegmentHeaps(self._target)

    def page(self, address: int) -> PoolPage:
        """The block that holds an address and those that touch its page."""
        target = self._target
        if not target.is_kernel_address(address):
            return PoolPage(address, None, (), Unplaced("it is not a kernel address"))
        module = find_module(target.modules, address)
        if module is not None:
            return PoolPage(address, None, (), Unplaced(f"it lies in the image of {module.image_name}"))
        region = kernel_region(target, address)
        big = self.big_pages.find(address)
        if big is not None and big.allocated:
            block = self._big_block(big)
            return PoolPage(address, region, (block,), block)
        answer = self._in_segment(address, region) or self._large(address, region)
        if answer is not None:
            return self._or_freed(answer, big)
        if region is not None and region.kind not in (PAGED_POOL, NONPAGED_POOL, SESSION, SPECIAL_POOL):
            return PoolPage(address, region, (), Unplaced(f"it lies in no pool but in {region.kind} ({region.source})"))
        return self._or_freed(self._classic(address, region), big)

    def _or_freed(self, answer: PoolPage, big: BigPage | None) -> PoolPage:
        """What was found, or else what the entry of a big allocation that is gone says was there."""
        if big is None or isinstance(answer.found, PoolBlock):
            return answer
        block = self._big_block(big)
        return PoolPage(answer.address, answer.region, (block,), block, answer.problems)

    # big pages and large allocations --------------------------------------------------------------------------------

    def _big_block(self, big: BigPage) -> PoolBlock:
        return PoolBlock(
            big.address,
            big.size,
            None,
            big.tag_value,
            big.tag,
            ALLOCATED if big.allocated else FREE,
            type_kind(big.pool_type, True),
            True,
            "nt!PoolBigPageTable",
        )

    def _large(self, address: int, region: KernelRegion | None) -> PoolPage | None:
        """A large allocation of a heap that the table of big pages does not have."""
        if self.heaps.problem is not None:
            return None
        large = self.heaps.large_of(address)
        if large is None:
            return None
        kind = _heap_kind(large.heap.kind, None, region)
        block = PoolBlock(
            large.address,
            large.size,
            None,
            None,
            None,
            ALLOCATED,
            kind,
            True,
            f"the large allocations of {large.heap.name}",
        )
        return PoolPage(address, region, (block,), block, self._without_table())

    def _without_table(self) -> tuple[str, ...]:
        return (self.big_pages.problem,) if self.big_pages.problem else ()

    # segment heap ---------------------------------------------------------------------------------------------------

    def _in_segment(self, address: int, region: KernelRegion | None) -> PoolPage | None:
        heaps = self.heaps
        segment = heaps.segment_of(address)
        if segment is None:
            return None
        page_range = heaps.range_of(segment, address)
        if isinstance(page_range, str):
            return PoolPage(address, region, (), Unplaced(f"it lies in {page_range}"))
        if page_range.kind == INTERNAL_RANGE:
            reason = (
                f"it lies in data of the heap itself, the page range {page_range.address:#x} of {segment.heap.name}"
            )
            return PoolPage(address, region, (), Unplaced(reason))
        listed = heaps.blocks_of(page_range)
        page = address - address % PAGE_SIZE
        near = [
            placed
            for placed in listed.found
            if placed.address < page + PAGE_SIZE and page < placed.address + placed.size
        ]
        blocks = tuple(self._heap_block(page_range, placed, region) for placed in near)
        problems: tuple[str, ...] = (listed.problem,) if listed.problem else ()
        if page_range.kind not in (LFH_RANGE, VS_RANGE):
            problems += self._without_table()
        block = next((placed for placed in blocks if placed.address <= address < placed.end), None)
        if block is not None:
            return PoolPage(address, region, blocks, block, problems)
        kind = {LFH_RANGE: "LFH subsegment", VS_RANGE: "VS subsegment"}.get(page_range.kind, "page range")
        reason = listed.problem or f"it lies in the {kind} {page_range.address:#x}, between its blocks"
        return PoolPage(address, region, blocks, Unplaced(reason), problems)

    def _heap_block(self, page_range: PageRange, placed: HeapBlock, region: KernelRegion | None) -> PoolBlock:
        """A block of a subsegment with what its POOL_HEADER says."""
        header = None
        if page_range.kind in (LFH_RANGE, VS_RANGE):
            header = self._header_in(placed)
        state = UNKNOWN if placed.allocated is None else ALLOCATED if placed.allocated else FREE
        name = {LFH_RANGE: "LFH subsegment", VS_RANGE: "VS subsegment"}.get(page_range.kind, "page range")
        heap = page_range.segment.heap
        return PoolBlock(
            placed.address,
            placed.size,
            header.address if header else None,
            header.tag_value if header else None,
            header.tag if header else None,
            state,
            _heap_kind(heap.kind, header, region),
            page_range.kind not in (LFH_RANGE, VS_RANGE),
            f"the {name} {page_range.address:x} of {heap.name}, "
            f"whose segment is known by {page_range.segment.known_by}",
            header_size=header_size(self._target) if header else 0,
        )

    def _header_in(self, placed: HeapBlock) -> PoolHeader | None:
        """The POOL_HEADER of a block of the segment heap.

        It starts the block, except where the owner's data would then start a page (which only big pages do) or where
        the owner asked for alignment to cache lines; PreviousSize is then how far it was moved. A free chunk of a VS
        subsegment has links in its place.
        """
        unit = header_size(self._target)
        if placed.size < unit:
            return None
        places = [placed.address + unit * index for index in range(_CACHE_LINE // unit)]
        for place in places if placed.allocated is not False else places[:1]:
            header = read_header(self._target, place)
            if header is None or header.tag is None or not header.block_size:
                continue
            moved = place - placed.address
            if place + header.block_size > placed.address + placed.size or (placed.allocated and not header.allocated):
                continue
            at_page_end = moved == unit and placed.address % PAGE_SIZE == PAGE_SIZE - unit
            if moved == 0 or at_page_end or (header.pool_type & _CACHE_ALIGNED and header.previous_size == moved):
                return header
        return None

    # classic pool ---------------------------------------------------------------------------------------------------

    def _classic(self, address: int, region: KernelRegion | None) -> PoolPage:
        target = self._target
        if region is not None and region.kind == SPECIAL_POOL:
            reason = "it lies in special pool, whose pages hold one block each that public symbols do not describe"
            return PoolPage(address, region, (), Unplaced(reason))
        start = address - address % PAGE_SIZE
        data = target.memory.read(start, PAGE_SIZE)
        if data is None:
            return PoolPage(address, region, (), Unplaced(self._absent(start)))
        walk = walk_page(target, start, data)
        blocks = tuple(self._classic_block(header, region) for header in walk.headers)
        problems = (walk.problem,) if walk.problem else ()
        block = next((near for near in blocks if near.address <= address < near.end), None)
        starts = bool(walk.headers) and walk.headers[0].header.tag is not None and not walk.headers[0].behind_damage
        certain = starts and self.heaps.active is False and _region_kind(region) is not None
        if not certain and not walk.convincing:
            return PoolPage(address, region, (), Unplaced(self._no_block()))
        if block is None:
            reason = walk.problem or "no pool header is at the start of its page"
            return PoolPage(address, region, blocks, Unplaced(reason), problems)
        return PoolPage(address, region, blocks, block, problems)

    def _absent(self, page: int) -> str:
        why = self._target.memory.why_unreadable(page)
        return f"its page {page:#x} cannot be read: {why}"

    def _no_block(self) -> str:
        heaps = self.heaps
        missing = [heaps.problem] if heaps.problem and heaps.active is not False else []
        reasons = [*dict.fromkeys([*missing, *heaps.problems, *self._without_table()])][:_MOST_REASONS]
        more = f" ({'; '.join(reasons)})" if reasons else ""
        return f"it lies in no pool block that the dump tells of, and its page has no headers that agree{more}"

    def _classic_block(self, header: WalkedHeader, region: KernelRegion | None) -> PoolBlock:
        pool_header = header.header
        return PoolBlock(
            pool_header.address,
            pool_header.block_size,
            pool_header.address,
            pool_header.tag_value,
            pool_header.tag,
            ALLOCATED if pool_header.allocated else FREE,
            _classic_kind(pool_header, region),
            False,
            "the pool headers of its page" + (" behind the damage" if header.behind_damage else ""),
            pool_header.previous_size,
            header.problem,
            header_size(self._target),
        )


def type_kind(pool_type: int, whole: bool) -> str:
    """The kind of pool that a POOL_TYPE means; ``whole`` says that its NX bit is there."""
    if pool_type & _SESSION_BIT:
        return SESSION_POOL
    if pool_type & _PAGED_BIT:
        return PAGED
    return NONPAGED_NX if whole and pool_type & _NX_BIT else NONPAGED


def _classic_kind(header: PoolHeader, region: KernelRegion | None) -> str | None:
    """The kind by the header, which a free block does not keep; else by the region."""
    if header.allocated:
        return type_kind(header.pool_type, False)
    return _region_kind(region)


def _region_kind(region: KernelRegion | None) -> str | None:
    kinds = {PAGED_POOL: PAGED, NONPAGED_POOL: NONPAGED, SESSION: SESSION_POOL, SPECIAL_POOL: SPECIAL_BLOCK}
    return kinds.get(region.kind) if region is not None else None


def _heap_kind(kind: str | None, header: PoolHeader | None, region: KernelRegion | None) -> str | None:
    """What a heap serves, as long as the region of the address and the header of the block do not contradict it."""
    if kind == SPECIAL:
        return SPECIAL_BLOCK
    by_region = _region_kind(region)
    by_header = type_kind(header.pool_type, False) if header is not None else None
    kept = by_region or by_header
    if kind is None or (kept is not None and (kept == PAGED) != (kind == PAGED)):
        return kept
    return kind


# pages of the classic pool --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WalkedHeader:
    """A header that was met on the walk over a page; ``problem`` is what its neighbours say against it."""

    header: PoolHeader
    problem: str | None = None
    behind_damage: bool = False


@dataclass(frozen=True)
class PageWalk:
    """The headers of a page of the classic pool in order; ``problem`` says where they stop to agree."""

    headers: tuple[WalkedHeader, ...]
    problem: str | None

    @property
    def convincing(self) -> bool:
        """Whether the headers can be no other data: they agree over the whole page, or many of them do."""
        if self.problem is None:
            return len(self.headers) > 1
        tags = [walked.header.tag for walked in self.headers if not walked.behind_damage]
        return len(tags) >= _ENOUGH_HEADERS and None not in tags


def walk_page(target: Target, start: int, data: bytes) -> PageWalk:
    """Walk the headers of a page from its start: each gives its block's size and that of the block before.

    Where they stop to agree, the walk goes on from the first place from which they agree up to the end of the page.
    """
    headers, position = _chain(target, start, data, 0, 0)
    if position == PAGE_SIZE:
        return PageWalk(tuple(WalkedHeader(header) for header in headers), None)
    wrong = _what_is_wrong(target, start, data, position, headers[-1].block_size if headers else 0)
    problem = f"the pool header at {start + position:#x} is damaged: {wrong}"
    walked = [WalkedHeader(header) for header in headers]
    if headers:
        walked[-1] = WalkedHeader(
            headers[-1], "the header behind it is damaged: it may have been written beyond its end"
        )
    unit = header_size(target)
    for place in range(position + unit, PAGE_SIZE, unit):
        rest, end = _chain(target, start, data, place, None)
        if rest and end == PAGE_SIZE:
            walked += [WalkedHeader(header, None, True) for header in rest]
            break
    if not headers and not walked:
        problem = f"no pool header is at the start of the page {start:#x}: {wrong}"
    return PageWalk(tuple(walked), problem)


def _chain(
    target: Target, start: int, data: bytes, position: int, previous: int | None
) -> tuple[list[PoolHeader], int]:
    """The headers that agree with each other from a place of the page on, and where they stop."""
    unit = header_size(target)
    headers: list[PoolHeader] = []
    while position + unit <= PAGE_SIZE:
        header = unpack_header(target, start + position, data, position)
        if header.block_size == 0 or position + header.block_size > PAGE_SIZE:
            break
        if previous is None and (header.previous_size > position or header.tag is None):
            break
        if previous is not None and header.previous_size != previous:
            break
        headers.append(header)
        previous = header.block_size
        position += header.block_size
    return headers, position


def _what_is_wrong(target: Target, start: int, data: bytes, position: int, previous: int) -> str:
    header = unpack_header(target, start + position, data, position)
    if header.block_size == 0:
        return "its size is 0"
    if position + header.block_size > PAGE_SIZE:
        return f"its size {header.block_size:#x} reaches beyond the page"
    return f"it says that the block before it has {header.previous_size:#x} bytes, which has {previous:#x}"


def first_words(target: Target, block: PoolBlock) -> list[tuple[int, list[int | None]]]:
    """Two rows of four words of 32 bits from where the owner's data starts: address and values, ``None`` for what is
    not in the dump. Of a block that is shorter the second row is what lies behind it, as in the debugger."""
    starts = (block.data, block.data + 16)
    return [(start, [target.memory.unsigned(start + 4 * number, 4) for number in range(4)]) for start in starts]
