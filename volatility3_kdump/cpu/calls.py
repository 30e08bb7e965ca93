"""Whether a call instruction ends at an address: what tells a return address from other values on a stack.

* :func:`follows_call` - by the bytes before the address: certain where it says no.
* :func:`cannot_follow_call` - by the bytes at the address, where those before it are not in the dump.
"""

from __future__ import annotations

import re

from volatility3_kdump.cpu import Read

#: The longest near call of x86 and x64, in bytes: REX, FF, ModRM, SIB and a 32-bit displacement, less the REX prefix.
_LONGEST_CALL = 7
_LONGEST = 15
#: What is decoded at an address: bytes and instructions; what may stand behind a return or a jump is not looked at.
_LOOKED_AT, _INSTRUCTIONS = 0x40, 4
_ENDS = frozenset((0xC3, 0xC2, 0xE9, 0xEB, 0xCC))
#: mov rax,rsp; mov r11,rsp; push of a register that calls preserve; sub rsp,imm.
_BEGINNINGS = tuple(
    bytes.fromhex(digits)
    for digits in (
        *("488bc4", "4c8bdc", "4883ec", "4881ec"),
        *("53", "55", "56", "57", "4053", "4055", "4056", "4057", "4154", "4155", "4156", "4157"),
    )
)
#: mov [rsp+8], [rsp+10h] or [rsp+18h],register.
_HOMES = re.compile(rb"[\x44\x48\x4c]?\x89[\x44\x4c\x54\x5c\x64\x6c\x74\x7c]\x24[\x08\x10\x18]", re.DOTALL)


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


def cannot_follow_call(read: Read, address: int, architecture: str) -> bool:
    """Whether the bytes at an address rule out that a call returns there; x64 only, false where they are absent.

    They are no code (undecodable, or the zeros of data), or the first instruction is one of a function's beginning. A
    function that calls others keeps the first 20h bytes above its stack pointer for them (x64 calling convention), so
    that only a beginning writes to ``[rsp+8]`` to ``[rsp+18h]``; it pushes registers, allocates and copies its stack
    pointer nowhere else.
    """
    if architecture != "x64":
        return False
    code = read(address, _LOOKED_AT) or b""
    position = _LOOKED_AT
    while not code and position > _LONGEST_CALL:
        position //= 2
        code = read(address, position) or b""
    if not code:
        return False
    if code.startswith(_BEGINNINGS) or _HOMES.match(code):
        return True
    from volatility3_kdump.cpu.disasm_x86 import length_of

    position = 0
    for _ in range(_INSTRUCTIONS):
        rest = code[position:]
        if len(rest) < _LONGEST:
            return False
        size = length_of(rest, architecture)
        if size is None or rest[:2] == b"\0\0":
            return True
        if rest[0] in _ENDS:
            return False
        position += size
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
