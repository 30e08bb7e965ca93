"""Expressions, addresses and ids as users write them.

* :func:`evaluate` - the value of an expression of KD's MASM evaluator (:mod:`grammar` describes it).
* :func:`parse_range`, :func:`parse_bounds` - a range at the start of a command's arguments, and what follows it.
* :func:`parse_address`, :func:`parse_id` - the values of plugins' options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions.grammar import MASK, ExpressionError, Names, Parser
from volatility3_kdump.expressions.names import NoNames, Scope, TargetNames
from volatility3_kdump.memory import sign_extended

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

__all__ = [
    "ExpressionError",
    "Names",
    "NoNames",
    "Range",
    "Scope",
    "TargetNames",
    "as_address",
    "evaluate",
    "parse_address",
    "parse_bounds",
    "parse_first",
    "parse_id",
    "parse_range",
]

_LENGTH = re.compile(r"[lL](?P<unlimited>\?)?")
#: As in the debugger: ranges beyond this have to be asked for with ``L?``.
_LONGEST_RANGE = 1 << 28


def evaluate(text: str, names: Names | None = None, radix: int = 16) -> int:
    """The value of an expression, unsigned, of 64 bits; as an address of a 32-bit target it is yet to be extended.

    ``names`` are what names mean; without them there are numbers only. Raises :class:`ExpressionError`.
    """
    return Parser(text, names or NoNames(), radix).whole()


def parse_first(text: str, names: Names, radix: int = 16) -> tuple[int, str]:
    """The value of the expression at the start of a text, as an address, and the rest of the text behind it."""
    parser = Parser(text, names, radix)
    value = as_address(parser.expression(), names.pointer_size)
    parser.skip_space()
    return value, text[parser.position :]


def as_address(value: int, pointer_size: int) -> int:
    """A value as an address: that of a 32-bit target is sign-extended."""
    return sign_extended(value & 0xFFFFFFFF, 4) if pointer_size == 4 else value


@dataclass(frozen=True)
class Range:
    """A range of memory as the user gives it.

    ``start`` is an address. ``count`` is the number of objects from there, as ``L`` has it, ``None`` where an end was
    given or neither; ``end`` is the last address that belongs to it. ``unlimited`` says that the user asked for a range
    of any size.
    """

    start: int
    count: int | None = None
    end: int | None = None
    unlimited: bool = False

    def length(self, size: int) -> int | None:
        """Bytes of the range, for objects of ``size`` bytes; ``None`` where none was given.

        Raises :class:`KdumpError` for a range beyond the end of memory, or larger than 256 MB without ``L?``.
        """
        if self.end is not None:
            length = self.end - self.start + 1
        elif self.count is not None:
            length = self.count * size
        else:
            return None
        if self.unlimited:
            length = min(length, (1 << 64) - self.start)
        if length <= 0 or self.start + length > 1 << 64:
            raise KdumpError(f"Range error: {self.start:x} is not followed by {length:#x} bytes")
        if length > _LONGEST_RANGE and not self.unlimited:
            raise KdumpError(f"Range error: {length:#x} bytes are more than {_LONGEST_RANGE:#x}; L? allows them")
        return length


def parse_range(text: str, names: Names, radix: int = 16) -> tuple[Range | None, str]:
    """The range at the start of a text, and the rest of the text; ``None`` where the text is empty.

    ``address``, ``address Lcount``, ``address L-count`` (the objects before the address are left to the caller: the
    count is negative), ``address L?count`` (of any size), ``address L?`` (to the end of memory). Raises
    :class:`ExpressionError`.
    """
    parser = Parser(text, names, radix)
    parser.skip_space()
    if parser.position == len(text):
        return None, ""
    start = as_address(parser.expression(), names.pointer_size)
    parser.skip_space()
    match = _LENGTH.match(text, parser.position)
    if match is not None:
        behind = text[match.end() :].lstrip()
        if match["unlimited"] is None or (behind and not behind.startswith(('"', "'"))):
            parser.position = match.end()
            count = parser.expression()
            parser.skip_space()
            if match["unlimited"] is None:
                count -= (count >> 63) << 64
        else:
            # To the end of memory.
            return Range(start, None, MASK, True), behind
        return Range(start, count, None, match["unlimited"] is not None), text[parser.position :]
    return Range(start), text[parser.position :]


def parse_bounds(text: str, names: Names, radix: int = 16) -> tuple[Range | None, str]:
    """As :func:`parse_range`, where a second expression is the last address of the range."""
    bounds, rest = parse_range(text, names, radix)
    if bounds is None or bounds.count is not None or bounds.end is not None or not rest:
        return bounds, rest
    end, rest = parse_first(rest, names, radix)
    return Range(bounds.start, None, end), rest


def parse_address(
    text: str, target: Target | None = None, scope: Scope | None = None, variables: Mapping[str, int] | None = None
) -> int:
    """The address that a text names: ``fffff800`60da1981``, ``nt!KeBugCheckEx+5``, ``poi(nt!PsInitialSystemProcess)``.

    Numbers are hexadecimal, as in KD; the value on a 32-bit target is sign-extended, as all addresses are here. Raises
    :class:`KdumpError` with what is wrong.
    """
    names: Names = NoNames() if target is None else TargetNames(target, scope, variables)
    try:
        return as_address(evaluate(text, names), names.pointer_size)
    except ExpressionError as error:
        raise KdumpError(f"{text!r} is not an address: {error}") from None


def parse_id(text: str) -> int:
    """A process or thread id: decimal, or hexadecimal after ``0x``. Raises :class:`KdumpError`."""
    try:
        value = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 32:
        raise KdumpError(f"{text!r} is not an id: use decimal digits, or 0x and hexadecimal ones")
    return value
