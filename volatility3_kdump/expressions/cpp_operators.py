"""What operators of C++ make of values.

Arithmetic is that of C++ on Windows: ``int`` and ``long`` have 32 bits, operands are promoted and converted to the
larger of their types, results wrap around. Sums and differences with pointers count elements.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from volatility3_kdump.expressions.cpp_values import (
    DOUBLE,
    INT,
    LONG,
    LONG_LONG,
    LONGEST_TEXT,
    UNSIGNED_INT,
    UNSIGNED_LONG,
    UNSIGNED_LONG_LONG,
    CppValue,
    EvaluationError,
    Operand,
    address_in,
    integer,
    is_float,
    is_signed,
    load,
    text_of,
    truth,
    whole,
)
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.symbols.types import TypeReference

_RANK = {"int": 0, "unsigned int": 1, "long": 2, "unsigned long": 3, "long long": 4, "unsigned long long": 5}
_BY_RANK = (INT, UNSIGNED_INT, LONG, UNSIGNED_LONG, LONG_LONG, UNSIGNED_LONG_LONG)


def _promoted(value: Operand) -> TypeReference:
    """The type of an operand after promotion."""
    if isinstance(value, bool):
        return INT
    if not isinstance(value, CppValue):
        raise EvaluationError("only numbers can be calculated with")
    type_ = value.type
    if type_.kind in ("pointer", "array"):
        return UNSIGNED_LONG_LONG
    if type_.kind == "bitfield":
        unit = type_.target
        if (type_.bits or 0) < 32 or unit is None:
            return INT
        type_ = unit
    size = type_.size or 0
    if type_.kind == "enum" or size < 4:
        return INT
    if type_.name in _RANK:
        return type_
    if size == 4:
        return INT if is_signed(value) else UNSIGNED_INT
    return LONG_LONG if is_signed(value) else UNSIGNED_LONG_LONG


def common_type(left: Operand, right: Operand) -> TypeReference:
    """The type that two operands are converted to."""
    if is_float(left) or is_float(right):
        return DOUBLE
    return _BY_RANK[max(_RANK[_promoted(left).name or ""], _RANK[_promoted(right).name or ""])]


def converted(value: Operand, other: Operand) -> Operand:
    """A number as one of the type that it and another have in common; anything else as it is."""
    if isinstance(value, bool) and isinstance(other, bool):
        return value
    for operand in (value, other):
        if isinstance(operand, CppValue) and operand.type.kind in ("pointer", "array", "struct", "union", "untyped"):
            return value
    type_ = common_type(value, other)
    if all(isinstance(operand, CppValue) and operand.type == value.type for operand in (value, other)):  # type: ignore[union-attr]
        return value
    return _wrapped(_converted(value, type_), type_)


def _own_type(value: Operand) -> TypeReference:
    return DOUBLE if is_float(value) else _promoted(value)


def _wrapped(number: float, type_: TypeReference) -> CppValue:
    return CppValue(DOUBLE, number=float(number)) if type_ is DOUBLE else integer(int(number), type_)


def _divided(left: float, right: float) -> float:
    if not right:
        raise EvaluationError("division by zero")
    if isinstance(left, float) or isinstance(right, float):
        return left / right
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _remainder(left: float, right: float) -> float:
    if isinstance(left, float) or isinstance(right, float):
        raise EvaluationError("% takes integers")
    return left - int(_divided(left, right)) * right


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divided,
    "%": _remainder,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def binary(sign: str, left: Any, right: Any) -> Operand:
    """``left sign right``."""
    if sign in _COMPARISONS:
        return compare(sign, left, right)
    if sign == "+" and isinstance(left, str) and isinstance(right, str):
        if len(left) + len(right) > LONGEST_TEXT:
            raise EvaluationError(f"text of more than {LONGEST_TEXT:,} characters")
        return left + right
    if sign in ("<<", ">>"):
        return _shifted(sign, left, right)
    if sign in ("+", "-"):
        moved = _moved(sign, left, right)
        if moved is not None:
            return moved
    type_ = common_type(left, right)
    if type_ is DOUBLE and sign in "&|^":
        raise EvaluationError(f"{sign} takes integers")
    return _wrapped(_ARITHMETIC[sign](_converted(left, type_), _converted(right, type_)), type_)


def _converted(value: Operand, type_: TypeReference) -> int | float:
    number = load(value)
    if type_ is DOUBLE:
        return float(number)
    converted = integer(int(number), type_).number
    assert converted is not None
    return converted


def _shifted(sign: str, left: Any, right: Any) -> CppValue:
    type_, count = _own_type(left), whole(right)
    number = _converted(left, type_)
    if isinstance(number, float):
        raise EvaluationError(f"{sign} takes integers")
    if not 0 <= count < 64:
        raise EvaluationError(f"a shift by {count}")
    return integer(number << count if sign == "<<" else number >> count, type_)


def _is_place(value: Any) -> bool:
    return isinstance(value, CppValue) and value.type.kind in ("pointer", "array")


def _moved(sign: str, left: Any, right: Any) -> CppValue | None:
    """Sums and differences with pointers, in elements; ``None`` where there is no pointer."""
    if _is_place(left) and _is_place(right):
        if sign == "+":
            raise EvaluationError("two pointers cannot be added")
        return integer((address_in(left) - address_in(right)) // _stride(left), LONG_LONG)
    if sign == "+" and _is_place(right):
        left, right = right, left
    if not _is_place(left):
        return None
    step = whole(right) * _stride(left)
    number = (address_in(left) + (step if sign == "+" else -step)) % (1 << 64)
    goal = left.type.target
    size = left.type.size if left.type.kind == "pointer" else left.reader.memory.pointer_size
    return CppValue(TypeReference("pointer", None, size, goal), left.reader, None, sign_extended(number, size))


def _stride(value: CppValue) -> int:
    goal = value.type.target
    if goal is None or goal.kind == "function":
        raise EvaluationError("a pointer to a function cannot be calculated with: cast it")
    # A pointer to void counts bytes, as the debugger takes it.
    return goal.size or 1


def compare(sign: str, left: Any, right: Any) -> bool:
    """A comparison: of text, of pointers, or of numbers."""
    texts = text_of(left) if isinstance(right, str) else left, text_of(right) if isinstance(left, str) else right
    if isinstance(texts[0], str) and isinstance(texts[1], str):
        return _COMPARISONS[sign](texts[0], texts[1])
    if isinstance(left, str) or isinstance(right, str):
        if sign in ("==", "!="):
            return sign == "!="
        raise EvaluationError("text can be compared with text only")
    if _is_place(left) or _is_place(right):
        size = next(value.type.size or 8 for value in (left, right) if _is_place(value))
        mask = (1 << 8 * (size if size in (4, 8) else 8)) - 1
        return _COMPARISONS[sign](address_in(left) & mask, address_in(right) & mask)
    type_ = common_type(left, right)
    return _COMPARISONS[sign](_converted(left, type_), _converted(right, type_))


def unary(sign: str, value: Any) -> Operand:
    """``-x``, ``+x``, ``~x``, ``!x``."""
    if sign == "!":
        return not truth(value)
    type_ = _own_type(value)
    number = _converted(value, type_)
    if sign == "~":
        if isinstance(number, float):
            raise EvaluationError("~ takes an integer")
        return integer(~number, type_)
    return _wrapped(-number if sign == "-" else number, type_)
