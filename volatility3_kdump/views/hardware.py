"""Rows of ``kdump.errrec``: a hardware error record and its sections."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.text.hardware import error_record_lines, packet_lines, sources_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BYTES, NUMBER, TEXT, Column, table
from volatility3_kdump.windows.machine.whea import ErrorRecord, Section, read_error_record
from volatility3_kdump.windows.machine.whea_sources import error_sources, read_error_packet

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


SOURCES = table(
    "kdump.errrec --sources",
    keys.ADDRESS(lambda source: source.address, "_WHEAP_ERROR_SOURCE"),
    Column("SourceType", TEXT, "`MCE`, `CMC`, `NMI`, `PCIe`, `BOOT`, ...", lambda source: source.kind_name),
    Column("SourceId", NUMBER, "ErrorSourceId", lambda source: source.number),
    keys.COUNT(lambda source: source.errors, "errors that it reported, ErrorCount"),
    Column("Records", NUMBER, "records that were allocated for it", lambda source: source.record_count),
    Column("RecordBytes", BYTES, "RecordLength", lambda source: source.record_length),
    keys.FLAGS(lambda source: source.flags, "of its descriptor"),
    keys.NOTES(
        lambda source: [f"the record at {place.record:#x} is in use" for place in source.records if place.in_use]
    ),
)


def sources_grid(target: Target) -> KdumpGrid:
    """The sources of hardware errors (``!whea``). Raises :class:`KdumpError` where they are not known."""
    sources = error_sources(target)

    def rows() -> Iterator[Row]:
        yield from (SOURCES.row(0, source) for source in sources.sources)
        yield from (SOURCES.row(0, Notes=[problem]) for problem in sources.problems)

    return SOURCES.grid(rows(), lambda: sources_lines(sources))


def packet_text(memory: Memory, address: int) -> Iterator[str]:
    """The lines of ``!errpkt``. Raises :class:`KdumpError` where there is no packet."""
    return packet_lines(read_error_packet(memory, address))
