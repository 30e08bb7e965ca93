"""Error log entries laid out as a C compiler does, entries of made dumps, and entries that cannot be."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from kdump_sample.scenes import error_log as scene
from tests.amounts import part
from tests.edited import edited
from tests.pieces import target_over
from volatility3_kdump import tables
from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.windows.io.error_log import (
    ErrorLog,
    Packet,
    decode_entry,
    event_code,
    read_error_log,
    status_code,
)

Sample = Callable[..., Path]

HEAD, POOL = 0xFFFFF80000001000, 0xFFFF800000000000


class IO_ERROR_LOG_PACKET(ctypes.LittleEndianStructure):
    """The declaration of ``wdm.h``; the compiler's rules for its layout are those of ctypes."""

    _fields_ = (
        ("MajorFunctionCode", ctypes.c_uint8),
        ("RetryCount", ctypes.c_uint8),
        ("DumpDataSize", ctypes.c_uint16),
        ("NumberOfStrings", ctypes.c_uint16),
        ("StringOffset", ctypes.c_uint16),
        ("EventCategory", ctypes.c_uint16),
        ("ErrorCode", ctypes.c_uint32),
        ("UniqueErrorValue", ctypes.c_uint32),
        ("FinalStatus", ctypes.c_uint32),
        ("SequenceNumber", ctypes.c_uint32),
        ("IoControlCode", ctypes.c_uint32),
        ("DeviceOffset", ctypes.c_uint64),
        ("DumpData", ctypes.c_uint32 * 1),
    )


def entry_type(width: int) -> Any:
    """ERROR_LOG_ENTRY for pointers of ``width`` bytes."""
    pointer = ctypes.c_uint64 if width == 8 else ctypes.c_uint32

    class ERROR_LOG_ENTRY(ctypes.LittleEndianStructure):
        _fields_ = (
            ("Type", ctypes.c_uint16),
            ("Size", ctypes.c_uint16),
            ("Flink", pointer),
            ("Blink", pointer),
            ("DeviceObject", pointer),
            ("DriverObject", pointer),
            ("TimeStamp", ctypes.c_uint64),
        )

    return ERROR_LOG_ENTRY


FIXED = IO_ERROR_LOG_PACKET.DumpData.offset


def made(width: int = 8, tail: bytes = b"", size: int | None = None, **fields: int) -> bytes:
    """An entry with its packet; ``tail`` follows the packet's fixed part."""
    kind = entry_type(width)
    own = {name for name, _ in kind._fields_}
    length = ctypes.sizeof(kind) + FIXED + len(tail)
    head = kind(Type=0xB, Size=length if size is None else size)
    packet = IO_ERROR_LOG_PACKET()
    for name, value in fields.items():
        setattr(head if name in own else packet, name, value)
    return bytes(head) + bytes(packet)[:FIXED] + tail


@pytest.mark.parametrize("width", (8, 4))
def test_the_layouts_are_those_of_a_compiler(width: int) -> None:
    shipped = tables.structures()
    for name, made_type in ((f"_ERROR_LOG_ENTRY{8 * width}", entry_type(width)), ("_IO_ERROR_LOG_PACKET", None)):
        declared = made_type or IO_ERROR_LOG_PACKET
        for field in shipped.field_names(name):
            described = shipped.field(name, field)
            own = getattr(declared, field)
            assert (described.offset, described.size) == (own.offset, own.size), field
    assert shipped.size_of(f"_ERROR_LOG_ENTRY{8 * width}") == ctypes.sizeof(entry_type(width))
    assert shipped.size_of("_IO_ERROR_LOG_PACKET") == FIXED


