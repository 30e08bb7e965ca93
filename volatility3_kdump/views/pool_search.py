"""Rows of ``kdump.pool --find`` and ``kdump.irp --find``, and KD's ``!poolfind``, ``!irpfind`` and ``!poolval``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.findings.irp_search import FoundIrp, IrpSearch
from volatility3_kdump.findings.pool_search import PoolSearch
from volatility3_kdump.findings.requests import view_irp
from volatility3_kdump.target import Target
from volatility3_kdump.text import irp as irp_words
from volatility3_kdump.text import pool as pool_words
from volatility3_kdump.text import pool_search as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, HEX, NUMBER, POINTER, TEXT, Column, table
from volatility3_kdump.windows.io.requests import major_name, minor_name
from volatility3_kdump.windows.memory.pool_check import check_page


def _major(request: FoundIrp) -> object:
    current = request.irp.current
    return BLANK if current is None else None if current.major is None else major_name(current.major)


def _minor(request: FoundIrp) -> object:
    current = request.irp.current
    if current is None or current.major is None or current.minor is None:
        return BLANK
    return minor_name(current.major, current.minor) or (BLANK if current.minor == 0 else f"{current.minor:#x}")


FOUND = table(
    "kdump.pool --find",
    Column("DataAddress", ADDRESS, "where the owner's data starts", lambda block: block.data),
    keys.SIZE(lambda block: block.end - block.data, "of the owner's data, which may end before it"),
    keys.TAG(lambda block: block.tag),
    keys.TAG_VALUE(lambda block: block.tag_value),
    keys.POOL(lambda block: block.kind),
    keys.STATE(lambda block: block.state, "`allocated`, `free`, `unknown`"),
    Column(
        "HeaderAddress",
        POINTER,
        "its POOL_HEADER; null without one",
        lambda block: BLANK if block.header is None else block.header,
    ),
    keys.KNOWN_BY(lambda block: block.known_by, "`its header alone` where neither heap nor page could be asked"),
    keys.NOTES(lambda block: [block.problem] if block.problem else BLANK),
)

IRPS = table(
    "kdump.irp --find",
    keys.IRP(lambda request: request.irp.address),
    keys.THREAD(lambda request: request.irp.thread, "of the IRP"),
    keys.STATE(
        lambda request: "complete" if request.complete else "pending", "`pending`; `complete`, where no driver has it"
    ),
    keys.LOCATION(lambda request: request.irp.current_location, "the current one"),
    Column("StackCount", NUMBER, "its stack locations", lambda request: request.irp.stack_count),
    keys.MAJOR(_major, "of the current location"),
    keys.MINOR(_minor),
    keys.DEVICE_OBJECT(lambda request: request.irp.current.device if request.irp.current else BLANK),
    keys.DRIVER(lambda request: request.device.driver.name if request.device and request.device.driver else BLANK),
    keys.FILE_OBJECT(lambda request: request.irp.file),
    Column("MdlProcess", POINTER, "MDL.Process of its MDL", lambda request: request.mdl_process or BLANK),
    Column("CancelRoutine", HEX, "IRP.CancelRoutine; 0 for none", lambda request: request.irp.cancel_routine),
    Column("FoundIn", TEXT, "`pool`, `table` of big pages, list of its `thread`", lambda request: request.place),
    keys.NOTES(lambda request: request.irp.notes),
)


def found_grid(search: PoolSearch) -> KdumpGrid:
    """The blocks of a search, as they are found."""

    def rows() -> Iterator[Row]:
        for block in search.large():
            yield FOUND.row(0, block)
        for area in search.areas:
            for block in search.small(area):
                yield FOUND.row(0, block)
        for note in dict.fromkeys(search.notes):
            yield FOUND.row(0, Notes=[note])

    return FOUND.grid(rows(), lambda: _found_lines(search))


def _found_lines(search: PoolSearch) -> Iterator[str]:
    size, pattern = search.target.memory.pointer_size, search.pattern
    count = 0
    yield words.table_line(pattern.text, pattern.number, search.table, size)
    yield ""
    for block in search.large():
        count += 1
        yield words.block_line(block, size)
    for area in search.areas:
        yield ""
        yield words.area_line(pattern.text, pattern.number, area.pool, area.low, area.high, size)
        yield ""
        for block in search.small(area):
            count += 1
            yield words.block_line(block, size)
    yield ""
    yield f"{count} block{'' if count == 1 else 's'} found"
    for note in dict.fromkeys(search.notes):
        yield f"NOTE: {note}"


def irps_grid(search: IrpSearch, verbose: bool = False) -> KdumpGrid:
    """The IRPs of a search, as they are found; ``verbose`` shows each in full."""

    def rows() -> Iterator[Row]:
        for irp in search.large():
            yield IRPS.row(0, irp)
        for _, irp in search.in_pool():
            yield IRPS.row(0, irp)
        for irp in search.of_threads():
            yield IRPS.row(0, irp)
        for note in dict.fromkeys([*search.search.notes, *search.notes]):
            yield IRPS.row(0, Notes=[note])

    return IRPS.grid(rows(), lambda: _irp_lines(search, verbose))


def _irp_lines(search: IrpSearch, verbose: bool) -> Iterator[str]:
    target, pattern = search.target, search.search.pattern
    size = target.memory.pointer_size
    count = 0

    def shown(request: FoundIrp) -> Iterator[str]:
        nonlocal count
        count += 1
        yield words.irp_line(request.irp, request.device, request.mdl_process, size)
        if verbose:
            yield from irp_words.irp_lines(view_irp(target, request.irp), size)
            yield ""

    yield words.table_line(pattern.text, pattern.number, search.search.table, size)
    yield ""
    yield words.irp_header(size)
    for irp in search.large():
        yield from shown(irp)
    at = -1
    areas = search.search.areas
    for index, irp in search.in_pool():
        while at < index:
            at += 1
            yield from _area_lines(search, at)
        yield from shown(irp)
    for index in range(at + 1, len(areas)):
        yield from _area_lines(search, index)
    first = True
    for irp in search.of_threads():
        if first:
            first = False
            yield ""
            yield "On lists of threads, behind no pool header that is in the dump:"
            yield ""
        yield from shown(irp)
    yield ""
    yield f"{count} IRP{'' if count == 1 else 's'} found"
    for note in dict.fromkeys([*search.search.notes, *search.notes]):
        yield f"NOTE: {note}"


def _area_lines(search: IrpSearch, index: int) -> Iterator[str]:
    area, pattern = search.search.areas[index], search.search.pattern
    yield ""
    yield words.area_line(
        pattern.text, pattern.number, area.pool, area.low, area.high, search.target.memory.pointer_size
    )
    yield ""


def check_lines(target: Target, address: int, level: int) -> Iterator[str]:
    """``!poolval``: whether the headers of a page of pool agree."""
    check = check_page(target, address)
    region = pool_words.region_name(check.region)
    return words.check_lines(check, address, region, level, target.memory.pointer_size)
