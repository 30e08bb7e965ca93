"""How addresses and numbers are written in KD's disassembly."""

from __future__ import annotations


def pointer(value: int | None, size: int = 8, tick: bool = True) -> str:
    """An address of ``size`` bytes (8 or 4), zero-padded: ``fffff800`60da1981``, without the backtick if not ``tick``.

    A 32-bit address may come sign-extended. An unknown address (``None``) is all question marks.
    """
    digits = "?" * (2 * size) if value is None else f"{value & ((1 << 8 * size) - 1):0{2 * size}x}"
    return f"{digits[:8]}`{digits[8:]}" if tick and size == 8 else digits


def named(address: int, name: str | None, size: int = 8) -> str:
    """An address after its name, ``nt!KeBugCheckEx (fffff800`62a09169)``, or alone where it has none."""
    return f"{name} ({pointer(address, size)})" if name else pointer(address, size)


def masm_number(value: int, digits: int = 0) -> str:
    """A number as MASM writes it: ``8``, ``10h``, ``0FFFFFFFFh``; with ``digits``, padded and always with ``h``."""
    if value < 10 and not digits:
        return str(value)
    number = f"{value:0{digits}X}h"
    return f"0{number}" if number[0] in "ABCDEF" else number
