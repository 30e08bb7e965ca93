"""Rows of ``kdump.errlog``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import error_log as text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, HEX, NUMBER, TEXT, TIME, Column, table
from volatility3_kdump.windows.io.error_log import (
    ErrorLog,
    ErrorLogEntry,
    Packet,
    event_code,
    read_error_log,
    status_code,
)
from volatility3_kdump.windows.io.requests import major_name
from volatility3_kdump.windows.machine.shared_data import shared_data


def _packet(get: Callable[[Packet], object]) -> Callable[[ErrorLogEntry], object]:
    """What the packet of an entry says; unknown where the entry cannot hold one."""
    return lambda entry: None if entry.packet is None else get(entry.packet)


def _device(entry: ErrorLogEntry) -> object:
    return BLANK if entry.device == 0 or entry.device_name == "" else entry.device_name


def _strings(packet: Packet) -> object:
    # An empty string among others is one of them.
    return None if packet.strings is None else "; ".join(packet.strings) if packet.strings else BLANK


def _dump_data(packet: Packet) -> object:
    return None if packet.dump_data is None else packet.dump_data.hex(" ") or BLANK


ERRLOG = table(
    "kdump.errlog",
    Column("Time", TIME, "when the driver wrote it", lambda entry: None if entry.device is None else entry.time),
    keys.DRIVER(lambda entry: entry.driver_object.name if entry.driver_object else None),
    keys.IMAGE(lambda entry: entry.driver_object.image_name if entry.driver_object else None),
    keys.DEVICE(_device, "with its path as far as that is known; null for an entry about the driver"),
    Column(
        "ErrorCode",
        HEX,
        "of the packet: an event of `ntiologc.h`, an NTSTATUS, or a code of the driver's own",
        _packet(lambda packet: event_code(packet.error).value),
    ),
    Column(
        "ErrorName",
        TEXT,
        "`IO_ERR_BAD_BLOCK`, `STATUS_INSUFFICIENT_RESOURCES`; null for codes that are in neither table",
        _packet(lambda packet: event_code(packet.error).name or BLANK),
    ),
    keys.SEVERITY(_packet(lambda packet: event_code(packet.error).severity)),
    keys.FACILITY(_packet(lambda packet: event_code(packet.error).facility)),
    keys.FACILITY_NAME(_packet(lambda packet: event_code(packet.error).facility_name or BLANK)),
    Column(
        "Event",
        NUMBER,
        "its low 16 bits: the number of the event in the event log",
        _packet(lambda packet: event_code(packet.error).event),
    ),
    Column(
        "Message",
        TEXT,
        "what an event of `ntiologc.h` means, in our words; drivers have the texts of their own codes in their images",
        _packet(lambda packet: event_code(packet.error).text or BLANK),
    ),
    Column(
        "FinalStatus",
        HEX,
        "the NTSTATUS with which the operation ended",
        _packet(lambda packet: status_code(packet.status).value),
    ),
    Column("FinalStatusName", TEXT, "its name", _packet(lambda packet: status_code(packet.status).name or BLANK)),
    keys.MAJOR(
        _packet(lambda packet: major_name(packet.major)),
        "of the request; `IRP_MJ_CREATE`, which is 0, also where the driver did not set it",
    ),
    Column("IoControlCode", HEX, "of the request", _packet(lambda packet: packet.control_code)),
    Column(
        "Sequence", NUMBER, "SequenceNumber: the driver's count of requests", _packet(lambda packet: packet.sequence)
    ),
    Column("Retries", NUMBER, "RetryCount", _packet(lambda packet: packet.retries)),
    Column(
        "UniqueErrorValue",
        HEX,
        "where in the driver it was, by the driver's own numbers",
        _packet(lambda packet: packet.unique),
    ),
    Column("Category", NUMBER, "EventCategory", _packet(lambda packet: packet.category)),
    Column("DeviceOffset", HEX, "where on the device, in bytes", _packet(lambda packet: packet.device_offset)),
    Column("InsertionStrings", TEXT, "the strings, separated by `; `", _packet(_strings)),
    Column("DumpData", TEXT, "bytes in hexadecimal", _packet(_dump_data)),
    keys.DRIVER_OBJECT(lambda entry: entry.driver_object.address if entry.driver_object else entry.driver),
    keys.DEVICE_OBJECT(lambda entry: entry.device),
    keys.ENTRY(lambda entry: entry.address, "ERROR_LOG_ENTRY"),
    keys.SIZE(lambda entry: entry.size, "with packet, dump data and strings"),
    keys.NOTES(lambda entry: entry.notes),
)


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
    return ERRLOG.grid(_rows(log), lambda: _lines(target, log))


def _rows(log: ErrorLog) -> Iterator[Row]:
    for entry in log.entries:
        yield ERRLOG.row(0, entry)
    if not log.entries and not log.problems:
        yield ERRLOG.row(0, Notes=[text.NONE])
    for problem in log.problems:
        yield ERRLOG.row(0, Notes=[problem])


def _lines(target: Target, log: ErrorLog) -> Iterator[str]:
    size = target.memory.pointer_size
    shared = shared_data(target)
    yield text.heading(log, size)
    for entry in log.entries:
        yield ""
        yield from text.entry_lines(entry, shared.time_zone_bias if shared else None, size)
    for problem in log.problems:
        yield f"NOTE: {problem}"
