"""Numbers as KD's ``?``, ``.formats`` and ``n`` show them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import calendar, filetime, time_stamp

#: Values from here on are taken for a FILETIME, those below for a time_t.
_LARGEST_TIME = 1 << 32


def signed(value: int, size: int = 8) -> int:
    """The lowest ``size`` bytes of a value, as a signed number."""
    value &= (1 << 8 * size) - 1
    return value - (1 << 8 * size) if value >> (8 * size - 1) else value


def evaluated(value: int, size: int = 8) -> str:
    """The line of ``?``: decimal, signed, and hexadecimal of the target's width (``size`` bytes).

    A number that is no sign-extended one of 32 bits is shown with all its digits on 32-bit targets, too.
    """
    if size == 4 and (value + (1 << 31)) % (1 << 64) >> 32 and value >> 32:
        size = 8
    return f"Evaluate expression: {signed(value)} = {pointer(value, size)}"


def formats(value: int, size: int = 8) -> Iterator[str]:
    """The lines of ``.formats`` for a value of ``size`` bytes; times are UTC."""
    value &= (1 << 8 * size) - 1
    data = value.to_bytes(size, "big")
    yield "Evaluate expression:"
    yield f"  Hex:     {pointer(value, size)}"
    yield f"  Decimal: {signed(value, size)}"
    if signed(value, size) < 0:
        yield f"  Decimal (unsigned) : {value}"
    yield f"  Octal:   {value:0{-(-8 * size // 3)}o}"
    yield f"  Binary:  {' '.join(f'{byte:08b}' for byte in data)}"
    yield f"  Chars:   {characters(data)}"
    yield f"  Time:    {_time(value)}"
    low, high = (struct.unpack("<f", struct.pack("<I", value >> shift & 0xFFFFFFFF))[0] for shift in (0, 32))
    yield f"  Float:   low {low:g} high {high:g}"
    yield f"  Double:  {struct.unpack('<d', struct.pack('<Q', value))[0]:g}"


def characters(data: bytes) -> str:
    """Bytes as ASCII text, a full stop for each that cannot be shown."""
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E else "." for byte in data)


def _time(value: int) -> str:
    if value < _LARGEST_TIME:
        return f"{time_stamp(value)} (UTC)"
    moment = filetime(value)
    return "***** Invalid FILETIME" if moment is None else f"{calendar(moment, milliseconds=True)} (UTC)"


def decimal(value: int | None) -> str:
    """A number in decimal digits; a question mark for an unknown one."""
    return "?" if value is None else str(value)
