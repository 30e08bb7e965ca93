"""``.printf``: a format as in C, with the debugger's conversions of addresses: ``%p %y %ma %mu %msa %msu``."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.memory import Memory
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.memory.contents import counted_text, zero_ended

_CONVERSION = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\d{1,4}|\*)?(?:\.(?P<precision>\d{1,4}|\*))?"
    r"(?P<what>msa|msu|ma|mu|ly|y|p|N|(?:I64|ll|l|h|w)?[diouxXcCsSeEfgG]|%)"
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "", "\\": "\\", '"': '"', "'": "'", "a": "", "b": "", "0": ""}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
#: Characters of a string that are read, and of all text that one format gives.
_LONGEST_STRING, _WIDEST = 4096, 1000


@dataclass(frozen=True)
class Reading:
    """What conversions read: memory, and the name of an address."""

    memory: Memory
    symbol_at: Callable[[int], str | None]


def printed(text_format: str, values: list[int], reading: Reading) -> str:
    """The text of a format with its values. Raises :class:`KdumpError` where they do not fit."""
    left = iter(values)
    parts: list[str] = []
    position = 0
    for match in re.finditer("%", text_format):
        if match.start() < position:
            continue
        conversion = _CONVERSION.match(text_format, match.start())
        if conversion is None:
            raise KdumpError(f".printf has no conversion {text_format[match.start() : match.start() + 6]!r}")
        parts.append(_escaped(text_format[position : match.start()]))
        position = conversion.end()
        if conversion["what"] == "%":
            parts.append("%")
            continue
        try:
            width = next(left) if conversion["width"] == "*" else int(conversion["width"] or 0)
            precision = next(left) if conversion["precision"] == "*" else conversion["precision"]
            value = next(left)
        except StopIteration:
            raise KdumpError(f".printf has too few arguments: nothing is left for {conversion[0]}") from None
        exact = None if precision is None else min(int(precision), _WIDEST)
        shown = _shown(conversion["what"], conversion["flags"], exact, value, reading)
        parts.append(_padded(shown, min(width, _WIDEST), conversion["flags"], exact is not None))
    parts.append(_escaped(text_format[position:]))
    if next(left, None) is not None:
        raise KdumpError(f".printf has {len(values)} arguments, more than its format takes")
    return "".join(parts)


def _escaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), text)


def _padded(shown: str, width: int, flags: str, exact: bool) -> str:
    if "-" in flags:
        return shown.ljust(width)
    if "0" in flags and not exact:
        sign = shown[:1] if shown[:1] in ("-", "+") else ""
        return sign + shown[len(sign) :].rjust(width - len(sign), "0")
    return shown.rjust(width)


def _shown(what: str, flags: str, precision: int | None, value: int, reading: Reading) -> str:
    memory = reading.memory
    kind = what[-1]
    if what in ("p", "N"):
        return pointer(value, memory.pointer_size)
    if what in ("y", "ly"):
        return reading.symbol_at(value) or pointer(value, memory.pointer_size)
    if what in ("ma", "mu", "msa", "msu", "s", "S", "hs", "ls", "ws", "lS", "hS", "wS"):
        shown = _string(what, value, memory)
        return shown if precision is None else shown[:precision]
    if kind in "cC":
        return chr(value & (0xFFFF if what in ("C", "lc", "wc") else 0xFF))
    if kind in "eEfgG":
        return format(
            _floating(what, value), f"{'+' if '+' in flags else ''}.{6 if precision is None else precision}{kind}"
        )
    wide = what.startswith(("I64", "ll"))
    bits = 64 if wide else 16 if what.startswith("h") else 32
    number = value & ((1 << bits) - 1)
    if kind in "di":
        number -= (number >> bits - 1) << bits
    digits = format(abs(number), {"o": "o", "x": "x", "X": "X"}.get(kind, "d"))
    if precision is not None:
        digits = digits.rjust(precision, "0")
    if "#" in flags and number:
        digits = {"x": "0x", "X": "0X", "o": "0"}.get(kind, "") + digits
    sign = "-" if number < 0 else "+" if "+" in flags and kind in "di" else " " if " " in flags and kind in "di" else ""
    return sign + digits


def _floating(what: str, value: int) -> float:
    if what.startswith("l"):
        return float(struct.unpack("<d", (value & (1 << 64) - 1).to_bytes(8, "little"))[0])
    return float(struct.unpack("<f", (value & 0xFFFF_FFFF).to_bytes(4, "little"))[0])


def _string(what: str, address: int, memory: Memory) -> str:
    """A string of the dump. One that is not there is said in brackets."""
    shown = read_string("ma" if what in ("s", "hs") else "mu" if what in ("S", "ls", "ws") else what, address, memory)
    return f"(not in the dump: {pointer(address, memory.pointer_size)})" if shown is None else shown


def read_string(what: str, address: int, memory: Memory) -> str | None:
    """``ma``, ``mu``: up to a zero, in one byte or two. ``msa``, ``msu``: as a counted string's structure says."""
    if what == "msu":
        string = counted_text(memory, address, True)
        return None if string is None else string.text
    if what == "msa":
        string = counted_text(memory, address, False, _LONGEST_STRING)
        return None if string is None else string.text
    return zero_ended(memory, address, what != "ma", _LONGEST_STRING)
