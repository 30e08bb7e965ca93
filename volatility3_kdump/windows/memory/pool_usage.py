"""How much pool each tag uses, by the kernel's trackers, and the counters that the sums must agree with.

``nt!PoolTrackTable`` is a hash table of ``_POOL_TRACKER_TABLE`` by tag. Every processor has one of its own with the
same rows (``nt!ExPoolTagTables``, whose first entry is that table), and tags that found no place are in
``nt!PoolTrackTableExpansion``. A block is often freed on another processor than the one that allocated it, so that the
bytes of one table can be negative: only the sum over all tables is the use, and sums are taken modulo the width of the
fields.

The counters count blocks (``_POOL_DESCRIPTOR``, up to Windows 10 1809) or pages (``nt!MiState``, before it
``nt!MmPagedPoolInfo`` and ``nt!MmAllocatedNonPagedPool``). Blocks that wait in lookaside lists, and the rest of a page,
are in the counters and belong to no tag: a counter may be above the sum of the tags, never below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import PAGE_SIZE, Memory
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.memory.pool_header import tag_text
from volatility3_kdump.windows.memory.pool_tables import Table, read_table, table_bounds
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_TYPE = "_POOL_TRACKER_TABLE"
_FIELDS = {
    "nonpaged_allocs": "NonPagedAllocs",
    "nonpaged_frees": "NonPagedFrees",
    "nonpaged_bytes": "NonPagedBytes",
    "paged_allocs": "PagedAllocs",
    "paged_frees": "PagedFrees",
    "paged_bytes": "PagedBytes",
}
#: More than any machine has: processors, nodes, paged pools.
_MOST_PROCESSORS, _MOST_NODES = 2048, 64
#: The trackers of a machine have some thousand rows.
_MOST_ROWS = 1 << 18

NONPAGED, PAGED = "nonpaged", "paged"


@dataclass(frozen=True)
class Use:
    """The use of one pool: blocks allocated and freed since the start, and the bytes that are in use now.

    ``in_use`` is the difference, modulo the width of the counts, which wrap.
    """

    allocs: int
    frees: int
    bytes: int
    in_use: int


@dataclass(frozen=True)
class TagUse:
    """What one tag uses. ``tag`` is ``None`` where it has unprintable characters."""

    tag_value: int
    nonpaged: Use
    paged: Use

    @property
    def tag(self) -> str | None:
        return tag_text(self.tag_value)

    @property
    def impossible(self) -> bool:
        """Whether less than nothing is in use, which no complete and undamaged set of tables says."""
        return min(self.nonpaged.bytes, self.nonpaged.in_use, self.paged.bytes, self.paged.in_use) < 0


@dataclass(frozen=True)
class TrackerTable:
    """One of the tables that were summed: ``missing`` of its ``rows`` lie in absent pages."""

    name: str
    address: int
    rows: int
    missing: int


@dataclass(frozen=True)
class PoolCounter:
    """A counter of a whole pool in bytes; ``pages`` says that it counts pages, whose rest belongs to no block."""

    pool: str
    bytes: int
    pages: bool
    source: str


@dataclass(frozen=True)
class PoolUsage:
    """The use of all tags, by tag value, with the totals; what was read, and what is wrong or missing.

    ``whole`` says that no table is missing from the sums, nor a row of one.
    """

    tags: tuple[TagUse, ...]
    nonpaged: Use
    paged: Use
    tables: tuple[TrackerTable, ...]
    counters: tuple[PoolCounter, ...]
    problems: tuple[str, ...]
    whole: bool = True

    @property
    def complete(self) -> bool:
        """Whether every row of every table was there."""
        return self.whole and not self.problems

    @property
    def disagreements(self) -> list[str]:
        """Where the sum of the tags is above what a counter has, one line each."""
        lines = []
        for counter in self.counters:
            use = self.nonpaged if counter.pool == NONPAGED else self.paged
            if use.bytes > counter.bytes:
                lines.append(
                    f"the tags use {use.bytes} bytes of {counter.pool} pool, which by {counter.source} has only "
                    f"{counter.bytes}"
                )
        return lines


def read_usage(target: Target, progress: Progress | None = None) -> PoolUsage:
    """Sum the trackers. Raises :class:`KdumpError` when none of them can be read, with the reason."""
    nt = require_symbols(target, "the counters of pool", _TYPE, names=True)
    problems: list[str] = []
    tables: list[TrackerTable] = []
    parts: list[Table] = []
    wanted = list(_tables(target, nt, problems))
    for index, (name, address, rows) in enumerate(wanted):
        if progress is not None:
            progress(100 * index / len(wanted), "Reading pool trackers")
        table = read_table(target.memory, nt, _TYPE, address, rows, key="Key", **_FIELDS)
        tables.append(TrackerTable(name, address, rows, table.missing))
        if table.missing:
            problems.append(
                f"{table.missing} of {rows} rows of {name} are not in the dump: the sums are too low or high"
            )
        parts.append(table)
    whole = not problems
    if not any(table.rows > table.missing for table in tables):
        raise KdumpError(f"{target.name}: the use of pool is not known: {'; '.join(problems[:3])}")
    tags = _sum(nt, parts)
    wrong = sum(tag.impossible for tag in tags)
    if wrong:
        problems.append(
            f"{wrong} tag{'s use' if wrong > 1 else ' uses'} less than nothing: the tables are damaged or incomplete"
        )
    total = [_total([getattr(tag, pool) for tag in tags]) for pool in (NONPAGED, PAGED)]
    counters = tuple(_counters(target, nt, problems))
    return PoolUsage(tags, total[0], total[1], tuple(tables), counters, tuple(problems), whole)


def read_session_usage(target: Target, memory: Memory) -> PoolUsage:
    """The use of the pool of a session, in the ``memory`` of a process of it: session space is mapped there.

    Kernels up to Windows 10 count it in a table of each session. Raises :class:`KdumpError` where it cannot be read.
    """
    nt = require_symbols(target, "the counters of session pool", _TYPE, names=True)
    name, stride = "nt!ExpSessionPoolTrackTable", nt.size_of(_TYPE)
    bounds = table_bounds(target, "ExpSessionPoolTrackTable", "ExpSessionPoolTrackTableSize", stride, _MOST_ROWS)
    if isinstance(bounds, str):
        raise KdumpError(f"{target.name}: the use of session pool is not known: {bounds}")
    address, rows = bounds
    table = read_table(memory, nt, _TYPE, address, rows, key="Key", **_FIELDS)
    if table.missing == rows:
        why = memory.why_unreadable(address)
        raise KdumpError(f"{target.name}: the use of session pool is not known: {name} at {address:#x}: {why}")
    problems = [f"{table.missing} of {rows} rows of {name} are not in the dump"] if table.missing else []
    tags = _sum(nt, [table])
    total = [_total([getattr(tag, pool) for tag in tags]) for pool in (NONPAGED, PAGED)]
    tracker = TrackerTable(name, address, rows, table.missing)
    return PoolUsage(tags, total[0], total[1], (tracker,), (), tuple(problems), not problems)


def _total(uses: list[Use]) -> Use:
    return Use(*(sum(getattr(use, name) for use in uses) for name in ("allocs", "frees", "bytes", "in_use")))


def _tables(target: Target, nt: Layouts, problems: list[str]) -> Iterator[tuple[str, int, int]]:
    """(name, address, rows) of every tracker table, each once."""
    stride = nt.size_of(_TYPE)
    seen: set[int] = set()
    main = table_bounds(target, "PoolTrackTable", "PoolTrackTableSize", stride, _MOST_ROWS)
    if isinstance(main, str):
        problems.append(main)
    else:
        seen.add(main[0])
        yield "nt!PoolTrackTable", *main
        yield from _of_processors(target, nt, main[1], seen, problems)
    more = table_bounds(target, "PoolTrackTableExpansion", "PoolTrackTableExpansionSize", stride, _MOST_ROWS)
    if not isinstance(more, str):
        yield "nt!PoolTrackTableExpansion", *more
    elif not more.endswith("is empty"):
        problems.append(more)


def _of_processors(
    target: Target, nt: Layouts, rows: int, seen: set[int], problems: list[str]
) -> Iterator[tuple[str, int, int]]:
    """The tables of the processors. The array ends where the next variable begins."""
    array, memory = target.symbol("ExPoolTagTables"), target.memory
    if array is None:
        return
    size = memory.pointer_size
    room = (nt.extent("ExPoolTagTables") or size * _MOST_PROCESSORS) // size
    for index in range(min(room, _MOST_PROCESSORS)):
        address = memory.pointer(array + index * size)
        if address is None:
            problems.append(f"nt!ExPoolTagTables[{index}] is not in the dump: the sums are too low or high")
            return
        if address == 0 or address in seen:
            if address == 0 and index >= len(processors(target)):
                return
            continue
        seen.add(address)
        if not target.is_kernel_address(address):
            problems.append(f"nt!ExPoolTagTables[{index}] is impossible: {address:#x}")
            return
        yield f"nt!ExPoolTagTables[{index}]", address, rows


def _sum(nt: Layouts, parts: list[Table]) -> tuple[TagUse, ...]:
    """The rows of all tables by tag. Values are added modulo 2 to the 64 and cut to the width of their fields."""
    import numpy as np

    keys = np.concatenate([part.columns["key"].astype(np.int64) & 0xFFFFFFFF for part in parts])
    tags, places = np.unique(keys, return_inverse=True)
    sums: dict[str, Any] = {}
    for name in _FIELDS:
        values = np.concatenate([_as_unsigned(part.columns[name], len(part.addresses)) for part in parts])
        sums[name] = np.zeros(len(tags), np.uint64)
        np.add.at(sums[name], places, values)
    bits = {name: 8 * nt.field(_TYPE, path).size for name, path in _FIELDS.items()}
    counted = []
    for index, tag in enumerate(tags.tolist()):
        value = {name: int(sums[name][index]) for name in _FIELDS}
        if tag == 0 and not any(value.values()):
            continue
        uses = []
        for pool in (NONPAGED, PAGED):
            allocs, frees = value[f"{pool}_allocs"], value[f"{pool}_frees"]
            width = bits[f"{pool}_allocs"]
            used = _signed(value[f"{pool}_bytes"], bits[f"{pool}_bytes"])
            uses.append(Use(_cut(allocs, width), _cut(frees, width), used, _signed(allocs - frees, width)))
        counted.append(TagUse(tag, uses[0], uses[1]))
    return tuple(counted)


def _as_unsigned(values: Any, count: int) -> Any:
    import numpy as np

    return np.zeros(count, np.uint64) if values is None else values.astype(np.int64).astype(np.uint64)


def _cut(value: int, bits: int) -> int:
    return value & (1 << bits) - 1


def _signed(value: int, bits: int) -> int:
    value = _cut(value, bits)
    return value - (1 << bits) if value >> bits - 1 else value


# counters -------------------------------------------------------------------------------------------------------------


def _counters(target: Target, nt: Layouts, problems: list[str]) -> Iterator[PoolCounter]:
    yield from _page_counters(target, nt, problems)
    nonpaged, paged = _descriptors(target, nt)
    for pool, addresses in ((NONPAGED, nonpaged), (PAGED, paged)):
        sizes = [_descriptor_bytes(target, nt, address) for address in addresses]
        held = [size for size in sizes if size is not None]
        # one that is not in the dump leaves the sum unknown
        if held and len(held) == len(sizes) and sum(held):
            yield PoolCounter(pool, sum(held), False, f"the descriptors of {pool} pool")


def _page_counters(target: Target, nt: Layouts, problems: list[str]) -> Iterator[PoolCounter]:
    state = target.symbol("MiState")
    places: list[tuple[str, int | None, str]] = []
    for pool, path in ((NONPAGED, "Pools.AllocatedNonPagedPool"), (PAGED, "Vs.PagedPoolInfo.AllocatedPagedPool")):
        field = nt.find("_MI_SYSTEM_INFORMATION", path) if nt.has_type("_MI_SYSTEM_INFORMATION") else None
        if state is not None and field is not None:
            places.append((pool, state + field.offset, f"nt!MiState.{path}"))
    if not places:
        variable = target.variable("MmAllocatedNonPagedPool", "MmAllocatedNonPagedPool")
        places.append((NONPAGED, variable, "nt!MmAllocatedNonPagedPool"))
        paged = target.symbol("MmPagedPoolInfo")
        if paged is not None and nt.has("_MM_PAGED_POOL_INFO", "AllocatedPagedPool"):
            at = paged + nt.offset("_MM_PAGED_POOL_INFO", "AllocatedPagedPool")
            places.append((PAGED, at, "nt!MmPagedPoolInfo.AllocatedPagedPool"))
    for pool, address, source in places:
        pages = target.memory.pointer(address) if address else None
        if pages == 0:
            problems.append(f"{source} is 0, and {pool} pool is never empty: it is damaged, or not kept by this kernel")
        elif pages:
            yield PoolCounter(pool, pages * PAGE_SIZE, True, source)


def _descriptors(target: Target, nt: Layouts) -> tuple[list[int], list[int]]:
    """The addresses of the descriptors of nonpaged and of paged pool; empty for kernels without any."""
    memory = target.memory
    if not nt.has_type("_POOL_DESCRIPTOR") or not nt.has("_POOL_DESCRIPTOR", "ListHeads"):
        return [], []
    nonpaged: list[int] = []
    first, size = target.symbol("NonPagedPoolDescriptor"), nt.size_of("_POOL_DESCRIPTOR")
    if first is not None:
        # since Windows 8 there is a second one for the pool that is not executable
        room = (nt.extent("NonPagedPoolDescriptor") or size) // size
        nonpaged += [first + index * size for index in range(min(room, 2))]
    nonpaged += _pointers(target, "ExpNonPagedPoolDescriptor", "ExpNumberOfNonPagedPools", 0)
    paged = _pointers(target, "ExpPagedPoolDescriptor", "ExpNumberOfPagedPools", 1)
    return [*dict.fromkeys(nonpaged)], [*dict.fromkeys(address for address in paged if memory.read(address, 8))]


def _pointers(target: Target, name: str, count_name: str, more: int) -> list[int]:
    """The pointers of an array whose length is in a variable; one more than it says where index 0 does not count."""
    array, counter = target.symbol(name), target.symbol(count_name)
    count = target.memory.unsigned(counter, 4) if counter is not None else None
    if array is None or count is None or count > _MOST_NODES:
        return []
    size = target.memory.pointer_size
    pointers = (target.memory.pointer(array + index * size) for index in range(count + more))
    return [address for address in pointers if address and target.is_kernel_address(address)]


def _descriptor_bytes(target: Target, nt: Layouts, address: int) -> int | None:
    """Bytes in use by a _POOL_DESCRIPTOR; ``None`` when it is not in the dump."""
    reader = nt.reader("_POOL_DESCRIPTOR", total="TotalBytes", allocated="BytesAllocated", freed="BytesDeallocated")
    data = target.memory.read(address, reader.size)
    if data is None:
        return None
    row = reader.unpack(data)
    return row.total if row.total is not None else _signed(row.allocated - row.freed, 64)
