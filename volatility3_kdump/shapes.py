"""The shape that a document must have: checked once where it comes in, so that nobody behind has to.

A shape is a type, a tuple of types, a dictionary of the members that must be there (more may be), or one of the classes
below. Booleans are no integers here, and floats are finite.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

Shape = Any
_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


class ShapeError(ValueError):
    """A document of another shape; the message says where, and what is expected there."""


@dataclass(frozen=True)
class Maybe:
    """Null, or this shape."""

    shape: Shape


@dataclass(frozen=True)
class Array:
    """An array of this shape."""

    shape: Shape


@dataclass(frozen=True)
class Members:
    """An object whose members all have this shape, whatever they are called."""

    shape: Shape


@dataclass(frozen=True)
class Range:
    """An integer from ``low`` to ``high``."""

    low: int
    high: int


@dataclass(frozen=True)
class Form:
    """A text that all of a regular expression matches."""

    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Without:
    """An object of this shape, whose members in ``optional`` may be absent."""

    shape: dict[str, Shape]
    optional: dict[str, Shape]


def check(value: Any, shape: Shape, where: str = "the document") -> None:
    """Raise :class:`ShapeError` unless a value that JSON gave has this shape."""
    if isinstance(shape, Maybe):
        if value is not None:
            check(value, shape.shape, where)
    elif isinstance(shape, Array):
        _expect(value, list, where)
        for number, entry in enumerate(value):
            check(entry, shape.shape, f"{where}[{number}]")
    elif isinstance(shape, Members):
        _expect(value, dict, where)
        for name, entry in value.items():
            check(entry, shape.shape, f"{where}.{name}")
    elif isinstance(shape, Without):
        check(value, shape.shape, where)
        for name, inner in shape.optional.items():
            if name in value:
                check(value[name], inner, f"{where}.{name}")
    elif isinstance(shape, Form):
        _expect(value, str, where)
        if not shape.pattern.fullmatch(value):
            raise ShapeError(f"{where} is {value[:80]!a}")
    elif isinstance(shape, Range):
        _expect(value, int, where)
        if not shape.low <= value <= shape.high:
            raise ShapeError(f"{where} is {str(value)[:40]}, not from {shape.low} to {shape.high}")
    elif isinstance(shape, dict):
        _expect(value, dict, where)
        for name, inner in shape.items():
            if name not in value:
                raise ShapeError(f"{where} has no {name}")
            check(value[name], inner, f"{where}.{name}")
    elif isinstance(shape, tuple):
        if not any(_is(value, kind) for kind in shape):
            raise ShapeError(f"{where} is not {' or '.join(_NAMES[kind] for kind in shape)}")
    else:
        _expect(value, shape, where)


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind)


def _expect(value: Any, kind: type, where: str) -> None:
    if not _is(value, kind):
        raise ShapeError(f"{where} is not {_NAMES[kind]}")
