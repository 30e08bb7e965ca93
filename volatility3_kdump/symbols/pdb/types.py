"""The types of a PDB file: its TPI stream made into an ISF document, which :class:`Layouts` reads.

The host's converter gives up at the first record of C++ that it does not know, which nearly every driver has; this one
passes over what has no place in a layout (methods, nested and static declarations), so it serves every module. Names
and shapes of the document are those that the host's converter gives for the kernel. Beyond that:

- a base class is a field by the name of the class, a virtual function table the field ``__VFN_table``;
- types without a name are ``__unnamed_INDEX``, as with the host, in namespaces and classes too;
- a pointer to a member is an integer, its offset;
- where several different definitions bear one name, all but the last have ``__INDEX`` behind it.

Layouts: "The PDB TPI and IPI Streams" and "CodeView Type Records" of LLVM's documentation; ``cvinfo.h`` of Microsoft's
published sources.

One file over 500 lines: the tables of CodeView's kinds and simple types serve only the one class that reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.symbols.pdb.msf import CorruptPdb
from volatility3_kdump.symbols.pdb.names import PdbFile
from volatility3_kdump.version import __version__

_TPI = struct.Struct("<5I")
_FIRST_INDEX = 0x1000
_LARGEST_STREAM = 256 << 20
_MOST_TYPES = 4_000_000
#: Fields and constants of all types together; a record may be used by many types.
_MOST_FIELDS = 4_000_000
#: Of the fields that types of different names have from one list: a table in a file repeats them.
_MOST_SHARED = 500_000
#: Nesting of pointers and arrays, beyond which a type is damaged.
_DEEPEST = 32

_MODIFIER, _POINTER, _PROCEDURE, _MFUNCTION = 0x1001, 0x1002, 0x1008, 0x1009
_FIELDLIST, _BITFIELD = 0x1203, 0x1205
_ARRAY, _STRIDED_ARRAY = 0x1503, 0x1516
_CLASS, _STRUCTURE, _UNION, _ENUM, _ALIAS, _INTERFACE = 0x1504, 0x1505, 0x1506, 0x1507, 0x150A, 0x1519
#: The same with wider counts, which compilers from 2019 on write for some types.
_CLASS_19, _STRUCTURE_19 = 0x1608, 0x1609
_STRUCTURES = (_CLASS, _STRUCTURE, _INTERFACE, _CLASS_19, _STRUCTURE_19)
_NAMED = (*_STRUCTURES, _UNION, _ENUM)

_BASE_CLASS, _VIRTUAL_BASE, _INDIRECT_BASE, _MORE, _BASE_INTERFACE = 0x1400, 0x1401, 0x1402, 0x1404, 0x151A
_FUNCTION_TABLE, _FRIEND_CLASS, _FUNCTION_OFFSET = 0x1409, 0x140A, 0x140C
_ENUMERATE, _MEMBER, _STATIC, _METHOD, _NESTED, _ONE_METHOD = 0x1502, 0x150D, 0x150E, 0x150F, 0x1510, 0x1511
_NESTED_EX, _MODIFY, _FRIEND_FUNCTION = 0x1512, 0x1513, 0x150C
#: Records of a field list that are an attribute, a type and a name and have no place in a layout.
_NAMES_ONLY = (_STATIC, _METHOD, _NESTED, _NESTED_EX, _MODIFY, _FRIEND_FUNCTION)
#: Values of the method property for which the offset in the function table follows.
_INTRODUCING = (4, 6)

_FORWARD, _HAS_UNIQUE_NAME = 0x80, 0x200
_UNNAMED = {
    "<unnamed-tag>": "__unnamed_",
    "__unnamed": "__unnamed_",
    "<anonymous-tag>": "__anonymous_",
    "__anonymous": "__anonymous_",
}
#: Numeric leaves: values that do not fit 15 bits.
_NUMBERS = {
    0x8000: struct.Struct("<b"),
    0x8001: struct.Struct("<h"),
    0x8002: struct.Struct("<H"),
    0x8003: struct.Struct("<i"),
    0x8004: struct.Struct("<I"),
    0x8009: struct.Struct("<q"),
    0x800A: struct.Struct("<Q"),
}
_WIDE_NUMBERS = (0x8017, 0x8018)

#: Simple types by the low byte of their index: name, kind, signed, bytes. The names are the host's where it has one.
_SIMPLE = {
    0x03: ("void", "void", True, 0),
    0x08: ("HRESULT", "int", False, 4),
    0x10: ("char", "char", True, 1),
    0x11: ("short", "int", True, 2),
    0x12: ("long", "int", True, 4),
    0x13: ("long long", "int", True, 8),
    0x14: ("int128", "int", True, 16),
    0x20: ("unsigned char", "char", False, 1),
    0x21: ("unsigned short", "int", False, 2),
    0x22: ("unsigned long", "int", False, 4),
    0x23: ("unsigned long long", "int", False, 8),
    0x24: ("uint128", "int", False, 16),
    0x30: ("bool", "bool", False, 1),
    0x31: ("bool16", "bool", False, 2),
    0x32: ("bool32", "bool", False, 4),
    0x33: ("bool64", "bool", False, 8),
    0x40: ("f32", "float", True, 4),
    0x41: ("double", "float", True, 8),
    0x42: ("f80", "float", True, 10),
    0x43: ("f128", "float", True, 16),
    0x44: ("f48", "float", True, 6),
    0x45: ("f32pp", "float", True, 4),
    0x46: ("f16", "float", True, 2),
    0x68: ("int8", "int", True, 1),
    0x69: ("uint8", "int", False, 1),
    0x70: ("char", "char", True, 1),
    0x71: ("wchar", "int", True, 2),
    0x72: ("short", "int", True, 2),
    0x73: ("unsigned short", "int", False, 2),
    0x74: ("int", "int", True, 4),
    0x75: ("unsigned int", "int", False, 4),
    0x76: ("long long", "int", True, 8),
    0x77: ("unsigned long long", "int", False, 8),
    0x78: ("int128", "int", True, 16),
    0x79: ("uint128", "int", False, 16),
    0x7A: ("char16", "int", False, 2),
    0x7B: ("char32", "int", False, 4),
    0x7C: ("char8", "char", False, 1),
}
_POINTER_SIZES = {0x1: 2, 0x2: 4, 0x3: 4, 0x4: 4, 0x5: 6, 0x6: 8, 0x7: 16}
_NEAR_32, _NEAR_64 = 0x0A, 0x0C
#: Mode of a pointer to a data member.
_TO_MEMBER = 2


def document_of(pdb: PdbFile, database: str) -> dict[str, Any]:
    """Types, enumerations and public symbols of a PDB as an ISF document; ``database`` is the name of the PDB.

    Raises :class:`CorruptPdb`.
    """
    types = TypeStream(pdb.type_stream(_LARGEST_STREAM) or b"", pdb.pointer_size)
    user_types, enums = types.definitions()
    symbols: dict[str, dict[str, Any]] = {}
    for rva, name in pdb.publics():
        plain = _plain_name(name)
        symbols[plain] = {"address": rva} if plain == name else {"address": rva, "linkage_name": name}
    for rva, name, index in pdb.variables():
        symbol = symbols.setdefault(name, {"address": rva})
        if symbol["address"] == rva:
            symbol["type"] = types.reference(index)
    if not pdb.stripped:
        for rva, name in pdb.procedures():
            symbols.setdefault(name, {"address": rva})
    return {
        "base_types": types.base_types,
        "enums": enums,
        "metadata": {
            "format": "6.1.0",
            "producer": {
                "name": "volatility3-kdump",
                "version": __version__,
                "symbols": "public" if pdb.stripped else "private",
            },
            "windows": {
                "pdb": {"GUID": pdb.guid, "age": pdb.age, "database": database, "machine_type": pdb.machine},
            },
        },
        "symbols": symbols,
        "user_types": user_types,
    }


def _plain_name(name: str) -> str:
    """A linker name without the marks of its calling convention, by the rule of the host's converter."""
    plain = name[1:] if name[:1] in ("_", "@", "\x7f") else name
    parts = plain.split("@")
    if len(parts) == 2:
        return parts[0] if parts[1].isnumeric() and parts[0][:1] != "?" else name
    return plain


