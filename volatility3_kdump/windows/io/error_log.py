"""The pending entries of the I/O error log: what drivers gave to IoWriteErrorLogEntry and nobody has read yet.

nt!IopErrorLogListHead lists ERROR_LOG_ENTRYs, each with the IO_ERROR_LOG_PACKET (``wdm.h``) that the driver filled in
behind it. A worker thread takes them to the event log, so that the list is usually empty. Dump data and strings lie in
the packet, whose size a driver gives to IoAllocateErrorLogEntry as one byte.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump import tables
from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.io.devices import DriverObject, read_device, read_driver
from volatility3_kdump.windows.processes.namespace import object_path

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: IO_TYPE_ERROR_LOG of ``wdm.h``.
ENTRY_TYPE = 0xB
_MOST_ENTRIES = 4096
#: IoAllocateErrorLogEntry takes the size of the packet as a byte.
_LARGEST_PACKET = 0xFF
#: The top bits of an NTSTATUS, and its facilities that are named in ``ntstatus.h`` and ``ntiologc.h``.
SEVERITIES = ("success", "informational", "warning", "error")
_FACILITIES = {
    0: "system",
    1: "debugger",
    2: "RPC runtime",
    3: "RPC stubs",
    4: "I/O errors",
    5: "machine checks",
    7: "Win32",
    0xA: "terminal server",
    0x10: "USB",
    0x11: "HID",
    0x12: "FireWire",
    0x13: "cluster",
    0x14: "ACPI",
    0x15: "side by side",
    0x19: "transactions",
    0x1A: "common log",
    0x1B: "video",
    0x1C: "filter manager",
    0x1D: "monitor",
    0x1E: "graphics",
    0x20: "driver framework",
    0x21: "full volume encryption",
    0x22: "filtering platform",
    0x23: "NDIS",
    0x35: "hypervisor",
    0x36: "IPsec",
    0x38: "volume manager",
    0x3A: "virtual disks",
}


@dataclass(frozen=True)
class Code:
    """An error code or status: ``name`` as headers have it and ``text`` what it says, where they are known."""

    value: int
    name: str | None
    text: str | None

    @property
    def severity(self) -> str:
        return SEVERITIES[self.value >> 30]

    @property
    def customer(self) -> bool:
        """Whether the code is not Microsoft's."""
        return bool(self.value & 0x20000000)

    @property
    def facility(self) -> int:
        return self.value >> 16 & 0xFFF

    @property
    def facility_name(self) -> str | None:
        """Of a customer's code, facilities are the customer's as well."""
        return None if self.customer else _FACILITIES.get(self.facility)

    @property
    def event(self) -> int:
        """The event's number in the event log."""
        return self.value & 0xFFFF


@dataclass(frozen=True)
class Packet:
    """An IO_ERROR_LOG_PACKET.

    ``dump_data`` and ``strings`` are ``None`` where what the packet says of them cannot be; the notes of its entry say
    why. ``device_offset`` is in bytes.
    """

    major: int
    retries: int
    category: int
    error: int
    unique: int
    status: int
    sequence: int
    control_code: int
    device_offset: int
    dump_data: bytes | None
    strings: tuple[str, ...] | None


@dataclass(frozen=True)
class ErrorLogEntry:
    """An ERROR_LOG_ENTRY. ``time`` is a FILETIME; objects are addresses, 0 for none. ``None`` is not in the dump.

    ``packet`` is ``None`` where the entry cannot hold one; ``notes`` say why, and what else is missing.
    """

    address: int
    size: int | None
    time: int | None
    device: int | None
    driver: int | None
    packet: Packet | None
    device_name: str | None = None
    driver_object: DriverObject | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ErrorLog:
    """The pending entries, the oldest first, the address of their list, and what was wrong with it, a line each."""

    head: int
    entries: tuple[ErrorLogEntry, ...]
    problems: tuple[str, ...]


