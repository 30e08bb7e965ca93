"""ARM64: pointer authentication."""

from __future__ import annotations

#: Bits of an address that translation uses: bits 0 to 47 of a 48-bit address space, the one of Windows on ARM64.
VIRTUAL_ADDRESS_BITS = 48


def strip_pointer_authentication(pointer: int, mask: int | None = None) -> int:
    """The address in a pointer that may carry an authentication code (PAC) in its upper bits.

    Bit 55 selects the half of the address space: the code bits become ones in the kernel's half and zeros in the
    user's, as the XPACI instruction does. ``mask`` has a one in every bit that can hold the code, as
    ``KDDEBUGGER_DATA64.PointerAuthMask`` gives it (Windows 11 22H2 and later); without it (``None`` or 0), every bit
    above the 48-bit address except bit 55 can.
    """
    pointer &= 0xFFFFFFFFFFFFFFFF
    code_bits = mask or 0xFFFFFFFFFFFFFFFF << VIRTUAL_ADDRESS_BITS
    code_bits &= 0xFFFFFFFFFFFFFFFF & ~(1 << 55)
    return pointer | code_bits if pointer >> 55 & 1 else pointer & ~code_bits
