"""Rows of ``kdump.memory``, and the lines of KD's ``d`` and ``s`` commands."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import Range
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.text import memory as text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, TEXT, Column, table
from volatility3_kdump.windows.memory.ranges import MemoryRange, PatternSearch, Pointed, StringPiece, Unit
from volatility3_kdump.windows.memory.search import find_strings

MEMORY = table(
    "kdump.memory",
    keys.ADDRESS(more="sign-extended; of a string structure (`s`, `S`), that of its buffer"),
    keys.VALUE(more="little-endian; unknown where a byte of it is absent, null for bytes and text"),
    keys.BYTES(),
    keys.TEXT(more="`.` for what cannot be shown and `?` for what is absent; the string in the layouts of strings"),
    keys.SYMBOL(more="of the address that a unit of pointer size holds; in a search, of the place itself"),
    Column("Absent", TEXT, "why bytes of the unit are not there; null where all are"),
)

#: Letters of ``d`` that show what pointers point to: the pointer's size (0: the target's), and what is shown.
POINTED = {
    f"{letter}{what}": (size, what) for letter, size in (("d", 4), ("p", 0), ("q", 8)) for what in ("s", "p", "a", "u")
}
#: Every format of :func:`memory_grid`.
FORMATS = (*text.FORMATS, "p", "a", "u", "s", "S", "yb", "yd", *POINTED)
_SEARCHED = {"b": 1, "w": 2, "d": 4, "q": 8, "a": 1, "u": 2}
_SEARCH_ROW = {"b": "b", "a": "b", "w": "W", "u": "W", "d": "c", "q": "q"}


class MemoryView:
    """A range of memory in one of the formats of ``d``.

    ``next`` is where a following view of the same kind begins; it is known when the lines have been yielded.
    """

    def __init__(
        self,
        target: Target,
        wanted: Range,
        layout: str = "b",
        memory: Memory | None = None,
        columns: int | None = None,
    ) -> None:
        """``memory`` is the address space, by default that of the process that crashed; ``columns`` the units of a row.

        Raises :class:`KdumpError` for a format that there is not, or a range that is none.
        """
        if layout not in FORMATS:
            raise KdumpError(f"memory is not shown as {layout!r}: use one of {' '.join(FORMATS)}")
        if columns is not None and not 1 <= columns <= 256:
            raise KdumpError("a row has 1 to 256 columns")
        self.width = (memory or target.memory).pointer_size
        self.layout = layout
        if layout == "p":
            self.layout = "q" if self.width == 8 else "d"
        self.columns = columns
        self.unit = self._unit_size()
        start, count = wanted.start, wanted.count
        if count is not None and count < 0:
            start, count = (start + count * self.unit) & ((1 << 64) - 1), -count
        length = Range(start, count, wanted.end, wanted.unlimited).length(self.unit)
        limited = wanted.count is not None or wanted.end is not None
        self.range = MemoryRange(target, start, text.DEFAULT_LENGTH if length is None else length, memory)
        self.most = self.range.length // self.unit if limited else None

    @property
    def next(self) -> int:
        return self.range.next

    @property
    def first(self) -> int | None:
        """The first unit as a number, of at most eight bytes; ``None`` where the dump lacks it."""
        return self.range.number(min(self.unit, 8))

    def _unit_size(self) -> int:
        if self.layout in POINTED:
            return POINTED[self.layout][0] or self.width
        if self.layout in text.FORMATS:
            return text.FORMATS[self.layout].size
        return {"u": 2, "yd": 4}.get(self.layout, 1)

    def _strings(self) -> Iterator[StringPiece]:
        if self.layout in ("s", "S"):
            yield self.range.counted(self.layout == "S")
        else:
            yield from self.range.strings(self.unit, self.most)

    def _pointers(self) -> Iterator[tuple[Pointed, str | None]]:
        """Pointers, each with what is said about it."""
        what = POINTED[self.layout][1]
        for pointed in self.range.pointers(self.unit, what):
            yield pointed, text.pointed_text(pointed, what, self.unit)

    # KD's text --------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The lines of KD's command."""
        if self.layout in text.FORMATS:
            layout = text.FORMATS[self.layout]
            for piece in self.range.pieces((self.columns or layout.columns) * layout.size):
                yield from text.unit_lines(piece, layout, self.width, self.columns)
        elif self.layout in ("yb", "yd"):
            for number, piece in enumerate(self.range.pieces(4)):
                lines = text.bit_lines(piece, 1 if self.layout == "yb" else 4, self.width)
                yield from list(lines)[0 if number == 0 else 2 if self.layout == "yb" else 3 :]
        elif self.layout in POINTED:
            for pointed, said in self._pointers():
                yield text.pointed_line(pointed.address, pointed.value, said, self.unit, self.width)
        else:
            for string in self._strings():
                yield text.string_line(string.address, string.text, self.width)

    # rows -------------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """The values of :meth:`lines`: a row for each unit, for sixteen bytes of ``b``, or for each line of text."""
        if self.layout in POINTED:
            column = "Symbol" if POINTED[self.layout][1] == "s" else "Text"
            for pointed, said in self._pointers():
                shown: dict[str, object] = {column: BLANK if said is None else said}
                yield _row(pointed.address, pointed.absent, Value=pointed.value, **shown)
        elif self.layout in ("a", "u", "s", "S"):
            for string in self._strings():
                yield _row(string.address, string.absent, Text=string.text)
        else:
            layout = text.FORMATS.get(self.layout)
            step = 16 if self.unit == 1 and layout else 4 if layout is None else self.unit
            for unit in self.range.units(step, self.unit):
                yield self._unit_row(unit)

    def _unit_row(self, unit: Unit) -> Row:
        stretch = unit.stretch
        return _row(
            unit.address,
            unit.absent,
            Value=BLANK if self.unit == 1 else unit.value,
            Bytes=" ".join(text.hexadecimal(stretch.unit(at, 1), 1) for at in range(unit.start, unit.stop)),
            Text=text.text_of(stretch, unit.start, unit.stop),
            Symbol=BLANK if unit.symbol is None else unit.symbol,
        )


