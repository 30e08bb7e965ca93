"""Small memory dumps: what their tables hold, and what becomes of damaged ones."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from pathlib import Path

import pytest

from tests.archives import packing
from volatility3_kdump.dump import BytesSource, Segment, SegmentMap, TriageDump, open_dump
from volatility3_kdump.errors import CorruptDump

BASE = {64: 0xFFFFF80000000000, 32: 0x80000000}
HIGH = {64: 0, 32: 0xFFFFFFFF00000000}
DRIVERS = [
    ("\\SystemRoot\\system32\\ntoskrnl.exe", 0x400000, 0x1046000, 0xA5938C, 0x0D8333E6),
    ("\\SystemRoot\\system32\\hal.dll", 0x1447000, 0x6000, 0, 0x1A7BE8E9),
    ("\\??\\C:\\tools\\\u00fcber.sys", 0x2000000, 0x5000, 1, 0),
]


def opened(data: bytes) -> TriageDump:
    triage = open_dump(BytesSource(bytes(data))).triage
    assert triage is not None
    return triage


def made(bits: int = 64, **more: object) -> bytearray:
    base = BASE[bits]
    arguments: dict[str, object] = {
        "drivers": [(path, base + offset, *rest) for path, offset, *rest in DRIVERS],
        "unloaded": [("dump_storport.sys", base + 0x10, base + 0x20), ("dam.sys", base + 0x30, base + 0x40)],
        "stack": (base + 0x100EE8, bytes(range(256)) * 2),
        "debugger_data": b"\x5a" * 0x380,
        "copies": {"PrcbOffset": b"\x01" * 0x100, "ProcessOffset": b"\x02" * 0x80, "ThreadOffset": b"\x03" * 0x60},
        "blocks": [(base + 0x3000, b"abc"), (base + 0x3003, b"defg"), (base + 0x9000, bytes(0x1000))],
        **more,
    }
    return packing.triage(bits, **arguments)  # type: ignore[arg-type]


# real dumps -------------------------------------------------------------------------------------------------------


def test_a_real_x64_dump(shared_data: Path) -> None:
    dump = open_dump(shared_data / "dumps" / "triage_x64_19041.dmp")
    triage = dump.triage
    assert triage is not None and dump.pages is None
    assert triage.complete and triage.warnings == () and triage.end == 0x13A28C
    assert (triage.service_pack, triage.options, triage.broken_driver) == (0, None, None)
    assert len(triage.drivers) == 151
    shown = [(driver.name, driver.base, driver.size, driver.timestamp) for driver in triage.drivers[:4]]
    assert shown == [
        ("ntoskrnl.exe", 0xFFFFF8047BA00000, 0x1046000, 0x0D8333E6),
        ("hal.dll", 0xFFFFF80479440000, 0x6000, 0x1A7BE8E9),
        ("kd.dll", 0xFFFFF80479450000, 0xB000, 0xFE185FA8),
        ("CLFS.SYS", 0xFFFFF80479490000, 0x6A000, 0x503208A5),
    ]
    assert triage.drivers[0].checksum == 0xA5938C
    assert triage.drivers[0].path == "\\SystemRoot\\system32\\ntoskrnl.exe"
    assert all(driver.name for driver in triage.drivers)
    assert [driver.name for driver in triage.unloaded] == ["dam.sys", "WdBoot.sys", "hwpolicy.sys", "mcupdate.dll"]
    assert all(driver.start < driver.end for driver in triage.unloaded)
    assert len(triage.blocks) == 1831 and sum(block.size for block in triage.blocks) == 1153874
    assert triage.stack == Segment(0xFFFF850429890EE8, 0xE390, 0x2118)
    assert triage.data_page is None
    # A copy reaches to the next thing in the file: the sizes that KDDEBUGGER_DATA64 gives.
    for blob, offset, size in (
        (triage.prcb, 0x21B8, 0xAF00),
        (triage.process, 0xD0B8, 0xA40),
        (triage.thread, 0xDAF8, 0x898),
        (triage.debugger_data, 0x104A8, 0x380),
    ):
        assert blob is not None and (blob.offset, blob.size) == (offset, size)


def test_a_real_arm64_dump(shared_data: Path) -> None:
    triage = open_dump(shared_data / "dumps" / "triage_arm64_22000.dmp").triage
    assert triage is not None
    assert triage.complete and triage.warnings == () and triage.end == 0xAC46C
    assert len(triage.drivers) == 245
    assert [(driver.name, driver.base, driver.size, driver.timestamp) for driver in triage.drivers[:4]] == [
        ("ntoskrnl.exe", 0xFFFFF803F2E00000, 0x103E000, 0xDF291B09),
        ("hal.dll", 0xFFFFF803F0110000, 0x5000, 0x4F8E85A9),
        ("kd.dll", 0xFFFFF803F0120000, 0xB000, 0x6C31A20E),
        ("HalExtQCWdogTimer.dll", 0xFFFFF803F0130000, 0x9000, 0x5F8555EF),
    ]
    assert triage.drivers[0].checksum == 0xA892FC
    assert [driver.timestamp for driver in triage.drivers if driver.name == "msrpc.sys"] == [0]
    assert len(triage.unloaded) == 11
    names = [driver.name for driver in triage.unloaded]
    assert names[:5] == ["MSKSSRV.sys", "WdFilter.sys", "WdNisDrv.sys", "WdNisDrv.sys", "dump_storpor"]
    assert len(triage.blocks) == 679 and sum(block.size for block in triage.blocks) == 574245
    assert triage.stack == Segment(0xFFFFE00E0E4BC4A0, 0xCF50, 0xB60)


@pytest.mark.parametrize(
    "name, drivers", [("triage_x64_19041_0x1a", 149), ("triage_x64_17763", None), ("triage_x64_9600", None)]
)
def test_other_real_dumps_have_nothing_to_complain_about(shared_data: Path, name: str, drivers: int | None) -> None:
    dump = open_dump(shared_data / "dumps" / f"{name}.dmp")
    assert dump.triage is not None and dump.triage.complete and dump.warnings == []
    assert dump.triage.drivers[0].name == "ntoskrnl.exe"
    assert drivers is None or len(dump.triage.drivers) == drivers
    # The bytes of blocks follow each other in the file, in the order of the table.
    blocks = dump.triage.blocks
    assert all(before.offset + before.size == after.offset for before, after in itertools.pairwise(blocks))


# made dumps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [64, 32])
def test_everything_that_a_dump_lists(bits: int) -> None:
    data = made(bits, broken_driver="\\Driver\\broken.sys")
    triage = opened(data)
    base = BASE[bits] | HIGH[bits]
    assert triage.warnings == () and triage.complete and triage.end == len(data)
    assert [(d.path, d.base, d.size, d.checksum, d.timestamp) for d in triage.drivers] == [
        (path, base + offset, *rest) for path, offset, *rest in DRIVERS
    ]
    assert [driver.name for driver in triage.drivers] == ["ntoskrnl.exe", "hal.dll", "\u00fcber.sys"]
    assert [(driver.name, driver.start, driver.end) for driver in triage.unloaded] == [
        ("dump_storpor", base + 0x10, base + 0x20),
        ("dam.sys", base + 0x30, base + 0x40),
    ]
    assert triage.broken_driver == "\\Driver\\broken.sys"
    assert triage.stack is not None and triage.stack.address == base + 0x100EE8
    assert data[triage.stack.offset : triage.stack.offset + triage.stack.size] == bytes(range(256)) * 2
    for blob, size, byte in ((triage.prcb, 0x100, 1), (triage.process, 0x80, 2), (triage.thread, 0x60, 3)):
        assert blob is not None and blob.size == size
        assert data[blob.offset : blob.offset + blob.size] == bytes([byte]) * size
    source = BytesSource(bytes(data))
    memory = SegmentMap(list(triage.blocks))
    assert memory.read(source, base + 0x3000, 7) == b"abcdefg"
    assert memory.read(source, base + 0x3000, 8) is None
    assert triage.options is None


@pytest.mark.parametrize("stride", [16, 12])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_32_bit_block_table_is_read_in_either_of_its_published_forms(stride: int, count: int) -> None:
    blocks = [(0x80003000, b"abc"), (0xF7A00000, bytes(range(200))), (0x00010000, b"user")][:count]
    data = made(32, blocks=blocks, block_stride=stride)
    triage = opened(data)
    assert triage.warnings == ()
    found = [(block.address, data[block.offset : block.offset + block.size]) for block in triage.blocks]
    assert found == [(address | (HIGH[32] if address >> 31 else 0), content) for address, content in blocks]


def test_the_data_page_of_old_dumps() -> None:
    data = made(64)
    offset = packing.get_triage(data, 64, "CallStackOffset")
    packing.put_triage(data, 64, "DataPageAddress", 0xFFFFF80012345000)
    packing.put_triage(data, 64, "DataPageOffset", offset)
    packing.put_triage(data, 64, "DataPageSize", 0x40)
    assert opened(data).data_page == Segment(0xFFFFF80012345000, offset, 0x40)


def test_what_is_not_in_the_dump_is_absent() -> None:
    triage = opened(packing.triage())
    assert (triage.drivers, triage.unloaded, triage.blocks) == ((), (), ())
    parts = (triage.prcb, triage.process, triage.thread, triage.debugger_data, triage.stack, triage.data_page)
    assert set(parts) == {None}
    assert triage.warnings == ()


@pytest.mark.parametrize("value, expected", [(0xFFFFFFFF, None), (0x45474150, None), (0x100, 0x100), (0, 0)])
def test_triage_options(value: int, expected: int | None) -> None:
    data = made()
    packing.put_triage(data, 64, "TriageOptions", value)
    assert opened(data).options == expected


# damaged dumps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits, size", [(64, 0x2000), (64, 0x207F), (32, 0x1000), (32, 0x1067)])
def test_a_file_that_ends_in_the_triage_header(bits: int, size: int) -> None:
    with pytest.raises(CorruptDump, match=f"ends at offset {size:#x}, inside the triage header"):
        opened(made(bits)[:size])


@pytest.mark.parametrize("bits", [64, 32])
def test_any_truncation_opens_and_keeps_what_is_left(bits: int) -> None:
    data = made(bits)
    whole = opened(data)
    start = packing.HEADER_SIZE[bits] + packing.TRIAGE[bits][1]
    for size in range(start, len(data), 61):
        triage = opened(data[:size])
        assert not triage.complete and "TRGD" in triage.warnings[0]
        for block in triage.blocks:
            assert block.offset + block.size <= size
        assert len(triage.drivers) <= len(whole.drivers)
        # What lies before the cut is read as before.
        kept = [driver for driver in triage.drivers if driver.path is not None]
        assert all(driver.base in {other.base for other in whole.drivers} for driver in kept)


@pytest.mark.parametrize(
    "name", ["DriverCount", "DataBlocksCount", "SizeOfCallStack", "DebuggerDataSize", "StringPoolSize"]
)
@pytest.mark.parametrize("value", [0xFFFFFFFF, 0x45474150, 0x10000000])
def test_huge_counts_and_sizes_are_cut_without_allocating(name: str, value: int) -> None:
    data = made()
    packing.put_triage(data, 64, name, value)
    source = BytesSource(bytes(data))
    tracemalloc.start()
    triage = open_dump(source).triage
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert triage is not None and peak < 4 << 20
    if name != "StringPoolSize":
        assert any(name in warning for warning in triage.warnings)
    assert [driver.name for driver in triage.drivers][:3] == ["ntoskrnl.exe", "hal.dll", "\u00fcber.sys"]
    assert len(triage.drivers) < 20


@pytest.mark.parametrize("count", [51, 0xFFFFFFFF, (1 << 64) - 1, 0x4547415045474150])
def test_a_huge_number_of_unloaded_drivers(count: int) -> None:
    data = made()
    struct.pack_into("<Q", data, packing.get_triage(data, 64, "UnloadedDriversOffset"), count)
    triage = opened(data)
    assert len(triage.unloaded) <= 50
    assert [driver.name for driver in triage.unloaded[:2]] == ["dump_storpor", "dam.sys"]
    assert any("number of unloaded drivers" in warning for warning in triage.warnings)


OFFSETS = [name for name in packing.TRIAGE_64 if name.endswith("Offset") and name not in ("MmOffset", "ContextOffset")]


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", [name for name in OFFSETS if name != "ExceptionOffset"])
@pytest.mark.parametrize("value", [1, 0x348, 0xFFFFFFFF, 0x45474150, 0x10000000])
def test_an_offset_that_points_nowhere_costs_only_its_own_part(bits: int, name: str, value: int) -> None:
    data = made(bits, broken_driver="broken")
    whole = opened(data)
    packing.put_triage(data, bits, name, value)
    if name == "DataPageOffset":
        packing.put_triage(data, bits, "DataPageSize", 0x10)
        packing.put_triage(data, bits, "DataPageAddress", 0x80000000)
    triage = opened(data)
    parts = {
        "UnloadedDriversOffset": "unloaded",
        "PrcbOffset": "prcb",
        "ProcessOffset": "process",
        "ThreadOffset": "thread",
        "CallStackOffset": "stack",
        "DriverListOffset": "drivers",
        "BrokenDriverOffset": "broken_driver",
        "DebuggerDataOffset": "debugger_data",
        "DataBlocksOffset": "blocks",
        "DataPageOffset": "data_page",
        "ValidOffset": "complete",
    }
    if name in parts:
        assert not getattr(triage, parts[name])
    if name != "BrokenDriverOffset":
        assert triage.warnings
    for other in ("unloaded", "stack", "blocks", "drivers"):
        if parts.get(name) != other and name != "StringPoolOffset":
            assert getattr(triage, other) == getattr(whole, other)


def test_strings_outside_the_pool_leave_the_driver_nameless() -> None:
    data = made()
    entry = packing.get_triage(data, 64, "DriverListOffset") + 0x90
    struct.pack_into("<I", data, entry, 0x10)
    triage = opened(data)
    assert [(driver.name, driver.base) for driver in triage.drivers][1] == (None, BASE[64] + 0x1447000)
    assert triage.drivers[0].name == "ntoskrnl.exe"
    assert any("1 drivers have names outside the string pool" in warning for warning in triage.warnings)


def test_a_string_longer_than_the_pool_is_cut_to_it() -> None:
    data = made()
    name = packing.get_triage(data, 64, "StringPoolOffset")
    struct.pack_into("<I", data, name, 0xFFFFFFFF)
    # Without its length, the terminator still ends it.
    assert opened(data).drivers[0].name == "ntoskrnl.exe"
    struct.pack_into("<I", data, name, 0xFFFFFFFF)
    pool_end = name + packing.get_triage(data, 64, "StringPoolSize")
    data[name + 4 : pool_end] = b"a\0" * ((pool_end - name - 4) // 2)
    path = opened(data).drivers[0].path
    assert path is not None and set(path) == {"a"} and len(path) <= (pool_end - name - 4) // 2


def test_bad_utf16_is_replaced() -> None:
    data = made()
    name = packing.get_triage(data, 64, "StringPoolOffset")
    data[name + 4 : name + 8] = b"\x00\xd8a\0"
    path = opened(data).drivers[0].path
    assert path is not None and path.startswith("\ufffda") and path.endswith("ntoskrnl.exe")


def test_many_drivers_with_one_endless_name_take_no_time() -> None:
    data = made(drivers=[("\\SystemRoot\\x.sys", BASE[64] + 0x1000 * index, 1, 1, 1) for index in range(3000)])
    start = packing.get_triage(data, 64, "StringPoolOffset")
    size = packing.get_triage(data, 64, "StringPoolSize")
    data[start : start + size] = b"\x41" * size
    listing = packing.get_triage(data, 64, "DriverListOffset")
    for index in range(3000):
        struct.pack_into("<I", data, listing + 0x90 * index, start)
    triage = opened(data)
    assert len(triage.drivers) == 3000
    assert all(driver.path and len(driver.path) <= 2048 for driver in triage.drivers)


def test_blocks_outside_the_file_are_skipped_and_counted() -> None:
    data = made()
    table = packing.get_triage(data, 64, "DataBlocksOffset")
    struct.pack_into("<II", data, table + 8, len(data) - 2, 100)
    struct.pack_into("<II", data, table + 16 + 8, 0x100, 16)
    triage = opened(data)
    assert [block.size for block in triage.blocks] == [2, 0x1000]
    assert any("2 of 3 data blocks" in warning for warning in triage.warnings)


def test_a_block_at_the_top_of_memory_ends_there() -> None:
    data = made(blocks=[(0xFFFFFFFFFFFFFFF0, bytes(64))])
    assert opened(data).blocks[0].size == 16


def test_empty_driver_entries_are_no_drivers() -> None:
    data = made()
    entry = packing.get_triage(data, 64, "DriverListOffset") + 0x90
    data[entry : entry + 0x90] = bytes(0x90)
    assert [driver.name for driver in opened(data).drivers] == ["ntoskrnl.exe", "\u00fcber.sys"]


def test_a_missing_end_marker_is_a_warning() -> None:
    data = made()
    data[-4:] = b"DGRT"
    triage = opened(data)
    assert not triage.complete and len(triage.blocks) == 3
    assert triage.warnings == (
        f"the end marker 'TRGD' is not at offset {len(data) - 4:#x}: the dump is truncated or was not finished",
    )
