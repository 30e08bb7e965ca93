"""ISF documents from anywhere, seen to be symbol tables before anybody relies on them.

The format is the host's ("Intermediate Symbol Format", its JSON schemas 4 to 6). A table is asked for thousands of
fields, and a wrong one can come from any directory, so it is checked once, here: kinds, sizes, offsets and addresses of
what the suite reads. A document is refused before it is parsed where it would take more memory than any kernel's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from volatility3_kdump.collecting import no_collection
from volatility3_kdump.shapes import ShapeError

#: Bytes of a document. The largest kernel tables have 7 MB; all types and symbols of a large driver, ten times that.
MOST_BYTES = 128 << 20
#: Values in a document: the largest kernel tables have 200,000. Each takes about 100 bytes when parsed.
MOST_VALUES = 4_000_000
#: How deep a type may name types: an array of arrays of pointers to arrays ...
_MOST_NESTING = 32
_MOST_SIZE = 1 << 40
#: Bytes of an integer or floating-point type.
_MOST_SCALAR = 64
#: Whether Python itself refuses integers of thousands of digits, whose conversion takes quadratic time.
_DIGITS_ARE_LIMITED = 0 < getattr(sys, "get_int_max_str_digits", lambda: 0)() <= 10_000
_NAMED = frozenset({"struct", "union", "class", "enum", "base"})


def parse(data: bytes, validated: bool = False) -> dict[str, Any]:
    """The document in some bytes. Raises ``ValueError`` in one line for what is no symbol table.

    ``validated`` says that these very bytes were written from a document that :func:`validate` has seen.
    """
    if len(data) > MOST_BYTES:
        raise ShapeError(f"more than {MOST_BYTES >> 20} MiB")
    values = 0 if validated else data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > MOST_VALUES:
        raise ShapeError(f"{values:,} values, more than the {MOST_VALUES:,} of any symbol table")
    with no_collection():
        try:
            document = json.loads(data, parse_int=None if _DIGITS_ARE_LIMITED else _integer)
        except RecursionError as error:
            raise ShapeError("nested too deeply") from error
        if not validated:
            validate(document)
    return document  # type: ignore[no-any-return]


def _integer(digits: str) -> int:
    if len(digits) > 40:
        raise ShapeError(f"an integer of {len(digits)} digits")
    return int(digits)


def validate(document: Any) -> None:
    """Raise :class:`~volatility3_kdump.shapes.ShapeError` for a document that is no symbol table."""
    _object(document, "the document")
    for part, needed in (("base_types", True), ("user_types", True), ("enums", False), ("symbols", False)):
        if part not in document and needed:
            raise ShapeError(f"no {part}")
        _object(document.get(part, {}), part)
    _object(document.get("metadata", {}), "metadata")
    for name, base in document["base_types"].items():
        where = f"base type {_shown(name)}"
        _object(base, where)
        _number(base.get("size"), 0, _MOST_SCALAR, f"the size of {where}")
    for name, enum in document.get("enums", {}).items():
        where = f"enumeration {_shown(name)}"
        _object(enum, where)
        _number(enum.get("size"), 0, _MOST_SCALAR, f"the size of {where}")
        _text(enum.get("base"), f"the base of {where}")
        constants = enum.get("constants", {})
        _object(constants, f"the constants of {where}")
        for value in constants.values():
            if type(value) is not int:
                raise ShapeError(f"{where} has a constant that is not an integer")
    for name, structure in document["user_types"].items():
        _structure(name, structure)
    for name, symbol in document.get("symbols", {}).items():
        if type(symbol) is not dict:
            raise ShapeError(f"symbol {_shown(name)} is not an object")
        address = symbol.get("address")
        if type(address) is not int or not 0 <= address < 1 << 64:
            raise ShapeError(f"the address of symbol {_shown(name)} is not an integer of 64 bits")


def _structure(name: str, structure: Any) -> None:
    where = f"type {_shown(name)}"
    _object(structure, where)
    _number(structure.get("size"), 0, _MOST_SIZE, f"the size of {where}")
    fields = structure.get("fields", {})
    _object(fields, f"the fields of {where}")
    for label, field in fields.items():
        if type(field) is not dict:
            raise ShapeError(f"field {_shown(label)} of {where} is not an object")
        offset = field.get("offset")
        if type(offset) is not int or not 0 <= offset <= _MOST_SIZE:
            raise ShapeError(f"the offset of {_shown(label)} in {where} is not a number of bytes")
        problem = _type_problem(field.get("type"))
        if problem:
            raise ShapeError(f"the type of {_shown(label)} in {where} {problem}")


def _type_problem(type_: Any) -> str | None:
    """What is wrong with a type as a field names it; ``None`` if nothing is."""
    for _ in range(_MOST_NESTING):
        if type(type_) is not dict:
            return "is not an object"
        kind = type_.get("kind")
        if type(kind) is not str:
            return "is of no known kind"
        if kind in _NAMED:
            return None if type(type_.get("name")) is str else "has no name"
        if kind == "function":
            return None
        if kind == "pointer":
            if type(type_.get("base", "")) is not str:
                return "is a pointer to no type"
            type_ = type_.get("subtype", _NOTHING)
        elif kind == "bitfield":
            position, length = type_.get("bit_position"), type_.get("bit_length")
            if type(position) is not int or type(length) is not int or not (0 <= position < 128 and 0 <= length <= 128):
                return "is a bit field without position and length"
            type_ = type_.get("type")
        elif kind == "array":
            count = type_.get("count")
            if type(count) is not int or not 0 <= count <= _MOST_SIZE:
                return "is an array without a count"
            type_ = type_.get("subtype")
        else:
            return "is of no known kind"
    return "is nested too deeply"


#: What a pointer without a type points to.
_NOTHING: Mapping[str, str] = {"kind": "base", "name": "void"}


def _object(value: Any, where: str) -> None:
    if type(value) is not dict:
        raise ShapeError(f"{where} is not an object")


def _text(value: Any, where: str) -> None:
    if type(value) is not str:
        raise ShapeError(f"{where} is not a text")


def _number(value: Any, low: int, high: int, where: str) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ShapeError(f"{where} is not a number from {low} to {high:,}")


def _shown(name: str) -> str:
    return ascii(name[:80])[1:-1]
