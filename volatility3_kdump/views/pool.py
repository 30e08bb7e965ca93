"""Rows of ``kdump.pool``: the use of tags, big pages, and the blocks around an address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.pool_owners import TagOwners
from volatility3_kdump.findings.pool_tags import (
    tag_fits,
)
from volatility3_kdump.memory import Memory
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import pool as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, BYTES, FLAG, HEX, NUMBER, POINTER, Column, table
from volatility3_kdump.windows.memory.big_pool import BigPage
from volatility3_kdump.windows.memory.pool import PoolBlock, Unplaced, first_words, pool, type_kind
from volatility3_kdump.windows.memory.pool_usage import NONPAGED, PoolUsage, TagUse, Use, read_session_usage, read_usage

#: The orders that the use of tags can be shown in.
ORDERS = ("nonpaged", "paged", "tag")

_IN_USE = "of %s pool in use; what the counter has, in its row"

USAGE = table(
    "kdump.pool",
    keys.KIND(more="`tag`; `total`; `counter`, what the kernel itself counts; `warning`"),
    keys.TAG(more="null where its characters are not printable"),
    keys.TAG_VALUE(),
    Column(
        "NonPagedAllocs",
        NUMBER,
        "allocations of nonpaged pool since the start, modulo 2^32 where the fields of the kernel have 32 bits (up to "
        "Windows 10 1607)",
    ),
    Column("NonPagedFrees", NUMBER, "frees of nonpaged pool, as above"),
    Column("NonPagedInUse", NUMBER, "their difference: blocks in use"),
    Column("NonPagedBytes", BYTES, _IN_USE % "nonpaged"),
    Column("PagedAllocs", NUMBER, "allocations of paged pool, as above"),
    Column("PagedFrees", NUMBER, "frees of paged pool, as above"),
    Column("PagedInUse", NUMBER, "their difference: blocks in use"),
    Column("PagedBytes", BYTES, _IN_USE % "paged"),
    keys.BINARY(),
    keys.DESCRIPTION(),
    keys.CANDIDATES(),
    keys.NOTES(more="for a `counter` where it comes from"),
)

BIG_PAGES = table(
    "kdump.pool --big",
    keys.ADDRESS(lambda entry: entry.address),
    keys.SIZE(lambda entry: entry.size),
    keys.TAG(lambda entry: entry.tag),
    keys.TAG_VALUE(lambda entry: entry.tag_value),
    Column("PoolType", HEX, "POOL_TYPE as the table has it", lambda entry: entry.pool_type),
    keys.POOL(lambda entry: type_kind(entry.pool_type, True)),
    keys.STATE(lambda entry: "allocated" if entry.allocated else "free", "`allocated`, `free`"),
    keys.ENTRY(lambda entry: entry.entry, "of nt!PoolBigPageTable"),
    keys.BINARY(),
    keys.DESCRIPTION(),
    keys.CANDIDATES(),
    keys.NOTES(),
)

BLOCKS = table(
    "kdump.pool --address",
    Column(
        "Here",
        FLAG,
        "whether the address lies in it; where it lies in no block a row has the address and, in `Notes`, the reason",
    ),
    keys.ADDRESS(lambda block: block.address, "of the block, its header included"),
    keys.SIZE(lambda block: block.size, "its header included"),
    Column(
        "PreviousSize",
        BYTES,
        "size of the block before it, by a header of the classic pool; null elsewhere",
        lambda block: BLANK if block.previous_size is None else block.previous_size,
    ),
    keys.STATE(lambda block: block.state, "`allocated`, `free`, `unknown` (what says so is not in the dump)"),
    keys.TAG(lambda block: block.tag, "of a free block that of its last owner"),
    keys.TAG_VALUE(lambda block: block.tag_value),
    keys.POOL(lambda block: block.kind, "headers of the classic pool do not tell NX from executable"),
    Column("Big", FLAG, "whether it is a big page or a large allocation", lambda block: block.big),
    Column(
        "HeaderAddress",
        POINTER,
        "its POOL_HEADER; null without one",
        lambda block: BLANK if block.header is None else block.header,
    ),
    Column("DataAddress", ADDRESS, "where the owner's data starts", lambda block: block.data),
    keys.REGION(),
    keys.BINARY(),
    keys.DESCRIPTION(),
    keys.CANDIDATES(more="for the block that the address lies in only"),
    keys.KNOWN_BY(lambda block: block.known_by),
    keys.NOTES(lambda block: [block.problem] if block.problem else BLANK, "what its neighbours say against it"),
)


def _cells(owners: TagOwners, tag: str | None, value: int | None) -> dict[str, object]:
    """Binary, description and candidates."""
    name = owners.name(tag)
    names = ", ".join(f"{candidate.module.name} ({candidate.count})" for candidate in owners.candidates(value))
    return {
        "Binary": BLANK if owners.file is None else name.binary if name else None,
        "Description": BLANK if owners.file is None else name.description if name else None,
        "Candidates": names or None,
    }


# use by tag -----------------------------------------------------------------------------------------------------------


def usage_grid(
    target: Target,
    order: str = NONPAGED,
    tag: str | None = None,
    tag_file: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
    most: int | None = None,
    session: Memory | None = None,
) -> KdumpGrid:
    """The use of pool by tag (``!poolused``): sorted by ``order``, only tags that fit the pattern ``tag``, at ``most``
    so many; with the memory of a process of a ``session`` that of the session's pool.

    Totals are those of all tags. ``tag_file`` is the path of a ``pooltag.txt``. Raises a :class:`KdumpError`.
    """
    if order not in ORDERS:
        raise KdumpError(f"no order of tags is called {order}: use {', '.join(ORDERS)}")
    _refuse_small(target, "the use of pool")
    owners = TagOwners(target, tag_file, progress)
    usage = read_usage(target, progress) if session is None else read_session_usage(target, session)
    shown = _sorted([use for use in usage.tags if tag_fits(tag, use.tag)], order)[:most]
    owners.want([use.tag_value for use in shown])
    return USAGE.grid(
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


def _usage_rows(target: Target, usage: PoolUsage, shown: Sequence[TagUse], owners: TagOwners) -> Iterator[Row]:
    for use in shown:
        note = "less than nothing is in use: its rows are damaged or in part absent" if use.impossible else ""
        yield USAGE.row(
            0,
            **{"Kind": "tag", "Tag": use.tag, "Key": use.tag_value, "Notes": [note]},
            **_use_cells("NonPaged", use.nonpaged),
            **_use_cells("Paged", use.paged),
            **_cells(owners, use.tag, use.tag_value),
        )
    total = "" if usage.whole else "not all of the tables could be read"
    totals = {**_use_cells("NonPaged", usage.nonpaged), **_use_cells("Paged", usage.paged)}
    yield USAGE.row(0, Kind="total", Notes=[total], **totals)
    for counter in usage.counters:
        pool_name = "NonPaged" if counter.pool == NONPAGED else "Paged"
        what = "pages" if counter.pages else "blocks"
        notes = [f"{what}, by {counter.source}"]
        yield USAGE.row(0, **{"Kind": "counter", f"{pool_name}Bytes": counter.bytes, "Notes": notes})
    problem = owners.search.problem if shown else None
    for line in (*usage.disagreements, *usage.problems, *([problem] if problem else []), *target.warnings):
        yield USAGE.row(0, Kind="warning", Notes=[line])


def _use_cells(pool_name: str, use: Use) -> dict[str, object]:
    return {
        f"{pool_name}Allocs": use.allocs,
        f"{pool_name}Frees": use.frees,
        f"{pool_name}InUse": use.in_use,
        f"{pool_name}Bytes": use.bytes,
    }


def _usage_lines(
    target: Target, usage: PoolUsage, shown: Sequence[TagUse], owners: TagOwners, order: str, verbose: bool
) -> Iterator[str]:
    yield from words.usage_header(order, verbose)
    for use in shown:
        name = owners.name(use.tag)
        yield words.usage_line(
            use, words.owner(use.tag, name, owners.file, owners.candidates(use.tag_value)), verbose
        ).rstrip()
    yield words.total_line(usage if len(shown) == len(usage.tags) else _sum_of(usage, shown), verbose)
    yield ""
    yield from words.counter_lines(usage)
    problem = owners.search.problem if shown else None
    for line in (*usage.problems, *([problem] if problem else []), *target.warnings):
        yield f"NOTE: {line}"


def _sum_of(usage: PoolUsage, shown: Sequence[TagUse]) -> PoolUsage:
    """The use of the tags that are shown, as KD's TOTAL has it."""

    def total(uses: Sequence[Use]) -> Use:
        return Use(*(sum(getattr(use, part.name) for use in uses) for part in fields(Use)))

    nonpaged, paged = total([use.nonpaged for use in shown]), total([use.paged for use in shown])
    return replace(usage, tags=tuple(shown), nonpaged=nonpaged, paged=paged)


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
    owners = TagOwners(target, tag_file, progress)
    pages = pool(target).big_pages
    if pages.rows == pages.missing:
        raise KdumpError(f"{target.name}: {pages.problem or 'nt!PoolBigPageTable is not in the dump'}")
    shown = [entry for entry in pages.entries if (free or entry.allocated) and tag_fits(tag, entry.tag)]
    owners.want([entry.tag_value for entry in shown])
    return BIG_PAGES.grid(
        _big_rows(target, shown, owners, pages.problem),
        lambda: _big_lines(target, shown, owners, pages.problem),
    )


