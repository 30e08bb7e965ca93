from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pefile
import pytest

from volatility3_kdump.images.exports import Exports, read_exports
from volatility3_kdump.images.pe import PeImage, ReadImage, parse_headers

DIRECTORY, FUNCTIONS, NAMES, ORDINALS, TEXT = 0x2000, 0x3000, 0x4000, 0x5000, 0x6000
SIZE = 0x10000


def reader(data: bytes, *absent: int) -> ReadImage:
    """Reads of an image from which the pages at these RVAs are missing."""

    def read(rva: int, size: int) -> bytes | None:
        if rva < 0 or rva + size > len(data) or any(rva < page + 0x1000 and page < rva + size for page in absent):
            return None
        return data[rva : rva + size]

    return read


def headers(size: int = 0x100) -> PeImage:
    return PeImage(0x8664, 0, 0, SIZE, 0, 0, (), ((DIRECTORY, size),))


def table(
    functions: list[int], named: list[tuple[bytes, int]], base: int = 5, counts: tuple[int, int] | None = None
) -> bytes:
    """An image that is nothing but an export table: addresses, and (name, index into the addresses)."""
    image = bytearray(SIZE)
    count_functions, count_names = counts or (len(functions), len(named))
    struct.pack_into("<6I", image, DIRECTORY + 16, base, count_functions, count_names, FUNCTIONS, NAMES, ORDINALS)
    struct.pack_into(f"<{len(functions)}I", image, FUNCTIONS, *functions)
    position = TEXT
    for number, (name, index) in enumerate(named):
        struct.pack_into("<I", image, NAMES + 4 * number, position)
        struct.pack_into("<H", image, ORDINALS + 2 * number, index)
        image[position : position + len(name) + 1] = name + b"\0"
        position += len(name) + 1
    return bytes(image)


@pytest.mark.parametrize("architecture", ["x64", "ARM64"])
def test_exports_of_real_images_equal_pefile(architecture: str, shared_data: Path) -> None:
    path = shared_data / "pe" / "seh" / architecture / "xframe_eh_dll.dll"
    if not path.is_file():
        pytest.skip(f"no {path}")
    pe = pefile.PE(str(path))
    read = reader(pe.get_memory_mapped_image())
    image = parse_headers(read)
    assert image is not None
    expected = sorted((symbol.address, symbol.name.decode()) for symbol in pe.DIRECTORY_ENTRY_EXPORT.symbols)
    assert len(expected) == 6
    assert read_exports(read, image) == Exports(tuple(expected), (), True)


def test_exports_of_a_real_image_equal_llvm(shared_data: Path) -> None:
    tool = shutil.which("llvm-readobj")
    path = shared_data / "pe" / "seh" / "x64" / "xframe_eh_dll.dll"
    if tool is None or not path.is_file():
        pytest.skip("llvm-readobj is not installed" if tool is None else f"no {path}")
    shown = subprocess.run([tool, "--coff-exports", path], capture_output=True, text=True, check=True).stdout
    fields = [line.split(": ") for line in shown.splitlines()]
    names = [value[1] for value in fields if value[0].strip() == "Name"]
    rvas = [int(value[1], 16) for value in fields if value[0].strip() == "RVA"]
    read = reader(pefile.PE(str(path)).get_memory_mapped_image())
    image = parse_headers(read)
    assert image is not None
    exports = read_exports(read, image)
    assert exports is not None and exports.symbols == tuple(sorted(zip(rvas, names, strict=True)))


def test_images_without_exports(xcpt4: Path) -> None:
    read = reader(pefile.PE(str(xcpt4)).get_memory_mapped_image())
    image = parse_headers(read)
    assert image is not None and read_exports(read, image) is None


def test_ordinals_aliases_and_forwarders() -> None:
    # Index 3 is forwarded: its address is that of a text inside the directory.
    data = table([0x7000, 0x7100, 0, DIRECTORY + 0x60, 0x7000], [(b"Second", 1), (b"Alias", 1), (b"Forwarded", 3)])
    assert read_exports(reader(data), headers()) == Exports(
        ((0x7000, "Ordinal5"), (0x7000, "Ordinal9"), (0x7100, "Alias"), (0x7100, "Second")), (), True
    )


