"""The last writes to paging files, as the kernel keeps them (``_MI_PAGEFILE_TRACES``).

A ring of 32 records: of each partition since Windows 8.1 (``_MI_PARTITION``), ``nt!MiPageFileTraces`` before. It is in
order of time by the records themselves, whatever the index beside it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.errors import SymbolsNotFound, Unreadable
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.target import Target

_TYPE = "_MI_PAGEFILE_TRACES"
_MOST_RECORDS = 32


class PageFileWrite(NamedTuple):
    """A write to a paging file: an NTSTATUS, CurrentTime (100 ns units, as the kernel had it), and how many pages were
    available, modified in all, modified for paging files and not to be written then. ``None`` is not in the dump."""

    address: int
    status: int | None
    priority: int | None
    time: int
    available: int | None
    modified: int | None
    for_files: int | None
    no_write: int | None


def page_file_writes(target: Target) -> list[PageFileWrite]:
    """The records that were written, the newest first. Raises a KdumpError where they are not in symbols or dump."""
    nt = require_symbols(target, "the log of page file writes", _TYPE, names=True)
    ring = _ring(target, nt)
    if ring is None:
        raise SymbolsNotFound(f"{target.name}: the kernel's symbols do not say where the log of page file writes is")
    start, count = ring
    writes = list(_records(target, nt, start, count))
    if not writes and target.memory.read(start, 1) is None:
        raise Unreadable.at(start, "the log of page file writes", target.memory.why_unreadable(start))
    return sorted((write for write in writes if write.time), key=lambda write: -write.time)


def _records(target: Target, nt: Layouts, start: int, count: int) -> Iterator[PageFileWrite]:
    reader = nt.reader(
        _TYPE,
        status="Status",
        priority="Priority",
        time="CurrentTime.QuadPart",
        available="AvailablePages",
        modified="ModifiedPagesTotal",
        for_files="ModifiedPagefilePages",
        no_write="ModifiedNoWritePages",
    )
    size = nt.size_of(_TYPE)
    for number in range(count):
        address = start + number * size
        row = read_row(target.memory, reader, address)
        if row is not None:
            yield PageFileWrite(address, *row._replace(time=row.time or 0))


def _ring(target: Target, nt: Layouts) -> tuple[int, int] | None:
    """(where it begins, how many records it has)."""
    partition, field = target.symbol("MiSystemPartition"), nt.find("_MI_PARTITION", "Vp.PageFileTraces")
    if partition is not None and field is not None:
        return partition + field.offset, min(field.count or 0, _MOST_RECORDS)
    alone = target.symbol("MiPageFileTraces")
    if alone is None:
        return None
    room = (nt.extent("MiPageFileTraces") or 0) // nt.size_of(_TYPE)
    return alone, min(room or _MOST_RECORDS, _MOST_RECORDS)
