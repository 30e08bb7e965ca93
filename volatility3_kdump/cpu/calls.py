"""Whether a call instruction ends at an address: what tells a return address from other values on a stack."""

from __future__ import annotations

from volatility3_kdump.cpu import Read

#: The longest near call of x86 and x64, in bytes: REX, FF, ModRM, SIB and a 32-bit displacement, less the REX prefix.
_LONGEST_CALL = 7


def follows_call(read: Read, address: int, architecture: str) -> bool | None:
    """Whether a call ends at an address; ``None`` when the code before it is not in the dump.

    On x86 and x64 the bytes before an address can look like a call by chance; a negative answer is certain.
    """
    if architecture == "arm64":
        data = read(address - 4, 4)
        if data is None:
            return None
        word = int.from_bytes(data, "little")
        # BL imm26, and BLR in its plain and pointer-authenticating forms (Arm ARM, C6.2).
        return word >> 26 == 0b100101 or word & 0xFEFFF000 == 0xD63F0000
    data = read(address - _LONGEST_CALL, _LONGEST_CALL)
    if data is None:
        return None
    if data[2] == 0xE8:
        return True
    for length in (2, 3, 4, 6, 7):
        opcode = data[_LONGEST_CALL - length :]
        if opcode[0] == 0xFF and opcode[1] >> 3 & 7 == 2 and _call_length(opcode) == length:
            return True
    return False


def _call_length(opcode: bytes) -> int:
    """Bytes of an ``FF /2`` call by its ModRM and SIB bytes (Intel SDM volume 2, 2.1.3)."""
    mode, register = opcode[1] >> 6, opcode[1] & 7
    if mode == 3:
        return 2
    length = 2
    if register == 4:
        length += 1
        if mode == 0 and len(opcode) > 2 and opcode[2] & 7 == 5:
            return length + 4
    elif mode == 0 and register == 5:
        return length + 4
    return length + {0: 0, 1: 1, 2: 4}[mode]
