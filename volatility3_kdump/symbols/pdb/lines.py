"""Source lines in PDB files: the C13 line information of the modules, and the table of names that they refer to.

Layouts: "CodeView Symbol Records", "The Module Information Stream" and "The PDB Info Stream" of LLVM's documentation;
``cvinfo.h`` of Microsoft's published sources (CV_DebugSLinesHeader_t, CV_Line_t).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.lines import LONGEST_FUNCTION, SourceLine
from volatility3_kdump.symbols.pdb.msf import CorruptPdb
from volatility3_kdump.symbols.pdb.names import PdbFile, PdbRefused, open_pdb

_LINES, _CHECKSUMS = 0xF2, 0xF4
_IGNORED = 0x80000000
_HAVE_COLUMNS = 1
_LINE_MASK = 0xFFFFFF
#: Lines that stand for code of no line: never step into, always step over.
_NO_LINES = (0xFEEFEE, 0xF00F00)
_SUBSECTION, _HEADER, _BLOCK, _LINE = (struct.Struct(form) for form in ("<II", "<IHHI", "<III", "<II"))
_LONGEST_PATH = 4096
_MOST_FUNCTIONS = 1_000_000


class _Place(NamedTuple):
    """The line information of a stretch of code: its RVA and size, and where its blocks are in a module's C13 data."""

    rva: int
    size: int
    module: int
    start: int
    end: int
    columns: bool


class PdbLines:
    """The source lines of one PDB file. All that is kept is where they stand; they are read when they are asked for."""

    def __init__(self, pdb: PdbFile) -> None:
        """Read what modules have. Raises :class:`~volatility3_kdump.symbols.pdb.msf.CorruptPdb`."""
        self._names = pdb.name_table()
        self._data: list[bytes] = []
        self._checksums: list[bytes] = []
        address = pdb.addresses()
        places = []
        for data in pdb.line_information():
            checksums = b""
            for kind, start, end in _subsections(data):
                if kind == _CHECKSUMS:
                    checksums = data[start:end]
                elif kind == _LINES and start + _HEADER.size <= end:
                    offset, segment, flags, size = _HEADER.unpack_from(data, start)
                    rva = address(segment, offset)
                    if rva and 0 < size <= LONGEST_FUNCTION:
                        columns = bool(flags & _HAVE_COLUMNS)
                        places.append(_Place(rva, size, len(self._data), start + _HEADER.size, end, columns))
            self._data.append(data)
            self._checksums.append(checksums)
            if len(places) > _MOST_FUNCTIONS:
                raise CorruptPdb(f"it has the lines of more than {_MOST_FUNCTIONS:,} functions")
        self._places = sorted(places)
        self._starts = [place.rva for place in self._places]
        #: How far the places up to one reach: a stretch of code may lie inside of another one.
        self._reach = list(itertools.accumulate((place.rva + place.size for place in self._places), max))

    def __bool__(self) -> bool:
        return bool(self._places)

    def line_of(self, rva: int) -> SourceLine | None:
        """The line that the instruction at an RVA belongs to; ``None`` where none is recorded."""
        index = bisect.bisect_right(self._starts, rva) - 1
        while index >= 0 and rva < self._reach[index]:
            if rva < self._starts[index] + self._places[index].size:
                return self._line_in(self._places[index], rva)
            index -= 1
        return None

    def _line_in(self, place: _Place, rva: int) -> SourceLine | None:
        best: tuple[int, int, int] | None = None
        for file, offset, line in self._entries(place):
            if offset <= rva - place.rva and (best is None or offset >= best[0]):
                best = (offset, file, line)
        if best is None or best[2] in _NO_LINES or not best[2]:
            return None
        name = self._file(place.module, best[1])
        return None if name is None else SourceLine(name, best[2])

    def _entries(self, place: _Place) -> Iterator[tuple[int, int, int]]:
        """(file, offset in the code, line) of the blocks of a place: a block has the lines of one file."""
        data, position = self._data[place.module], place.start
        while position + _BLOCK.size <= place.end:
            file, count, size = _BLOCK.unpack_from(data, position)
            end = position + size
            if size < _BLOCK.size + count * _LINE.size or end > place.end:
                return
            for at in range(position + _BLOCK.size, position + _BLOCK.size + count * _LINE.size, _LINE.size):
                offset, flags = _LINE.unpack_from(data, at)
                yield file, offset, flags & _LINE_MASK
            position = end

    @functools.lru_cache(maxsize=4096)  # noqa: B019  # lives as long as what it belongs to
    def _file(self, module: int, offset: int) -> str | None:
        checksums = self._checksums[module]
        if offset + 4 > len(checksums):
            return None
        (start,) = struct.unpack_from("<I", checksums, offset)
        end = self._names.find(b"\0", start, start + _LONGEST_PATH)
        name = self._names[start:end].decode("utf-8", "replace") if end > start else ""
        return name if name.isprintable() and name else None


def _subsections(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(kind, start, end) of the subsections of C13 line information."""
    position = 0
    while position + _SUBSECTION.size <= len(data):
        kind, size = _SUBSECTION.unpack_from(data, position)
        position += _SUBSECTION.size
        if size > len(data) - position:
            return
        if not kind & _IGNORED:
            yield kind, position, position + size
        position += size + 3 & ~3


def load_lines(path: Path, identity: PdbIdentity) -> PdbLines | None:
    """The source lines of a PDB file; ``None`` where it has none, is another file or cannot be read."""
    try:
        with open_pdb(path, identity) as pdb:
            return PdbLines(pdb) or None
    except (OSError, CorruptPdb, PdbRefused):
        return None  # who asked for its names has been told