@pytest.mark.parametrize("width", (8, 4))
def test_an_entry(width: int) -> None:
    tail = bytes(range(12)) + "C:".encode("utf-16-le") + b"\0\0" + "é".encode("utf-16-le") + b"\0\0"
    data = made(
        width,
        tail,
        DeviceObject=0x81234560 if width == 4 else 0xFFFF800000123450,
        DriverObject=0x7FFFFFF0,
        TimeStamp=132_780_799_929_453_817,
        MajorFunctionCode=3,
        RetryCount=255,
        DumpDataSize=12,
        NumberOfStrings=2,
        StringOffset=FIXED + 12,
        EventCategory=7,
        ErrorCode=0xC0040007,
        UniqueErrorValue=0xFFFFFFFF,
        FinalStatus=0xC000009C,
        SequenceNumber=5,
        IoControlCode=0x70000,
        DeviceOffset=1 << 40,
    )
    found = decode_entry(POOL, data, width)
    assert (found.address, found.size, found.time) == (POOL, len(data), 132_780_799_929_453_817)
    assert found.device == (0xFFFFFFFF81234560 if width == 4 else 0xFFFF800000123450)
    assert (found.driver, found.notes) == (0x7FFFFFF0, ())
    assert found.packet == Packet(
        3,
        255,
        7,
        0xC0040007,
        0xFFFFFFFF,
        0xC000009C,
        5,
        0x70000,
        1 << 40,
        bytes(range(12)),
        ("C:", "é"),
    )


STRING = "ab".encode("utf-16-le") + b"\0\0"


@pytest.mark.parametrize(
    "data, note, dump_data, strings",
    [
        (made(DumpDataSize=4), "DumpDataSize is 0x4, more than the packet has room for", None, ()),
        (made(tail=bytes(8), DumpDataSize=0xFFFF), "DumpDataSize is 0xffff, more than", None, ()),
        (
            made(tail=STRING, DumpDataSize=0x8000, NumberOfStrings=1, StringOffset=FIXED),
            "DumpDataSize is 0x8000, more than",
            None,
            ("ab",),
        ),
        (made(tail=STRING, NumberOfStrings=1, StringOffset=0), "StringOffset is 0x0: that is not between", b"", None),
        (made(tail=STRING, NumberOfStrings=1, StringOffset=0x20), "StringOffset is 0x20: that is not", b"", None),
        (made(tail=STRING, NumberOfStrings=1, StringOffset=FIXED + 1), "StringOffset is 0x29: it is odd", b"", None),
        (made(tail=STRING, NumberOfStrings=1, StringOffset=FIXED + 6), "StringOffset is 0x2e: that is not", b"", None),
        (made(tail=STRING, NumberOfStrings=1, StringOffset=0xFFFE), "StringOffset is 0xfffe: that is not", b"", None),
        (
            made(tail=bytes(4) + STRING, DumpDataSize=4, NumberOfStrings=1, StringOffset=FIXED + 2),
            "that is not between the dump data and the end of the packet",
            bytes(4),
            None,
        ),
        (
            made(tail=STRING, NumberOfStrings=3, StringOffset=FIXED),
            "3 strings are counted, and 1 have an end: the packet ends there",
            b"",
            ("ab",),
        ),
        (
            made(tail=STRING[:4], NumberOfStrings=1, StringOffset=FIXED),
            "1 strings are counted, and 0 have an end",
            b"",
            (),
        ),
        (
            made(tail=STRING + STRING, size=0x30 + FIXED + 6, NumberOfStrings=0xFFFF, StringOffset=FIXED),
            "65535 strings are counted, and 1 have an end: the packet ends there",
            b"",
            ("ab",),
        ),
        (
            made(tail=STRING, size=0xFFFF, DumpDataSize=2, NumberOfStrings=1, StringOffset=FIXED + 2),
            "Size leaves 0xffcf bytes for the packet: impossible, it takes 0x28 to 0xff",
            None,
            None,
        ),
        (made(size=0xFFFF), "Size leaves 0xffcf bytes for the packet", b"", ()),
    ],
)
def test_what_contradicts_itself(
    data: bytes, note: str, dump_data: bytes | None, strings: tuple[str, ...] | None
) -> None:
    """The rest is decoded."""
    found = decode_entry(POOL, data[:12] + data[12:0x3C] + struct.pack("<I", 0xC0040009) + data[0x40:], 8)
    assert found.packet is not None
    assert any(note in text for text in found.notes), found.notes
    assert (found.packet.dump_data, found.packet.strings) == (dump_data, strings)
    assert found.packet.error == 0xC0040009


