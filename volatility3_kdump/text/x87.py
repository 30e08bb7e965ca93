"""The x87 and MMX registers as KD's ``rF`` shows them; the layout is that of published sessions.

Of the tags FXSAVE keeps one bit for each register: they are shown as they stand there.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction

_EXCEPTIONS = "puozdi"
_STATUS = "-spuozdi"
_ROUNDING = ("rn", "rm", "rp", "rz")
_PRECISION = ("24", "??", "53", "64")
_BIAS, _SPECIAL = 16383, 0x7FFF
#: Digits behind the point that are calculated; a zero follows them.
_DIGITS = 20


def mmx(area: bytes, number: int) -> int:
    """An MMX register: the significand of an x87 register by its place, not by its distance from the top."""
    top = int.from_bytes(area[2:4], "little") >> 11 & 7
    return register(area, (number - top) & 7) & (1 << 64) - 1


def register(area: bytes, number: int) -> int:
    """``st0`` and on: 80 bits."""
    start = 0x20 + 16 * number
    return int.from_bytes(area[start : start + 10], "little")


def lines(area: bytes) -> Iterator[str]:
    """``rF``."""
    control, status, tags, opcode = struct.unpack_from("<HHBxH", area)
    offset, selector, data_offset, data_selector = struct.unpack_from("<IHxxIH", area, 8)
    masked = "".join(
        letter if control >> (5 - place) & 1 else letter.upper() for place, letter in enumerate(_EXCEPTIONS)
    )
    raised = "".join(
        letter if status >> (7 - place) & 1 and letter != "-" else ("e" if status >> 7 & 1 and not place else "-")
        for place, letter in enumerate(_STATUS)
    )
    codes = f"{status >> 14 & 1}{status >> 10 & 1}{status >> 9 & 1}{status >> 8 & 1}"
    yield (
        f"fpcw={control:04X}: {_ROUNDING[control >> 10 & 3]} {_PRECISION[control >> 8 & 3]} {masked}  "
        f"fpsw={status:04X}: top={status >> 11 & 7:X} cc={codes} {raised}  fptw={tags:04X}"
    )
    yield f"fopcode={opcode & 0x7FF:04X}  fpip={selector:04X}:{offset:08x}  fpdp={data_selector:04X}:{data_offset:08x}"
    for number in range(0, 8, 2):
        yield "  ".join(f"st{each}={decimal(register(area, each))}" for each in (number, number + 1))


def mmx_lines(area: bytes) -> Iterator[str]:
    """``rM 10``."""
    for number in range(0, 8, 2):
        yield "  ".join(f"mm{each}={mmx(area, each):016x}" for each in (number, number + 1))


def decimal(value: int) -> str:
    """A number of 80 bits: sign, digits, exponent."""
    sign = "-" if value >> 79 else " "
    exponent, significand = value >> 64 & 0x7FFF, value & (1 << 64) - 1
    if exponent == _SPECIAL:
        rest = significand & (1 << 63) - 1
        word = "1.#INF" if not rest else "1.#QNAN" if rest >> 62 else "1.#SNAN"
        return f"{sign}{word.ljust(_DIGITS + 3, '0')}e+0000"
    if not significand:
        return f"{sign}{0:.{_DIGITS + 1}f}e+0000"
    number = Fraction(significand) * Fraction(2) ** (max(exponent, 1) - _BIAS - 63)
    power = _power_of_ten(number)
    digits = round(number / Fraction(10) ** power * 10**_DIGITS)
    if digits >= 10 ** (_DIGITS + 1):
        power, digits = power + 1, digits // 10
    decimals = f"{digits:0{_DIGITS + 1}d}"
    return f"{sign}{decimals[0]}.{decimals[1:]}0e{power:+05d}"


def _power_of_ten(number: Fraction) -> int:
    """The exponent of the first digit."""
    bits = number.numerator.bit_length() - number.denominator.bit_length()
    power = math.floor(bits * math.log10(2)) + 1
    while number < Fraction(10) ** power:
        power -= 1
    return power
