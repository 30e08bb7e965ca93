"""KUSER_SHARED_DATA and the words for versions."""

from __future__ import annotations

import struct

import pytest

from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.machine.shared_data import read_shared_data
from volatility3_kdump.windows.machine.version import product_name, suite_names, windows_name

ADDRESS = {8: 0xFFFFF78000000000, 4: 0xFFFFFFFFFFDF0000}


def time(value: int, torn: bool = False) -> bytes:
    high = value >> 32
    return struct.pack("<Iii", value & 0xFFFFFFFF, high, high + torn)


def page() -> bytearray:
    """The page at offsets of the Windows Driver Kit's ntddk.h."""
    data = bytearray(0x1000)
    data[0x08:0x14] = time(37470000)
    data[0x14:0x20] = time(132584062000000000)
    data[0x20:0x2C] = time(-36000000000)
    data[0x30:0x44] = "C:\\Windows".encode("utf-16-le")
    struct.pack_into("<IIB", data, 0x260, 0xF0004A61, 1, 1)
    struct.pack_into("<II", data, 0x26C, 10, 0)
    struct.pack_into("<I", data, 0x2D0, 0x110)
    data[0x320:0x32C] = time(240)
    struct.pack_into("<I", data, 0x3C0, 3)
    return data


def memory(data: bytes, width: int, held: int = 0x1000) -> Memory:
    def read(address: int, size: int) -> bytes | None:
        offset = address - ADDRESS[width]
        return data[offset : offset + size] if 0 <= offset <= offset + size <= held else None

    return Memory(read, width, lambda address: "absent")


@pytest.mark.parametrize("width", [8, 4])
def test_values(width: int) -> None:
    found = read_shared_data(memory(page(), width))
    assert found is not None
    assert (found.system_root, found.build_number) == ("C:\\Windows", 19041)
    assert (found.major_version, found.minor_version) == (10, 0)
    assert (found.product_type, found.suite_mask, found.active_processors) == (1, 0x110, 3)
    assert (found.system_time, found.interrupt_time) == (132584062000000000, 37470000)
    # East of Greenwich the bias is negative.
    assert (found.time_zone_bias, found.tick_count) == (-36000000000, 240)


def test_a_torn_time_is_absent() -> None:
    data = page()
    data[0x14:0x20] = time(132584062000000000, torn=True)
    found = read_shared_data(memory(data, 8))
    assert found is not None and found.system_time is None and found.interrupt_time == 37470000


def test_a_product_type_that_is_not_valid_is_absent() -> None:
    data = page()
    data[0x268] = 0
    found = read_shared_data(memory(data, 8))
    assert found is not None and found.product_type is None


@pytest.mark.parametrize("major", [0, 1, 7, 0x45474150, 0xFFFFFFFF])
def test_a_page_of_something_else(major: int) -> None:
    data = page()
    struct.pack_into("<I", data, 0x26C, major)
    assert read_shared_data(memory(data, 8)) is None


@pytest.mark.parametrize("held", [0, 0x26C, 0x3C0])
def test_a_page_that_is_not_in_the_dump(held: int) -> None:
    assert read_shared_data(memory(page(), 8, held)) is None


@pytest.mark.parametrize(
    "build, name",
    [
        (22621, "Windows 10"),
        (19041, "Windows 10"),
        (9600, "Windows 8.1"),
        (7601, "Windows 7"),
        (6002, "Windows Vista"),
        (2600, "Windows XP"),
        (1381, "Windows NT build 1381"),
        (None, None),
    ],
)
def test_names_of_windows(build: int | None, name: str | None) -> None:
    assert windows_name(build) == name


def test_products_and_suites() -> None:
    assert [product_name(value) for value in (1, 2, 3, 9, None)] == ["WinNt", "LanManNt", "Server", "0x9", None]
    assert suite_names(0x110) == ("TerminalServer", "SingleUserTS")
    assert suite_names(0x80000001) == ("SmallBusiness", "0x80000000")
    assert (suite_names(0), suite_names(None)) == ((), None)
