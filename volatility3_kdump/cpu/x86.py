"""x86: 32-bit addresses."""

from __future__ import annotations


def sign_extend(address: int) -> int:
    """A 32-bit address as the 64-bit value that KDDEBUGGER_DATA64 and the 64-bit debugger interfaces keep."""
    address &= 0xFFFFFFFF
    return address | 0xFFFFFFFF00000000 if address & 0x80000000 else address


def truncate(address: int) -> int:
    """A sign-extended address as the 32-bit address of the target."""
    return address & 0xFFFFFFFF