def _big_rows(target: Target, shown: Sequence[BigPage], owners: TagOwners, problem: str | None) -> Iterator[Row]:
    for entry in shown:
        yield BIG_PAGES.row(0, entry, **_cells(owners, entry.tag, entry.tag_value))
    for line in ([problem] if problem else []) + target.warnings:
        yield BIG_PAGES.row(0, Notes=[line])


def _big_lines(target: Target, shown: Sequence[BigPage], owners: TagOwners, problem: str | None) -> Iterator[str]:
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


def block_grid(
    target: Target,
    where: int,
    tag_file: str | None = None,
    progress: Progress | None = None,
    alone: bool = False,
    described: bool = True,
    contents: bool = False,
) -> KdumpGrid:
    """The pool block that an address lies in, and those on its page (``!pool``). Raises a :class:`KdumpError`.

    KD's text has that block ``alone`` if it is asked for, what its tag means unless it is not ``described``, and its
    ``contents``.
    """
    owners = TagOwners(target, tag_file, progress)
    page = pool(target).page(where)
    here = page.found if isinstance(page.found, PoolBlock) else None
    owners.want([here.tag_value if here else None])
    notes = [*page.problems, *target.warnings]

    def rows() -> Iterator[Row]:
        region = page.region.kind if page.region else None
        for block in page.blocks:
            marked = block == here
            cells = _cells(owners, block.tag, block.tag_value if marked else None)
            yield BLOCKS.row(0, block, Here=marked, Region=region, **cells)
        if isinstance(page.found, Unplaced):
            yield BLOCKS.row(0, Here=True, Address=where, Region=region, Notes=[page.found.reason])
        for note in notes:
            yield BLOCKS.row(0, Notes=[note])

    def lines() -> Iterator[str]:
        size = target.memory.pointer_size
        yield words.page_header(page, size)
        for block in page.blocks:
            if alone and here is not None and block != here:
                continue
            yield words.block_line(block, block == here, size)
            if block == here and described:
                yield from words.owner_lines(block, owners.name(block.tag), owners.candidates(block.tag_value))
            if contents:
                yield from words.content_lines(first_words(target, block), size)
        if isinstance(page.found, Unplaced):
            yield words.unplaced_line(page, page.found, size)
        for note in notes:
            yield f"NOTE: {note}"

    return BLOCKS.grid(rows(), lines)
