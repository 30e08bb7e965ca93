"""Memory seen through the types of a module: the fields of a structure with their values, as ``dt`` shows them.

:class:`TypedReader` walks a type, with or without an address, and yields a :class:`FieldValue` for each member. Every
address, count and pointer comes from the dump and is only followed within bounds.
"""

from __future__ import annotations

import dataclasses
import re
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.memory import PAGE_SIZE, Memory, sign_extended
from volatility3_kdump.symbols.types import Member, TypeDescription, TypeReference, TypeTable
from volatility3_kdump.wildcards import Wildcard
from volatility3_kdump.windows.memory.contents import read_text

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The deepest nesting, the most fields of one view, the most elements of an array and of a list that are shown.
DEEPEST, MOST_FIELDS, MOST_ELEMENTS, MOST_ENTRIES = 16, 100_000, 4096, 65536
_TEXT = 256
_TOP = 1 << 64

_STRINGS = {"_UNICODE_STRING": 2, "_STRING": 1, "_ANSI_STRING": 1, "_OEM_STRING": 1}
_LARGE = ("_LARGE_INTEGER", "_ULARGE_INTEGER")
#: Structures of which more is shown than the name, where a pointer leads to them, too.
_LOOKED_THROUGH = ("_LIST_ENTRY", "_GUID", *_LARGE)
#: An element of an array, as a field is named: ``WaitBlock[0]``; the number is decimal.
_ELEMENT = re.compile(r"(\w+)\[(\d{1,6})\]$")


@dataclass(frozen=True)
class FieldValue:
    """A member of a structure, an element of an array, or the structure itself.

    ``offset`` is in bytes from the structure that it is a member of; ``address`` is where it lies, ``None`` where the
    type alone is looked at. ``value`` is the number that stands there: of bit fields their bits, of arrays ``None``;
    ``held`` says whether the dump has all of it. What is read beyond it: ``text``, the string that the field is or
    points to; ``unread``, the address where that should be and is not in the dump; ``symbol``, the name of where a
    pointer points; ``constant``, the name of an enumeration's value; ``links``, the two pointers of a list entry;
    ``pointed``, the pointer that a pointer points to; ``first``, an array's first element, or the structure that a
    pointer leads to and that is known. ``expanded`` says that
    members that were asked for follow.
    """

    name: str
    offset: int
    type: TypeReference
    address: int | None = None
    value: int | float | None = None
    held: bool = False
    text: str | None = None
    unread: int | None = None
    symbol: str | None = None
    constant: str | None = None
    links: tuple[int | None, int | None] | None = None
    pointed: int | None = None
    first: FieldValue | None = None
    expanded: bool = False
    signed: bool = False


class Gap(NamedTuple):
    """An address that the dump lacks, and why."""

    address: int
    why: str


@dataclass(frozen=True)
class Options:
    """What of a type is shown.

    ``fields`` are names or wildcards, dotted into embedded structures; an ending dot asks for all members of one; with
    ``prefix`` they name every field that begins so. ``depth`` is how many levels of embedded and pointed-to structures
    are expanded, ``blocks`` expands all that are embedded, ``elements`` is how many elements of an array are shown.
    """

    fields: tuple[str, ...] = ()
    prefix: bool = False
    depth: int = 0
    blocks: bool = False
    elements: int = 0


@dataclass
class _Walk:
    options: Options
    count: int = 0
    path: list[tuple[str, int | None]] = field(default_factory=list)


