"""What pools are made of while they are filled: blocks, big allocations, the pages given out, the use of each tag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kdump_sample.paging import AddressSpaces
from kdump_sample.pool_contents import Slots
from kdump_sample.structures import Structures
from volatility3_kdump.layout import Layouts

PAGE = 0x1000
UNIT = 16
HEADER = 16
#: Bits of a block's pool type: in use, of paged pool, not executable.
IN_USE, PAGED_TYPE, NX = 2, 1, 0x200


@dataclass
class Block:
    """A block with a header: ``address`` and ``size`` include it. Free blocks have no tag."""

    kind: str
    address: int
    size: int
    tag: str | None

    @property
    def data(self) -> int:
        return self.address + HEADER


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
class Range:
    """A page range of a segment: kind of _HEAP_SEG_RANGE_TYPE, address and pages."""

    kind: int
    address: int
    pages: int


@dataclass
class Area:
    """The pages of one pool that are given out, from its start upwards."""

    kind: str
    start: int
    next_page: int
    #: The page or subsegment that small blocks are being taken from.
    position: int = 0
    end: int = 0
    ranges: list[Range] = field(default_factory=list)
    #: Blocks of each page (classic pool) or subsegment, by where that starts.
    parts: dict[int, list[Block]] = field(default_factory=dict)
    part: int = 0


@dataclass
class Use:
    """The use of one tag in one pool."""

    allocs: int = 0
    frees: int = 0
    size: int = 0

    def add(self, allocs: int, frees: int, size: int) -> None:
        self.allocs += allocs
        self.frees += frees
        self.size += size


@dataclass
class Filled:
    """The pools while they are filled: what has been given out of each, and what each tag uses."""

    structures: Structures
    symbol: Callable[[str], int | None]
    starts: dict[str, int]
    #: Whether the kernel keeps its pool in segment heaps.
    modern: bool
    areas: dict[str, Area]
    #: Every big allocation, and the blocks of the scene's slots.
    big: list[Big] = field(default_factory=list)
    slots: list[tuple[Slots, int, list[Block]]] = field(default_factory=list)
    #: By tag and kind of pool.
    uses: dict[tuple[str, str], Use] = field(default_factory=dict)

    @property
    def layouts(self) -> Layouts:
        return self.structures.layouts

    @property
    def memory(self) -> AddressSpaces:
        return self.structures.memory

    def use(self, kind: str, tag: str) -> Use:
        return self.uses.setdefault((tag, kind), Use())

    def variable(self, name: str, value: int, size: int = 8) -> None:
        """Store a kernel variable; passed over where the kernel has none of that name."""
        address = self.symbol(name)
        if address is not None:
            self.memory.write(address, value.to_bytes(size, "little"))


def tag_value(tag: str) -> int:
    return int.from_bytes(tag.encode("ascii"), "little")


def block_units(size: int) -> int:
    """POOL_HEADER.BlockSize of a block for so many bytes of its owner."""
    return -(-(size + HEADER) // UNIT)


def write_header(structures: Structures, block: Block, previous: int, kind: int) -> None:
    """Write a block's _POOL_HEADER. ``previous`` is the size of the block in front of it, ``kind`` the PoolType."""
    made = structures.at("_POOL_HEADER", block.address)
    made.set("PreviousSize", previous // UNIT)
    made.set("BlockSize", block.size // UNIT)
    made.set("PoolType", kind)
    made.set("PoolTag", tag_value(block.tag or "Free"))
