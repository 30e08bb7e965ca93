"""Writes NT structures by field path, with the offsets of a symbol table."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdump_sample.paging import AddressSpaces
from volatility3_kdump.layout import Field, FieldPath, Layouts

Value = int | bytes | str | Sequence[int]

#: What :meth:`Structures.find` answered, for each symbol table: every machine asks for the same few thousand fields.
_PLACES: weakref.WeakKeyDictionary[Layouts, dict[tuple[str, FieldPath], tuple[int, Field] | None]] = (
    weakref.WeakKeyDictionary()
)

_INDEXED = re.compile(r"^(.*?)\[(\d+)\](?:\.(.*))?$")


@dataclass(frozen=True)
class Place:
    """Where a field of a structure lies: address in memory and its :class:`~volatility3_kdump.layout.Field`."""

    address: int
    field: Field


class Structures:
    """Structures of one symbol table in one set of address spaces."""

    def __init__(self, layouts: Layouts, memory: AddressSpaces) -> None:
        self.layouts = layouts
        self.memory = memory
        self._places = _PLACES.setdefault(layouts, {})
        #: (type, path) of every field that was asked for and that the symbol table does not have.
        self.missing: set[tuple[str, str]] = set()

    def at(self, type_name: str, address: int, process: int = 0) -> Structure:
        """A structure at an address; ``process`` is the directory base when it lies in user space."""
        return Structure(self, type_name, address, process)

    def size(self, type_name: str, default: int = 0) -> int:
        """Size in bytes, or the default for a type that the symbol table lacks."""
        return self.layouts.size_of(type_name) if self.layouts.has_type(type_name) else default

    def find(self, type_name: str, path: FieldPath) -> tuple[int, Field] | None:
        """Offset and field for a dotted path that may index arrays (``WaitBlock[1].Object``), or for the first of
        several alternatives that exists."""
        key = (type_name, path)
        try:
            place = self._places[key]
        except KeyError:
            candidates = (path,) if isinstance(path, str) else path
            located = (self._find(type_name, candidate) for candidate in candidates)
            place = self._places[key] = next((one for one in located if one is not None), None)
        if place is None:
            self.missing.add((type_name, path if isinstance(path, str) else path[0]))
        return place

    def _find(self, type_name: str, path: str) -> tuple[int, Field] | None:
        indexed = _INDEXED.match(path)
        if indexed is None:
            field = self.layouts.find(type_name, path)
            return None if field is None else (field.offset, field)
        array = self.layouts.find(type_name, indexed[1])
        if array is None or not array.count:
            return None
        start = array.offset + array.size // array.count * int(indexed[2])
        if indexed[3] is None:
            size = array.size // array.count
            return start, Field(start, size, "base", {1: "B", 2: "H", 4: "I", 8: "Q"}.get(size))
        rest = None if array.type_name is None else self._find(array.type_name, indexed[3])
        return None if rest is None else (start + rest[0], rest[1])

    def link(self, head: int, entries: Sequence[int]) -> None:
        """Make a doubly linked list of LIST_ENTRY structures at these addresses."""
        ring = [head, *entries]
        for index, address in enumerate(ring):
            following, preceding = ring[(index + 1) % len(ring)], ring[index - 1]
            self.memory.write(address, following.to_bytes(8, "little") + preceding.to_bytes(8, "little"))


class Structure:
    """One structure in memory."""

    def __init__(self, owner: Structures, type_name: str, address: int, process: int) -> None:
        self._owner = owner
        self.type_name = type_name
        self.address = address
        self._process = process

    def place(self, path: FieldPath) -> int | None:
        """The address of a field, or ``None`` if the structure does not have it."""
        located = self._owner.find(self.type_name, path)
        return None if located is None else self.address + located[0]

    def set(self, path: FieldPath, value: Value) -> bool:
        """Store a value; False, and nothing stored, where the structure lacks the field.

        Integers go into scalars, bit fields and small unions (LARGE_INTEGER, EX_FAST_REF); ``str`` is stored as ASCII,
        padded with zeros; a sequence of integers fills an array.
        """
        located = self._owner.find(self.type_name, path)
        if located is None:
            return False
        offset, field = located
        address = self.address + offset
        memory = self._owner.memory
        size = field.size
        if isinstance(value, str):
            value = value.encode("ascii")[:size].ljust(size, b"\0")
        elif isinstance(value, int):
            if field.bits:
                unit = int.from_bytes(memory.read(address, size, self._process) or bytes(size), "little")
                mask = ((1 << field.bits) - 1) << field.bit
                value = (unit & ~mask) | (value << field.bit & mask)
            value = (value & ((1 << size * 8) - 1)).to_bytes(size, "little")
        elif not isinstance(value, bytes):
            size //= field.count or 1
            value = b"".join(element.to_bytes(size, "little") for element in value)
        memory.write(address, value, process=self._process)
        return True

    def fill(self, values: Mapping[FieldPath, Value]) -> None:
        """Store several values; fields that the structure lacks are passed over."""
        for path, value in values.items():
            self.set(path, value)

    def unicode(self, path: FieldPath, text: str, buffer: int) -> None:
        """Store a UNICODE_STRING and its characters, NUL-terminated, at ``buffer``."""
        data = text.encode("utf-16-le")
        self._owner.memory.write(buffer, data + b"\0\0", process=self._process)
        header = len(data).to_bytes(2, "little") + (len(data) + 2).to_bytes(2, "little")
        self.set(path, header + bytes(4) + buffer.to_bytes(8, "little"))
