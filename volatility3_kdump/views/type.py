"""Rows of ``kdump.type`` and the lines of KD's ``dt``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions.cpp_values import CppValue
from volatility3_kdump.expressions.type_names import NamedType, type_names
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.text import types as text
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, TEXT, Column, table
from volatility3_kdump.windows.typed_values import FieldValue, Options

TYPES = table(
    "kdump.type",
    keys.TYPE_NAME(more="`module!type`"),
    keys.ADDRESS(more="of the field; null without `--address`"),
    keys.OFFSET(more="the structure that the field is a member of, or the array that the element is one of"),
    keys.FIELD(more="`[00]` of an element, the constant's name"),
    Column(
        "FieldType",
        TEXT,
        "as KD writes types: `Uint4B`, `Ptr64 _ETHREAD`, `[15] UChar`, `Pos 3, 1 Bit`; `constant` for those of an "
        "enumeration",
    ),
    keys.SIZE(more="of a bit field that of the number that it is part of"),
    keys.VALUE(more="of integers, pointers, enumerations and bit fields; null for others, and where it is absent"),
    keys.TEXT(more="as KD writes it; unknown where the dump does not hold it"),
)


class TypeView:
    """A type of a module, with the values at an address where one is given.

    ``link`` names the field that leads from one structure to the next of a list, all of which are shown then.
    """

    def __init__(
        self,
        target: Target,
        name: str,
        at: int | None = None,
        options: Options | None = None,
        memory: Memory | None = None,
        link: str | None = None,
        offsets: bool = True,
        verbose: bool = False,
    ) -> None:
        """Raises :class:`KdumpError` for an unknown module, type or field, or a list without an address."""
        self.options = options or Options()
        self.type = NamedType(target, name, self.options, memory)
        self.description = self.type.description
        self.at, self.link = at, link
        self.offsets, self.verbose = offsets, verbose
        self.size = self.type.size
        if link is not None and at is None:
            raise KdumpError("a list is walked from an address: name one")

    def _places(self) -> Iterator[int | None]:
        if self.link is None or self.at is None:
            yield self.at
        else:
            yield from self.type.entries(self.at, self.link)

    def lines(self) -> Iterator[str]:
        """The lines of ``dt``."""
        description = self.description
        if self.verbose:
            yield text.heading(description)
        for number, at in enumerate(self._places()):
            if self.link is not None and at is not None:
                if number:
                    yield ""
                yield f"{self.link} at 0x{pointer(at, self.size)}"
                yield "-" * 45
            yield from self._lines_at(at)

    def _lines_at(self, at: int | None) -> Iterator[str]:
        description = self.description
        if description.kind == "enum" and at is None:
            yield from text.constants(description)
            return
        if description.kind in ("enum", "base"):
            if at is None:
                yield f"   {text.type_text(self.type.reference)}"
            else:
                yield text.value_text(self.type.at(at), self.size)
            return
        if at is not None and not self.options.fields:
            summary = text.record_text(self.type.at(at), self.size)
            if summary:
                yield summary
        for level, value in self.type.members(at):
            yield text.field_line(level, value, self.size, self.offsets)
        gap = self.type.gap(at) if at is not None else None
        if gap is not None:
            yield text.gap_line(gap)

    def rows(self) -> Iterator[Row]:
        """A row for each field, those of expanded structures below their field; one for each constant."""
        description = self.description
        for at in self._places():
            if description.kind == "enum" and at is None:
                for name, number in description.constants:
                    size = description.size
                    yield self._row(
                        0, Field=name, FieldType="constant", Size=size, Value=number % (1 << 8 * size), Text=str(number)
                    )
                continue
            if description.kind in ("enum", "base"):
                if at is None:
                    yield self._row(0, FieldType=description.name, Size=description.size, Text=None)
                else:
                    yield self._value_row(0, self.type.at(at), None)
                continue
            for level, value in self.type.members(at):
                yield self._value_row(level, value, value.offset)

    def _value_row(self, level: int, value: FieldValue, offset: int | None) -> Row:
        number = value.value if isinstance(value.value, int) else None
        if number is not None and number < 0:
            number &= (1 << 8 * (value.type.size or 8)) - 1
        shown = None if value.address is None else text.value_text(value, self.size)
        return self._row(
            level,
            Address=_or_blank(value.address),
            Offset=_or_blank(offset),
            Field=value.name or BLANK,
            FieldType=text.type_text(value.type),
            Size=_or_blank(value.type.size),
            Value=_or_blank(number),
            Text=shown if shown != "??" else None,
        )

    def _row(self, level: int, **cells: object) -> Row:
        return TYPES.row(level, Type=self.type.name, **cells)


def _or_blank(value: object) -> object:
    return BLANK if value is None else value


def type_grid(
    target: Target,
    name: str,
    at: int | None = None,
    options: Options | None = None,
    memory: Memory | None = None,
    link: str | None = None,
) -> KdumpGrid:
    """A type, or the structure of that type at an address (KD's ``dt``); a name with wildcards lists types."""
    if any(character in name.rpartition("!")[2] for character in "*?[#") or name.endswith("!"):
        return _names_grid(target, name)
    view = TypeView(target, name, at, options, memory, link)
    return TYPES.grid(view.rows(), view.lines)


def variable_lines(value: CppValue, size: int) -> Iterator[str]:
    """The lines of ``dt`` for a variable whose type is known."""
    reader, type_ = value.reader, value.type
    if reader is None or value.address is None or type_.kind in ("untyped", "function"):
        raise KdumpError("no type is known for it: dt TYPE ADDRESS shows it as one")
    field = reader.value("", 0, type_, value.address)
    at: int | None = value.address
    if type_.kind == "pointer" and type_.target is not None:
        yield text.value_text(field, size)
        at, type_ = (field.value if isinstance(field.value, int) else None), type_.target
    elif type_.kind in ("struct", "union"):
        summary = text.record_text(field, size)
        if summary:
            yield summary
    else:
        yield text.value_text(field, size)
    if at and type_.kind in ("struct", "union") and type_.name is not None and reader.describe(type_.name):
        for level, member in reader.walk(type_.name, at, Options()):
            yield text.field_line(level, member, size)


def names_lines(target: Target, pattern: str) -> Iterator[str]:
    """The lines of ``dt`` with wildcards."""
    for name in type_names(target, pattern):
        yield f"          {name}"


def _names_grid(target: Target, pattern: str) -> KdumpGrid:
    names = list(type_names(target, pattern))

    def rows() -> Iterator[Row]:
        for name in names:
            yield TYPES.row(0, Type=name)

    return TYPES.grid(rows(), lambda: (f"          {name}" for name in names))
