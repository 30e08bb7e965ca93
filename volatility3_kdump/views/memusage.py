"""Rows of ``kdump.memusage``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.findings.page_owners import MemoryUsage, Use, memory_usage
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import memusage as text
from volatility3_kdump.views.cells import number
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.views.grid import text as text_cell

_COLUMNS: list[tuple[str, type]] = [
    ("Kind", str),
    ("Name", str),
    ("Pages", int),
    ("Kilobytes", int),
    ("CountedPages", int),
    ("ControlArea", format_hints.Hex),
    ("PID", int),
    ("Process", format_hints.Hex),
    ("ValidPages", int),
    ("StandbyPages", int),
    ("DirtyPages", int),
    ("TransitionPages", int),
    ("SharedPages", int),
    ("LockedPages", int),
    ("PageTablePages", int),
    ("LargePages", int),
    ("Notes", str),
]
_KILOBYTES = 4


def memusage_grid(target: Target, summary: bool = False, progress: Progress | None = None) -> KdumpGrid:
    """A row for each list of pages, then one for each use, the largest of its kind first.

    Raises a :class:`~volatility3_kdump.errors.KdumpError` where the dump cannot hold any of it.
    """
    usage = memory_usage(target, summary, progress)
    digits = 2 * target.memory.pointer_size
    return KdumpGrid(_COLUMNS, _rows(usage), lambda: text.lines(usage, digits))


def _rows(usage: MemoryUsage) -> Iterator[Row]:
    for item in usage.lists:
        size = None if item.pages is None else item.pages * _KILOBYTES
        cells = (number(item.pages), number(size), number(item.counter))
        yield 0, ("list", item.name, *cells, *_blank(12))
    for use in usage.uses or ():
        yield 0, _use(use)
    for problem in usage.problems:
        yield 0, ("note", *_blank(15), problem)


def _use(use: Use) -> tuple[Any, ...]:
    process = use.kind == "process"
    return (
        use.kind,
        text_cell(use.name) if use.name is not None or process else absent(),
        use.pages,
        use.pages * _KILOBYTES,
        absent(),
        address(use.control_area) if use.kind in ("mapped file", "image") else absent(),
        number(use.pid) if process else absent(),
        address(use.process) if process else absent(),
        use.valid,
        use.standby,
        use.dirty,
        use.transition,
        use.shared,
        use.locked,
        use.page_tables,
        use.large,
        absent() if use.note is None else use.note,
    )


def _blank(count: int) -> tuple[Any, ...]:
    return (absent(),) * count
