"""Rows of ``kdump.vm``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import SymbolsNotFound
from volatility3_kdump.findings.memory_use import MemoryUse, memory_use
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import vm as text
from volatility3_kdump.views.cells import number
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.views.grid import text as text_cell

_COLUMNS: list[tuple[str, type]] = [
    ("Kind", str),
    ("Name", str),
    ("Pages", int),
    ("Kilobytes", int),
    ("Count", int),
    ("PID", int),
    ("Process", format_hints.Hex),
    ("FreePages", int),
    ("MinimumPages", int),
    ("MaximumPages", int),
    ("PeakPages", int),
    ("Source", str),
    ("Notes", str),
]
_KILOBYTES = 4


def vm_grid(target: Target, with_processes: bool = True, progress: Progress | None = None) -> KdumpGrid:
    """A row for each page file, counter and process, and for what is running out.

    Raises :class:`~volatility3_kdump.errors.SymbolsNotFound` where nothing can be read without symbols.
    """
    small = target.dump.triage is not None
    use = memory_use(target, progress)
    if not small and target.nt is None and all(counter.value is None for counter in use.counters.values()):
        raise SymbolsNotFound(f"{target.name}: the memory manager's counters need symbols: {target.symbol_status}")
    return KdumpGrid(_COLUMNS, _rows(use, with_processes), lambda: text.lines(use, small, with_processes))


def _rows(use: MemoryUse, with_processes: bool) -> Iterator[Row]:
    for item in use.files:
        sizes = (number(value) for value in (item.free, item.minimum, item.maximum, item.peak))
        name = text_cell(item.name) if item.name != "" else absent()
        yield _row(item.kind if item.kind != "file" else "page file", name, item.size, sizes=sizes)
    for counter in use.counters.values():
        group, source = counter.definition.group, text_cell(counter.source)
        notes = absent() if counter.reason is None else counter.reason
        if counter.definition.unit == "pages":
            yield _row(group, counter.label, counter.value, source=source, notes=notes)
        else:
            yield _row(group, counter.label, None, count=number(counter.value), source=source, notes=notes, pages=False)
    for warning in use.warnings:
        yield _row("warning", warning.rule, None, notes=warning.text.strip("* "), pages=False)
    for process in use.processes if with_processes else ():
        yield _row("process", text_cell(process.name), process.pages, owner=(process.pid, process.address))
    for problem in use.problems:
        yield _row("note", absent(), None, notes=problem, pages=False)


def _row(
    kind: str,
    name: Any,
    value: int | None,
    *,
    count: Any = None,
    owner: tuple[int | None, int] | None = None,
    sizes: Any = None,
    source: Any = None,
    notes: Any = None,
    pages: bool = True,
) -> Row:
    """A row. What is not given does not apply to it; without ``pages``, neither do pages and kilobytes."""
    blank = absent()
    cells = (
        kind,
        name,
        number(value) if pages else blank,
        number(None if value is None else value * _KILOBYTES) if pages else blank,
        blank if count is None else count,
        *((number(owner[0]), address(owner[1])) if owner is not None else (blank, blank)),
        *(tuple(sizes) if sizes is not None else (blank,) * 4),
        blank if source is None else source,
        blank if notes is None else notes,
    )
    return 0, cells