def _row(at: int, absent: str | None, **cells: object) -> Row:
    return MEMORY.row(0, Address=at, Absent=BLANK if absent is None else absent, **cells)


def memory_grid(
    target: Target, wanted: Range, layout: str = "b", memory: Memory | None = None, columns: int | None = None
) -> KdumpGrid:
    """Memory in a format of KD's ``d``: ``b`` bytes, ``w d q`` numbers, ``p`` pointers, ``c`` and ``W`` with text,
    ``f D`` floating point, ``a u`` strings, ``s S`` string structures, ``yb yd`` binary, ``ps pp pa pu`` pointers with
    what they point to (``d.`` and ``q.``: of 4 and 8 bytes)."""
    view = MemoryView(target, wanted, layout, memory, columns)
    return MEMORY.grid(view.rows(), view.lines)


class SearchView:
    """Every place in a range where a pattern stands (KD's ``s``).

    ``kind`` is ``b`` bytes, ``w d q`` numbers at multiples of their size from the start of the range, ``a`` ASCII or
    ``u`` UTF-16 text.
    """

    def __init__(self, target: Target, wanted: Range, kind: str, pattern: bytes, memory: Memory | None = None) -> None:
        """Raises :class:`KdumpError` for a range without length, an empty pattern, or one longer than 4 KB."""
        if kind not in _SEARCHED:
            raise KdumpError(f"memory is not searched by {kind!r}: use one of {' '.join(_SEARCHED)}")
        length = needed_length(wanted, _SEARCHED[kind])
        if not pattern or len(pattern) > 0x1000:
            raise KdumpError("the pattern that is searched for has 1 to 4096 bytes")
        self.layout = text.FORMATS[_SEARCH_ROW[kind]]
        self.search = PatternSearch(target, wanted.start, length, pattern, _SEARCHED[kind], memory)

    def places(self) -> Iterator[int]:
        """The addresses, ascending."""
        return self.search.addresses()

    def lines(self) -> Iterator[str]:
        """Each place as a row of the ``d`` command that fits the pattern."""
        for place in self.search.places(self.layout.row):
            yield from text.unit_lines(place.stretch, self.layout, self.search.width)

    def rows(self) -> Iterator[Row]:
        for place in self.search.places(16, named=True):
            size = len(place.stretch.data)
            yield MEMORY.row(
                0,
                Address=place.address,
                Bytes=" ".join(text.hexadecimal(place.stretch.unit(at, 1), 1) for at in range(size)),
                Text=text.text_of(place.stretch, 0, size),
                Symbol=BLANK if place.symbol is None else place.symbol,
            )


def needed_length(wanted: Range, size: int) -> int:
    """The bytes of a range for a search. Raises :class:`KdumpError` where none is given."""
    length = wanted.length(size)
    if length is None:
        raise KdumpError("Range error: a search needs a length (L100) or an end")
    return length


def search_grid(target: Target, wanted: Range, kind: str, pattern: bytes, memory: Memory | None = None) -> KdumpGrid:
    """The places in a range where a pattern stands; only what the dump holds is searched."""
    view = SearchView(target, wanted, kind, pattern, memory)
    return MEMORY.grid(view.rows(), view.lines)


def string_lines(memory: Memory, wanted: Range, width: int, least: int = 3) -> Iterator[str]:
    """The strings in a range (KD's ``s -sa`` and ``s -su``)."""
    for at, string in find_strings(memory, wanted.start, needed_length(wanted, 1), width, least):
        yield text.string_line(at, string, memory.pointer_size)
