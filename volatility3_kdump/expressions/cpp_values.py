"""Values of C++ expressions: a number of some type, or what lies at an address.

Truth values and text are Python's own. What operators make of values is in
:mod:`volatility3_kdump.expressions.cpp_operators`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.symbols.names import Name
from volatility3_kdump.symbols.types import Member, TypeDescription, TypeReference
from volatility3_kdump.windows.typed_values import TypedReader, character_width

_TOP = 1 << 64
#: The most characters that text grows to.
LONGEST_TEXT = 1 << 20


class EvaluationError(KdumpError):
    """An expression that is well-formed and has no value here."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """What is evaluated here ends with a line where it nests deeper than the interpreter can."""
    try:
        yield
    except RecursionError:
        raise EvaluationError("the expression is nested too deeply, or functions of it call each other") from None


@dataclass(frozen=True)
class CppValue:
    """A value of a C++ type.

    ``address`` is where it lies, ``None`` for a result; a result is ``number``: of pointers the address they hold,
    sign-extended. ``reader`` reads the types of the module that the type is one of, ``None`` for a type of the
    language.
    """

    type: TypeReference
    reader: TypedReader | None = None
    address: int | None = None
    number: int | float | None = None


#: What operators take and give.
Operand = CppValue | bool | str | float


def _base(name: str, size: int) -> TypeReference:
    return TypeReference("base", name, size)


CHAR, SHORT, INT, LONG = _base("char", 1), _base("short", 2), _base("int", 4), _base("long", 4)
LONG_LONG, UNSIGNED_INT, UNSIGNED_LONG = _base("long long", 8), _base("unsigned int", 4), _base("unsigned long", 4)
UNSIGNED_CHAR, UNSIGNED_SHORT = _base("unsigned char", 1), _base("unsigned short", 2)
UNSIGNED_LONG_LONG = _base("unsigned long long", 8)
WCHAR, BOOL, VOID = _base("wchar", 2), _base("bool", 1), _base("void", 0)
FLOAT, DOUBLE = _base("float", 4), _base("double", 8)
#: A symbol whose type nobody knows.
UNTYPED = TypeReference("untyped", None, None)
_SIGNED = frozenset({"char", "short", "int", "long", "long long", "int8"})
_FLOATS = frozenset({"float", "double", "f32"})


def integer(number: int, type_: TypeReference = INT) -> CppValue:
    """A number of an integer type, wrapped around where it does not fit."""
    size = type_.size or 8
    number &= (1 << 8 * size) - 1
    if type_.name in _SIGNED and number >> (8 * size - 1):
        number -= 1 << 8 * size
    return CppValue(type_, number=number)


def unsigned64(number: int) -> CppValue:
    """An address or register: an unsigned number of 64 bits."""
    return CppValue(UNSIGNED_LONG_LONG, number=number % _TOP)


def pointer_to(type_: TypeReference, number: int, size: int, reader: TypedReader | None = None) -> CppValue:
    """A pointer to a type with a value."""
    return CppValue(TypeReference("pointer", None, size, type_), reader, None, number % _TOP)


# reading --------------------------------------------------------------------------------------------------------------


def load(value: Operand) -> int | float:
    """The number that a value is. Raises :class:`EvaluationError` for what is none or is not in the dump."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        raise EvaluationError("a string is no number")
    if not isinstance(value, CppValue):
        raise EvaluationError("an object of the data model is no number")
    if value.address is None:
        if value.number is None:
            raise EvaluationError(f"{kind_name(value.type)} has no value by itself")
        return value.number
    type_ = value.type
    if type_.kind == "array":
        return value.address
    if type_.kind in ("struct", "union"):
        raise EvaluationError(f"{kind_name(type_)} is a structure, not a number")
    reader = value.reader
    if type_.kind in ("untyped", "function") or reader is None:
        raise EvaluationError(f"No type (or void) for object at Address {value.address:#x}")
    number = reader.number(type_, value.address)
    if number is None:
        raise EvaluationError(unreadable(value.address))
    return number


