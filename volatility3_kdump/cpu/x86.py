"""x86: register names, the groups of its CONTEXT record, and 32-bit addresses.

Layout: ``CONTEXT`` (i386, 0x2CC bytes) of ``winnt.h``.
"""

from __future__ import annotations

#: Register name to (offset, size) in bytes, by the bit of ContextFlags that says the group was written.
CONTEXT_GROUPS: dict[int, dict[str, tuple[int, int]]] = {
    0x01: {
        "ebp": (0xB4, 4),
        "eip": (0xB8, 4),
        "cs": (0xBC, 2),
        "eflags": (0xC0, 4),
        "esp": (0xC4, 4),
        "ss": (0xC8, 2),
    },
    0x02: {
        "edi": (0x9C, 4),
        "esi": (0xA0, 4),
        "ebx": (0xA4, 4),
        "edx": (0xA8, 4),
        "ecx": (0xAC, 4),
        "eax": (0xB0, 4),
    },
    0x04: {"gs": (0x8C, 2), "fs": (0x90, 2), "es": (0x94, 2), "ds": (0x98, 2)},
    0x10: {
        "dr0": (0x04, 4),
        "dr1": (0x08, 4),
        "dr2": (0x0C, 4),
        "dr3": (0x10, 4),
        "dr6": (0x14, 4),
        "dr7": (0x18, 4),
    },
}


def sign_extend(address: int) -> int:
    """A 32-bit address as the 64-bit value that KDDEBUGGER_DATA64 and the 64-bit debugger interfaces keep."""
    address &= 0xFFFFFFFF
    return address | 0xFFFFFFFF00000000 if address & 0x80000000 else address


def truncate(address: int) -> int:
    """A sign-extended address as the 32-bit address of the target."""
    return address & 0xFFFFFFFF
