"""File and product version of an image, from its version resource, as far as the dump or an image file holds it.

Layouts: PE format specification (resource directory), Windows SDK ``verrsrc.h`` (VS_VERSIONINFO, VS_FIXEDFILEINFO).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from volatility3_kdump.images.image_files import ModuleImage
from volatility3_kdump.images.pe import RESOURCE, PeImage, ReadImage

_VERSION_TYPE = 16
_SIGNATURE = 0xFEEF04BD
_SUBDIRECTORY = 0x80000000
_MOST_ENTRIES = 64
_LARGEST = 0x10000


@dataclass(frozen=True)
class ImageVersion:
    """Four-part versions (``10.0.19041.1``) and the strings of the first language, by their names.

    The rest are fields of VS_FIXEDFILEINFO as they stand there (dwFileFlags, dwFileFlagsMask, dwFileOS, dwFileType,
    dwFileSubtype, and dwFileDate as one number), and ``translation``, language and code page (``0409.04b0``).
    """

    file_version: str
    product_version: str
    strings: dict[str, str]
    flags: int = 0
    flags_mask: int = 0
    system: int = 0
    file_type: int = 0
    subtype: int = 0
    date: int = 0
    translation: str | None = None


def module_version(image: ModuleImage) -> ImageVersion | None:
    """The version of a loaded module, from the dump or its image file; ``None`` where neither has its headers."""
    headers = image.headers()
    return None if headers is None else image_version(image.read, headers)


def image_version(read: ReadImage, image: PeImage) -> ImageVersion | None:
    """The version resource of an image; ``None`` when it has none or a part on the way to it is not to be had."""
    located = image.directory(RESOURCE)
    if located is None:
        return None
    base = located[0]
    entry = _entry(read, base, 0, _VERSION_TYPE)
    for _ in range(2):
        if entry is None or not entry & _SUBDIRECTORY:
            return None
        entry = _entry(read, base, entry & ~_SUBDIRECTORY, None)
    if entry is None or entry & _SUBDIRECTORY:
        return None
    data = read(base + entry, 8)
    if data is None:
        return None
    rva, size = struct.unpack("<II", data)
    block = read(rva, min(size, _LARGEST))
    return _parse(block) if block else None


def _entry(read: ReadImage, base: int, directory: int, wanted: int | None) -> int | None:
    """The offset that a directory's entry of a number names, or that of its first entry."""
    head = read(base + directory, 16)
    if head is None:
        return None
    named, numbered = struct.unpack_from("<HH", head, 12)
    for index in range(min(named + numbered, _MOST_ENTRIES)):
        data = read(base + directory + 16 + 8 * index, 8)
        if data is None:
            return None
        number, offset = struct.unpack("<II", data)
        if wanted is None or number == wanted:
            return int(offset)
    return None


def _parse(block: bytes) -> ImageVersion | None:
    position = block.find(struct.pack("<I", _SIGNATURE))
    if position < 0 or position + 24 > len(block):
        return None
    file_high, file_low, product_high, product_low = struct.unpack_from("<IIII", block, position + 8)
    mask, flags, system, kind, subtype, high, low = struct.unpack_from(
        "<7I", block.ljust(position + 52, b"\0"), position + 24
    )
    return ImageVersion(
        _dotted(file_high, file_low),
        _dotted(product_high, product_low),
        _strings(block),
        flags,
        mask,
        system,
        kind,
        subtype,
        high << 32 | low,
        _translation(block),
    )


def _translation(block: bytes) -> str | None:
    """Language and code page of the first entry of the Var called Translation."""
    key = "Translation\0".encode("utf-16-le")
    translation = block.find(key)
    # The key starts behind the node's six bytes of header, and its value at a multiple of four.
    position = (translation + len(key) + 3) & ~3
    if translation < 0 or position + 4 > len(block):
        return None
    language, code_page = struct.unpack_from("<HH", block, position)
    return f"{language:04x}.{code_page:04x}"


def _dotted(high: int, low: int) -> str:
    return f"{high >> 16}.{high & 0xFFFF}.{low >> 16}.{low & 0xFFFF}"


def _strings(block: bytes) -> dict[str, str]:
    """The String entries of the first StringTable: length, value length, type, key, padding to 4, value."""
    start = block.find("StringFileInfo".encode("utf-16-le"))
    if start < 0:
        return {}
    # The StringTable follows, with eight hexadecimal digits of language and code page for a key.
    table = (start + 2 * len("StringFileInfo\0") + 3) & ~3
    strings: dict[str, str] = {}
    if table + 6 > len(block):
        return strings
    end = min(len(block), table + struct.unpack_from("<H", block, table)[0])
    position = (table + 6 + 2 * 9 + 3) & ~3
    while position + 6 <= end and len(strings) < _MOST_ENTRIES:
        length, units, _ = struct.unpack_from("<HHH", block, position)
        if length < 6 or position + length > end:
            break
        key, after = _text(block, position + 6, position + length)
        value, _ = _text(block, (after + 3) & ~3, min(position + length, ((after + 3) & ~3) + 2 * units))
        if key:
            strings[key] = value
        position = (position + length + 3) & ~3
    return strings


def _text(block: bytes, start: int, end: int) -> tuple[str, int]:
    """A NUL-terminated UTF-16 string within bounds, and the offset behind it."""
    position = start
    while position + 2 <= end and block[position : position + 2] != b"\0\0":
        position += 2
    return block[start:position].decode("utf-16-le", "replace"), position + 2