@pytest.mark.parametrize("size", (0, 1, 0x2F, 0x30, 0x57))
def test_a_size_without_room_for_a_packet(size: int) -> None:
    found = decode_entry(POOL, made(size=size, DriverObject=POOL, TimeStamp=5), 8)
    assert (found.size, found.driver, found.time, found.packet) == (size, POOL, 5, None)
    assert any("impossible" in note for note in found.notes)


def test_something_else() -> None:
    found = decode_entry(POOL, made(Type=6), 8)
    assert (found.time, found.device, found.packet) == (None, None, None)
    assert found.notes == ("its type is 0x6, not 0xb: it is no error log entry",)
    assert decode_entry(POOL, made()[:0x2F], 8, "gone").notes == ("only a part of it is there: gone",)
    cut = decode_entry(POOL, made()[:0x40], 8, "gone")
    assert (cut.size, cut.packet, cut.notes) == (0x58, None, ("its packet is not there: gone",))


@settings(max_examples=part(300), deadline=None)
@given(
    width=st.sampled_from((8, 4)),
    sizes=st.lists(st.one_of(st.integers(0, 0x140), st.integers(0, 0xFFFF)), min_size=4, max_size=4),
    kind=st.sampled_from((0xB, 0xB, 0xB, 3)),
    tail=st.one_of(
        st.binary(max_size=0x120), st.text(max_size=60).map(lambda text: text.encode("utf-16-le", "replace"))
    ),
    cut=st.integers(0, 0x200),
)
def test_any_bytes(width: int, sizes: list[int], kind: int, tail: bytes, cut: int) -> None:
    """What is decoded are the bytes that are there, where the entry says that they are, and within it."""
    size, dump_size, count, offset = sizes
    whole = made(
        width, tail, size, Type=kind, DumpDataSize=dump_size, NumberOfStrings=count, StringOffset=offset, ErrorCode=9
    )
    data = whole[: len(whole) - cut] if cut < len(whole) else whole
    found = decode_entry(POOL, data, width, "gone")
    packet = found.packet
    if packet is None:
        assert found.notes
        return
    start = ctypes.sizeof(entry_type(width))
    content = data[start:size]
    assert packet.error == 9
    if packet.dump_data is None:
        assert found.notes
    else:
        assert packet.dump_data == content[FIXED : FIXED + dump_size]
        assert len(packet.dump_data) == dump_size
    if packet.strings is None:
        assert found.notes
        return
    assert len(packet.strings) == count or (len(packet.strings) < count and found.notes)
    if packet.strings:
        assert offset >= FIXED + (dump_size if packet.dump_data is not None else 0)
        units = [content[at : at + 2] for at in range(offset, len(content) - 1, 2)]
        first = []
        for unit in units:
            if unit == b"\0\0":
                break
            first.append(unit)
        assert packet.strings[0] == b"".join(first).decode("utf-16-le", "replace")


# lists ----------------------------------------------------------------------------------------------------------------


def log_of(pieces: Mapping[int, bytes], width: int = 8, head: int = HEAD, system_time: int = 0) -> ErrorLog:
    return read_error_log(target_over(pieces, None, {"IopErrorLogListHead": head}, width, system_time))


