"""Rows of ``kdump.errlog``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import error_log as text
from volatility3_kdump.views.cells import joined, moment, number, optional
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address
from volatility3_kdump.views.grid import text as text_cell
from volatility3_kdump.windows.io.error_log import ErrorLog, Packet, event_code, read_error_log, status_code
from volatility3_kdump.windows.io.requests import major_name
from volatility3_kdump.windows.machine.shared_data import shared_data

_COLUMNS: list[tuple[str, type]] = [
    ("Time", datetime),
    ("Driver", str),
    ("Image", str),
    ("Device", str),
    ("ErrorCode", format_hints.Hex),
    ("ErrorName", str),
    ("Severity", str),
    ("Facility", int),
    ("FacilityName", str),
    ("Event", int),
    ("Text", str),
    ("FinalStatus", format_hints.Hex),
    ("FinalStatusName", str),
    ("MajorFunction", str),
    ("IoControlCode", format_hints.Hex),
    ("Sequence", int),
    ("Retries", int),
    ("UniqueErrorValue", format_hints.Hex),
    ("Category", int),
    ("DeviceOffset", format_hints.Hex),
    ("Strings", str),
    ("DumpData", str),
    ("DriverObject", format_hints.Hex),
    ("DeviceObject", format_hints.Hex),
    ("Entry", format_hints.Hex),
    ("Size", int),
    ("Notes", str),
]
_OF_PACKET = 18


def errlog_grid(target: Target, progress: Progress | None = None) -> KdumpGrid:
    """A row for each pending entry of the I/O error log, the oldest first.

    Raises :class:`KdumpError` where the dump cannot hold them, or their list is not in it.
    """
    if target.dump.triage is not None:
        raise KdumpError(
            f"{target.name}: a small memory dump does not hold the pool that the I/O error log lies in: "
            "it takes a kernel or complete dump"
        )
    if progress is not None:
        progress(0, "Reading the I/O error log")
    log = read_error_log(target)
    return KdumpGrid(_COLUMNS, _rows(log), lambda: _lines(target, log))


def _rows(log: ErrorLog) -> Iterator[Row]:
    for entry in log.entries:
        driver = entry.driver_object
        yield (
            0,
            (
                text_cell(None) if entry.device is None else moment(entry.time),
                text_cell(driver.name if driver else None),
                text_cell(driver.image_name if driver else None),
                absent() if entry.device == 0 or entry.device_name == "" else text_cell(entry.device_name),
                *_packet_cells(entry.packet),
                address(driver.address) if driver else optional(entry.driver),
                optional(entry.device),
                format_hints.Hex(entry.address),
                number(entry.size),
                joined(entry.notes),
            ),
        )
    blank = (absent(),) * (len(_COLUMNS) - 1)
    if not log.entries and not log.problems:
        yield 0, (*blank, text.NONE)
    for problem in log.problems:
        yield 0, (*blank, problem)


def _packet_cells(packet: Packet | None) -> tuple[Any, ...]:
    if packet is None:
        return (text_cell(None),) * _OF_PACKET
    error, status = event_code(packet.error), status_code(packet.status)
    return (
        format_hints.Hex(error.value),
        error.name or absent(),
        error.severity,
        error.facility,
        error.facility_name or absent(),
        error.event,
        error.text or absent(),
        format_hints.Hex(status.value),
        status.name or absent(),
        major_name(packet.major),
        format_hints.Hex(packet.control_code),
        packet.sequence,
        packet.retries,
        format_hints.Hex(packet.unique),
        packet.category,
        format_hints.Hex(packet.device_offset),
        text_cell(None) if packet.strings is None else "; ".join(packet.strings) if packet.strings else absent(),
        text_cell(None) if packet.dump_data is None else packet.dump_data.hex(" ") if packet.dump_data else absent(),
    )


def _lines(target: Target, log: ErrorLog) -> Iterator[str]:
    size = target.memory.pointer_size
    shared = shared_data(target)
    yield text.heading(log, size)
    for entry in log.entries:
        yield ""
        yield from text.entry_lines(entry, shared.time_zone_bias if shared else None, size)
    for problem in log.problems:
        yield f"NOTE: {problem}"
