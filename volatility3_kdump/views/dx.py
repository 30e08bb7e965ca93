"""Rows of ``kdump.dx`` and the lines of KD's ``dx``."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp_names import CppNames
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError
from volatility3_kdump.expressions.data_model import Failure, Function, Items, Key, Model, items_of
from volatility3_kdump.expressions.debugger_objects import DebuggerObjects
from volatility3_kdump.expressions.dx import DxParser, Formatting, World
from volatility3_kdump.expressions.names import CrashScope, Scope, TargetNames
from volatility3_kdump.text import dx as text
from volatility3_kdump.text.banner import kind
from volatility3_kdump.text.memory import readable
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, table
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.typed_values import character_width

if TYPE_CHECKING:
    from volatility3_kdump.target import Target
    from volatility3_kdump.windows.stacks.frames import Start

DX = table(
    "kdump.dx",
    keys.NAME(more="the expression itself, a member, a property, the index of an element"),
    keys.TEXT(more="as `dx` shows it; null where what lies below it says it all"),
    keys.VALUE(more="of integers, pointers, enumerations and bit fields"),
    keys.TYPE_NAME(more="of C++; null for objects of the debugger"),
    keys.ADDRESS(more="where the value lies; null for results"),
    keys.OFFSET(more="the structure that it is a member of"),
)

#: Elements of a collection that are shown where no number is asked for, and the deepest tree.
_SHOWN, DEEPEST = 100, 30
#: The most lines of one expression.
_MOST_LINES = 100_000
_RAW = "[<Raw View>]"
#: Structures that are shown as what they stand for.
_SUMMED = frozenset({"_UNICODE_STRING", "_STRING", "_ANSI_STRING", "_OEM_STRING", "_LARGE_INTEGER", "_ULARGE_INTEGER"})


@dataclass(frozen=True)
class Shown:
    """A value on its way to a line: what there is to say of it, and how to get what lies below."""

    name: str | None
    value: Any
    text: str | None
    type: str | None
    place: str = ""
    offset: int | None = None
    raw: bool = False


@dataclass(frozen=True)
class DxOptions:
    """``depth`` is how many levels are shown, ``skip`` how many elements are left out, ``native`` leaves out what KD
    makes of the few structures that it knows."""

    depth: int = 1
    skip: int = 0
    native: bool = False
    verbose: bool = False


class DxView:
    """The value of an expression, as a tree.

    ``scope`` is the current place, ``start`` gives where the current stack begins; ``variables`` are those of the user,
    which an assignment changes, and ``names`` what names mean.
    """

    def __init__(
        self,
        target: Target,
        expression: str,
        options: DxOptions | None = None,
        scope: Scope | None = None,
        start: Callable[[], Start] | None = None,
        variables: dict[str, Any] | None = None,
        names: TargetNames | None = None,
        title: str | None = None,
    ) -> None:
        """Raises :class:`KdumpError` where the expression has no value."""
        self.target = target
        self.options = options or DxOptions()
        self.expression = expression.strip()
        scope = scope or CrashScope(target)
        self.names = CppNames(target, names or TargetNames(target, scope), scope.memory)
        variables = {} if variables is None else variables
        start = start or functools.partial(crash_start, target)
        self.objects = DebuggerObjects(
            target, self.names, scope, start, title or f"{kind(target.header)}: {target.name}", variables
        )
        world = World(self.names, self.objects.roots(), variables, self._display)
        with cpp.bounded():
            self.value, self.formatting = DxParser(self.expression, world).evaluate()
        if isinstance(self.value, Failure):
            raise self.value.error

    # lines and rows ---------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The lines of ``dx``."""
        for count, (level, shown) in enumerate(self._bounded()):
            if count >= _MOST_LINES:
                raise KdumpError(f"more than {_MOST_LINES:,} lines: ask for fewer levels or elements")
            line = text.Line(shown.name, shown.text, shown.type, shown.place)
            yield text.tree_line(level, line) if level else text.head_line(line)
        for note in self.objects.notes:
            yield f"NOTE: {note}"

    def rows(self) -> Iterator[Row]:
        """A row for each line."""
        for level, shown in itertools.islice(self._bounded(), _MOST_LINES):
            value = shown.value
            number = None
            if isinstance(value, CppValue):
                number = _number(value)
            elif isinstance(value, bool):
                number = int(value)
            yield DX.row(
                level,
                Name="" if shown.name is None else shown.name,
                Text=BLANK if shown.text is None else shown.text,
                Value=BLANK if number is None else number & ((1 << 64) - 1),
                Type=BLANK if shown.type is None else shown.type,
                Address=value.address if isinstance(value, CppValue) and value.address is not None else BLANK,
                Offset=BLANK if shown.offset is None else shown.offset,
            )

    def grid(self, most: int | None = None) -> Iterator[str]:
        """The lines of ``dx -g``. Raises :class:`KdumpError` for what has no elements."""
        items = items_of(self.value)
        if items is None:
            raise KdumpError("-g shows the elements of a collection: the expression gives none")
        headings: list[str] = []
        rows: list[tuple[str, dict[str, str]]] = []
        more = False
        with cpp.bounded():
            children = [(child, list(self._children(child))) for child in self._elements(items)]
        for child, parts in children:
            if child.name == "[...]":
                more = True
                continue
            label = f"{child.name} : {child.text}" if child.text is not None else f"{child.name}"
            cells: dict[str, str] = {}
            for part in parts:
                heading = f"{'(+) ' if self._expands(part.value) else ''}{part.name or ''}"
                cells[part.name or ""] = "{...}" if part.text is None else part.text
                if heading not in headings and part.name not in [column.removeprefix("(+) ") for column in headings]:
                    headings.append(heading)
            rows.append((label, cells))
        plain = [heading.removeprefix("(+) ") for heading in headings]
        yield from text.grid(
            headings, [[label, *(cells.get(name, "") for name in plain)] for label, cells in rows], most
        )
        if more:
            yield "[...]"
        for note in self.objects.notes:
            yield f"NOTE: {note}"

    def _bounded(self) -> Iterator[tuple[int, Shown]]:
        with cpp.bounded():
            yield from self._tree()

    def _tree(self) -> Iterator[tuple[int, Shown]]:
        root = self._shown(self.expression, self.value)
        yield 0, root
        yield from self._below(root, 1)

    def _below(self, shown: Shown, level: int) -> Iterator[tuple[int, Shown]]:
        if level > min(self.options.depth, DEEPEST):
            return
        for child in self._children(shown):
            yield level, child
            yield from self._below(child, level + 1)

    # children ---------------------------------------------------------------------------------------------------

    def _expands(self, value: Any) -> bool:
        if isinstance(value, (Model, Items)):
            return True
        if not isinstance(value, CppValue):
            return False
        type_ = value.type.target if value.type.kind == "pointer" and value.type.target is not None else value.type
        return type_.kind in ("struct", "union", "array")

    def _children(self, shown: Shown) -> Iterator[Shown]:
        value = shown.value
        if isinstance(value, Model):
            for name in value.properties:
                yield self._property(name, value.properties[name])
            for name in value.methods if self.options.verbose else ():
                yield Shown(name, None, None, None)
            return
        items = items_of(value)
        if items is not None:
            if not (isinstance(value, CppValue) and cpp.text_of(value) is not None):
                yield from self._elements(items)
            return
        if isinstance(value, CppValue):
            yield from self._members(value, shown)

    def _property(self, name: str, make: Callable[[], Any]) -> Shown:
        try:
            return self._shown(name, make())
        except KdumpError as error:
            return Shown(name, None, str(error), None)

    def _elements(self, items: Items) -> Iterator[Shown]:
        most = self.formatting.length if self.formatting.length is not None else _SHOWN
        try:
            pairs = itertools.islice(items.pairs(), self.options.skip, None)
            for number, (key, value) in enumerate(pairs):
                if number >= most:
                    yield Shown("[...]", None, None, None)
                    return
                yield self._shown(self._label(key, items), value)
        except KdumpError as error:
            yield Shown("[...]", None, str(error), None)

    def _label(self, key: Key, items: Items) -> str:
        if isinstance(key, str):
            escaped = key.replace("\\", "\\\\").replace('"', '\\"')
            return f'["{printable(escaped)}"]'
        native = isinstance(self.value, CppValue)
        return f"[{text.ordinal(key, self.formatting.base or (10 if native else 16))}]"

    def _members(self, value: CppValue, shown: Shown) -> Iterator[Shown]:
        raw = shown.raw or self.options.native or self.formatting.raw
        if value.type.kind == "pointer":
            try:
                number = cpp.address_in(value)
                goal = cpp.pointee(value)
            except EvaluationError:
                return
            if not number or character_width(goal.type):
                return
            if goal.type.kind not in ("struct", "union"):
                inner = self._shown("", goal)
                yield replace(inner, name=None)
                return
            value = goal
        if value.address is None:
            return
        description = cpp.describe(value.reader, value.type)
        if description is None:
            return
        if value.type.name in _SUMMED and not raw and self._summary(value) is not None:
            yield Shown(_RAW, value, None, text.dx_type(value.type), raw=True)
            return
        for member in description.members:
            part = cpp.member(value, member.name)
            bits = member.type.kind == "bitfield"
            place = text.place(member.offset, member.type.bit if bits else None, member.type.bits if bits else None)
            yield replace(self._shown(member.name, part), place=place, offset=member.offset)

    # values -----------------------------------------------------------------------------------------------------

    def _shown(self, name: str, value: Any) -> Shown:
        if isinstance(value, Failure):
            return Shown(name, None, str(value.error), None)
        if isinstance(value, CppValue):
            if value.type.kind == "untyped":
                raise EvaluationError(f"No type (or void) for object at Address {value.address or 0:#x}")
            try:
                told = self._value(value, self.formatting)
            except KdumpError as error:
                return Shown(name, None, str(error), None)
            typed = value.address is not None or value.type.kind in ("pointer", "enum")
            return Shown(name, value, told, text.dx_type(value.type) if typed else None)
        if isinstance(value, Model):
            try:
                return Shown(name, value, None if value.title is None else printable(value.title), None)
            except KdumpError as error:
                return Shown(name, value, str(error), None)
        if isinstance(value, Items):
            return Shown(name, value, None, None)
        return Shown(name, value, self._display(value, self.formatting), None)

    def _display(self, value: Any, formatting: Formatting) -> str:
        """The text that a value is shown as, without its type."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return readable(value)
        if isinstance(value, float):
            return f"{value:g}"
        if isinstance(value, CppValue):
            return self._value(value, formatting) or ""
        if isinstance(value, Function):
            return "[object Function]"
        if isinstance(value, Model) and value.title is not None:
            return printable(value.title)
        raise EvaluationError("the object is not shown as text")

    def _value(self, value: CppValue, formatting: Formatting) -> str | None:
        kind_ = value.type.kind
        if kind_ in ("struct", "union"):
            return None if formatting.raw or self.options.native else self._summary(value)
        if formatting.text is not None:
            special = self._as_text(value, formatting.text)
            if special is not None:
                return special
        if kind_ == "array":
            return self._array(value)
        if kind_ == "function":
            return None
        number = cpp.load(value)
        if isinstance(number, float):
            return f"{number:g}"
        if kind_ == "pointer":
            return self._pointer(value, number)
        return self._number(value, number, formatting)

    def _number(self, value: CppValue, number: int, formatting: Formatting) -> str:
        """A number, or what it stands for in an enumeration or as a truth value."""
        in_bits = value.type.kind == "bitfield"
        storage = value.type.target if in_bits and value.type.target is not None else value.type
        if storage.kind == "enum" and storage.name is not None and value.reader is not None:
            constant = value.reader.constant(storage.name, number, None if in_bits else storage.size)
            shown = text.ordinal(number, formatting.base or 10)
            if constant is not None:
                return constant if formatting.names else f"{constant} ({shown})"
            return shown
        if storage.name == "bool":
            return "true" if number else "false"
        signed = cpp.is_signed(value) and not in_bits
        base = formatting.base or (10 if signed or (value.address is None and storage.name == "int") else 16)
        return text.ordinal(number, base, 8 * (storage.size or 8))

    def _array(self, value: CppValue) -> str | None:
        """The text in an array of characters; others have no value of their own."""
        string = cpp.text_of(value)
        if string is not None:
            return text.quoted(readable(string))
        if value.address is not None and value.type.target is not None and character_width(value.type.target):
            return cpp.unreadable(value.address)
        return None

    def _pointer(self, value: CppValue, number: int) -> str:
        goal = value.type.target
        shown = f"{_narrow(number, value.type.size):#x}"
        if not number or goal is None:
            return shown
        if goal.kind == "function":
            name = cpp.function_of(value)
            return shown if name is None else f"{shown} : {name}{'' if name.offset else '+0x0'}"
        string = cpp.text_of(value)
        return shown if string is None else f"{shown} : {text.quoted(readable(string))}"

    def _summary(self, value: CppValue) -> str | None:
        """What stands for a structure that the debugger knows."""
        if value.type.name not in _SUMMED or value.reader is None or value.address is None:
            return None
        read = value.reader.value("", 0, value.type, value.address)
        if read.text is not None:
            return text.quoted(readable(read.text))
        if isinstance(read.value, int):
            number = read.value - (1 << 64) if read.value >> 63 and value.type.name == "_LARGE_INTEGER" else read.value
            return f"{{{number}}}"
        return None

    def _as_text(self, value: CppValue, specifier: str) -> str | None:
        """What a format specifier for text makes of characters, or of a pointer to some."""
        type_ = value.type
        if specifier == "c":
            number = cpp.whole(value) if type_.kind != "array" else None
            return None if number is None else f"'{readable(chr(number & 0xFFFF))}'"
        if type_.kind not in ("pointer", "array") or value.reader is None:
            return None
        width = {"s": 1, "8": 1, "u": 2, "3": 4}["s" if specifier in ("s", "sb") else specifier[1]]
        if width == 4:
            raise EvaluationError("32-bit characters are not shown")
        at = cpp.address_in(value)
        most = type_.size if type_.kind == "array" and type_.size else 0
        string, unread = value.reader.string(at, width, *([most // width] if most else []))
        if string is None:
            raise EvaluationError(cpp.unreadable(unread or at))
        if specifier.startswith("s8"):
            string = string.encode("latin-1", "replace").decode("utf-8", "replace")
        shown = text.quoted(readable(string), specifier.endswith("b"))
        return shown if type_.kind == "array" else f"{_narrow(at, type_.size):#x} : {shown}"


def _narrow(number: int, size: int | None) -> int:
    return number & 0xFFFFFFFF if size == 4 else number


def _number(value: CppValue) -> int | None:
    """The number of a value that is an integer and in the dump."""
    if value.type.kind in ("struct", "union", "array", "function", "untyped"):
        return None
    try:
        number = cpp.load(value)
    except EvaluationError:
        return None
    return None if isinstance(number, float) else number


def dx_grid(target: Target, expression: str, options: DxOptions | None = None) -> KdumpGrid:
    """The value of an expression of the debugger's data model, at the place of the crash."""
    try:
        view = DxView(target, expression, options)
    except KdumpError as error:
        raise KdumpError(f"Error: {error}") from error
    return DX.grid(view.rows(), view.lines)