def decode_entry(address: int, data: bytes, width: int, missing: str = "the entry ends there") -> ErrorLogEntry:
    """An entry from its bytes, as many as there are, with pointers of ``width`` bytes.

    What lies beyond them, or contradicts the sizes that it gives itself, is absent with the reason; ``missing`` is the
    reason why there are no more bytes.
    """
    layouts = tables.structures()
    type_name = f"_ERROR_LOG_ENTRY{8 * width}"
    start = layouts.size_of(type_name)
    if len(data) < start:
        return ErrorLogEntry(address, None, None, None, None, None, notes=(f"only a part of it is there: {missing}",))
    head = layouts.reader(
        type_name, kind="Type", size="Size", device="DeviceObject", driver="DriverObject", time="TimeStamp"
    ).unpack(data)
    if head.kind != ENTRY_TYPE:
        wrong = f"its type is {head.kind:#x}, not {ENTRY_TYPE:#x}: it is no error log entry"
        return ErrorLogEntry(address, head.size, None, None, None, None, notes=(wrong,))
    notes: list[str] = []
    packet = _packet(data[start:], head.size - start, missing, notes)
    device, driver = (sign_extended(value, width) for value in (head.device, head.driver))
    return ErrorLogEntry(address, head.size, head.time, device, driver, packet, notes=tuple(notes))


def _packet(data: bytes, size: int, missing: str, notes: list[str]) -> Packet | None:
    """The packet of an entry that gives it ``size`` bytes."""
    layouts = tables.structures()
    fixed = layouts.size_of("_IO_ERROR_LOG_PACKET")
    possible = fixed <= size <= _LARGEST_PACKET
    if not possible:
        limits = f"{fixed:#x} to {_LARGEST_PACKET:#x}"
        notes.append(f"Size leaves {size:#x} bytes for the packet: impossible, it takes {limits}")
    if size < fixed:
        return None
    if len(data) < fixed:
        notes.append(f"its packet is not there: {missing}")
        return None
    row = layouts.reader(
        "_IO_ERROR_LOG_PACKET",
        major="MajorFunctionCode",
        retries="RetryCount",
        dump_size="DumpDataSize",
        count="NumberOfStrings",
        strings="StringOffset",
        category="EventCategory",
        error="ErrorCode",
        unique="UniqueErrorValue",
        status="FinalStatus",
        sequence="SequenceNumber",
        control="IoControlCode",
        offset="DeviceOffset",
    ).unpack(data)
    if possible:
        dump_data = _dump_data(data, fixed, row.dump_size, size, missing, notes)
        # a size that cannot be says nothing about where the strings begin
        lowest = fixed + (row.dump_size if fixed + row.dump_size <= size else 0)
        strings = _strings(data, row.count, row.strings, lowest, size, missing, notes)
    else:
        dump_data, strings = None if row.dump_size else b"", None if row.count else ()
    return Packet(
        row.major,
        row.retries,
        row.category,
        row.error,
        row.unique,
        row.status,
        row.sequence,
        row.control,
        row.offset,
        dump_data,
        strings,
    )


def _dump_data(data: bytes, start: int, size: int, end: int, missing: str, notes: list[str]) -> bytes | None:
    if not size:
        return b""
    if start + size > end:
        notes.append(f"DumpDataSize is {size:#x}, more than the packet has room for")
        return None
    if start + size > len(data):
        notes.append(f"its dump data is not there: {missing}")
        return None
    return bytes(data[start : start + size])