def test_what_is_there_of_a_table_with_missing_pages() -> None:
    names = [(b"N" * 0xFFA + b"one", 0), (b"two", 1), (b"three", 2)]
    data = table([0x7000, 0x7100, 0x7200, 0x7300], names)
    whole = read_exports(reader(data), headers())
    assert whole is not None and whole.complete and len(whole.symbols) == 4
    # The second page of the names is missing: "two" and "three" are not known, but that they begin there is.
    partial = read_exports(reader(data, TEXT + 0x1000), headers())
    assert partial == Exports(((0x7000, "N" * 0xFFA + "one"), (0x7300, "Ordinal8")), (0x7100, 0x7200), False)
    # Without the table that says which address has a name, none can be called by its ordinal.
    assert read_exports(reader(data, ORDINALS), headers()) == Exports((), (0x7000, 0x7100, 0x7200, 0x7300), False)
    assert read_exports(reader(data, FUNCTIONS), headers()) == Exports((), (), False)
    assert read_exports(reader(data, DIRECTORY), headers()) == Exports((), (), False)


def test_half_of_the_addresses_missing() -> None:
    functions = [0x8000 + 16 * index for index in range(1500)]  # the addresses reach into a second page
    data = bytearray(SIZE)
    data[:] = table([], [], counts=(1500, 0))
    struct.pack_into("<1500I", data, 0xE000, *functions)
    struct.pack_into("<I", data, DIRECTORY + 28, 0xE000)
    found = read_exports(reader(bytes(data), 0xF000), headers())
    assert found is not None and not found.complete
    assert found.symbols == tuple((functions[index], f"Ordinal{5 + index}") for index in range(0x400))


@pytest.mark.parametrize("name", [b"", b"bell\x07", b"\x1b[31mred", b"spa ce", b"\xff\xfe", b"x" * 5000])
def test_names_that_are_not_fit_to_print_are_left_out(name: bytes) -> None:
    found = read_exports(reader(table([0x7000, 0x7100], [(name, 0), (b"good", 1)])), headers())
    assert found == Exports(((0x7100, "good"),), (0x7000,), False)


@pytest.mark.parametrize("counts", [(0x10001, 1), (1, 0x10001), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_absurd_counts_are_refused(counts: tuple[int, int]) -> None:
    data = table([0x7000], [(b"one", 0)], counts=counts)
    assert read_exports(reader(data), headers()) == Exports((), (), False)


def test_names_that_all_point_at_one_long_text_come_to_an_end() -> None:
    size = 0x200000
    data = bytearray(size)
    struct.pack_into("<6I", data, DIRECTORY + 16, 1, 0x10000, 0x10000, 0x40000, 0x80000, 0xC0000)
    struct.pack_into("<65536I", data, 0x40000, *[0x1F0000] * 0x10000)
    struct.pack_into("<65536I", data, 0x80000, *[0x100000] * 0x10000)
    struct.pack_into("<65536H", data, 0xC0000, *range(0x10000))
    data[0x100000 : 0x100000 + 4000] = b"A" * 4000
    asked = 0

    def read(rva: int, length: int) -> bytes | None:
        nonlocal asked
        asked += length
        return bytes(data[rva : rva + length]) if rva + length <= size else None

    image = PeImage(0x8664, 0, 0, size, 0, 0, (), ((DIRECTORY, 0x100),))
    found = read_exports(read, image)
    assert found == Exports(((0x1F0000, "A" * 4000),), (), False)
    assert asked < 2 * size


def test_addresses_outside_the_image_are_left_out() -> None:
    data = table([SIZE, 0xFFFFFFFF, 0x7000], [(b"far", 0), (b"farther", 1), (b"near", 2), (b"none", 700)])
    found = read_exports(reader(data), headers())
    assert found is not None and found.symbols == ((0x7000, "near"),)
    assert json.dumps(found.symbols)
