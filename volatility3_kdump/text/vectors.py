"""Registers beside the general ones as KD's ``r`` shows them: vectors by element, control and descriptor registers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.machine.special_registers import SpecialRegister

#: Formats of elements: bytes, and whether they are signed; ``f`` and ``d`` are floating point.
ELEMENTS = {
    **{"ib": (1, True), "ub": (1, False), "iw": (2, True), "uw": (2, False), "id": (4, True), "ud": (4, False)},
    **{"iq": (8, True), "uq": (8, False), "f": (4, None), "d": (8, None)},
}
_DIGITS = {"gdtl": 4, "idtl": 4, "tr": 4, "ldtr": 4}
_DEBUG = (("dr0", "dr1", "dr2"), ("dr3", "dr6", "dr7", "cr4"))
_CONTROL = (("cr0", "cr2", "cr3"), ("cr8",))
#: The bits of a register mask, and KD's words for them.
MASKS = {
    0x1: "Integer state (32-bit)",
    0x2: "Integer state (64-bit)",
    0x4: "Floating-point state",
    0x8: "Segment registers",
    0x10: "MMX registers",
    0x20: "Debug registers and, in kernel, CR4",
    0x40: "SSE XMM registers",
    0x80: "Control registers: CR0, CR2, CR3, CR8",
    0x100: "Descriptor and task state registers",
    0x200: "AVX YMM registers",
    0x400: "AVX YMM registers as integers",
    0x800: "SSE XMM registers as integers",
}


def elements(value: int, size: int, kind: str = "f", count: int | None = None) -> str:
    """The elements of a register of ``size`` bytes, the highest first; ``count`` of them from the lowest."""
    width, signed = ELEMENTS[kind]
    data = value.to_bytes(size, "little")
    parts = [data[start : start + width] for start in range(0, size, width)][:count]
    return " ".join(_element(part, signed) for part in reversed(parts))


def _element(part: bytes, signed: bool | None) -> str:
    if signed is None:
        return f"{struct.unpack('<f' if len(part) == 4 else '<d', part)[0]:g}"
    number = int.from_bytes(part, "little", signed=signed)
    return str(number) if signed else f"{number:0{2 * len(part)}x}"


def special(register: SpecialRegister, size: int) -> str:
    """``cr3=00000001c68d2000``, ``gdtl=0057``; question marks for what the dump does not hold."""
    digits = _DIGITS.get(register.name)
    if digits is None:
        return f"{register.name}={pointer(register.value, size, tick=False)}"
    if register.name.endswith("l") and size == 4:
        # Limits of 32-bit targets have eight digits.
        digits = 8
    return f"{register.name}={'?' * digits if register.value is None else f'{register.value:0{digits}x}'}"


def special_rows(registers: Mapping[str, SpecialRegister], mask: int, size: int) -> Iterator[str]:
    """The lines of a mask: debug (20), control (80) and descriptor registers (100)."""
    for bit, rows in ((0x20, _DEBUG), (0x80, _CONTROL)):
        for row in rows if mask & bit else ():
            yield " ".join(special(registers[name], size) for name in row if name in registers)
    if mask & 0x100:
        shown = {name: special(registers[name], size) for name in _DIGITS if name in registers}
        bases = {name: special(registers[name], size) for name in ("gdtr", "idtr") if name in registers}
        first = f"{bases.get('gdtr', '')}   {shown.get('gdtl', '')} {bases.get('idtr', '')}   {shown.get('idtl', '')}"
        yield f"{first} {shown.get('tr', '')}  {shown.get('ldtr', '')}"


def mask_lines(mask: int) -> Iterator[str]:
    """The answer of ``rm``."""
    yield f"Register output mask is {mask:x}:"
    for bit, group in MASKS.items():
        if mask & bit:
            yield f"{bit:8x} - {group}"
