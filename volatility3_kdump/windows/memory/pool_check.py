"""Whether the headers of a page of the classic pool agree, where they stop to, and whether one bit would mend them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.memory import PAGE_SIZE
from volatility3_kdump.windows.memory.kernel_regions import KernelRegion, kernel_region
from volatility3_kdump.windows.memory.pool import PageWalk, pool, walk_page
from volatility3_kdump.windows.memory.pool_header import header_size

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The first bytes of a header hold the sizes.
_SIZE_BYTES = 4


@dataclass(frozen=True)
class PageCheck:
    """A page of pool: its walk, or why it has no headers to walk (``absent``).

    ``corrupt`` are the ranges ``[start, end)`` where no headers agree; ``bits`` are (address of a header, bit of its
    first four bytes) that, if it were inverted, would make all headers of the page agree.
    """

    page: int
    region: KernelRegion | None
    walk: PageWalk | None
    absent: str | None
    corrupt: tuple[tuple[int, int], ...] = ()
    bits: tuple[tuple[int, int], ...] = ()

    @property
    def valid(self) -> bool:
        return self.walk is not None and self.walk.problem is None


def check_page(target: Target, address: int) -> PageCheck:
    """The check of the page that an address lies in."""
    start = address - address % PAGE_SIZE
    region = kernel_region(target, address)
    if pool(target).heaps.segment_of(start) is not None:
        reason = "it belongs to the segment heap, whose headers do not give the sizes of their neighbours"
        return PageCheck(start, region, None, reason)
    data = target.memory.read(start, PAGE_SIZE)
    if data is None:
        return PageCheck(start, region, None, f"it cannot be read: {target.memory.why_unreadable(start)}")
    walk = walk_page(target, start, data)
    if walk.problem is None:
        return PageCheck(start, region, walk, None)
    good = [walked for walked in walk.headers if not walked.behind_damage]
    behind = [walked for walked in walk.headers if walked.behind_damage]
    first = good[-1].header.address + good[-1].header.block_size if good else start
    last = behind[0].header.address if behind else start + PAGE_SIZE
    places = ([good[-1].header.address] if good else []) + [first]
    bits = tuple(_mending(target, start, data, place - start) for place in places)
    return PageCheck(start, region, walk, None, ((first, last),), tuple(bit for page_bits in bits for bit in page_bits))


def _mending(target: Target, start: int, data: bytes, offset: int) -> list[tuple[int, int]]:
    if offset + header_size(target) > PAGE_SIZE:
        return []
    mending = []
    for bit in range(8 * _SIZE_BYTES):
        changed = bytearray(data)
        changed[offset + bit // 8] ^= 1 << bit % 8
        walk = walk_page(target, start, bytes(changed))
        if walk.problem is None and all(walked.header.tag is not None for walked in walk.headers):
            mending.append((start + offset, bit))
    return mending
