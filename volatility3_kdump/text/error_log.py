"""Entries of the I/O error log. KD's ``!errlog`` has no published output: the layout is our own."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import session_time
from volatility3_kdump.windows.io.error_log import Code, ErrorLog, ErrorLogEntry, Packet, event_code, status_code
from volatility3_kdump.windows.io.requests import major_name

NONE = "no pending entries"
_LABEL = 18
_DUMP_ROW = 16


def heading(log: ErrorLog, size: int = 8) -> str:
    """The first line."""
    count = len(log.entries)
    shown = NONE if not count else "1 pending entry" if count == 1 else f"{count} pending entries"
    return f"I/O error log (nt!IopErrorLogListHead, {pointer(log.head, size)}): {shown}"


def entry_lines(entry: ErrorLogEntry, bias: int | None, size: int = 8) -> Iterator[str]:
    """An entry; ``bias`` is that of the machine's zone in 100 ns units, ``size`` that of a pointer in bytes."""
    length = "?" if entry.size is None else f"{entry.size:#x}"
    yield f"Entry {pointer(entry.address, size)}  Size {length}"
    if entry.device is not None:
        yield _labelled("Time", session_time(entry.time, bias) or session_time(entry.time) or "not set")
        yield _labelled("Driver", driver_text(entry, size))
        yield _labelled("Device", device_text(entry, size))
    if entry.packet is not None:
        yield from _packet(entry.packet)
    for note in entry.notes:
        yield f"    NOTE: {note}"


def driver_text(entry: ErrorLogEntry, size: int = 8) -> str:
    """The driver that the entry names, or that of its device."""
    if entry.driver_object is not None:
        address = pointer(entry.driver_object.address, size, tick=False)
        name = entry.driver_object.text
        return name if address in name else f"{name}, driver object {address}"
    return (
        f"driver object {pointer(entry.driver, size, tick=False)}" if entry.driver else "?" if entry.device else "none"
    )


def device_text(entry: ErrorLogEntry, size: int = 8) -> str:
    """The device that the entry is about."""
    if not entry.device:
        return "none"
    place = f"device object {pointer(entry.device, size, tick=False)}"
    return f"{entry.device_name}, {place}" if entry.device_name else place


def code_text(code: Code) -> str:
    """``c0040007 IO_ERR_BAD_BLOCK``."""
    return f"{code.value:08x}" + (f" {code.name}" if code.name else "")


def facility_text(code: Code) -> str:
    """``facility 4 (I/O errors)``."""
    owner = ", customer's" if code.customer else f" ({code.facility_name})" if code.facility_name else ""
    return f"facility {code.facility:#x}{owner}"


def _packet(packet: Packet) -> Iterator[str]:
    error = event_code(packet.error)
    yield _labelled("Error", f"{code_text(error)}: {error.severity}, {facility_text(error)}, event {error.event}")
    if error.text:
        yield _labelled("", error.text)
    elif error.name is None:
        yield _labelled("", "(the text of this code is the driver's own)")
    yield _labelled("Final status", code_text(status_code(packet.status)))
    yield _labelled("Request", f"{major_name(packet.major)}, control code {packet.control_code:#x}")
    yield _labelled("Sequence", f"{packet.sequence}, retries {packet.retries}, unique error value {packet.unique:#x}")
    yield _labelled("Category", str(packet.category))
    yield _labelled("Device offset", f"{packet.device_offset:#x}")
    if packet.strings is None:
        yield _labelled("Strings", "not to be read")
    for index, string in enumerate(packet.strings or ()):
        yield _labelled("" if index else "Strings", f'"{string}"')
    if packet.dump_data is None:
        yield _labelled("Dump data", "not to be read")
    else:
        yield from _dump_data(packet.dump_data)


def _dump_data(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), _DUMP_ROW):
        row = data[start : start + _DUMP_ROW]
        columns = [row[at : at + 4] for at in range(0, len(row), 4)]
        # ULONGs; what is left of one at the end stands as bytes
        shown = " ".join(f"{int.from_bytes(word, 'little'):0{2 * len(word)}x}" for word in columns)
        yield _labelled("" if start else "Dump data", f"{start:04x}: {shown}")


def _labelled(label: str, text: str) -> str:
    return f"    {f'{label}:' if label else '':<{_LABEL}}{text}"
