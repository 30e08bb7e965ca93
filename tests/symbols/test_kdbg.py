"""KDDEBUGGER_DATA64."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from volatility3_kdump.dump import open_dump
from volatility3_kdump.layers.triage import triage_debugger_data
from volatility3_kdump.layout import LayoutError
from volatility3_kdump.symbols.kdbg import read_debugger_data

ADDRESS = 0xFFFFF80047C00B20


def block(size: int, tag: bytes = b"KDBG") -> bytes:
    data = bytearray(0x400)
    struct.pack_into("<4sI", data, 0x10, tag, size)
    struct.pack_into("<Q", data, 0x18, 0xFFFFF80047000000)
    struct.pack_into("<H", data, 0x36, 5 << 2 | 1)
    struct.pack_into("<Q", data, 0x218, 0x1111)
    struct.pack_into("<H", data, 0x338, 0x85C0)
    struct.pack_into("<Q", data, 0x390, 0x2222)
    return bytes(data)


def reader(data: bytes, held: int = 0x400) -> object:
    def read(address: int, size: int) -> bytes | None:
        offset = address - ADDRESS
        return data[offset : offset + size] if offset >= 0 and offset + size <= held else None

    return read


def test_fields_behind_the_blocks_own_size_are_absent() -> None:
    for size, expected in ((0x330, (None, None)), (0x340, (0x85C0, None)), (0x398, (0x85C0, 0x2222))):
        found = read_debugger_data(reader(block(size)), ADDRESS)  # type: ignore[arg-type]
        assert found is not None and found.size == size and found.address == ADDRESS
        assert (found.kernel_base, found["KiProcessorBlock"]) == (0xFFFFF80047000000, 0x1111)
        assert (found["OffsetPrcbContext"], found["PointerAuthMask"]) == expected


def test_a_field_that_ends_behind_the_size_is_absent() -> None:
    found = read_debugger_data(reader(block(0x394)), ADDRESS)  # type: ignore[arg-type]
    assert found is not None and found["PointerAuthMask"] is None


@pytest.mark.parametrize("size", [0, 1, 0x207, 0x1001, 0x45474150, 0xFFFFFFFF])
def test_sizes_that_no_kernel_has(size: int) -> None:
    assert read_debugger_data(reader(block(size)), ADDRESS) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("tag", [b"\0\0\0\0", b"PAGE", b"GBDK"])
def test_no_tag_no_block(tag: bytes) -> None:
    assert read_debugger_data(reader(block(0x380, tag)), ADDRESS) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [0, 0x17, 0x18, 0x37F])
def test_a_block_that_is_not_whole_in_the_dump(held: int) -> None:
    assert read_debugger_data(reader(block(0x380), held), ADDRESS) is None  # type: ignore[arg-type]


def test_no_address_and_no_such_field() -> None:
    assert read_debugger_data(reader(block(0x380)), None) is None  # type: ignore[arg-type]
    assert read_debugger_data(reader(block(0x380)), 0) is None  # type: ignore[arg-type]
    found = read_debugger_data(reader(block(0x380)), ADDRESS)  # type: ignore[arg-type]
    assert found is not None
    with pytest.raises(LayoutError):
        found["NoSuchField"]


def test_paging_levels() -> None:
    found = read_debugger_data(reader(block(0x380)), ADDRESS)  # type: ignore[arg-type]
    assert found is not None and found.paging_levels == 5


@pytest.mark.parametrize(
    "name, fields",
    [
        (
            "triage_x64_19041",
            {
                "KernBase": 0xFFFFF8047BA00000,
                "MmPfnDatabase": 0xFFFFF8047C6FC500,
                "SizeEProcess": 0xA40,
                "SizeEThread": 0x898,
                "SizePrcb": 0xAF00,
                "OffsetKThreadApcProcess": 0xB8,
                "OffsetEprocessPeb": 0x550,
                "OffsetPrcbNumber": 0x24,
                "OffsetPrcbContext": 0x85C0,
                "OffsetPrcbProcStateContext": 0x1F0,
                "OffsetKThreadStackBase": 0x38,
            },
        ),
        ("triage_arm64_22000", {"KernBase": 0xFFFFF803F2E00000, "SizeEProcess": 0xC80, "SizePrcb": 0x9680}),
    ],
)
def test_real_dumps(shared_data: Path, name: str, fields: dict[str, int]) -> None:
    found = triage_debugger_data(open_dump(shared_data / "dumps" / f"{name}.dmp"))
    assert found is not None and found.size == 0x380
    assert {field: found[field] for field in fields} == fields
    assert found["PointerAuthMask"] is None
    assert found.paging_levels == (4 if "arm64" in name else None)
