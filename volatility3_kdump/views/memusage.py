"""Rows of ``kdump.memusage``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from volatility3_kdump.findings.page_owners import MemoryUsage, PageList, Use, memory_usage
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import memusage as text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, PAGES, Column, table

_KILOBYTES = 4


def _process(use: Use, value: object) -> object:
    return value if use.kind == "process" else BLANK


def _name(use: Use) -> object:
    return BLANK if use.name is None and use.kind != "process" else use.name


def _pages(name: str, says: str, get: Callable[[Use], int | None]) -> Column[Any]:
    return Column(name, PAGES, says, {Use: get})


MEMUSAGE = table(
    "kdump.memusage",
    keys.KIND({PageList: lambda entry: "list", Use: lambda use: use.kind}, "`list`, `note`, or a use: see below"),
    keys.NAME(
        {PageList: lambda entry: entry.name, Use: _name},
        "the list; the path of the file in its volume; the image of the process; the driver",
    ),
    keys.PAGES({PageList: lambda entry: entry.pages, Use: lambda use: use.pages}),
    keys.KILOBYTES(
        {
            PageList: lambda entry: None if entry.pages is None else entry.pages * _KILOBYTES,
            Use: lambda use: use.pages * _KILOBYTES,
        }
    ),
    Column(
        "CountedPages",
        PAGES,
        "the length of the list as the memory manager keeps it itself",
        {PageList: lambda entry: entry.counter},
    ),
    keys.CONTROL_AREA(
        {Use: lambda use: use.control_area if use.kind in ("mapped file", "image") else BLANK},
        "of a mapped file or an image",
    ),
    keys.PID({Use: lambda use: _process(use, use.pid)}),
    keys.PROCESS({Use: lambda use: _process(use, use.process)}),
    _pages("ValidPages", "in use (ActiveAndValid)", lambda use: use.valid),
    _pages("StandbyPages", "on the standby list", lambda use: use.standby),
    _pages("DirtyPages", "on the lists of modified pages, or in transition and written to", lambda use: use.dirty),
    _pages("TransitionPages", "in transition and not written to", lambda use: use.transition),
    _pages("SharedPages", "of those in use, those with a share count above 1", lambda use: use.shared),
    keys.LOCKED_PAGES(
        {Use: lambda use: use.locked},
        "one reference more than their being in use takes: by an MDL, or by input or output under way",
    ),
    _pages("PageTablePages", "page tables", lambda use: use.page_tables),
    _pages("LargePages", "of those in use, those that are mapped as large pages", lambda use: use.large),
    keys.NOTES({Use: lambda use: [use.note] if use.note is not None else BLANK}),
)


def memusage_grid(target: Target, summary: bool = False, progress: Progress | None = None) -> KdumpGrid:
    """A row for each list of pages, then one for each use, the largest of its kind first.

    Raises a :class:`~volatility3_kdump.errors.KdumpError` where the dump cannot hold any of it.
    """
    usage = memory_usage(target, summary, progress)
    digits = 2 * target.memory.pointer_size
    return MEMUSAGE.grid(_rows(usage), lambda: text.lines(usage, digits))


def _rows(usage: MemoryUsage) -> Iterator[Row]:
    for record in (*usage.lists, *(usage.uses or ())):
        yield MEMUSAGE.row(0, record)
    for problem in usage.problems:
        yield MEMUSAGE.row(0, Kind="note", Notes=[problem])


def no_write_lines(target: Target, by_use: bool = False, progress: Progress | None = None) -> Iterator[str]:
    """``!memusage 1``, or ``by_use`` 2: the modified pages that are not to be written. Raises a KdumpError."""
    usage = memory_usage(target, not by_use, progress, no_write=by_use)
    chosen = [entry for entry in usage.lists if entry.name == "ModifiedNoWrite"]
    problems = usage.problems if by_use else []
    return text.lines(MemoryUsage(chosen, usage.uses if by_use else None, problems), 2 * target.memory.pointer_size)


def control_area_lines(target: Target, progress: Progress | None = None) -> Iterator[str]:
    """``!ca 0``: the control areas that have pages, by the page-frame database. Raises a KdumpError."""
    usage = memory_usage(target, False, progress)
    digits = 2 * target.memory.pointer_size
    uses = [use for use in usage.uses or () if use.control_area is not None]
    yield from text.lines(MemoryUsage([], uses, usage.problems), digits)