def linked(width: int, *entries: bytes) -> dict[int, bytes]:
    """Entries in the list, at POOL + 0x100, 0x200... (the low half of it on 32 bits)."""
    pool = POOL if width == 8 else 0xFFFFFFFF87000000
    head = HEAD if width == 8 else 0xFFFFFFFF81801000
    code, link = ("<QQ", 8) if width == 8 else ("<II", 4)
    mask = (1 << 8 * width) - 1
    places = [pool + 0x100 * index for index in range(1, len(entries) + 1)]
    ring = [head, *(place + link for place in places), head]
    pieces = {head: struct.pack(code, ring[1] & mask, ring[-2] & mask)}
    for index, (place, data) in enumerate(zip(places, entries, strict=True), 1):
        links = struct.pack(code, ring[index + 1] & mask, ring[index - 1] & mask)
        pieces[place] = data[:link] + links + data[link + len(links) :]
    return pieces


@pytest.mark.parametrize("width", (8, 4))
def test_a_list(width: int) -> None:
    """Without symbols: the list's head is in KDDEBUGGER_DATA64."""
    pieces = linked(width, made(width, TimeStamp=7, ErrorCode=1), made(width, TimeStamp=8, ErrorCode=2))
    log = log_of(pieces, width, min(pieces, key=lambda place: len(pieces[place])))
    assert [(entry.time, entry.packet.error if entry.packet else None) for entry in log.entries] == [(7, 1), (8, 2)]
    assert log.problems == ()


def test_an_empty_list() -> None:
    assert log_of(linked(8)) == ErrorLog(HEAD, (), ())


def test_no_list() -> None:
    with pytest.raises(Unreadable, match=r"^made.dmp: IopErrorLogListHead: not there$"):
        log_of({})
    with pytest.raises(KdumpError, match=r"^made.dmp: the address of IopErrorLogListHead is not known: no table"):
        log_of({}, head=0)


def test_a_cyclic_list() -> None:
    pieces = linked(8, made(), made(), made())
    second = POOL + 0x200
    pieces[second] = pieces[second][:8] + struct.pack("<Q", second + 8) + pieces[second][16:]
    log = log_of(pieces)
    assert [entry.address for entry in log.entries] == [POOL + 0x100, second, POOL + 0x300]
    assert any("the list is cyclic" in problem for problem in log.problems)


def test_an_absent_entry() -> None:
    pieces = linked(8, made(), made(), made())
    del pieces[POOL + 0x200]
    log = log_of(pieces)
    assert [entry.packet is None for entry in log.entries] == [False, True, False]
    assert log.entries[1].notes == ("only a part of it is there: not there",)
    assert len(log.problems) == 2


def test_a_time_after_the_crash() -> None:
    pieces = linked(8, made(TimeStamp=1000))
    assert log_of(pieces, system_time=1000).entries[0].notes == ()
    assert log_of(pieces, system_time=999).entries[0].notes == ("its time lies after the crash",)


# made dumps -----------------------------------------------------------------------------------------------------------


def test_every_kernel(isf_path: Path, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(6, isf_path, "error-log"), isf_file=isf_path)
    log = read_error_log(target)
    assert log.problems == ()
    assert [
        (entry.device_name, entry.driver_object.text if entry.driver_object else None, entry.notes)
        for entry in log.entries
    ] == [
        ("\\Device\\NTPNP_PCI0007", "\\Driver\\pci (pci.sys)", ()),
        ("\\Ntfs", "\\FileSystem\\Ntfs (Ntfs.sys)", ()),
        (None, "\\Driver\\MYFAULT (myfault.sys)", ()),
        ("", "\\Driver\\MYFAULT (myfault.sys)", ()),
    ]


def test_an_entry_that_runs_into_an_absent_page() -> None:
    place = POOL + 0x1000 - 0x60
    data = made(tail=bytes(8) + STRING, DumpDataSize=8, NumberOfStrings=1, StringOffset=FIXED + 8, ErrorCode=3)
    link = place + 8
    pieces = {
        HEAD: struct.pack("<QQ", link, link),
        place: data[:8] + struct.pack("<QQ", HEAD, HEAD) + data[0x18:0x60],
    }
    [entry] = log_of(pieces).entries
    assert entry.packet is not None
    assert (entry.packet.error, entry.packet.dump_data, entry.packet.strings) == (3, bytes(8), ())
    assert entry.notes == ("1 strings are counted, and 0 have an end: not there",)