def _strings(
    data: bytes, count: int, start: int, lowest: int, end: int, missing: str, notes: list[str]
) -> tuple[str, ...] | None:
    """``count`` strings of UTF-16, one behind the other, each with a NUL at its end."""
    if not count:
        return ()
    if start < lowest or start >= end or start % 2:
        why = "it is odd" if start % 2 else "that is not between the dump data and the end of the packet"
        notes.append(f"StringOffset is {start:#x}: {why}")
        return None
    strings: list[str] = []
    at, stop = start, min(end, len(data))
    for _ in range(count):
        following = at
        while following + 2 <= stop and data[following : following + 2] != b"\0\0":
            following += 2
        if following + 2 > stop:
            break
        strings.append(bytes(data[at:following]).decode("utf-16-le", "replace"))
        at = following + 2
    if len(strings) < count:
        why = missing if len(data) < end else "the packet ends there"
        notes.append(f"{count} strings are counted, and {len(strings)} have an end: {why}")
    return tuple(strings)


# from a dump ----------------------------------------------------------------------------------------------------------


def read_error_log(target: Target) -> ErrorLog:
    """The pending entries. Raises :class:`KdumpError` where the list cannot be reached at all."""
    head = target.variable("IopErrorLogListHead", "IopErrorLogListHead")
    if not head:
        raise KdumpError(f"{target.name}: the address of IopErrorLogListHead is not known: {target.symbol_status}")
    if target.memory.pointer(head) is None:
        raise Unreadable(f"{target.name}: IopErrorLogListHead: {target.memory.why_unreadable(head)}")
    walk = walk_list(target.memory, head, _MOST_ENTRIES, "IopErrorLogListHead")
    link = tables.structures().offset(f"_ERROR_LOG_ENTRY{8 * target.memory.pointer_size}", "Flink")
    entries = tuple(read_entry(target, entry - link) for entry in walk.entries)
    return ErrorLog(head, entries, walk.problems)


def read_entry(target: Target, address: int) -> ErrorLogEntry:
    """The entry at an address, with the names of its device and driver."""
    memory, width = target.memory, target.memory.pointer_size
    type_name = f"_ERROR_LOG_ENTRY{8 * width}"
    start = tables.structures().size_of(type_name)
    size = memory.unsigned(address + tables.structures().offset(type_name, "Size"), 2)
    wanted = min(max(size or 0, start), start + _LARGEST_PACKET)
    data = b""
    missing = "the entry ends there"
    for place, piece in memory.present(address, wanted):
        if place != address + len(data):
            break
        data += piece
    if len(data) < wanted:
        missing = memory.why_unreadable(address + len(data))
    entry = decode_entry(address, data, width, missing)
    if entry.device is None:
        return entry
    notes = list(entry.notes)
    crash = target.header.system_time
    if entry.time and crash and entry.time > crash:
        notes.append("its time lies after the crash")
    device_name = _device_name(target, entry.device, notes)
    driver = _driver(target, entry, notes)
    return ErrorLogEntry(
        address, entry.size, entry.time, entry.device, entry.driver, entry.packet, device_name, driver, tuple(notes)
    )


def _device_name(target: Target, device: int, notes: list[str]) -> str | None:
    if not device:
        return None
    try:
        read_device(target, device)
        return object_path(target, device)
    except KdumpError as error:
        notes.append(f"the name of its device: {error}")
        return None


def _driver(target: Target, entry: ErrorLogEntry, notes: list[str]) -> DriverObject | None:
    """The driver that the entry names, else that of its device."""
    address = entry.driver
    if not address and entry.device:
        with contextlib.suppress(KdumpError):
            address = read_device(target, entry.device).driver_address
    if not address:
        return None
    try:
        return read_driver(target, address)
    except KdumpError as error:
        notes.append(f"its driver: {error}")
        return None


# codes ----------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _events() -> Mapping[int, tuple[str, str | None]]:
    return {int(row["code"], 16): (row["name"], row.get("text")) for row in tables.json_lines("ioerrors.jsonl")}


def event_code(value: int) -> Code:
    """The ErrorCode of a packet: an event of the I/O error log, or an NTSTATUS. Drivers have codes of their own."""
    name, meaning = _events().get(value, (None, None))
    return Code(value, name or tables.status_names().get(value), meaning)


def status_code(value: int) -> Code:
    """An NTSTATUS."""
    return Code(value, tables.status_names().get(value), None)
