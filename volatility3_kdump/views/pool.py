"""Rows of ``kdump.pool``: the use of tags, big pages, and the blocks around an address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.pool_tags import (
    Candidate,
    TagFile,
    TagName,
    TagSearch,
    load_tag_file,
    search_code,
    tag_fits,
)
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import pool as words
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address, text
from volatility3_kdump.windows.memory.big_pool import BigPage
from volatility3_kdump.windows.memory.pool import PoolBlock, Unplaced, pool, type_kind
from volatility3_kdump.windows.memory.pool_usage import NONPAGED, PoolUsage, TagUse, Use, read_usage

#: The orders that the use of tags can be shown in.
ORDERS = ("nonpaged", "paged", "tag")

_USAGE_COLUMNS: list[tuple[str, type]] = [
    ("Kind", str),
    ("Tag", str),
    ("Key", format_hints.Hex),
    ("NonPagedAllocs", int),
    ("NonPagedFrees", int),
    ("NonPagedInUse", int),
    ("NonPagedBytes", int),
    ("PagedAllocs", int),
    ("PagedFrees", int),
    ("PagedInUse", int),
    ("PagedBytes", int),
    ("Binary", str),
    ("Description", str),
    ("Candidates", str),
    ("Note", str),
]

_BIG_COLUMNS: list[tuple[str, type]] = [
    ("Address", format_hints.Hex),
    ("Size", format_hints.Hex),
    ("Tag", str),
    ("Key", format_hints.Hex),
    ("PoolType", format_hints.Hex),
    ("Pool", str),
    ("State", str),
    ("Entry", format_hints.Hex),
    ("Binary", str),
    ("Description", str),
    ("Candidates", str),
    ("Note", str),
]

_BLOCK_COLUMNS: list[tuple[str, type]] = [
    ("Here", bool),
    ("Address", format_hints.Hex),
    ("Size", format_hints.Hex),
    ("PreviousSize", format_hints.Hex),
    ("State", str),
    ("Tag", str),
    ("Key", format_hints.Hex),
    ("Pool", str),
    ("Big", bool),
    ("Header", format_hints.Hex),
    ("Data", format_hints.Hex),
    ("Region", str),
    ("Binary", str),
    ("Description", str),
    ("Candidates", str),
    ("KnownBy", str),
    ("Note", str),
]


class _Owners:
    """Who tags belong to: the user's file, and a search of the drivers' code for some of them."""

    def __init__(self, target: Target, tag_file: str | None, progress: Progress | None) -> None:
        self._target = target
        self._progress = progress
        self.file: TagFile | None = load_tag_file(tag_file)
        self._search: TagSearch | None = None
        self._tags: set[int] = set()

    def want(self, tags: Sequence[int | None]) -> None:
        """The tags that :meth:`candidates` is going to be asked for."""
        self._tags = {tag for tag in tags if tag is not None}

    def name(self, tag: str | None) -> TagName | None:
        return self.file.find(tag) if self.file is not None and tag is not None else None

    def candidates(self, tag: int | None) -> tuple[Candidate, ...]:
        return () if tag is None else self.search.of(tag)

    @property
    def search(self) -> TagSearch:
        if self._search is None:
            self._search = search_code(self._target, self._tags, self._progress)
        return self._search

    def cells(self, tag: str | None, value: int | None) -> tuple[Any, Any, Any]:
        """Binary, description and candidates."""
        name = self.name(tag)
        binary = absent() if self.file is None else text(name.binary if name else None)
        description = absent() if self.file is None else text(name.description if name else None)
        found = ", ".join(f"{item.module.name} ({item.count})" for item in self.candidates(value))
        return binary, description, found or text(None)


# use by tag -----------------------------------------------------------------------------------------------------------


def usage_grid(
    target: Target,
    order: str = NONPAGED,
    tag: str | None = None,
    tag_file: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
) -> KdumpGrid:
    """The use of pool by tag (``!poolused``): sorted by ``order``, only tags that fit the pattern ``tag``.

    Totals are those of all tags. ``tag_file`` is the path of a ``pooltag.txt``. Raises a :class:`KdumpError`.
    """
    if order not in ORDERS:
        raise KdumpError(f"no order of tags is called {order}: use {', '.join(ORDERS)}")
    _refuse_small(target, "the use of pool")
    owners = _Owners(target, tag_file, progress)
    usage = read_usage(target, progress)
    shown = _sorted([use for use in usage.tags if tag_fits(tag, use.tag)], order)
    owners.want([use.tag_value for use in shown])
    return KdumpGrid(
        _USAGE_COLUMNS,
        _usage_rows(target, usage, shown, owners),
        lambda: _usage_lines(target, usage, shown, owners, order, verbose),
    )


def _refuse_small(target: Target, what: str) -> None:
    if target.physical_layer_name is None:
        raise KdumpError(f"{target.name}: {what} is not in small memory dumps: they hold none of the pool's tables")


def _sorted(tags: Sequence[TagUse], order: str) -> list[TagUse]:
    by_tag = sorted(tags, key=lambda use: use.tag_value.to_bytes(4, "little"))
    if order == "tag":
        return by_tag
    return sorted(by_tag, key=lambda use: -(use.nonpaged if order == NONPAGED else use.paged).bytes)


def _usage_rows(target: Target, usage: PoolUsage, shown: Sequence[TagUse], owners: _Owners) -> Iterator[Row]:
    blank = (absent(),) * 3
    for use in shown:
        note = "less than nothing is in use: its rows are damaged or in part absent" if use.impossible else ""
        cells = (*_use_cells(use.nonpaged), *_use_cells(use.paged))
        yield (
            0,
            ("tag", text(use.tag), address(use.tag_value), *cells, *owners.cells(use.tag, use.tag_value), note),
        )
    total = "" if usage.whole else "not all of the tables could be read"
    totals = (*_use_cells(usage.nonpaged), *_use_cells(usage.paged))
    yield 0, ("total", absent(), absent(), *totals, *blank, total)
    for counter in usage.counters:
        own = (absent(), absent(), absent(), counter.bytes)
        none = (absent(),) * 4
        values = (*own, *none) if counter.pool == NONPAGED else (*none, *own)
        what = "pages" if counter.pages else "blocks"
        yield 0, ("counter", absent(), absent(), *values, *blank, f"{what}, by {counter.source}")
    problem = owners.search.problem if shown else None
    for line in (*usage.disagreements, *usage.problems, *([problem] if problem else []), *target.warnings):
        yield 0, ("warning", *((absent(),) * 13), line)


def _use_cells(use: Use) -> tuple[int, int, int, int]:
    return use.allocs, use.frees, use.in_use, use.bytes


def _usage_lines(
    target: Target, usage: PoolUsage, shown: Sequence[TagUse], owners: _Owners, order: str, verbose: bool
) -> Iterator[str]:
    yield from words.usage_header(order, verbose)
    for use in shown:
        name = owners.name(use.tag)
        yield words.usage_line(
            use, words.owner(use.tag, name, owners.file, owners.candidates(use.tag_value)), verbose
        ).rstrip()
    yield words.total_line(usage, verbose)
    yield ""
    yield from words.counter_lines(usage)
    problem = owners.search.problem if shown else None
    for line in (*usage.problems, *([problem] if problem else []), *target.warnings):
        yield f"NOTE: {line}"


# big pages ------------------------------------------------------------------------------------------------------------


def big_grid(
    target: Target,
    tag: str | None = None,
    tag_file: str | None = None,
    free: bool = False,
    progress: Progress | None = None,
) -> KdumpGrid:
    """The big pages of ``nt!PoolBigPageTable``, by address; with ``free`` also the entries of those that are gone.

    Raises a :class:`KdumpError` when the table cannot be read.
    """
    _refuse_small(target, "the table of big pages")
    owners = _Owners(target, tag_file, progress)
    pages = pool(target).big_pages
    if pages.rows == pages.missing:
        raise KdumpError(f"{target.name}: {pages.problem or 'nt!PoolBigPageTable is not in the dump'}")
    shown = [entry for entry in pages.entries if (free or entry.allocated) and tag_fits(tag, entry.tag)]
    owners.want([entry.tag_value for entry in shown])
    return KdumpGrid(
        _BIG_COLUMNS,
        _big_rows(target, shown, owners, pages.problem),
        lambda: _big_lines(target, shown, owners, pages.problem),
    )


def _big_rows(target: Target, shown: Sequence[BigPage], owners: _Owners, problem: str | None) -> Iterator[Row]:
    for entry in shown:
        yield (
            0,
            (
                format_hints.Hex(entry.address),
                format_hints.Hex(entry.size),
                text(entry.tag),
                format_hints.Hex(entry.tag_value),
                format_hints.Hex(entry.pool_type),
                type_kind(entry.pool_type, True),
                "allocated" if entry.allocated else "free",
                format_hints.Hex(entry.entry),
                *owners.cells(entry.tag, entry.tag_value),
                "",
            ),
        )
    for line in ([problem] if problem else []) + target.warnings:
        yield 0, (*((absent(),) * 11), line)


def _big_lines(target: Target, shown: Sequence[BigPage], owners: _Owners, problem: str | None) -> Iterator[str]:
    size = target.memory.pointer_size
    yield words.big_header(size)
    for entry in shown:
        owner = words.owner(entry.tag, owners.name(entry.tag), owners.file, owners.candidates(entry.tag_value))
        yield words.big_line(entry, type_kind(entry.pool_type, True), owner, size)
    used = [entry for entry in shown if entry.allocated]
    yield f"TOTAL: {len(used)} big pages in use, {sum(entry.size for entry in used):#x} bytes"
    for line in ([problem] if problem else []) + target.warnings:
        yield f"NOTE: {line}"


# the block of an address ----------------------------------------------------------------------------------------------


def block_grid(target: Target, where: int, tag_file: str | None = None, progress: Progress | None = None) -> KdumpGrid:
    """The pool block that an address lies in, and those on its page (``!pool``). Raises a :class:`KdumpError`."""
    owners = _Owners(target, tag_file, progress)
    page = pool(target).page(where)
    here = page.found if isinstance(page.found, PoolBlock) else None
    owners.want([here.tag_value if here else None])
    notes = [*page.problems, *target.warnings]

    def rows() -> Iterator[Row]:
        region = page.region.kind if page.region else None
        for block in page.blocks:
            marked = block == here
            cells = owners.cells(block.tag, block.tag_value if marked else None)
            yield 0, _block_cells(block, marked, region, cells)
        if isinstance(page.found, Unplaced):
            blank = (absent(),) * 9
            yield (
                0,
                (True, format_hints.Hex(where), *blank, text(region), *((absent(),) * 4), page.found.reason),
            )
        for note in notes:
            yield 0, (*((absent(),) * 16), note)

    def lines() -> Iterator[str]:
        size = target.memory.pointer_size
        yield words.page_header(page, size)
        for block in page.blocks:
            yield words.block_line(block, block == here, size)
            if block == here:
                yield from words.owner_lines(block, owners.name(block.tag), owners.candidates(block.tag_value))
        if isinstance(page.found, Unplaced):
            yield words.unplaced_line(page, page.found, size)
        for note in notes:
            yield f"NOTE: {note}"

    return KdumpGrid(_BLOCK_COLUMNS, rows(), lines)


def _block_cells(block: PoolBlock, marked: bool, region: str | None, owners: tuple[Any, Any, Any]) -> tuple[Any, ...]:
    return (
        marked,
        format_hints.Hex(block.address),
        format_hints.Hex(block.size),
        absent() if block.previous_size is None else format_hints.Hex(block.previous_size),
        block.state,
        text(block.tag),
        address(block.tag_value),
        text(block.kind),
        block.big,
        absent() if block.header is None else format_hints.Hex(block.header),
        format_hints.Hex(block.data),
        text(region),
        *owners,
        block.known_by,
        block.problem or "",
    )
