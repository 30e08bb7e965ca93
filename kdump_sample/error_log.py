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
    for item in entries:
        packet = _packet(item)
        time = work.scene.system_time - round(item.seconds_ago * SECOND)
        front = _ENTRY.pack(_TYPE, _ENTRY.size + len(packet), 0, 0, item.device, item.driver, time)
        work.memory.write(item.address, front + packet)
    work.structures.link(head, [item.address + _LINK for item in entries])


def _packet(item: LogEntry) -> bytes:
    """Dump data follows the fixed part, and strings the dump data."""
    strings = b"".join(text.encode("utf-16-le") + b"\0\0" for text in item.strings)
    offset = _PACKET.size + len(item.dump_data)
    return (
        _PACKET.pack(
            item.major,
            item.retries,
            len(item.dump_data),
            len(item.strings),
            offset if item.strings else 0,
            item.category,
            item.error,
            item.unique,
            item.status,
            item.sequence,
            item.control_code,
            item.device_offset,
        )
        + item.dump_data
        + strings
    )