def loaded(value: CppValue) -> CppValue:
    """A value as it is now: of what lies in memory the number, of structures and arrays where they lie.

    Raises :class:`EvaluationError` for what is not in the dump.
    """
    if value.address is None or value.type.kind in ("struct", "union", "array", "untyped"):
        return value
    return replace(value, address=None, number=load(value))


def unreadable(address: int) -> str:
    """The debugger's words for what is not in the dump."""
    return f"Unable to read memory at Address {address:#x}"


def whole(value: Operand) -> int:
    """As :func:`load`, for what has to be an integer."""
    number = load(value)
    if isinstance(number, float):
        raise EvaluationError("an integer is needed, not a floating-point number")
    return number


def address_in(value: Operand) -> int:
    """A value as an address: sign-extended."""
    if isinstance(value, CppValue) and value.type.kind in ("struct", "union", "untyped") and value.address is not None:
        return value.address
    return whole(value) % _TOP


def truth(value: Any) -> bool:
    """Whether a value is not zero."""
    if isinstance(value, bool):
        return value
    return bool(load(value))


def function_of(value: CppValue) -> Name | None:
    """The name of the function that a pointer points to; ``None`` where nothing names it."""
    return None if value.reader is None else value.reader.target.names.lookup(whole(value))


def text_of(value: Any) -> str | None:
    """The text that a value is or points to: characters, or a counted string; ``None`` for any other type."""
    if isinstance(value, str):
        return value
    if not isinstance(value, CppValue) or value.reader is None:
        return None
    type_ = value.type
    goal = type_.target if type_.kind in ("pointer", "array") else type_
    if goal is None or not (
        (type_.kind != "base" and character_width(goal))
        or (goal.kind == "struct" and type_.kind != "array" and (goal.name or "").endswith("_STRING"))
    ):
        return None
    at = value.address
    if type_.kind == "pointer":
        number = whole(value)
        if not number:
            return None
        if character_width(goal):
            return value.reader.string(number, character_width(goal))[0]
        at = number
    if at is None:
        return None
    return value.reader.value("", 0, goal if type_.kind == "pointer" else type_, at).text


# types ----------------------------------------------------------------------------------------------------------------


def kind_name(type_: TypeReference) -> str:
    """A type in a message."""
    if type_.kind == "pointer":
        return f"{'void' if type_.target is None else kind_name(type_.target)} *"
    if type_.kind == "array":
        return f"{'?' if type_.target is None else kind_name(type_.target)} [{type_.count}]"
    return printable(type_.name or type_.kind)


def is_signed(value: CppValue) -> bool:
    """Whether a number of this type has a sign."""
    type_ = value.type
    if type_.kind == "bitfield" and type_.target is not None:
        type_ = type_.target
    if type_.kind == "enum":
        return True
    if value.reader is not None and type_.kind == "base":
        return value.reader.is_signed(type_)
    return type_.name in _SIGNED


def is_float(value: Operand) -> bool:
    """Whether a number is one of floating point."""
    if isinstance(value, float):
        return True
    if not isinstance(value, CppValue) or value.type.kind != "base":
        return False
    return value.reader.is_float(value.type) if value.reader is not None else value.type.name in _FLOATS


def size_of(value: Any) -> int:
    """The bytes that a value takes."""
    if isinstance(value, bool):
        return 1
    if isinstance(value, CppValue) and value.type.size is not None:
        return value.type.size
    raise EvaluationError("the size of that is not known")


def describe(reader: TypedReader | None, type_: TypeReference) -> TypeDescription | None:
    """What a structure consists of."""
    if reader is None or type_.name is None or type_.kind not in ("struct", "union"):
        return None
    return reader.describe(type_.name)


