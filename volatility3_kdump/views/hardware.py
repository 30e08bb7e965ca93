"""Rows of ``kdump.errrec``: a hardware error record and its sections."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.memory import Memory
from volatility3_kdump.text.hardware import error_record_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import TEXT, Column, table
from volatility3_kdump.windows.machine.whea import ErrorRecord, Section, read_error_record

ERROR_RECORD = table(
    "kdump.errrec",
    keys.KIND(
        {ErrorRecord: lambda record: "record", Section: lambda section: "section"}, "`record`, `section`, `fact`"
    ),
    keys.NAME(
        {
            ErrorRecord: lambda record: record.notification,
            Section: lambda section: section.name or f"{{{section.type_id}}}",
        },
        "how the record was notified, the type of the section, or what is said",
    ),
    keys.TEXT(more="what a section says"),
    Column(
        "ErrorSeverity",
        TEXT,
        "of the record or the section: fatal, corrected, ...",
        {ErrorRecord: lambda record: record.severity, Section: lambda section: section.severity},
    ),
    keys.ADDRESS({ErrorRecord: lambda record: record.address}),
    keys.OFFSET({Section: lambda section: section.offset}, "the record"),
    keys.SIZE({ErrorRecord: lambda record: record.length, Section: lambda section: section.length}),
    keys.NOTES(
        {
            ErrorRecord: lambda record: record.notes,
            Section: lambda section: [
                "primary section" if section.primary else "",
                section.fru_text or "",
                section.absent or "",
            ],
        }
    ),
)


def error_record_grid(memory: Memory, address: int) -> KdumpGrid:
    """The WHEA_ERROR_RECORD at an address. Raises :class:`KdumpError` if there is none."""
    record = read_error_record(memory, address)

    def rows() -> Iterator[Row]:
        yield ERROR_RECORD.row(0, record)
        for section in record.sections:
            yield ERROR_RECORD.row(1, section, Address=record.address + section.offset)
            for name, said in section.facts:
                yield ERROR_RECORD.row(2, Kind="fact", Name=name, Text=said)

    return ERROR_RECORD.grid(rows(), lambda: error_record_lines(record))
