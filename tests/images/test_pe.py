"""PE images as they lie in memory, against pefile."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from volatility3_kdump.images.pe import code_view, debug_entries, parse_headers, reproducible

pefile = pytest.importorskip("pefile")

IMAGES = [
    Path(machine, name)
    for machine in ("x64", "ARM64")
    for name in ("nested_collided.exe", "xcpt4.exe", "xframe_eh_dll.dll", "xframe_eh_exe.exe")
]

Read = Callable[[int, int], "bytes | None"]


def over(data: bytes) -> Read:
    def read(rva: int, size: int) -> bytes | None:
        return data[rva : rva + size] if rva >= 0 and rva + size <= len(data) else None

    return read


@pytest.fixture(params=IMAGES, ids=str)
def image(request: pytest.FixtureRequest, shared_data: Path) -> tuple[Any, bytes]:
    """An image as pefile sees it, and as the loader maps it."""
    parsed = pefile.PE(str(shared_data / "pe" / "seh" / request.param))
    return parsed, bytes(parsed.get_memory_mapped_image())


def test_headers_equal_those_of_pefile(image: tuple[Any, bytes]) -> None:
    expected, mapped = image
    found = parse_headers(over(mapped))
    assert found is not None
    optional = expected.OPTIONAL_HEADER
    assert (found.machine, found.timestamp) == (expected.FILE_HEADER.Machine, expected.FILE_HEADER.TimeDateStamp)
    assert (found.checksum, found.size_of_image) == (optional.CheckSum, optional.SizeOfImage)
    assert (found.entry_point, found.preferred_base) == (optional.AddressOfEntryPoint, optional.ImageBase)
    assert [(section.name, section.address, section.size, section.characteristics) for section in found.sections] == [
        (part.Name.rstrip(b"\0").decode(), part.VirtualAddress, part.Misc_VirtualSize, part.Characteristics)
        for part in expected.sections
    ]
    assert list(found.directories) == [(part.VirtualAddress, part.Size) for part in optional.DATA_DIRECTORY]
    for section in found.sections:
        assert found.section_of(section.address) == section
        assert section.executable == bool(section.characteristics >> 29 & 1)
        assert section.writable == bool(section.characteristics >> 31 & 1)
    assert found.section_of(0xFFFFFFFF) is None


def test_the_debug_record_equals_that_of_pefile(image: tuple[Any, bytes]) -> None:
    expected, mapped = image
    found = parse_headers(over(mapped))
    assert found is not None
    entries = expected.DIRECTORY_ENTRY_DEBUG
    assert debug_entries(over(mapped), found) == [
        (record.Type, record.AddressOfRawData, record.SizeOfData, record.PointerToRawData)
        for record in (entry.struct for entry in entries)
    ]
    record = code_view(over(mapped), found)
    (theirs,) = [entry.entry for entry in entries if entry.struct.Type == 2]
    assert record is not None and record.age == theirs.Age
    assert theirs.Signature_String.upper() == f"{record.guid.hex}{record.age:x}".upper()
    assert record.pdb_path.encode() == theirs.PdbFileName.rstrip(b"\0")
    assert record.pdb_name.endswith(".pdb") and "\\" not in record.pdb_name and "/" not in record.pdb_name
    assert record.identifier == f"{record.guid.hex.upper()}-{record.age}"
    assert reproducible(over(mapped), found) == any(entry.struct.Type == 16 for entry in entries)


def test_any_damage_is_answered_without_an_error(image: tuple[Any, bytes]) -> None:
    _, mapped = image
    generator = random.Random(3)
    for _ in range(150):
        damaged = bytearray(mapped[: generator.choice((0x80, 0x200, 0x400, len(mapped)))])
        for _ in range(8):
            offset = generator.randrange(min(len(damaged), 0x400))
            damaged[offset] = generator.choice((0, 0xFF, generator.randrange(256)))
        read = over(bytes(damaged))
        found = parse_headers(read)
        if found is not None:
            assert len(found.sections) <= 96 and len(found.directories) <= 16
            code_view(read, found)
            reproducible(read, found)


def test_what_is_no_image() -> None:
    for data in (b"", b"MZ", b"MZ" + bytes(0x1000), b"ZM" + bytes(0x1000)):
        assert parse_headers(over(data)) is None
    far = bytearray(0x1000)
    struct.pack_into("<2s58xI", far, 0, b"MZ", 0xFFFFFFF0)
    assert parse_headers(over(bytes(far))) is None


def test_headers_without_the_rest_of_the_image(image: tuple[Any, bytes]) -> None:
    _, mapped = image
    # A small memory dump holds the first page only: no debug record, and that is not "not reproducible".
    read = over(mapped[:0x1000])
    found = parse_headers(read)
    assert found is not None and found.sections
    assert code_view(read, found) is None and reproducible(read, found) is None and debug_entries(read, found) == []