class TypedReader:
    """Reads structures of one module's types in one address space."""

    def __init__(self, target: Target, table: TypeTable, memory: Memory | None = None) -> None:
        self.target = target
        self.table = table
        self.memory = memory or target.memory
        self._described: dict[str, TypeDescription | None] = {}
        self._by_name: dict[str, dict[str, Member]] = {}

    def describe(self, name: str) -> TypeDescription | None:
        """A type by its exact name, its members by offset, what is no bit field first where several share one."""
        if name not in self._described:
            description = self.table.describe(name)
            if description is not None and description.members:
                members = sorted(description.members, key=_order)
                description = TypeDescription(
                    description.name, description.kind, description.size, tuple(members), (), description.base
                )
            self._described[name] = description
        return self._described[name]

    def members(self, name: str) -> dict[str, Member]:
        """The members of a structure by their names; none for what is no known structure."""
        if name not in self._by_name:
            description = self.describe(name)
            self._by_name[name] = {} if description is None else {each.name: each for each in description.members}
        return self._by_name[name]

    def gap(self, address: int, size: int) -> Gap | None:
        """The first address of a structure that the dump lacks, to the page; ``None`` where it has all of it."""
        if self.memory.read(address, max(size, 1)) is not None:
            return None
        end = address + size
        while address < end and self.memory.read(address, 1) is not None:
            address += PAGE_SIZE - address % PAGE_SIZE
        return Gap(address, self.memory.why_unreadable(address)) if address < end else None

    # walking ----------------------------------------------------------------------------------------------------

    def walk(self, name: str, address: int | None, options: Options) -> Iterator[tuple[int, FieldValue]]:
        """The members of a structure as (level, value), those of expanded ones below them one level deeper.

        Raises :class:`KdumpError` for an unknown type, and for a field that is asked for by name and is not there.
        """
        description = self._structure(name)
        walk = _Walk(options, path=[(description.name, address)])
        wanted = [tuple(path.split(".")) for path in options.fields]
        for path in wanted:
            exact = _ELEMENT.match(path[0]) or not any(character in path[0] for character in "*?[#")
            if exact and not self._chosen(description, [path], options):
                raise KdumpError(f"Cannot find specified field members: {name} has no field {path[0]}")
        yield from self._members(walk, description, address, 0, wanted or [("",)])

    def _structure(self, name: str) -> TypeDescription:
        description = self.describe(name)
        if description is None:
            raise KdumpError(f"{self.table.origin}: no usable type {name}")
        return description

    def _chosen(
        self, description: TypeDescription, wanted: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Member, list[tuple[str, ...]]]]:
        """The members that are asked for, each with what of its own members is."""
        chosen: list[tuple[Member, list[tuple[str, ...]]]] = []
        patterns = [(_pattern(path[0], options.prefix), path[1:]) for path in wanted if not _ELEMENT.match(path[0])]
        for path in wanted:
            element = _ELEMENT.match(path[0])
            array = self.members(description.name).get(element[1]) if element is not None else None
            if element is not None and array is not None:
                chosen += self._element(array, int(element[2]), path[1:])
        for member in description.members:
            below = [rest for pattern, rest in patterns if pattern is None or pattern.matches(member.name)]
            if below:
                chosen.append((member, [rest for rest in below if rest]))
        return chosen

    def _element(
        self, member: Member, index: int, below: tuple[str, ...]
    ) -> Iterator[tuple[Member, list[tuple[str, ...]]]]:
        """An element of an array as a member; what has none has its own index alone. ``[3]`` is the fourth."""
        element = member.type.target
        if member.type.kind == "array" and element is not None and element.size is not None:
            if index >= max(member.type.count or 0, 1):
                raise KdumpError(f"{member.name} has {member.type.count} elements: there is no [{index}]")
            offset = member.offset + index * element.size
            yield Member(f"{member.name}[{index}]", offset, element), [below] if below else []

    def _members(
        self,
        walk: _Walk,
        description: TypeDescription,
        address: int | None,
        level: int,
        wanted: Sequence[tuple[str, ...]],
    ) -> Iterator[tuple[int, FieldValue]]:
        for member, below in self._chosen(description, wanted, walk.options):
            at = None if address is None else (address + member.offset) % _TOP
            yield from self._member(walk, member.name, member.offset, member.type, at, level, below)

    def _member(
        self,
        walk: _Walk,
        name: str,
        offset: int,
        type_: TypeReference,
        address: int | None,
        level: int,
        below: Sequence[tuple[str, ...]],
    ) -> Iterator[tuple[int, FieldValue]]:
        walk.count += 1
        if walk.count > MOST_FIELDS:
            raise KdumpError(f"more than {MOST_FIELDS} fields: name those that are wanted")
        value = self.value(name, offset, type_, address)
        inner = self._inner(walk, value, level, bool(below))
        if type_.kind == "array" and walk.options.elements and not below:
            yield level, value
            yield from self._elements(walk, type_, address, level + 1)
        elif inner is None:
            yield level, value
        else:
            description, at = inner
            yield level, _with(value, expanded=True) if below else value
            walk.path.append((description.name, at))
            yield from self._members(walk, description, at, level + 1, below or [("",)])
            walk.path.pop()

    def _inner(
        self, walk: _Walk, value: FieldValue, level: int, asked: bool
    ) -> tuple[TypeDescription, int | None] | None:
        """The structure whose members are shown below a field, and its address; ``None`` for no such."""
        type_, at = value.type, value.address
        options = walk.options
        if level >= DEEPEST:
            return None
        if type_.kind == "pointer" and type_.target is not None and (asked or options.depth > level):
            type_ = type_.target
            if at is not None:
                at = value.value if isinstance(value.value, int) else None
                if not at:
                    return None
        elif not (asked or options.depth > level or options.blocks):
            return None
        if type_.kind not in ("struct", "union") or type_.name is None:
            return None
        description = self.describe(type_.name)
        if description is None or not description.members:
            return None
        # What leads back to itself is not followed, neither in memory nor among types.
        return None if (description.name, at) in walk.path else (description, at)

    def _elements(
        self, walk: _Walk, type_: TypeReference, address: int | None, level: int
    ) -> Iterator[tuple[int, FieldValue]]:
        element, count = type_.target, type_.count or 0
        if element is None or element.size is None:
            return
        for index in range(min(count, walk.options.elements, MOST_ELEMENTS)):
            at = None if address is None else (address + index * element.size) % _TOP
            yield from self._member(walk, f"[{index:02}]", index * element.size, element, at, level, ())

    # values -----------------------------------------------------------------------------------------------------

    def value(self, name: str, offset: int, type_: TypeReference, address: int | None) -> FieldValue:
        """The value of a type at an address, or without one the type alone."""
        if address is None:
            return FieldValue(name, offset, type_)
        if type_.kind == "pointer":
            return self._pointer(name, offset, type_, address)
        if type_.kind == "array":
            return self._array(name, offset, type_, address)
        if type_.kind in ("struct", "union"):
            return self._record(name, offset, type_, address)
        return self._scalar(name, offset, type_, address)

    def number(self, type_: TypeReference, address: int) -> int | float | None:
        """The number at an address: a scalar, a pointer (sign-extended), bits of a bit field; ``None`` if absent."""
        storage = type_.target if type_.kind == "bitfield" and type_.target is not None else type_
        size = storage.size or 0
        raw = self.memory.read(address, size) if 0 < size <= 16 else None
        if raw is None:
            return None
        number = int.from_bytes(raw, "little")
        if type_.kind == "bitfield":
            return number >> (type_.bit or 0) & ((1 << (type_.bits or 0)) - 1)
        if type_.kind == "pointer":
            return sign_extended(number, self.memory.pointer_size) if size == 4 else number
        if self.is_float(storage):
            value: float = struct.unpack("<f" if size == 4 else "<d", raw)[0]
            return value
        return int.from_bytes(raw, "little", signed=True) if self.is_signed(storage) else number

    def _scalar(self, name: str, offset: int, type_: TypeReference, address: int) -> FieldValue:
        storage = type_.target if type_.kind == "bitfield" and type_.target is not None else type_
        number = self.number(type_, address)
        if number is None:
            return FieldValue(name, offset, type_, address)
        constant, signed = None, type_.kind != "bitfield" and self.is_signed(storage)
        if storage.kind == "enum" and storage.name is not None:
            constant = self.constant(storage.name, int(number), storage.size if type_.kind == "enum" else None)
        return FieldValue(name, offset, type_, address, number, True, constant=constant, signed=signed)

    def constant(self, enumeration: str, value: int, size: int | None = None) -> str | None:
        """The name of a value of an enumeration, stored in ``size`` bytes; ``None`` where it has no name."""
        description = self.describe(enumeration)
        wrap = None if size is None else 1 << 8 * size
        for label, number in description.constants if description is not None else ():
            if number == value or (wrap is not None and (number - value) % wrap == 0):
                return label
        return None

    def is_float(self, type_: TypeReference) -> bool:
        """Whether a base type is a floating-point number of 4 or 8 bytes."""
        return self._base_kind(type_).get("kind") == "float" and type_.size in (4, 8)

    def is_signed(self, type_: TypeReference) -> bool:
        """Whether a base type is a signed integer."""
        base = self._base_kind(type_)
        return bool(base.get("signed")) and base.get("kind") in ("int", "char")

    def _base_kind(self, type_: TypeReference) -> dict[str, object]:
        base = self.table.layouts.types.base_types.get(type_.name or "", {}) if type_.kind == "base" else {}
        return base if isinstance(base, dict) else {}

    def _pointer(self, name: str, offset: int, type_: TypeReference, address: int) -> FieldValue:
        size = type_.size or self.memory.pointer_size
        value = self.memory.unsigned(address, size)
        if value is None:
            return FieldValue(name, offset, type_, address)
        if size == 4:
            value = sign_extended(value, self.memory.pointer_size)
        field = FieldValue(name, offset, type_, address, value, True)
        goal = type_.target
        if not value or goal is None:
            return field
        if goal.kind == "function" or (goal.kind == "base" and goal.name == "void"):
            place = self.target.names.lookup(value)
            named = place is not None and (goal.kind == "function" or place.symbol is not None)
            return _with(field, symbol=str(place) if named else None)
        if goal.kind == "pointer":
            return _with(field, pointed=self.memory.pointer(value))
        width = character_width(goal)
        if width:
            string, unread = self.string(value, width)
            return _with(field, text=string, unread=unread)
        if goal.kind == "struct" and goal.name in _STRINGS:
            inner = self._record("", 0, goal, value)
            return _with(field, text=inner.text, unread=inner.unread)
        if goal.name in _LOOKED_THROUGH:
            return _with(field, first=self._record("", 0, goal, value))
        return field

    def string(self, address: int, width: int, most: int = _TEXT) -> tuple[str | None, int | None]:
        """A string that ends at its NUL: its text, else the address that could not be read."""
        parts = list(read_text(self.memory, address, width, most, 64))
        if parts and parts[0].text is None:
            return None, address
        return "".join(part.text or "" for part in parts), None

    def _array(self, name: str, offset: int, type_: TypeReference, address: int) -> FieldValue:
        element = type_.target
        if element is None or not type_.count:
            return FieldValue(name, offset, type_, address, held=True)
        width = character_width(element)
        if width:
            string, unread = self.string(address, width, min(type_.count, 4096))
            return FieldValue(name, offset, type_, address, held=unread is None, text=string, unread=unread)
        first = self.value("", 0, element, address)
        return FieldValue(name, offset, type_, address, held=first.held, first=first)

    def _record(self, name: str, offset: int, type_: TypeReference, address: int) -> FieldValue:
        """A structure: what KD says of the few that it knows."""
        if type_.name == "_LIST_ENTRY":
            width = self.memory.pointer_size
            links = self.memory.pointer(address), self.memory.pointer((address + width) % _TOP)
            return FieldValue(name, offset, type_, address, held=None not in links, links=links)
        if type_.name in _STRINGS:
            return self._counted_string(name, offset, type_, address)
        if type_.name in _LARGE:
            value = self.memory.unsigned(address, 8)
            return FieldValue(name, offset, type_, address, value, value is not None)
        if type_.name == "_GUID":
            data = self.memory.read(address, 16)
            guid = None if data is None else f"{{{uuid.UUID(bytes_le=data)}}}"
            return FieldValue(name, offset, type_, address, held=data is not None, text=guid)
        return FieldValue(name, offset, type_, address, held=True)

    def _counted_string(self, name: str, offset: int, type_: TypeReference, address: int) -> FieldValue:
        width = _STRINGS[type_.name or ""]
        length = self.memory.unsigned(address, 2)
        buffer = self.memory.pointer((address + self.memory.pointer_size) % _TOP)
        if length is None or buffer is None:
            return FieldValue(name, offset, type_, address)
        field = FieldValue(name, offset, type_, address, held=True)
        if not length:
            return _with(field, text="")
        data = self.memory.read(buffer, length - length % width)
        if data is None:
            return _with(field, unread=buffer)
        return _with(field, text=data.decode("latin-1" if width == 1 else "utf-16-le", "replace"))

    # lists ------------------------------------------------------------------------------------------------------

    def entries(self, name: str, address: int, path: str) -> Iterator[int]:
        """The structures of a list from one on: ``path`` names the pointer to the next.

        Where that is a link of a LIST_ENTRY, or the LIST_ENTRY itself, structures are found around their links. Ends
        before one that was seen, after a null or unreadable pointer, and after 65,536 structures.
        """
        nt = self.table.layouts
        field = nt.find(name, path)
        if field is None:
            raise KdumpError(f"Cannot find specified field members: {name} has no field {path}")
        inside = field.type_name == "_LIST_ENTRY"
        parent, _, last = path.rpartition(".")
        around = 0
        if inside:
            around = field.offset
        elif last in ("Flink", "Blink") and parent:
            around = nt.offset(name, parent)
        elif field.kind != "pointer":
            raise KdumpError(f"{name}.{path} is no pointer to a next structure")
        seen: set[int] = set()
        entry: int | None = address
        while entry and entry not in seen and len(seen) < MOST_ENTRIES:
            seen.add(entry)
            yield entry
            link = self.memory.pointer((entry + field.offset) % _TOP)
            entry = (link - around) % _TOP if link else None


def character_width(type_: TypeReference) -> int:
    """1 for 8-bit characters, 2 for wide ones, 0 for any other type."""
    if type_.kind != "base":
        return 0
    return {"char": 1, "unsigned char": 1, "wchar": 2}.get(type_.name or "", 0)


def _order(member: Member) -> tuple[int, bool, int]:
    return member.offset, member.type.kind == "bitfield", member.type.bit or 0


def _pattern(pattern: str, prefix: bool) -> Wildcard | None:
    """What a field's name has to fit; ``None`` for anything."""
    if not pattern:
        return None
    return Wildcard(f"{pattern}*" if prefix else pattern)


def _with(value: FieldValue, **changes: object) -> FieldValue:
    return dataclasses.replace(value, **changes)  # type: ignore[arg-type]
