"""Unwind codes, decoded from their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from volatility3_kdump.cpu.arm64_unwind.registers import FP, LR


class Code(NamedTuple):
    """One unwind code.

    ``name`` is the documentation's. Codes that restore registers give the ``bank`` (``x``, ``d``, ``q``, ``z`` or
    ``p``), the register numbers (29 is fp, 30 lr) and the offset of the first one from ``sp`` in bytes. ``adjust`` is
    what is then added to ``sp`` (of ``add_fp``: what is taken from fp). ``size`` is the code's length in bytes, 0 where
    it was derived from a packed entry. A code that cannot be undone is named ``reserved`` and says why in ``reason``.
    """

    name: str
    size: int = 0
    bank: str = ""
    registers: tuple[int, ...] = ()
    offset: int = 0
    adjust: int = 0
    reason: str | None = None


class Epilog(NamedTuple):
    """An epilog: its first instruction's index in the function, its length in instructions, its codes up to ``end``."""

    start: int
    length: int
    codes: tuple[Code, ...]


def instructions(codes: Sequence[Code]) -> int:
    """How many instructions a prolog or epilog has: codes up to ``end`` or ``end_c``."""
    return next((index for index, code in enumerate(codes) if code.name in ("end", "end_c")), len(codes))


#: Reserved first bytes that are longer than one byte.
_RESERVED_SIZES = {0xF8: 2, 0xF9: 3, 0xFA: 4, 0xFB: 5}
_PLAIN = {
    0xE1: "set_fp",
    0xE3: "nop",
    0xE4: "end",
    0xE5: "end_c",
    0xE6: "save_next",
    0xE8: "trap_frame",
    0xE9: "machine_frame",
    0xEA: "context",
    0xEB: "ec_context",
    0xEC: "clear_unwound_to_call",
    0xFC: "pac_sign_lr",
}


_PAST = "past the end of the code words"


def decode_codes(data: bytes, start: int = 0, decoded: dict[int, Code] | None = None) -> tuple[Code, ...]:
    """The unwind codes from a byte index up to and with ``end``; ``decoded`` keeps codes by index for further calls.

    Where the codes run past the data, or one is reserved, a code named ``reserved`` with the reason stands last.
    """
    codes: list[Code] = []
    position = start
    while position < len(data):
        code = decoded.get(position) if decoded is not None else None
        if code is None:
            code = _decode_code(data, position)
            if decoded is not None:
                decoded[position] = code
        codes.append(code)
        if code.name in ("end", "reserved"):
            return tuple(codes)
        position += code.size
    codes.append(Code("reserved", reason=f"unwind codes run {_PAST}"))
    return tuple(codes)


def run_past(codes: Sequence[Code]) -> bool:
    """Whether codes do not end within their words."""
    return codes[-1].name == "reserved" and (codes[-1].reason or "").endswith(_PAST)


def _decode_code(data: bytes, position: int) -> Code:
    first = data[position]
    if first < 0x20:
        return Code("alloc_s", 1, adjust=16 * first)
    if first < 0x40:
        return Code("save_r19r20_x", 1, "x", (19, 20), 0, 8 * (first & 0x1F))
    if first < 0x80:
        return Code("save_fplr", 1, "x", (FP, LR), 8 * (first & 0x3F))
    if first < 0xC0:
        return Code("save_fplr_x", 1, "x", (FP, LR), 0, 8 * ((first & 0x3F) + 1))
    if first in _PLAIN:
        return Code(_PLAIN[first], 1)
    size = 4 if first == 0xE0 else 3 if first == 0xE7 else 2 if first < 0xE0 or first == 0xE2 else 1
    size = _RESERVED_SIZES.get(first, size)
    if position + size > len(data):
        return Code("reserved", size, reason=f"unwind code {first:#04x} runs {_PAST}")
    if size == 2 and first < 0xE3:
        return _decode_pair(int.from_bytes(data[position : position + 2], "big"))
    if size == 4 and first == 0xE0:
        return Code("alloc_l", 4, adjust=16 * int.from_bytes(data[position + 1 : position + 4], "big"))
    if size == 3 and first == 0xE7:
        return _decode_any(data[position + 1], data[position + 2])
    return Code("reserved", size, reason=f"reserved unwind code {first:#04x}")


def _decode_pair(word: int) -> Code:
    """A code of two bytes, 0xC0 to 0xE2, as a big-endian number."""
    first = word >> 8
    if first < 0xC8:
        return Code("alloc_m", 2, adjust=16 * (word & 0x7FF))
    if first == 0xE2:
        return Code("add_fp", 2, adjust=8 * (word & 0xFF))
    if first == 0xDF:
        return Code("alloc_z", 2, adjust=word & 0xFF)
    offset = 8 * (word & 0x3F)
    if first in (0xD4, 0xD5):
        return Code("save_reg_x", 2, "x", (19 + (word >> 5 & 15),), 0, 8 * ((word & 0x1F) + 1))
    if first == 0xDE:
        return Code("save_freg_x", 2, "d", (8 + (word >> 5 & 7),), 0, 8 * ((word & 0x1F) + 1))
    if first in (0xD6, 0xD7):
        return Code("save_lrpair", 2, "x", (19 + 2 * (word >> 6 & 7), LR), offset)
    integer, float_ = 19 + (word >> 6 & 15), 8 + (word >> 6 & 7)
    if first < 0xCC:
        return Code("save_regp", 2, "x", (integer, integer + 1), offset)
    if first < 0xD0:
        return Code("save_regp_x", 2, "x", (integer, integer + 1), 0, offset + 8)
    if first < 0xD4:
        return Code("save_reg", 2, "x", (integer,), offset)
    if first < 0xDA:
        return Code("save_fregp", 2, "d", (float_, float_ + 1), offset)
    if first < 0xDC:
        return Code("save_fregp_x", 2, "d", (float_, float_ + 1), 0, offset + 8)
    return Code("save_freg", 2, "d", (float_,), offset)


def _decode_any(second: int, third: int) -> Code:
    """``save_any_reg``, and the scalable registers that share its first byte."""
    if second & 0x80:
        return Code("reserved", 3, reason=f"reserved unwind code 0xe7{second:02x}{third:02x}")
    bank = "xdqz"[third >> 6]
    if bank == "z":
        name, bank, lowest = ("save_preg", "p", 0) if second & 0x10 else ("save_zreg", "z", 8)
        return Code(name, 3, bank, (lowest + (second & 15),), (third & 0x3F) | (second & 0x60) << 1)
    pair, pre_indexed, number = second >> 6 & 1, second >> 5 & 1, second & 0x1F
    offset = third & 0x3F
    scale = 16 if pair or pre_indexed or bank == "q" else 8
    registers = (number, number + 1) if pair else (number,)
    if pre_indexed:
        return Code("save_any_reg", 3, bank, registers, 0, (offset + 1) * scale)
    return Code("save_any_reg", 3, bank, registers, offset * scale)
