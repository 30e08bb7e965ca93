"""Addresses and values of memory as KD writes them."""

from __future__ import annotations

from volatility3_kdump.cpu.notation import named, pointer

__all__ = ["address64", "little_endian", "named", "plain", "pointer"]


def address64(value: int | None) -> str:
    """A 64-bit address with the backtick, ``fffff800`60da1981``; question marks for an unknown one (``None``)."""
    return pointer(value, 8)


def plain(address: int | None, size: int = 8) -> str:
    """An address of ``size`` bytes without the backtick; question marks for an unknown one."""
    return pointer(address, size, tick=False)


def little_endian(data: bytes | None, size: int) -> str:
    """``size`` bytes of memory as one hexadecimal number, two question marks a byte where they are not in the dump."""
    return "?" * (2 * size) if data is None else data[::-1].hex()
