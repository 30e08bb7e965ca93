"""The types of a module: structures with fields, arrays, bit fields, enumerations and unions, from ISF or PDB.

:class:`~volatility3_kdump.layout.Layouts` answers where one field is and reads it; this shows what a type consists of,
pointers' targets included, for views that show any type of any module::

    table = target.types_of(module)
    for member in table.describe("_EPROCESS").members:
        member.offset, member.name, str(member.type)
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.layout import Layouts

_DEEPEST = 64


@dataclass(frozen=True)
class TypeReference:
    """The type of a member.

    ``kind`` is ``base``, ``struct``, ``union``, ``enum``, ``pointer``, ``array``, ``bitfield`` or ``function``.
    ``name`` names base types, structures, unions and enumerations. ``size`` is in bytes, of a bit field that of its
    storage unit; ``None`` where it is not known. ``target`` is what a pointer points to, the element of an array, or
    the type of a bit field. ``count`` is the number of elements; ``bit`` and ``bits`` locate a bit field in its unit.
    """

    kind: str
    name: str | None
    size: int | None
    target: TypeReference | None = None
    count: int | None = None
    bit: int | None = None
    bits: int | None = None

    def __str__(self) -> str:
        """The type as a declaration in C writes it, but from left to right: ``[4] pointer to struct _KTHREAD``."""
        if self.kind == "pointer":
            return f"pointer to {self.target}"
        if self.kind == "array":
            return f"[{self.count}] {self.target}"
        if self.kind == "bitfield":
            return f"{self.target}, bit {self.bit}, {self.bits} long"
        if self.kind in ("struct", "union", "enum"):
            return f"{self.kind} {self.name}"
        return self.name or self.kind


@dataclass(frozen=True)
class Member:
    """A member of a structure or union; ``offset`` in bytes from its start."""

    name: str
    offset: int
    type: TypeReference


@dataclass(frozen=True)
class TypeDescription:
    """A type by name: ``kind`` is ``struct``, ``union``, ``enum`` or ``base``; ``size`` in bytes.

    ``members`` are in the order of their offsets, those of one offset in the order of their bits, and in the order of
    the declaration otherwise. ``constants`` are the (name, value) pairs of an enumeration in the order of values, whose
    ``base`` type says how they are stored.
    """

    name: str
    kind: str
    size: int
    members: tuple[Member, ...] = ()
    constants: tuple[tuple[str, int], ...] = ()
    base: str | None = None


class TypeTable:
    """The types of one module."""

    def __init__(self, layouts: Layouts) -> None:
        self.layouts = layouts
        self._document = layouts.types
        self._folded: dict[str, str] | None = None
        self._constants: dict[str, tuple[str, int, int]] | None = None

    @property
    def origin(self) -> str:
        """The file that the types come from."""
        return self.layouts.origin

    def names(self, pattern: str = "*") -> Iterator[str]:
        """The names of structures, unions and enumerations that fit a pattern (``*``, ``?``), in alphabetical order.

        Letter case does not matter.
        """
        wanted = pattern.casefold()
        for name in sorted({*self._document.user_types, *self._document.enums}, key=str.casefold):
            if fnmatch.fnmatchcase(name.casefold(), wanted):
                yield name

    def find(self, name: str) -> str | None:
        """The exact name of a type: as given, else without regard to case, each also with an underscore in front.

        ``None`` when there is no such type.
        """
        document = self._document
        if self._folded is None:
            self._folded = {}
            for table in (document.base_types, document.enums, document.user_types):
                self._folded.update((type_name.casefold(), type_name) for type_name in table)
        for candidate in (name, f"_{name}"):
            if any(candidate in table for table in (document.user_types, document.enums, document.base_types)):
                return candidate
        return self._folded.get(name.casefold()) or self._folded.get(f"_{name}".casefold())

    def describe(self, name: str) -> TypeDescription | None:
        """A type by its exact name; ``None`` when there is none, or when what the table says of it makes no sense."""
        document = self._document
        try:
            if name in document.user_types:
                raw = document.user_types[name]
                members = [
                    Member(label, int(field["offset"]), self._reference(field["type"]))
                    for label, field in raw["fields"].items()
                ]
                members.sort(key=lambda member: (member.offset, member.type.bit or 0))
                return TypeDescription(name, str(raw["kind"]), int(raw["size"]), tuple(members))
            if name in document.enums:
                raw = document.enums[name]
                constants = sorted(((label, int(value)) for label, value in raw["constants"].items()), key=_by_value)
                return TypeDescription(name, "enum", int(raw["size"]), (), tuple(constants), str(raw["base"]))
            if name in document.base_types:
                return TypeDescription(name, "base", int(document.base_types[name]["size"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        return None

    def type_of_symbol(self, name: str) -> TypeReference | None:
        """The type of a variable; ``None`` where the table has none, or one that makes no sense."""
        raw = self.layouts.symbol_type(name)
        try:
            type_ = None if raw is None else self._reference(raw)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return None if type_ is not None and type_.kind == "base" and type_.name == "void" else type_

    def constant(self, label: str, enumeration: str = "") -> tuple[str, int, int] | None:
        """(enumeration, value, size) of a constant by its exact name, of any enumeration or of one; ``None`` for none.

        Where several enumerations have it, the first in the order of their names counts.
        """
        if enumeration:
            description = self.describe(self.find(enumeration) or "")
            value = dict(description.constants).get(label) if description is not None else None
            return None if description is None or value is None else (description.name, value, description.size)
        if self._constants is None:
            self._constants = {}
            for name in sorted(self._document.enums):
                raw = self._document.enums[name]
                for constant, value in raw.get("constants", {}).items():
                    self._constants.setdefault(constant, (name, int(value), int(raw["size"])))
        return self._constants.get(label)

    def _reference(self, raw: Mapping[str, Any], depth: int = 0) -> TypeReference:
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        document = self._document
        kind = str(raw["kind"])
        if kind == "pointer":
            size = int(document.base_types[raw.get("base", "pointer")]["size"])
            return TypeReference(kind, None, size, self._reference(raw["subtype"], depth + 1))
        if kind == "array":
            element = self._reference(raw["subtype"], depth + 1)
            count = int(raw["count"])
            return TypeReference(kind, None, None if element.size is None else element.size * count, element, count)
        if kind == "bitfield":
            unit = self._reference(raw["type"], depth + 1)
            return TypeReference(kind, None, unit.size, unit, bit=int(raw["bit_position"]), bits=int(raw["bit_length"]))
        if kind == "function":
            return TypeReference(kind, None, None)
        name = str(raw["name"])
        table = {"base": document.base_types, "enum": document.enums}.get(kind, document.user_types)
        return TypeReference(kind, name, int(table[name]["size"]) if name in table else None)


def _by_value(pair: tuple[str, int]) -> int:
    return pair[1]
