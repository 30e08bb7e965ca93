"""What the kernel keeps of debug output, system PTEs, cached files and devices' power; rows of two plugins."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.symbols.shared_data import read_shared_page
from volatility3_kdump.target import Target
from volatility3_kdump.text import kernel_data as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BYTES, NUMBER, PAGES, POINTER, TEXT, Column, table
from volatility3_kdump.windows.io.device_power import device_power
from volatility3_kdump.windows.io.file_cache import CachedFile, file_cache
from volatility3_kdump.windows.machine.debug_print import debug_print
from volatility3_kdump.windows.memory.pte_trackers import pte_trackers
from volatility3_kdump.windows.memory.system_ptes import SystemPtes, free_blocks, system_ptes
from volatility3_kdump.windows.processes.namespace import object_name
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.tokens import Token, read_token
from volatility3_kdump.windows.structures import layouts_of

#: Free blocks of PTEs that are listed one by one, the largest.
_MOST_BLOCKS = 100

DEBUG_PRINT = table(
    "kdump.dbgprint",
    Column("Line", NUMBER, "counted from the oldest", lambda line: line[0]),
    Column("Printed", TEXT, "what was printed", lambda line: line[1]),
    keys.NOTES(),
)
FILE_CACHE = table(
    "kdump.cache",
    keys.CONTROL_AREA(lambda file: file.control_area, "of the file's data section"),
    Column("SharedCacheMap", POINTER, "the cache manager's structure", lambda file: file.cache_map),
    keys.FILE_OBJECT(lambda file: file.file),
    keys.NAME(lambda file: file.name, "path in its volume; empty for metadata without a name"),
    Column("CachedBytes", BYTES, "the file's size as the cache manager knows it", lambda file: file.size),
    Column("Views", NUMBER, "views of 256 KB that are mapped", lambda file: len(file.views)),
    Column("MappedPages", PAGES, "pages of these views that the page tables map", lambda file: file.valid),
    Column("UnwrittenPages", PAGES, "pages that are still to be written", lambda file: file.dirty),
    keys.NOTES(),
)


def debug_print_grid(target: Target) -> KdumpGrid:
    """``!dbgprint``: the lines of the buffer. Raises a KdumpError where it is not in the dump."""
    ring = debug_print(target)

    def rows() -> Iterator[Row]:
        yield from (DEBUG_PRINT.row(0, pair) for pair in enumerate(ring.lines))
        if ring.absent:
            yield DEBUG_PRINT.row(0, Notes=[f"{ring.absent} bytes of the buffer are not in the dump"])

    return DEBUG_PRINT.grid(rows(), lambda: words.debug_print_lines(ring))


def file_cache_grid(target: Target, by_size: bool = True) -> KdumpGrid:
    """``!filecache``; with ``by_size`` what maps most is first, else by shared cache map. Raises a KdumpError."""
    cache = file_cache(target)

    def most(file: CachedFile) -> tuple[int, int]:
        return (-len(file.views), file.cache_map) if by_size else (0, file.cache_map)

    cache = type(cache)(cache.vacbs, cache.inactive, tuple(sorted(cache.files, key=most)), cache.problems)

    def rows() -> Iterator[Row]:
        yield from (FILE_CACHE.row(0, file) for file in cache.files)
        yield from (FILE_CACHE.row(0, Notes=[problem]) for problem in cache.problems)

    return FILE_CACHE.grid(rows(), lambda: words.file_cache_lines(cache, target.memory.pointer_size))


def shared_page_text(target: Target) -> Iterator[str]:
    """``!kuser``. Raises a :class:`KdumpError`."""
    page = read_shared_page(target.memory, layouts_of(target))
    if page is None:
        raise KdumpError(f"{target.name}: the page KUSER_SHARED_DATA is not in the dump")
    return words.shared_page_lines(page, target.memory.pointer_size)


def system_ptes_text(target: Target, free: bool, tracked: bool = False) -> Iterator[str]:
    """``!sysptes``; with ``free`` the blocks of free PTEs of the first type, with ``tracked`` the mappings of locked
    pages that are tracked. Raises a :class:`KdumpError`."""
    kinds = system_ptes(target)
    yield from words.system_pte_lines(kinds)
    if free:
        yield from _free_ptes(target, kinds)
    if tracked:
        try:
            trackers, problems = pte_trackers(target)
        except KdumpError as error:
            yield f"NOTE: {error}"
            return
        yield from words.tracked_pte_lines(trackers, problems, target.memory.pointer_size)


def _free_ptes(target: Target, kinds: list[SystemPtes]) -> Iterator[str]:
    count = total = 0
    largest: list[tuple[int, int]] = []
    by_address = {}
    try:
        for block in free_blocks(target, kinds[0]):
            count, total = count + 1, total + block.ptes
            by_address[block.address] = block
            heapq.heappush(largest, (block.ptes, block.address))
            if len(largest) > _MOST_BLOCKS:
                del by_address[heapq.heappop(largest)[1]]
    except Unreadable as error:
        yield f"NOTE: {error}"
        return
    shown = [by_address[address] for _, address in sorted(largest, key=lambda pair: pair[1])]
    yield from words.free_pte_lines(kinds[0], shown, total, count, target.memory.pointer_size)


def device_power_text(target: Target, address: int) -> Iterator[str]:
    """``!podev``. Raises a :class:`KdumpError`."""
    power = device_power(target, address)
    return words.device_power_lines(power, object_name(target, address), target.memory.pointer_size)


def tokens_text(target: Target) -> Iterator[str]:
    """``!tokens``: the token of every process, and which share one."""
    first: dict[int, int] = {}
    for address in process_addresses(target):
        process = read_process(target, address)
        token: Token | str
        try:
            token = read_token(target, process.token) if process.token else "not in the dump"
        except KdumpError as error:
            token = str(error)
        also = first.setdefault(process.token, address) if process.token else address
        other = also if also != address else None
        yield words.token_line(address, process.pid, process.image_name, token, other, target.memory.pointer_size)
