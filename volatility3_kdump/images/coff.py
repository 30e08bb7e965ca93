"""The COFF symbol table of an image file, which gcc and clang leave in it and Microsoft's linker does not.

Layout: "COFF Symbol Table" and "COFF String Table" of the PE format specification; ``.gnu_debuglink`` as GDB's manual
describes it ("Debugging Information in Separate Files").
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from volatility3_kdump.images.pe import parse_headers

_FILE_HEADER = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_SYMBOL = struct.Struct("<8sIhHBB")
_EXTERNAL, _STATIC = 2, 3
_FUNCTION = 0x20
_MOST_SYMBOLS = 1 << 21
_LONGEST_NAME = 4096
_LONGEST_LINK = 512


@dataclass(frozen=True)
class CoffSection:
    """A section of an image file: its name, also a long one, and where it lies in the image and in the file."""

    name: str
    address: int
    offset: int
    size: int


class CoffFile:
    """The symbols and sections of an image file, from its bytes; empty for what is no image."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.sections: tuple[CoffSection, ...] = ()
        self._symbols = self._count = 0
        start = int.from_bytes(data[0x3C:0x40], "little")
        if parse_headers(self._read) is None or start + 24 > len(data):
            return
        _, number, _, self._symbols, self._count, optional, _ = _FILE_HEADER.unpack_from(data, start + 4)
        end = self._symbols + self._count * _SYMBOL.size
        if not self._symbols or self._count > _MOST_SYMBOLS or end > len(data):
            self._symbols = self._count = 0
        first = start + 24 + optional
        sections = []
        for at in range(first, first + number * _SECTION.size, _SECTION.size):
            if at + _SECTION.size > len(data):
                break
            raw, virtual, address, stored, offset, *_ = _SECTION.unpack_from(data, at)
            name = raw.rstrip(b"\0").decode("latin-1")
            if name.startswith("/") and name[1:].isdigit():
                name = self._text(int(name[1:])) or name
            size = max(min(stored, virtual or stored, len(data) - offset), 0)
            sections.append(CoffSection(name, address, offset, size))
        self.sections = tuple(sections)

    def _read(self, offset: int, size: int) -> bytes | None:
        return self._data[offset : offset + size] if offset + size <= len(self._data) else None

    def _text(self, offset: int) -> str | None:
        """A string of the string table, which follows the symbols."""
        if not self._symbols or offset < 4:
            return None
        start = self._symbols + self._count * _SYMBOL.size + offset
        end = self._data.find(b"\0", start, start + _LONGEST_NAME)
        return self._data[start:end].decode("utf-8", "replace") if end > start else None

    def content(self, name: str) -> bytes | None:
        """The bytes of a section by its name; ``None`` where there is none."""
        section = next((section for section in self.sections if section.name == name), None)
        return None if section is None else self._data[section.offset : section.offset + section.size]

    def symbols(self) -> Iterator[tuple[int, str, bool]]:
        """(RVA, name, whether it is a function) of what the image itself defines, in the order of the table."""
        index = 0
        while index < self._count:
            raw, value, section, kind, storage, auxiliary = _SYMBOL.unpack_from(
                self._data, self._symbols + index * _SYMBOL.size
            )
            index += 1 + auxiliary
            if not 1 <= section <= len(self.sections) or storage not in (_EXTERNAL, _STATIC):
                continue
            if raw[:4] == bytes(4):
                name = self._text(int.from_bytes(raw[4:], "little"))
            else:
                name = raw.rstrip(b"\0").decode("utf-8", "replace")
            # Sections, and labels of the compiler's own.
            if not name or name.startswith(".") or not name.isprintable():
                continue
            yield self.sections[section - 1].address + value, name, kind == _FUNCTION

    @property
    def has_symbols(self) -> bool:
        return self._count > 0

    def debug_link(self) -> tuple[str, int] | None:
        """The name of the file with the debug information that was split off, and its CRC; ``None`` without one."""
        content = (self.content(".gnu_debuglink") or b"")[:_LONGEST_LINK]
        name, end, _ = content.partition(b"\0")
        at = (len(name) + 4) & ~3
        if not name or not end or at + 4 > len(content):
            return None
        return name.decode("latin-1"), int.from_bytes(content[at : at + 4], "little")


def checksum(data: bytes) -> int:
    """The CRC of a file as ``.gnu_debuglink`` has it."""
    return zlib.crc32(data)
