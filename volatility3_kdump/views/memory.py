"""Rows of ``kdump.memory``, and the lines of KD's ``d`` and ``s`` commands."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import Range
from volatility3_kdump.memory import Memory, sign_extended
from volatility3_kdump.target import Target
from volatility3_kdump.text import memory as text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, TEXT, Column, table
from volatility3_kdump.windows.memory.contents import Stretch, counted_string, read_text, stretch, stretches
from volatility3_kdump.windows.memory.search import find_bytes, find_strings

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
#: The most characters of a string behind a pointer.
_POINTED_TEXT = 256
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
        self.target = target
        self.memory = memory or target.memory
        self.width = self.memory.pointer_size
        self.layout = layout
        if layout == "p":
            self.layout = "q" if self.width == 8 else "d"
        self.columns = columns
        self.unit = self._unit_size()
        start, count = wanted.start, wanted.count
        if count is not None and count < 0:
            start, count = (start + count * self.unit) & ((1 << 64) - 1), -count
        self.start = self.next = start
        self.limited = wanted.count is not None or wanted.end is not None
        length = Range(start, count, wanted.end, wanted.unlimited).length(self.unit)
        self.length = min(text.DEFAULT_LENGTH if length is None else length, (1 << 64) - start)

    @property
    def first(self) -> int | None:
        """The first unit as a number, of at most eight bytes; ``None`` where the dump lacks it."""
        return self.memory.unsigned(self.start, min(self.unit, 8))

    def _unit_size(self) -> int:
        if self.layout in POINTED:
            return POINTED[self.layout][0] or self.width
        if self.layout in text.FORMATS:
            return text.FORMATS[self.layout].size
        return {"u": 2, "yd": 4}.get(self.layout, 1)

    def _name(self, value: int | None) -> str | None:
        return None if value is None else self.target.name_of(sign_extended(value, self.width))

    def _pieces(self, row: int) -> Iterator[Stretch]:
        for piece in stretches(self.memory, self.start, self.length, row):
            yield piece
            self.next = (piece.address + len(piece.data)) & ((1 << 64) - 1)

    # KD's text --------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The lines of KD's command."""
        if self.layout in text.FORMATS:
            layout = text.FORMATS[self.layout]
            for piece in self._pieces((self.columns or layout.columns) * layout.size):
                yield from text.unit_lines(piece, layout, self.width, self.columns)
        elif self.layout in ("yb", "yd"):
            for number, piece in enumerate(self._pieces(4)):
                lines = text.bit_lines(piece, 1 if self.layout == "yb" else 4, self.width)
                yield from list(lines)[0 if number == 0 else 2 if self.layout == "yb" else 3 :]
        elif self.layout in POINTED:
            for at, value, _, behind in self._pointers():
                yield text.pointed_line(at, value, behind, self.unit, self.width)
        else:
            for at, string in self._texts():
                yield text.string_line(at, string, self.width)

    def _texts(self) -> Iterator[tuple[int, str | None]]:
        """The lines of a string, as (address, text)."""
        if self.layout in ("s", "S"):
            yield self._counted()
            return
        most = self.length // self.unit if self.limited else None
        nothing = True
        for piece in read_text(self.memory, self.start, self.unit, most):
            self.next = piece.next
            if piece.text or nothing or piece.text is None:
                yield piece.address, piece.text
            nothing = False

    def _counted(self) -> tuple[int, str | None]:
        """The text of an ANSI_STRING or UNICODE_STRING, and the address of its buffer."""
        string = counted_string(self.memory, self.start)
        if string is None:
            return self.start, None
        self.next = self.start + 2 * self.width
        if not string.length and string.length <= string.maximum:
            return string.buffer or self.start, ""
        if string.length > string.maximum or not string.buffer:
            raise KdumpError(
                f"no string structure at {self.start:x}: length {string.length:#x} of {string.maximum:#x}, "
                f"buffer {string.buffer:x}"
            )
        data = self.memory.read(string.buffer, string.length)
        return string.buffer, None if data is None else data.decode(*_encoding(self.layout == "S"))

    def _pointers(self) -> Iterator[tuple[int, int | None, int | None, str | None]]:
        """Pointers as (address, value, the pointer that it points to, what is said about it)."""
        what = POINTED[self.layout][1]
        for piece in self._pieces(self.unit):
            for offset in range(0, len(piece.data) - self.unit + 1, self.unit):
                value = piece.unit(offset, self.unit)
                behind, second = None, None
                if value is not None and self.unit == 4:
                    value = sign_extended(value, self.width)
                if what == "s":
                    behind = self._name(value)
                elif value is not None and what == "p":
                    second = self.memory.unsigned(value, self.unit)
                    name = self._name(second)
                    behind = text.hexadecimal(second, self.unit) + (f" {name}" if name else "")
                elif value is not None:
                    behind = self._pointed_text(value, 1 if what == "a" else 2)
                shown = None if value is None else value & ((1 << 8 * self.unit) - 1)
                yield piece.address + offset, shown, second, behind

    def _pointed_text(self, at: int, width: int) -> str:
        parts = [part.text for part in read_text(self.memory, at, width, _POINTED_TEXT)]
        if parts and parts[0] is None:
            return "????????"
        return f'"{text.readable("".join(part for part in parts if part is not None))}"'

    # rows -------------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """The values of :meth:`lines`: a row for each unit, for sixteen bytes of ``b``, or for each line of text."""
        if self.layout in POINTED:
            named = POINTED[self.layout][1] == "s"
            for at, value, _, behind in self._pointers():
                said = BLANK if behind is None else behind
                shown: dict[str, object] = {"Symbol": said} if named else {"Text": said}
                yield self._row(at, value is None, Value=value, **shown)
        elif self.layout in ("a", "u", "s", "S"):
            for at, string in self._texts():
                yield self._row(at, string is None, Text=string)
        else:
            layout = text.FORMATS.get(self.layout)
            step = 16 if self.unit == 1 and layout else 4 if layout is None else self.unit
            for piece in self._pieces(step):
                for offset in range(0, len(piece.data), step):
                    yield self._unit_row(piece, offset, min(offset + step, len(piece.data)))

    def _unit_row(self, piece: Stretch, start: int, stop: int) -> Row:
        value = piece.unit(start, stop - start) if stop - start == self.unit and self.unit > 1 else None
        name = self._name(value) if self.unit == self.width else None
        return self._row(
            piece.address + start,
            not all(piece.held[start:stop]),
            Value=BLANK if self.unit == 1 else value,
            Bytes=" ".join(text.hexadecimal(piece.unit(at, 1), 1) for at in range(start, stop)),
            Text=text.text_of(piece, start, stop),
            Symbol=BLANK if name is None else name,
        )

    def _row(self, at: int, missing: bool, **cells: object) -> Row:
        return MEMORY.row(0, Address=at, Absent=self.memory.why_unreadable(at) if missing else BLANK, **cells)


