"""Struct readers compiled from ISF types: one read, many fields.

An ISF document (Volatility's Intermediate Symbol Format) describes types, enumerations and symbols of one module.
:class:`Layouts` gives offsets, sizes and symbol addresses from such a document, and compiles readers that unpack many
fields from one block of bytes without a Volatility object for each::

    nt = Layouts.load(path)
    reader = nt.reader("_EPROCESS", pid="UniqueProcessId", next="ActiveProcessLinks.Flink", name="ImageFileName")
    process = reader.unpack(memory.read(address, reader.size))
    process.pid, process.name

A field is named by a dotted path through embedded structures. A tuple of paths lists alternatives, newest layout first:
the first that the type has is read, and a field that none of them names reads as ``None``.
"""

from __future__ import annotations

import bisect
import collections
import keyword
import lzma
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volatility3_kdump import isf_document
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import FileFailure, open_file, read_at_most

FieldPath = str | Sequence[str]

#: What reading a document that is not shaped like an ISF raises.
_MALFORMED = (KeyError, TypeError, AttributeError, IndexError)
_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SIGNED = {1: "b", 2: "h", 4: "i", 8: "q"}


class LayoutError(KdumpError):
    """A type, field or symbol that the symbol table does not have."""


@dataclass(frozen=True)
class Field:
    """Where a field lies inside its outermost structure.

    ``offset`` and ``size`` are bytes; ``kind`` is the ISF kind (``base``, ``pointer``, ``struct``, ``array``, ``enum``,
    ``bitfield``...); ``code`` is the struct-module letter of a scalar, or ``None`` where the value is raw bytes;
    ``bit`` and ``bits`` locate a bit field inside its storage unit; ``type_name`` names the structure, enumeration or
    base type; ``count`` is the number of elements of an array.
    """

    offset: int
    size: int
    kind: str
    code: str | None = None
    bit: int = 0
    bits: int = 0
    type_name: str | None = None
    count: int | None = None


class StructReader:
    """Unpacks chosen fields of one structure from a block of bytes."""

    __slots__ = ("_layout", "_plan", "_row", "_start", "fields", "size", "type_name")

    def __init__(self, type_name: str, fields: Mapping[str, Field | None]) -> None:
        self.type_name = type_name
        self.fields = dict(fields)
        present = [field for field in fields.values() if field is not None]
        #: Bytes from the start of the structure that cover every field.
        self.size = max((field.offset + field.size for field in present), default=0)
        # Types of C++ code have names such as "<unnamed-tag>" that no class can have.
        name = type_name.strip("_")
        usable = name.isidentifier() and not keyword.iskeyword(name)
        self._row: Any = collections.namedtuple(name if usable else "Row", list(fields))  # type: ignore[misc]
        self._layout, self._plan = _compile(list(fields.values()))

    def unpack(self, data: bytes | bytearray | memoryview, base: int = 0) -> Any:
        """The fields as a named tuple; integers for scalars, ``bytes`` for structures and arrays.

        ``base`` is the offset of the structure inside ``data``. Raises ``struct.error`` when ``data`` is too short.
        """
        if len(data) - base < self.size:
            raise struct.error(f"{self.type_name} needs {self.size} bytes at offset {base}, of {len(data)}")
        raw = self._layout.unpack_from(data, base)
        if self._plan is None:
            return self._row._make(raw)
        values: list[Any] = []
        for index, bit, mask, offset, size in self._plan:
            if index is None:
                values.append(None if size == 0 else bytes(data[base + offset : base + offset + size]))
            elif mask:
                values.append((raw[index] >> bit) & mask)
            else:
                values.append(raw[index])
        return self._row._make(values)


def _compile(
    fields: Sequence[Field | None],
) -> tuple[struct.Struct, list[tuple[int | None, int, int, int, int]] | None]:
    """One struct format over the non-overlapping scalars, and a plan that maps its values back to the fields."""
    ordered = sorted({(field.offset, field.code, field.size) for field in fields if field is not None and field.code})
    parts = ["<"]
    position = 0
    index_of: dict[tuple[int, str, int], int] = {}
    overlapping: list[tuple[int, str, int]] = []
    for offset, code, size in ordered:
        assert code is not None
        if offset < position:
            overlapping.append((offset, code, size))
            continue
        parts.append(f"{offset - position}x{code}")
        index_of[(offset, code, size)] = len(index_of)
        position = offset + size
    if overlapping:
        raise LayoutError(f"fields overlap at offset {overlapping[0][0]:#x}: read them with two readers")
    plan: list[tuple[int | None, int, int, int, int]] = []
    simple = True
    try:
        layout = struct.Struct("".join(parts))
    except struct.error as error:
        raise LayoutError(f"fields of {position:#x} bytes: {error}") from error
    for number, field in enumerate(fields):
        if field is None:
            plan.append((None, 0, 0, 0, 0))
            simple = False
        elif field.code is None:
            plan.append((None, 0, 0, field.offset, field.size))
            simple = False
        else:
            index = index_of[(field.offset, field.code, field.size)]
            mask = (1 << field.bits) - 1 if field.bits else 0
            plan.append((index, field.bit, mask, field.offset, field.size))
            simple = simple and index == number and not mask
    return layout, None if simple else plan


