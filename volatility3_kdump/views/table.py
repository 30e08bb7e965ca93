"""A table is declared once: its columns say their names, types and meanings, and how a record fills them.

Rows, absent cells, the host's column types and the pages under ``docs/`` follow from that declaration.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from volatility3.framework import renderers

from volatility3_kdump.text.times import filetime
from volatility3_kdump.views.grid import KdumpGrid, Row

T = TypeVar("T")
_SECOND = 10_000_000


class Hexadecimal(str):
    """A number that every renderer shows as ``0x...``; ``int(cell)`` is the number.

    It is text for the host, whose JSON would be a number of 64 bits otherwise: jq and JavaScript round those beyond
    2**53.
    """

    def __new__(cls, value: int) -> Hexadecimal:
        return super().__new__(cls, f"{value:#x}")

    def __int__(self) -> int:
        return int(str(self), 16)

    __index__ = __int__


class Missing(renderers.NotAvailableValue):  # type: ignore[misc]
    """The cell of a value that is not known, with the reason where there is one to give."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason


#: The cell of a value that is not in the dump. Getters return ``None`` for it.
UNKNOWN = Missing()
#: The cell of a column that does not apply to a row. It is null in JSON as well.
BLANK = renderers.NotApplicableValue()


@dataclass(frozen=True)
class Kind:
    """A type of column: its word in the documentation, its type for the host, and how a value becomes a cell."""

    word: str
    host: type
    cell: Callable[[Any], Any]


def _pointer(value: int) -> Any:
    return Hexadecimal(value) if value else BLANK


def _lines(lines: Iterable[str]) -> Any:
    return "; ".join(line for line in lines if line) or BLANK


ADDRESS = Kind("address", Hexadecimal, Hexadecimal)
#: An address that is 0 where there is nothing.
POINTER = Kind("address", Hexadecimal, _pointer)
HEX = Kind("hexadecimal", Hexadecimal, Hexadecimal)
NUMBER = Kind("number", int, int)
BYTES = Kind("bytes", int, int)
PAGES = Kind("pages", int, int)
#: A duration; its value is in units of 100 ns.
SECONDS = Kind("seconds", float, lambda value: value / _SECOND)
TEXT = Kind("text", str, str)
#: Several short texts, joined by semicolons; empty ones are left out.
LINES = Kind("text", str, _lines)
FLAG = Kind("boolean", bool, bool)
#: A time of day in UTC; its value is a FILETIME, 0 where it was never set.
TIME = Kind("time", datetime.datetime, lambda value: filetime(value) or BLANK)

#: The marks of what is absent, which are cells as they stand.
_MARKS = frozenset((renderers.NotApplicableValue, Missing))

#: How a record fills a column: one function, or one for each class of record. Other records leave the cell blank.
Getter = Callable[[T], object] | Mapping[type, Callable[[Any], object]]


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column. ``get`` returns the value of a record, ``None`` where it is not known, :data:`BLANK` where it does
    not apply, or a :class:`Missing` with its reason; ``more`` is what the table adds to the meaning of a shared key."""

    name: str
    kind: Kind
    says: str
    get: Getter[T] = lambda record: BLANK
    more: str = ""

    def cell(self, record: T) -> Any:
        """The cell of a record."""
        return self.of(self.value(record))

    def value(self, record: T) -> Any:
        """The value of a record."""
        if callable(self.get):
            return self.get(record)
        get = self.get.get(type(record))
        return BLANK if get is None else get(record)

    def of(self, value: Any) -> Any:
        """The cell of a value."""
        if value is None:
            return UNKNOWN
        kind = type(value)
        # Most values are of the host's type already.
        return value if kind is self.kind.host or kind in _MARKS else self.kind.cell(value)

    @property
    def meaning(self) -> str:
        """The whole sentence."""
        return f"{self.says}: {self.more}" if self.says and self.more else self.says or self.more


@dataclass(frozen=True)
class Key:
    """A column that several tables have: one name, one type, one meaning."""

    name: str
    kind: Kind
    says: str

    def __call__(self, get: Getter[T] = lambda record: BLANK, more: str = "") -> Column[T]:
        """The column of a table."""
        return Column(self.name, self.kind, self.says, get, more)


class Part(Generic[T]):
    """Columns that one kind of record fills; several tables may have the same part."""

    def __init__(self, title: str, *columns: Column[T]) -> None:
        self.title = title
        self.columns = columns
        self._blank = (BLANK,) * len(columns)
        # Looked up once, since rows are many.
        self._makers: list[tuple[Callable[[Any], Any], type, Callable[[Any], Any]]] = [
            (column.get if callable(column.get) else column.value, column.kind.host, column.kind.cell)
            for column in columns
        ]

    def cells(self, record: T | None) -> tuple[Any, ...]:
        """The cells of a record; blank ones for none."""
        if record is None:
            return self._blank
        cells = []
        for get, host, make in self._makers:
            # As Column.cell, for each column of each row.
            value = get(record)
            if value is None:
                cells.append(UNKNOWN)
            else:
                kind = type(value)
                cells.append(value if kind is host or kind in _MARKS else make(value))
        return tuple(cells)


class Table:
    """The columns of a plugin's rows, in order. ``name`` is what a user types to see it."""

    def __init__(self, name: str, *parts: Part[Any]) -> None:
        self.name = name
        self.parts = parts
        self.columns: tuple[Column[Any], ...] = tuple(column for part in parts for column in part.columns)
        self._places = {column.name: place for place, column in enumerate(self.columns)}
        if len(self._places) != len(self.columns):
            names = [column.name for column in self.columns]
            raise ValueError(f"{name} has a column twice: {sorted({key for key in names if names.count(key) > 1})}")

    def row(self, level: int, records: object = None, /, **values: object) -> Row:
        """A row. ``records`` is the record of every part, or a mapping from parts to theirs; a part without a record
        is blank. ``values`` are cells by name, which take the place of a record's."""
        if records is None and len(values) < len(self.columns):
            cells: list[Any] = [BLANK] * len(self.columns)
        elif isinstance(records, Mapping):
            cells = [cell for part in self.parts for cell in part.cells(records.get(part))]
        else:
            cells = [cell for part in self.parts for cell in part.cells(records)]
        for name, value in values.items():
            place = self._places[name]
            cells[place] = self.columns[place].of(value)
        return level, tuple(cells)

    def grid(self, rows: Iterable[Row], kd_lines: Callable[[], Iterable[str]]) -> KdumpGrid:
        """The rows for the host's renderers, and the same values as KD's text."""
        return KdumpGrid([(column.name, column.kind.host) for column in self.columns], rows, kd_lines)


def table(name: str, *columns: Column[Any]) -> Table:
    """A table whose rows are all filled from one record each."""
    return Table(name, Part("", *columns))
