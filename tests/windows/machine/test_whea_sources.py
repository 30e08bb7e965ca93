"""Error sources and packets, in the layout of the documentation's pages of ``!whea``, ``!errpkt`` and ``!errrec``."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import answer, session_over
from volatility3_kdump.errors import CorruptDump
from volatility3_kdump.memory import Memory
from volatility3_kdump.options import Options
from volatility3_kdump.text.hardware import packet_lines
from volatility3_kdump.windows.machine.whea_sources import read_error_packet

AT = 0xFFFFFA8007CF44DA


def memory_of(data: bytes) -> Memory:
    def read(address: int, size: int) -> bytes | None:
        start = address - AT
        return data[start : start + size] if start >= 0 and start + size <= len(data) else None

    return Memory(read, 8, lambda address: "gone")


def test_the_documented_packet() -> None:
    """``!errpkt fffffa8007cf44da``, with the values that the page shows."""
    head = struct.pack("<III4xQIIII4xIQ", 0, 0x218, 0x392, 0, 0, 1, 0, 0, 2, 2)
    data = head.ljust(0x110, b"\0") + struct.pack("<II", 2, 0x118)
    assert list(packet_lines(read_error_packet(memory_of(data), AT))) == [
        "   WHEA Error Packet Info Section (@ fffffa8007cf44da)",
        "   Flags            : 0x00000000",
        "   Size             : 0x218",
        "   RawDataLength    : 0x392",
        "   Context          : 0x0000000000000000",
        "   ErrorType        : 0x0 - Processor",
        "   ErrorSeverity    : 0x1 - Fatal",
        "   ErrorSourceId    : 0x0",
        "   ErrorSourceType  : 0x0 - MCE",
        "   Version          : 00000002",
        "   Cpu              : 0000000000000002",
        "   RawDataFormat    : 0x2 - Intel64 MCA",
        "",
        "   Raw Data         : Located @ FFFFFA8007CF45F2",
    ]


def test_a_packet_of_the_second_version() -> None:
    head = struct.pack("<4s7I16sQ4I", b"WHEA", 3, 0x150, 1, 2, 2, 5, 4, bytes(16), 0x77, 3, 0, 0x50, 0x100)
    packet = read_error_packet(memory_of(head), AT)
    assert (packet.version, packet.size, packet.severity, packet.source_type) == (3, 0x150, 2, 4)
    assert (packet.context, packet.data, packet.data_length) == (0x77, AT + 0x50, 0x100)
    with pytest.raises(CorruptDump, match="no error packet"):
        read_error_packet(memory_of(bytes(0x200)), AT)


def test_sources(sample: Callable[..., Path], isf_path: Path) -> None:
    session = session_over(sample(6, isf_path, "machine-check"), Options(offline=True, isf_file=str(isf_path)))
    nt = session.target.nt
    assert nt is not None
    lines = answer(session, "!whea")
    if not nt.has_type("_WHEAP_ERROR_SOURCE_TABLE"):
        assert "do not describe _WHEAP_ERROR_SOURCE_TABLE" in lines[0]
        return
    record = nt.offset("_WHEAP_ERROR_RECORD_WRAPPER", "ErrorRecord")
    descriptor = nt.offset("_WHEAP_ERROR_SOURCE", "Descriptor")
    assert lines == [
        f"Error Source Table @ {session.target.symbol('WheapErrorSourceTable'):x}",
        "2 Error Sources",
        "Error Source 0 @ ffff91894ef53010",
        "   Notify Type      : Machine Check Exception",
        "   Type             : 0x0 (MCE)",
        "   Error Count      : 1",
        "   Record Count     : 2",
        "   Record Length    : 400",
        f"   Error Records    : wrapper @ ffff91894ef54010  record @ {0xFFFF91894EF54010 + record:x}  in use",
        f"                    : wrapper @ ffff91894ef54410  record @ {0xFFFF91894EF54410 + record:x}",
        f"   Descriptor       : @ {0xFFFF91894EF53010 + descriptor:x}",
        "      Length                     : 3cc",
        "      Max Raw Data Length        : 392",
        "      Num Records To Preallocate : 2",
        "      Max Sections Per Record    : 3",
        "      Error Source ID            : 0",
        "      Flags                      : 00000000",
        "Error Source 1 @ ffff91894ef53810",
        "   Notify Type      : Non-Maskable Interrupt",
        "   Type             : 0x3 (NMI)",
        "   Error Count      : 0",
        "   Record Count     : 1",
        "   Record Length    : 400",
        f"   Descriptor       : @ {0xFFFF91894EF53810 + descriptor:x}",
        *lines[-6:-2],
        "      Error Source ID            : 7",
        "      Flags                      : 00000000",
    ]
    frame = answer(session, "!errrec ffff91894ef51028")[3:11]
    assert frame == [
        "Revision      : 2.1",
        "Record Id     : 01d7bb6a1c2f4e5d",
        "Severity      : Fatal (1)",
        "Length        : 936",
        "Creator       : Microsoft",
        "Notify Type   : Machine Check Exception",
        "Timestamp     : 10/7/2021 11:33:12",
        "Flags         : 0x00000000",
    ]
    assert answer(session, "!mca")[1] == answer(session, "!cpuinfo")[0]