@dataclass(frozen=True)
class TypeTables:
    """The parts of an ISF document that describe types, by the names of the types, as they stand there."""

    base_types: Mapping[str, Any]
    user_types: Mapping[str, Any]
    enums: Mapping[str, Any]


class Layouts:
    """Types, enumerations and symbols of one ISF document."""

    def __init__(self, document: Mapping[str, Any], origin: str = "<memory>") -> None:
        self.origin = origin
        self.metadata: Mapping[str, Any] = document.get("metadata", {})
        self._base: Mapping[str, Any] = document["base_types"]
        self._types: Mapping[str, Any] = document["user_types"]
        self._enums: Mapping[str, Any] = document.get("enums", {})
        self._symbols: Mapping[str, Any] = document.get("symbols", {})
        self.pointer_size = int(self._base["pointer"]["size"]) if "pointer" in self._base else 8
        self._fields: dict[tuple[str, str], Field | None] = {}
        self._readers: dict[tuple[str, tuple[tuple[str, FieldPath], ...]], StructReader] = {}
        self._sorted: tuple[list[int], list[str]] | None = None

    @classmethod
    def load(cls, path: str | Path) -> Layouts:
        """Read an ISF file, plain or xz-compressed. Raises :class:`LayoutError` when it is not one."""
        path = Path(path)
        try:
            with open_file(path) as file, lzma.open(file) if path.suffix == ".xz" else file as stream:
                data = read_at_most(stream, isf_document.MOST_BYTES + 1)
        except FileFailure as failure:
            raise LayoutError(f"{path}: not a readable ISF symbol table: it {failure}") from failure
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise LayoutError(f"{path}: not a readable ISF symbol table: {error}") from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, origin: str, validated: bool = False) -> Layouts:
        """Read an ISF document, ``validated`` or not as for ``isf_document.parse``.

        Raises :class:`LayoutError` for what is none.
        """
        try:
            return cls(isf_document.parse(data, validated), origin)
        except ValueError as error:
            raise LayoutError(f"{origin}: not a readable ISF symbol table: {error}") from error

    def without_symbols(self) -> Layouts:
        """The same types, without names of addresses."""
        return Layouts(
            {
                "metadata": self.metadata,
                "base_types": self._base,
                "user_types": self._types,
                "enums": self._enums,
                "symbols": {},
            },
            self.origin,
        )

    # types ------------------------------------------------------------------------------------------------------

    @property
    def types(self) -> TypeTables:
        """The document's types themselves, for what shows them; :mod:`volatility3_kdump.symbols.types` does."""
        return TypeTables(self._base, self._types, self._enums)

    def has_type(self, type_name: str) -> bool:
        return type_name in self._types

    def size_of(self, type_name: str) -> int:
        """Size in bytes of a structure, enumeration or base type. Raises :class:`LayoutError` if unknown."""
        for table in (self._types, self._enums, self._base):
            if type_name in table:
                return int(table[type_name]["size"])
        raise LayoutError(f"{self.origin}: no type {type_name}")

    def field_names(self, type_name: str) -> list[str]:
        """The names of a structure's direct members, in offset order."""
        members = self._members(type_name)
        return sorted(members, key=lambda name: int(members[name]["offset"]))

    def find(self, type_name: str, path: FieldPath) -> Field | None:
        """The field at a dotted path, or the first of several alternatives that exists; ``None`` if there is none."""
        for candidate in (path,) if isinstance(path, str) else path:
            key = (type_name, candidate)
            if key not in self._fields:
                try:
                    self._fields[key] = self._resolve(type_name, candidate)
                except (ValueError, RecursionError, *_MALFORMED) as error:
                    raise LayoutError(f"{self.origin}: {type_name} is damaged at {candidate}: {error!r}") from error
            if self._fields[key] is not None:
                return self._fields[key]
        return None

    def field(self, type_name: str, path: FieldPath) -> Field:
        """As :meth:`find`, but raises :class:`LayoutError` when no alternative exists."""
        field = self.find(type_name, path)
        if field is None:
            raise LayoutError(f"{self.origin}: {type_name} has no field {path}")
        return field

    def offset(self, type_name: str, path: FieldPath) -> int:
        """Byte offset of a field in its structure. Raises :class:`LayoutError` when it does not exist."""
        return self.field(type_name, path).offset

    def has(self, type_name: str, path: FieldPath) -> bool:
        return self.find(type_name, path) is not None

    def reader(self, type_name: str, **fields: FieldPath) -> StructReader:
        """A compiled reader, cached: keyword names become attributes of the values that it unpacks."""
        key = (type_name, tuple(fields.items()))
        if key not in self._readers:
            self._readers[key] = StructReader(
                type_name, {name: self.find(type_name, path) for name, path in fields.items()}
            )
        return self._readers[key]

    def _members(self, type_name: str) -> Mapping[str, Any]:
        if type_name not in self._types:
            raise LayoutError(f"{self.origin}: no type {type_name}")
        members: Mapping[str, Any] = self._types[type_name].get("fields", {})
        return members

    def _resolve(self, type_name: str, path: str) -> Field | None:
        offset = 0
        current = type_name
        field: Field | None = None
        for name in path.split("."):
            if field is not None and field.type_name is None:
                return None
            members = self._types.get(current, {}).get("fields", {})
            if name not in members:
                return None
            field = self._describe(members[name]["type"], offset + int(members[name]["offset"]))
            if field.size < 0:
                raise ValueError(f"{field.size} bytes")
            offset = field.offset
            current = field.type_name or ""
        return field

    def _describe(self, type_: Mapping[str, Any], offset: int) -> Field:
        kind = type_["kind"]
        if offset < 0:
            raise ValueError(f"offset {offset}")
        if kind == "pointer":
            # A pointer of another width than the machine's names its base type.
            size = int(self._base[type_["base"]]["size"]) if "base" in type_ else self.pointer_size
            return Field(offset, size, kind, _UNSIGNED[size])
        if kind == "base":
            return self._scalar(kind, offset, type_["name"], self._base[type_["name"]])
        if kind == "enum":
            base = self._base[self._enums[type_["name"]]["base"]]
            return self._scalar(kind, offset, type_["name"], {**base, "size": self._enums[type_["name"]]["size"]})
        if kind == "bitfield":
            storage = self._describe(type_["type"], offset)
            code = _UNSIGNED[storage.size]
            return Field(
                offset,
                storage.size,
                kind,
                code,
                int(type_["bit_position"]),
                int(type_["bit_length"]),
                storage.type_name,
            )
        if kind == "array":
            element = self._describe(type_["subtype"], 0)
            count = int(type_["count"])
            return Field(offset, element.size * count, kind, None, type_name=element.type_name, count=count)
        if kind == "function":
            return Field(offset, 0, kind)
        return Field(offset, int(self._types[type_["name"]]["size"]), kind, None, type_name=type_["name"])

    def _scalar(self, kind: str, offset: int, name: str, base: Mapping[str, Any]) -> Field:
        size = int(base["size"])
        if base.get("kind") == "float":
            return Field(offset, size, kind, {4: "f", 8: "d"}.get(size), type_name=name)
        codes = _SIGNED if base.get("signed") and base.get("kind") != "char" else _UNSIGNED
        return Field(offset, size, kind, codes.get(size), type_name=name)

    # enumerations -----------------------------------------------------------------------------------------------

    def enum(self, name: str) -> dict[int, str]:
        """Value to name of an enumeration; empty when the table does not have it."""
        return {int(value): key for key, value in self._enums.get(name, {}).get("constants", {}).items()}

    # symbols ----------------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> int | None:
        """Offset of a symbol from its module's base, in bytes; ``None`` when the table does not have it."""
        entry = self._symbols.get(name)
        return None if entry is None else int(entry["address"])

    def symbol_type(self, name: str) -> Mapping[str, Any] | None:
        """The type of a variable, as the document has it; ``None`` where it says none."""
        type_ = self._symbols.get(name, {}).get("type")
        return type_ if isinstance(type_, Mapping) else None

    def extent(self, name: str) -> int | None:
        """Bytes from a symbol to the next one, which is the most that a variable can take; ``None`` without one."""
        start = self.symbol(name)
        if start is None:
            return None
        addresses, _ = self._by_address()
        index = bisect.bisect_right(addresses, start)
        return addresses[index] - start if index < len(addresses) else None

    def symbols(self) -> Iterator[tuple[str, int]]:
        """Each symbol with its offset from the module's base; damaged entries are left out."""
        for name, entry in self._symbols.items():
            try:
                rva = int(entry["address"])
            except (KeyError, TypeError, ValueError):
                continue
            yield name, rva

    def symbol_names(self) -> list[str]:
        return list(self._symbols)

    def nearest(self, offset: int) -> tuple[str, int] | None:
        """The symbol at or below a module offset and the distance to it in bytes; ``None`` below the first symbol."""
        addresses, names = self._by_address()
        index = bisect.bisect_right(addresses, offset) - 1
        if index < 0:
            return None
        first = bisect.bisect_left(addresses, addresses[index])
        return names[first], offset - addresses[index]

    def _by_address(self) -> tuple[list[int], list[str]]:
        if self._sorted is None:
            pairs = sorted((int(entry["address"]), name) for name, entry in self._symbols.items() if entry["address"])
            self._sorted = [address for address, _ in pairs], [name for _, name in pairs]
        return self._sorted