def test_objects_that_are_absent(sample: Sample, tmp_path: Path) -> None:
    path = sample(6, None, "error-log")
    target = volatility3_kdump.open(path)
    entry = read_error_log(target).entries[1]
    assert entry.device and entry.driver
    found = edited(target, path, tmp_path / "absent.dmp", absent=[entry.device, entry.driver])
    changed = read_error_log(found).entries[1]
    assert (changed.device_name, changed.driver_object) == (None, None)
    assert changed.packet == entry.packet
    assert any(note.startswith("its driver: _DRIVER_OBJECT at ") for note in changed.notes)


def test_a_device_whose_driver_the_entry_does_not_name(sample: Sample, tmp_path: Path) -> None:
    path = sample(6, None, "error-log")
    target = volatility3_kdump.open(path)
    place = scene.entry_address(0) + 0x20
    found = read_error_log(edited(target, path, tmp_path / "driver.dmp", {place: bytes(8)})).entries[0]
    assert found.driver == 0
    assert found.driver_object is not None and found.driver_object.text == "\\Driver\\pci (pci.sys)"


# codes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, name, event, severity",
    [
        # numbers under which the event log has had these since Windows 2000, and newer ones of disks
        (0xC0040007, "IO_ERR_BAD_BLOCK", 7, "error"),
        (0xC0040009, "IO_ERR_TIMEOUT", 9, "error"),
        (0xC004000B, "IO_ERR_CONTROLLER_ERROR", 11, "error"),
        (0xC004000F, "IO_ERR_NOT_READY", 15, "error"),
        (0x80040032, "IO_LOST_DELAYED_WRITE", 50, "warning"),
        (0x80040033, "IO_WARNING_PAGING_FAILURE", 51, "warning"),
        (0xC0040037, "IO_FILE_SYSTEM_CORRUPT_WITH_NAME", 55, "error"),
        (0xC0040075, "IO_ERR_PORT_TIMEOUT", 117, "error"),
        (0x80040081, "IO_WARNING_RESET", 129, "warning"),
        (0x80040099, "IO_WARNING_IO_OPERATION_RETRIED", 153, "warning"),
        (0x8004009D, "IO_WARNING_DISK_SURPRISE_REMOVED", 157, "warning"),
        (0x00040001, "IO_ERR_RETRY_SUCCEEDED", 1, "success"),
        (0x40040024, "IO_FILE_QUOTA_THRESHOLD", 36, "informational"),
    ],
)
def test_event_codes(value: int, name: str, event: int, severity: str) -> None:
    code = event_code(value)
    assert (code.name, code.event, code.severity, code.facility) == (name, event, severity, 4)
    assert code.facility_name == "I/O errors"
    assert code.text is not None and code.text.endswith(".")


def test_other_codes() -> None:
    assert (event_code(0xC000009A).name, event_code(0xC000009A).text) == ("STATUS_INSUFFICIENT_RESOURCES", None)
    own = event_code(0xE0060011)
    assert (own.name, own.text, own.customer, own.facility, own.facility_name) == (None, None, True, 6, None)
    assert status_code(0x103).name == "STATUS_PENDING"
    assert status_code(0xC0040007).name is None


def test_the_tables() -> None:
    events = list(tables.json_lines("ioerrors.jsonl"))
    codes = [int(row["code"], 16) for row in events]
    assert len(set(codes)) == len(codes) > 130
    assert {code >> 16 & 0xFFF for code in codes} == {4, 5}
    assert all(len(row.get("text", "")) < 120 for row in events)
    statuses = [int(row["code"], 16) for row in tables.json_lines("ntstatus.jsonl")]
    assert statuses == sorted(set(statuses))