@dataclass(frozen=True)
class _Definition:
    """A structure, union or enumeration: what the record says. ``base`` is the type of an enumeration's values."""

    leaf: int
    name: str
    unique: str | None
    forward: bool
    size: int
    fields: int
    base: int


class TypeStream:
    """The records of a TPI stream. ``base_types`` grows as types are asked for."""

    def __init__(self, data: bytes, pointer_size: int) -> None:
        """Find the records. Raises :class:`CorruptPdb`."""
        self._data = data
        self._pointer_size = pointer_size
        self.base_types: dict[str, dict[str, Any]] = {}
        self._base("pointer", "int", False, pointer_size)
        self._offsets: list[int] = []
        self._references: dict[int, dict[str, Any]] = {}
        self._left = _MOST_FIELDS
        self._shared_left = _MOST_SHARED
        self._lists: dict[int, dict[str, Any]] = {}
        if data:
            self._find_records()
        self._definitions: dict[int, _Definition] = {}
        self._names: dict[int, str] = {}
        self._resolved: dict[int, int] = {}
        self._name_definitions()

    def _find_records(self) -> None:
        data = self._data
        if len(data) < _TPI.size:
            raise CorruptPdb("its type stream ends inside its header")
        _, header, first, last, size = _TPI.unpack_from(data)
        if first != _FIRST_INDEX or not first <= last <= first + _MOST_TYPES or header + size > len(data):
            raise CorruptPdb(f"its type stream of {len(data):#x} bytes cannot hold types {first:#x} to {last:#x}")
        position, end = header, header + size
        append = self._offsets.append
        while position + 4 <= end and len(self._offsets) < last - first:
            append(position)
            length = data[position] | data[position + 1] << 8
            if length < 2:
                raise CorruptPdb(f"the type at offset {position:#x} of its type stream has no content")
            position += length + 2
        if position > end:
            raise CorruptPdb(f"the last type ends behind the type stream of {len(data):#x} bytes")

    def _record(self, index: int) -> tuple[int, bytes]:
        """Leaf and content of a type; (0, b"") where there is none of that index."""
        number = index - _FIRST_INDEX
        if not 0 <= number < len(self._offsets):
            return 0, b""
        at = self._offsets[number]
        length, leaf = struct.unpack_from("<HH", self._data, at)
        return leaf, self._data[at + 4 : at + 2 + length]

    # definitions and their names ------------------------------------------------------------------------------------

    def _name_definitions(self) -> None:
        """Read every structure, union and enumeration, and give each a name of its own."""
        data = self._data
        by_name: dict[str, int] = {}
        alike: dict[str, list[int]] = {}
        by_unique: dict[str, int] = {}
        for number, at in enumerate(self._offsets):
            leaf = data[at + 2] | data[at + 3] << 8
            if leaf not in _NAMED:
                continue
            index = number + _FIRST_INDEX
            definition = self._definition(leaf, self._record(index)[1])
            self._definitions[index] = definition
            name = _own_name(definition.name, index)
            self._names[index] = name
            if not definition.forward:
                earlier = by_name.get(name)
                if earlier is not None and self._differ(self._definitions[earlier], definition):
                    for other in alike.pop(name):
                        self._names[other] = f"{name}__{other:x}"
                alike.setdefault(name, []).append(index)
                by_name[name] = index
                if definition.unique is not None:
                    by_unique[definition.unique] = index
        for index, definition in self._definitions.items():
            resolved: int | None = index
            if definition.forward:
                resolved = by_unique.get(definition.unique) if definition.unique is not None else None
                resolved = by_name.get(definition.name) if resolved is None else resolved
            if resolved is not None:
                self._resolved[index] = resolved

    def _differ(self, one: _Definition, other: _Definition) -> bool:
        """Whether two definitions of one name lay out their fields differently.

        The compiler repeats a type in every source file, each time with other numbers for the types inside it.
        """
        if (one.size, one.base) != (other.size, other.base):
            return True
        if one.fields == other.fields:
            return False
        shapes = [list(self._members(each.fields, each.leaf == _ENUM, self._shape)) for each in (one, other)]
        return shapes[0] != shapes[1]

    def _shape(self, index: int, depth: int = 0) -> Any:
        """What makes a field's type another one, whatever the numbers of the types inside it."""
        leaf, record = self._record(index)
        if not leaf or depth > _DEEPEST:
            return index
        if leaf in _NAMED:
            return self._definition(leaf, record).name
        try:
            if leaf in (_MODIFIER, _ALIAS):
                return self._shape(struct.unpack_from("<I", record)[0], depth + 1)
            if leaf == _POINTER:
                subtype, attributes = struct.unpack_from("<II", record)
                return attributes, self._shape(subtype, depth + 1)
            if leaf in (_ARRAY, _STRIDED_ARRAY):
                element = struct.unpack_from("<I", record)[0]
                return _number(record, 8 if leaf == _ARRAY else 12)[0], self._shape(element, depth + 1)
            if leaf == _BITFIELD:
                subtype, length, start = struct.unpack_from("<IBB", record)
                return length, start, self._shape(subtype, depth + 1)
        except (struct.error, ValueError) as error:
            raise CorruptPdb(f"type {index:#x} of kind {leaf:#x} is cut short") from error
        return leaf

    def _definition(self, leaf: int, record: bytes) -> _Definition:
        try:
            size = fields = base = 0
            if leaf in (_CLASS_19, _STRUCTURE_19):
                flags, fields = struct.unpack_from("<II", record)
                _, position = _number(record, 16)
                size, position = _number(record, position)
            else:
                flags = struct.unpack_from("<H", record, 2)[0]
                if leaf == _ENUM:
                    base, fields = struct.unpack_from("<II", record, 4)
                    position = 12
                elif leaf == _UNION:
                    fields = struct.unpack_from("<I", record, 4)[0]
                    size, position = _number(record, 8)
                else:
                    fields = struct.unpack_from("<I", record, 4)[0]
                    size, position = _number(record, 16)
        except (struct.error, ValueError) as error:
            raise CorruptPdb(f"a type of kind {leaf:#x} is cut short") from error
        name, position = _string(record, position)
        unique = _string(record, position)[0] if flags & _HAS_UNIQUE_NAME else None
        return _Definition(leaf, name, unique or None, bool(flags & _FORWARD), size, fields, base)

    def definitions(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The ``user_types`` and ``enums`` of an ISF document. Raises :class:`CorruptPdb`."""
        user_types: dict[str, Any] = {}
        enums: dict[str, Any] = {}
        for index, definition in self._definitions.items():
            name = self._names[index]
            if definition.forward or not name:
                continue
            if definition.leaf == _ENUM:
                base = self._reference(definition.base)
                if base.get("kind") != "base":
                    raise CorruptPdb(f"the values of the enumeration {name[:80]!a} are of no simple type")
                stored = self.base_types[base["name"]]
                # Compilers write negative values in either way.
                half = 1 << max(8 * stored["size"] - 1, 0)
                enums[name] = {
                    "base": base["name"],
                    "constants": {
                        key: value - 2 * half if stored["signed"] and half <= value < 2 * half else value
                        for key, value, _ in self._members(definition.fields, True, self._reference)
                    },
                    "size": stored["size"],
                }
                continue
            kind = "union" if definition.leaf == _UNION else "struct"
            user_types[name] = {"fields": self._fields(definition.fields), "kind": kind, "size": definition.size}
        return user_types, enums

    def _fields(self, index: int) -> dict[str, Any]:
        """The fields of a list; types that share the list share them."""
        fields = self._lists.get(index)
        if fields is not None:
            self._shared_left -= len(fields)
            if self._shared_left < 0:
                raise CorruptPdb(f"its types share lists of more than {_MOST_SHARED:,} fields")
            return fields
        self._lists[index] = fields = {}
        for key, offset, reference in self._members(index, False, self._reference):
            # Two fields of one name: a base class may be there twice, by different ways.
            label = key if key not in fields or reference is None else f"{key}__{offset:x}"
            fields[label] = {"offset": offset, "type": reference}
        return fields

    def _members(self, index: int, constants: bool, describe: Callable[[int], Any]) -> Iterator[tuple[str, int, Any]]:
        """(name, offset or value, what ``describe`` gives for the type) of a field list; ``None`` for constants."""
        seen: set[int] = set()
        while index and index not in seen:
            seen.add(index)
            leaf, record = self._record(index)
            if leaf != _FIELDLIST:
                return
            index = 0
            position = 0
            try:
                while position + 2 <= len(record):
                    if record[position] >= 0xF0:
                        position += max(record[position] & 0xF, 1)
                        continue
                    self._left -= 1
                    if self._left < 0:
                        raise CorruptPdb(f"its types have more than {_MOST_FIELDS:,} fields")
                    kind, attribute = struct.unpack_from("<HH", record, position)
                    place = position + 4
                    if kind == _MORE:
                        (index,) = struct.unpack_from("<I", record, place)
                        position = place + 4
                        continue
                    if kind == _ENUMERATE:
                        value, place = _number(record, place)
                        name, position = _string(record, place)
                        if constants and name:
                            yield name, value, None
                        continue
                    (type_index,) = struct.unpack_from("<I", record, place)
                    place += 4
                    if kind == _MEMBER:
                        offset, place = _number(record, place)
                        name, position = _string(record, place)
                        yield name, offset, describe(type_index)
                    elif kind in (_BASE_CLASS, _BASE_INTERFACE):
                        offset, position = _number(record, place)
                        base = describe(type_index)
                        yield str(base.get("name", "__base") if isinstance(base, dict) else base), offset, base
                    elif kind in (_VIRTUAL_BASE, _INDIRECT_BASE):
                        # Where a virtual base lies, only the object itself says.
                        _, place = _number(record, place + 4)
                        _, position = _number(record, place)
                    elif kind in (_FUNCTION_TABLE, _FUNCTION_OFFSET):
                        offset = 0
                        position = place
                        if kind == _FUNCTION_OFFSET:
                            (offset,) = struct.unpack_from("<I", record, place)
                            position = place + 4
                        yield "__VFN_table", offset, {"kind": "pointer", "subtype": self._simple(0x03)}
                    elif kind == _FRIEND_CLASS:
                        position = place
                    elif kind == _ONE_METHOD:
                        place += 4 if attribute >> 2 & 7 in _INTRODUCING else 0
                        _, position = _string(record, place)
                    elif kind in _NAMES_ONLY:
                        _, position = _string(record, place)
                    else:
                        raise CorruptPdb(f"a list of fields holds the unknown kind {kind:#x}")
            except (struct.error, ValueError) as error:
                raise CorruptPdb("a list of fields is cut short") from error

    # references -----------------------------------------------------------------------------------------------------

    def _base(self, name: str, kind: str, signed: bool, size: int) -> None:
        self.base_types[name] = {"endian": "little", "kind": kind, "signed": signed, "size": size}

    def _simple(self, index: int) -> dict[str, Any]:
        name, kind, signed, size = _SIMPLE.get(index & 0xFF, ("void", "void", True, 0))
        self._base(name, kind, signed, size)
        reference = {"kind": "base", "name": name}
        mode = index >> 8 & 0xF
        return self._pointer_to(reference, _POINTER_SIZES.get(mode, self._pointer_size)) if mode else reference

    def _pointer_to(self, subtype: dict[str, Any], size: int) -> dict[str, Any]:
        if size == self._pointer_size:
            return {"kind": "pointer", "subtype": subtype}
        name = f"pointer{8 * size}"
        self._base(name, "int", False, size)
        return {"base": name, "kind": "pointer", "subtype": subtype}

    def _bytes(self, count: int) -> dict[str, Any]:
        """What stands for a type of known size and unknown content."""
        return {"count": count, "kind": "array", "subtype": self._simple(0x20)}

    def reference(self, index: int) -> dict[str, Any]:
        """A type by its number, as a field or a variable of it says it."""
        return self._reference(index)

    def _reference(self, index: int, depth: int = 0) -> dict[str, Any]:
        """A type as fields name it."""
        reference = self._references.get(index)
        if reference is None:
            if depth > _DEEPEST:
                raise CorruptPdb(f"type {index:#x} is nested more than {_DEEPEST} deep")
            reference = self._simple(index) if index < _FIRST_INDEX else self._complex(index, depth)
            self._references[index] = reference
        return reference

    def _complex(self, index: int, depth: int) -> dict[str, Any]:
        leaf, record = self._record(index)
        if leaf in _NAMED:
            name = self._names[self._resolved.get(index, index)]
            return {"kind": {_UNION: "union", _ENUM: "enum"}.get(leaf, "struct"), "name": name}
        try:
            if leaf in (_MODIFIER, _ALIAS):
                return self._reference(struct.unpack_from("<I", record)[0], depth + 1)
            if leaf == _POINTER:
                subtype, attributes = struct.unpack_from("<II", record)
                size = attributes >> 13 & 0x3F
                size = size or {_NEAR_32: 4, _NEAR_64: 8}.get(attributes & 0x1F, self._pointer_size)
                if attributes >> 5 & 7 == _TO_MEMBER and size in (4, 8):
                    return self._simple(0x74 if size == 4 else 0x76)  # an offset, not an address
                if size not in (2, 4, 8):
                    return self._bytes(size)  # a pointer to a method of a class with several bases
                return self._pointer_to(self._reference(subtype, depth + 1), size)
            if leaf in (_ARRAY, _STRIDED_ARRAY):
                element = struct.unpack_from("<I", record)[0]
                size, _ = _number(record, 8 if leaf == _ARRAY else 12)
                element_size = self._size(element)
                if not element_size:
                    return self._bytes(size)
                return {
                    "count": size // element_size,
                    "kind": "array",
                    "subtype": self._reference(element, depth + 1),
                }
            if leaf == _BITFIELD:
                subtype, length, start = struct.unpack_from("<IBB", record)
                underlying = self._reference(subtype, depth + 1)
                return {"bit_length": length, "bit_position": start, "kind": "bitfield", "type": underlying}
        except (struct.error, ValueError) as error:
            raise CorruptPdb(f"type {index:#x} of kind {leaf:#x} is cut short") from error
        if leaf in (_PROCEDURE, _MFUNCTION):
            return {"kind": "function"}
        return self._simple(0x03)

    def _size(self, index: int, depth: int = 0) -> int:
        """Bytes of a type; 0 where that is not known."""
        if index < _FIRST_INDEX:
            mode = index >> 8 & 0xF
            return (
                _POINTER_SIZES.get(mode, self._pointer_size) if mode else _SIMPLE.get(index & 0xFF, ("", "", 0, 0))[3]
            )
        leaf, record = self._record(index)
        if depth > _DEEPEST:
            return 0
        if leaf in _NAMED:
            definition = self._definitions[self._resolved.get(index, index)]
            return self._size(definition.base, depth + 1) if leaf == _ENUM else definition.size
        if leaf in (_MODIFIER, _ALIAS, _BITFIELD):
            return self._size(struct.unpack_from("<I", record)[0], depth + 1)
        if leaf == _POINTER:
            attributes = struct.unpack_from("<I", record, 4)[0]
            return attributes >> 13 & 0x3F or {_NEAR_32: 4, _NEAR_64: 8}.get(attributes & 0x1F, self._pointer_size)
        if leaf in (_ARRAY, _STRIDED_ARRAY):
            return _number(record, 8 if leaf == _ARRAY else 12)[0]
        return 0


def _own_name(name: str, index: int) -> str:
    """A type's name, made unique where it has none."""
    scope, separator, last = name.rpartition("::")
    prefix = _UNNAMED.get(last)
    return name if prefix is None else f"{scope}{separator}{prefix}{index:x}"


def _number(record: bytes, position: int) -> tuple[int, int]:
    """A numeric leaf and the position behind it. Raises ``struct.error`` and ``ValueError``."""
    (value,) = struct.unpack_from("<H", record, position)
    position += 2
    if value < 0x8000:
        return value, position
    if value in _NUMBERS:
        form = _NUMBERS[value]
        return form.unpack_from(record, position)[0], position + form.size
    if value in _WIDE_NUMBERS and position + 16 <= len(record):
        return int.from_bytes(record[position : position + 16], "little", signed=value == 0x8017), position + 16
    raise ValueError(f"numeric leaf {value:#x}")


def _string(record: bytes, position: int) -> tuple[str, int]:
    """A NUL-terminated string and the position behind it."""
    end = record.find(b"\0", position)
    end = len(record) if end < 0 else end
    return record[position:end].decode("utf-8", "replace"), end + 1
