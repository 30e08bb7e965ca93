"""A PE image as it lies in memory or in a file: headers, sections, debug record, exports. Any page may be missing.

``pefile`` reads whole files; this reads a few structures through a callable that may answer ``None`` for any range,
which is what images in dumps need. Layouts: PE format specification.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass

ReadImage = Callable[[int, int], "bytes | None"]

_OPTIONAL_64 = 0x20B
_OPTIONAL_32 = 0x10B
_MOST_SECTIONS = 96
_CODEVIEW = 2
_REPRO = 16

EXPORT, RESOURCE, EXCEPTION, DEBUG, LOAD_CONFIG = 0, 2, 3, 6, 10


@dataclass(frozen=True)
class Section:
    """A section header: name, RVA, bytes in memory, characteristics."""

    name: str
    address: int
    size: int
    characteristics: int

    @property
    def executable(self) -> bool:
        return bool(self.characteristics & 0x20000000)

    @property
    def writable(self) -> bool:
        return bool(self.characteristics & 0x80000000)


@dataclass(frozen=True)
class CodeView:
    """An RSDS record: the GUID and age that identify the PDB, and its path as the linker knew it."""

    guid: uuid.UUID
    age: int
    pdb_path: str

    @property
    def pdb_name(self) -> str:
        """Last component of the path, with either separator."""
        return self.pdb_path.replace("/", "\\").rsplit("\\", 1)[-1]

    @property
    def identifier(self) -> str:
        """``GUID-AGE`` as Volatility names its symbol files: 32 upper-case digits, dash, decimal age."""
        return f"{self.guid.hex.upper()}-{self.age}"


@dataclass(frozen=True)
class PeImage:
    """The headers of an image. RVAs are relative to its base; ``directories`` are (RVA, size) pairs."""

    machine: int
    timestamp: int
    checksum: int
    size_of_image: int
    entry_point: int
    preferred_base: int
    sections: tuple[Section, ...]
    directories: tuple[tuple[int, int], ...]

    def directory(self, index: int) -> tuple[int, int] | None:
        """(RVA, size) of a data directory, ``None`` when the image has none of it."""
        if index >= len(self.directories) or not self.directories[index][0]:
            return None
        return self.directories[index]

    def section_of(self, rva: int) -> Section | None:
        """The section that an RVA lies in."""
        return next(
            (section for section in self.sections if section.address <= rva < section.address + section.size), None
        )


def parse_headers(read: ReadImage) -> PeImage | None:
    """The PE headers at RVA 0; ``None`` when they are not readable or not those of a PE image."""
    dos = read(0, 0x40)
    if dos is None or dos[:2] != b"MZ":
        return None
    start = struct.unpack_from("<I", dos, 0x3C)[0]
    if not 0x40 <= start <= 0x1000:
        return None
    head = read(start, 0x18 + 0x70)
    if head is None or head[:4] != b"PE\0\0":
        return None
    machine, count, timestamp = struct.unpack_from("<HHI", head, 4)
    optional_size = struct.unpack_from("<H", head, 0x14)[0]
    magic = struct.unpack_from("<H", head, 0x18)[0]
    if magic not in (_OPTIONAL_64, _OPTIONAL_32):
        return None
    wide = magic == _OPTIONAL_64
    entry = struct.unpack_from("<I", head, 0x18 + 0x10)[0]
    base = struct.unpack_from("<Q", head, 0x18 + 0x18)[0] if wide else struct.unpack_from("<I", head, 0x18 + 0x1C)[0]
    size, _, checksum = struct.unpack_from("<III", head, 0x18 + 0x38)
    number_offset = 0x18 + (0x6C if wide else 0x5C)
    number = min(struct.unpack_from("<I", head, number_offset)[0], 16)
    data = read(start + number_offset + 4, 8 * number) or b""
    directories = tuple(struct.unpack_from("<II", data, 8 * index) for index in range(len(data) // 8))
    return PeImage(
        machine,
        timestamp,
        checksum,
        size,
        entry,
        base,
        _sections(read, start + 0x18 + optional_size, count),
        directories,
    )


def holds_no_headers(read: ReadImage) -> bool:
    """Whether the place of the headers can be read, and what is there is no PE image; small dumps have parts of it."""
    dos = read(0, 0x40)
    if dos is None or parse_headers(read) is not None:
        return False
    start = struct.unpack_from("<I", dos, 0x3C)[0]
    return dos[:2] != b"MZ" or not 0x40 <= start <= 0x1000 or read(start, 0x18 + 0x70) is not None


def _sections(read: ReadImage, start: int, count: int) -> tuple[Section, ...]:
    count = min(count, _MOST_SECTIONS)
    data = read(start, 40 * count) or b""
    sections = []
    for index in range(len(data) // 40):
        name, size, address = struct.unpack_from("<8sII", data, 40 * index)
        flags = struct.unpack_from("<I", data, 40 * index + 36)[0]
        sections.append(Section(name.rstrip(b"\0").decode("latin-1"), address, size, flags))
    return tuple(sections)


def debug_entries(read: ReadImage, image: PeImage) -> list[tuple[int, int, int, int]]:
    """(type, RVA, size, place in the file) of each debug directory entry; empty when the directory is not readable."""
    located = image.directory(DEBUG)
    if located is None:
        return []
    data = read(located[0], min(located[1], 28 * 64)) or b""
    entries = []
    for offset in range(0, len(data) - 27, 28):
        kind, size, rva, place = struct.unpack_from("<IIII", data, offset + 12)
        entries.append((kind, rva, size, place))
    return entries


def code_view(read: ReadImage, image: PeImage) -> CodeView | None:
    """The RSDS record of an image, ``None`` when it has none or the dump does not hold it."""
    for kind, rva, size, _ in debug_entries(read, image):
        if kind != _CODEVIEW or size < 0x19:
            continue
        data = read(rva, min(size, 0x18 + 1024))
        if data is None or data[:4] != b"RSDS":
            continue
        age = struct.unpack_from("<I", data, 0x14)[0]
        path = data[0x18:].split(b"\0", 1)[0].decode("utf-8", "replace")
        return CodeView(uuid.UUID(bytes_le=data[4:0x14]), age, path)
    return None


def reproducible(read: ReadImage, image: PeImage) -> bool | None:
    """Whether TimeDateStamp is a hash of the content (debug entry of type 16); ``None`` when that cannot be read."""
    entries = debug_entries(read, image)
    return any(kind == _REPRO for kind, _, _, _ in entries) if entries else None