def _encoding(wide: bool) -> tuple[str, str]:
    return ("utf-16-le" if wide else "latin-1"), "replace"


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
        self.target, self.kind, self.pattern = target, kind, pattern
        self.memory = memory or target.memory
        self.start = wanted.start
        self.length = needed_length(wanted, _SEARCHED[kind])
        if not pattern or len(pattern) > 0x1000:
            raise KdumpError("the pattern that is searched for has 1 to 4096 bytes")

    def places(self) -> Iterator[int]:
        """The addresses, ascending."""
        return find_bytes(self.memory, self.start, self.length, self.pattern, _SEARCHED[self.kind])

    def lines(self) -> Iterator[str]:
        """Each place as a row of the ``d`` command that fits the pattern."""
        layout = text.FORMATS[_SEARCH_ROW[self.kind]]
        for place in self.places():
            row = stretch(self.memory, place, min(layout.row, (1 << 64) - place))
            yield from text.unit_lines(row, layout, self.memory.pointer_size)

    def rows(self) -> Iterator[Row]:
        for place in self.places():
            row = stretch(self.memory, place, min(16, (1 << 64) - place))
            data = " ".join(text.hexadecimal(row.unit(at, 1), 1) for at in range(len(row.data)))
            shown = text.text_of(row, 0, len(row.data))
            name = self.target.name_of(place)
            yield MEMORY.row(0, Address=place, Bytes=data, Text=shown, Symbol=BLANK if name is None else name)


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
