"""ARM64: register names, the groups of its CONTEXT record, and pointer authentication.

Layout: ``ARM64_NT_CONTEXT`` (0x390 bytes) of ``winnt.h``.
"""

from __future__ import annotations

#: Register name to (offset, size) in bytes, by the bit of ContextFlags that says the group was written.
CONTEXT_GROUPS: dict[int, dict[str, tuple[int, int]]] = {
    0x01: {"cpsr": (0x04, 4), "fp": (0xF0, 8), "lr": (0xF8, 8), "sp": (0x100, 8), "pc": (0x108, 8)},
    0x02: {f"x{number}": (8 + 8 * number, 8) for number in range(29)},
    0x04: {"fpcr": (0x310, 4), "fpsr": (0x314, 4)},
}

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
