"""What the kernel keeps about its pools: the trackers by tag, the table of big pages, descriptors and counters."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from kdump_sample.pool_blocks import NX, PAGE, PAGED_TYPE, Big, Filled, Use, tag_value
from kdump_sample.pool_contents import NONPAGED, PAGED

_TRACKER_ROWS, _EXPANSION_ROWS = 129, 16
#: The last paged pools of a machine: one for prototype PTEs and what is usual beside it.
_PAGED_POOLS = 4
#: Blocks of 1 % of a pool wait in lookaside lists.
_LOOKASIDE = 100


class PoolTables:
    """Takes room for the tables from the pools themselves, and writes them when nothing more is allocated.

    ``allocate`` and ``allocate_big`` are given the kind of pool, a size and a tag; they give an address, an allocation.
    """

    def __init__(
        self,
        filled: Filled,
        allocate: Callable[[str, int, str], int],
        allocate_big: Callable[[str, int, str], Big],
        processors: int,
    ) -> None:
        self._filled = filled
        self._allocate = allocate
        self._descriptors = [] if filled.modern else self._find_descriptors()
        tracker = filled.layouts.size_of("_POOL_TRACKER_TABLE")
        #: The tracker table of every processor, and that of tags that found no place.
        self._trackers = [allocate(NONPAGED, _TRACKER_ROWS * tracker, "Pool") for _ in range(processors)]
        self._expansion = allocate(NONPAGED, _EXPANSION_ROWS * tracker, "Pool")
        # the table of big pages is the last of its own entries
        self._big_rows = 1 << (2 * (len(filled.big) + 1)).bit_length()
        size = self._big_rows * filled.layouts.size_of("_POOL_TRACKER_BIG_PAGES")
        self._big_table = allocate_big(NONPAGED, size, "Pool").address

    def write(self) -> None:
        self._write_trackers(self._trackers, self._expansion)
        self._write_big_table(self._big_table, self._big_rows)
        self._write_counters(self._descriptors)

    def _write_trackers(self, tables: Sequence[int], expansion: int) -> None:
        layouts = self._filled.layouts
        size = layouts.size_of("_POOL_TRACKER_TABLE")
        for address, rows in (*((table, _TRACKER_ROWS) for table in tables), (expansion, _EXPANSION_ROWS)):
            self._filled.memory.write(address, bytes(rows * size))
        self._filled.variable("PoolTrackTable", tables[0])
        self._filled.variable("PoolTrackTableSize", _TRACKER_ROWS)
        self._filled.variable("PoolTrackTableMask", _TRACKER_ROWS - 2)
        self._filled.variable("PoolTrackTableExpansion", expansion)
        self._filled.variable("PoolTrackTableExpansionSize", _EXPANSION_ROWS)
        array = self._filled.symbol("ExPoolTagTables")
        if array is not None:
            room = min(layouts.extent("ExPoolTagTables") or PAGE, PAGE)
            self._filled.memory.write(
                array, b"".join(table.to_bytes(8, "little") for table in tables).ljust(room, b"\0")
            )
        tags = sorted({tag for tag, _ in self._filled.uses})
        taken: set[int] = set()
        for number, tag in enumerate(tags):
            uses = [self._filled.uses.get((tag, kind), Use()) for kind in (NONPAGED, PAGED)]
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

    def _write_tracker(self, address: int, tag: str, uses: Sequence[Use]) -> None:
        made = self._filled.structures.at("_POOL_TRACKER_TABLE", address)
        made.set("Key", tag_value(tag))
        for prefix, use in zip(("NonPaged", "Paged"), uses, strict=True):
            made.fill({f"{prefix}Allocs": use.allocs, f"{prefix}Frees": use.frees, f"{prefix}Bytes": use.size})

    def _write_big_table(self, table: int, rows: int) -> None:
        size = self._filled.layouts.size_of("_POOL_TRACKER_BIG_PAGES")
        self._filled.variable("PoolBigPageTable", table)
        self._filled.variable("PoolBigPageTableSize", rows)
        self._filled.variable("ExpPoolBigEntriesInUse", sum(not big.freed for big in self._filled.big), 4)
        # entries that were never used are free, and of address 0
        self._filled.memory.write(table, (b"\x01".ljust(size, b"\0")) * rows)
        taken: set[int] = set()
        for big in self._filled.big:
            row = (big.address >> 12 ^ big.address >> 20) % rows
            while row in taken:
                row = (row + 1) % rows
            taken.add(row)
            kind = PAGED_TYPE if big.kind == PAGED else 0 if big.executable or not self._has_nx else NX
            made = self._filled.structures.at("_POOL_TRACKER_BIG_PAGES", table + row * size)
            made.fill(
                {"Va": big.address | big.freed, "Key": tag_value(big.tag), "PoolType": kind, "NumberOfBytes": big.size}
            )

    @property
    def _has_nx(self) -> bool:
        return "NonPagedPoolNx" in self._filled.layouts.enum("_POOL_TYPE").values()

    def _find_descriptors(self) -> list[tuple[str, int]]:
        """The _POOL_DESCRIPTORs: those of nonpaged pool are the kernel's variables, those of paged pool allocated."""
        size = self._filled.structures.size("_POOL_DESCRIPTOR")
        descriptors = []
        variable = self._filled.symbol("NonPagedPoolDescriptor")
        if variable is not None:
            room = (self._filled.layouts.extent("NonPagedPoolDescriptor") or size) // size
            descriptors += [(NONPAGED, variable + index * size) for index in range(min(room, 2))]
        descriptors += [(PAGED, self._allocate(NONPAGED, size, "Pool")) for _ in range(_PAGED_POOLS + 1)]
        return descriptors

    def _write_counters(self, descriptors: Sequence[tuple[str, int]]) -> None:
        """What the descriptors count: a little more than the tags use. Pages are counted by the memory manager."""
        used = {
            kind: sum(use.size for (_, pool), use in self._filled.uses.items() if pool == kind)
            for kind in self._filled.areas
        }
        self._write_descriptors(descriptors, {kind: size + size // _LOOKASIDE for kind, size in used.items()})

    def _write_descriptors(self, descriptors: Sequence[tuple[str, int]], totals: dict[str, int]) -> None:
        if not descriptors:
            return
        size = self._filled.structures.size("_POOL_DESCRIPTOR")
        paged = [address for kind, address in descriptors if kind == PAGED]
        for kind, address in descriptors:
            count = sum(other == kind for other, _ in descriptors)
            first = address == next(place for other, place in descriptors if other == kind)
            share = totals[kind] // count + (totals[kind] % count if first else 0)
            self._filled.memory.write(address, bytes(min(size, 0x140)))
            made = self._filled.structures.at("_POOL_DESCRIPTOR", address)
            made.set("PoolType", PAGED_TYPE if kind == PAGED else 0)
            if self._filled.layouts.has("_POOL_DESCRIPTOR", "TotalBytes"):
                made.set("TotalBytes", share)
            else:
                made.fill({"BytesAllocated": share + 0x10000, "BytesDeallocated": 0x10000})
        self._filled.variable("ExpNumberOfPagedPools", _PAGED_POOLS, 4)
        self._filled.variable("ExpNumberOfNonPagedPools", 1, 4)
        for name, addresses in (("ExpPagedPoolDescriptor", paged), ("ExpNonPagedPoolDescriptor", [])):
            array = self._filled.symbol(name)
            if array is not None:
                self._filled.memory.write(array, struct.pack(f"<{len(addresses)}Q", *addresses).ljust(0x40, b"\0"))


def _shares(uses: Sequence[Use], processors: int) -> Iterator[list[Use]]:
    """A tag's use over the tables of the processors: the first allocates, the others free what it allocated.

    What a processor frees beyond what it allocated makes its bytes negative, as in Windows.
    """
    for number in range(processors):
        share = []
        for use in uses:
            given = Use(use.allocs // processors, use.frees // processors, 0)
            if number == 0:
                given = Use(use.allocs - (processors - 1) * given.allocs, use.frees - (processors - 1) * given.frees)
            freed = 0x1000 * use.frees // processors if use.frees and processors > 1 else 0
            given.size = use.size + freed * (processors - 1) if number == 0 else -freed
            share.append(given)
        yield share