def members_of(reader: TypedReader | None, type_: TypeReference) -> dict[str, Member]:
    """The members of a structure by name; none of what is none."""
    if reader is None or type_.name is None or type_.kind not in ("struct", "union"):
        return {}
    return reader.members(type_.name)


# operators on places --------------------------------------------------------------------------------------------------


def pointee(value: Operand) -> CppValue:
    """What a pointer points to, or an array's first element."""
    if not isinstance(value, CppValue) or value.type.kind not in ("pointer", "array"):
        raise EvaluationError("only a pointer can be followed")
    goal = value.type.target
    if goal is None or goal.kind == "function" or (goal.kind == "base" and goal.name == "void"):
        raise EvaluationError("a pointer to void or to a function cannot be followed: cast it")
    return CppValue(goal, value.reader, address_in(value))


def address_of(value: Any, pointer_size: int) -> CppValue:
    """A pointer to a value."""
    if not isinstance(value, CppValue) or value.address is None:
        raise EvaluationError("only what lies in memory has an address")
    if value.type.kind == "bitfield":
        raise EvaluationError("a bit field has no address")
    goal = VOID if value.type.kind == "untyped" else value.type
    return pointer_to(goal, value.address, pointer_size, value.reader)


def member(value: Operand, name: str) -> CppValue:
    """A field of a structure, or of the structure that a pointer points to."""
    if isinstance(value, CppValue) and value.type.kind == "pointer":
        value = pointee(value)
    if not isinstance(value, CppValue):
        raise EvaluationError(f"only a structure has a field {printable(name)}")
    field = field_of(value.reader, value.type, name)
    if value.address is None:
        raise EvaluationError(f"{kind_name(value.type)} has no value by itself")
    return CppValue(field.type, value.reader, (value.address + field.offset) % _TOP)


def field_of(reader: TypedReader | None, type_: TypeReference, path: str) -> Member:
    """A field by name, dotted into structures inside of it; its offset is from the outermost."""
    offset = 0
    field: Member | None = None
    for name in path.split("."):
        members = members_of(reader, type_)
        if not members:
            raise EvaluationError(f"{kind_name(type_)} is no structure with known fields")
        field = members.get(name)
        if field is None:
            raise EvaluationError(f"{kind_name(type_)} has no field {printable(name)}")
        offset, type_ = offset + field.offset, field.type
    assert field is not None
    return Member(field.name, offset, type_)


def element(value: Operand, index: int) -> CppValue:
    """An element of an array, or of what a pointer points to the first of."""
    first = pointee(value)
    if first.address is None or not first.type.size:
        raise EvaluationError(f"the size of {kind_name(first.type)} is not known")
    return CppValue(first.type, first.reader, (first.address + index * first.type.size) % _TOP)


def cast(value: Any, type_: TypeReference, reader: TypedReader | None, pointer_size: int) -> CppValue:
    """A value as one of another type; what lies in memory is seen as that type where both are structures."""
    if type_.kind in ("struct", "union", "array"):
        if isinstance(value, CppValue) and value.address is not None:
            return CppValue(type_, reader, value.address)
        raise EvaluationError(f"a number cannot be cast to {kind_name(type_)}: cast it to a pointer")
    if type_.kind == "pointer":
        number = address_in(value)
        return CppValue(type_, reader, None, sign_extended(number & (1 << 8 * pointer_size) - 1, pointer_size))
    if type_.kind == "base" and type_.name == "void":
        raise EvaluationError("nothing can be cast to void")
    blank = CppValue(type_, reader, None, 0)
    number_ = load(value)
    if is_float(blank):
        return CppValue(type_, reader, None, float(number_))
    number = int(number_)
    if type_.name == "bool":
        return CppValue(type_, reader, None, int(number != 0))
    size = type_.size or 8
    number &= (1 << 8 * size) - 1
    if is_signed(blank) and number >> (8 * size - 1):
        number -= 1 << 8 * size
    return CppValue(type_, reader, None, number)
