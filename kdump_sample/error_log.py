"""The pending entries of the I/O error log, as IoAllocateErrorLogEntry and drivers lay them out."""

from __future__ import annotations

import struct

from kdump_sample.scene import SECOND, LogEntry
from kdump_sample.workspace import Workspace

_TYPE = 0xB
#: ERROR_LOG_ENTRY and the fixed part of IO_ERROR_LOG_PACKET, of 64-bit kernels: they are not in public symbols.
_ENTRY = struct.Struct("<HH4xQQQQq")
_PACKET = struct.Struct("<BBHHHH2xIIIIIq")
_LINK = 8


def write_error_log(work: Workspace) -> None:
    """The entries of a scene, the oldest first, in nt!IopErrorLogListHead."""
    head = work.symbol("IopErrorLogListHead")
    entries = work.scene.error_log
    if head is None or not entries:
        return
    for entry in entries:
        packet = _packet(entry)
        time = work.scene.system_time - round(entry.seconds_ago * SECOND)
        front = _ENTRY.pack(_TYPE, _ENTRY.size + len(packet), 0, 0, entry.device, entry.driver, time)
        work.memory.write(entry.address, front + packet)
    work.structures.link(head, [entry.address + _LINK for entry in entries])


def _packet(entry: LogEntry) -> bytes:
    """Dump data follows the fixed part, and strings the dump data."""
    strings = b"".join(string.encode("utf-16-le") + b"\0\0" for string in entry.strings)
    offset = _PACKET.size + len(entry.dump_data)
    return (
        _PACKET.pack(
            entry.major,
            entry.retries,
            len(entry.dump_data),
            len(entry.strings),
            offset if entry.strings else 0,
            entry.category,
            entry.error,
            entry.unique,
            entry.status,
            entry.sequence,
            entry.control_code,
            entry.device_offset,
        )
        + entry.dump_data
        + strings
    )
