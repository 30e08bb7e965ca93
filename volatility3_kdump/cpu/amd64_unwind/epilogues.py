"""The instructions that leave a function, recognised from any position in them."""

from __future__ import annotations

import struct
from typing import NamedTuple

from volatility3_kdump.cpu.amd64_unwind.functions import FLAGS_SIZE, VOLATILE, Function, FunctionTable
from volatility3_kdump.cpu.amd64_unwind.registers import RSP

_PAGE = 0x1000
_LONGEST_EPILOGUE = 64


class Epilogue(NamedTuple):
    """Instructions that leave a function, from some position on.

    ``stack`` is the register that the stack pointer is taken from and ``adjust`` what is added to it; then ``pops``;
    then a return that releases ``released`` bytes, or a jump to the RVA ``target`` (``None``: indirect).
    """

    stack: int
    adjust: int
    pops: tuple[int, ...]
    jump: bool
    target: int | None
    released: int


def fits(epilogue: Epilogue, function: Function) -> bool:
    """Whether the instructions undo what the function's codes did, as an epilogue must."""
    if epilogue.stack != RSP:
        return epilogue.pops == function.pushes
    undone = function.undone
    if not epilogue.adjust:
        return len(epilogue.pops) <= len(undone) and _pops(epilogue.pops, undone[len(undone) - len(epilogue.pops) :])
    released = number = 0
    while number < len(undone) and undone[number] < 0 and released < epilogue.adjust:
        released -= undone[number]
        number += 1
    return released == epilogue.adjust and _pops(epilogue.pops, undone[number:])


def _pops(pops: tuple[int, ...], undone: tuple[int, ...]) -> bool:
    """Whether pops undo pushes; flags that were pushed are popped into a register that calls do not preserve."""
    return len(pops) == len(undone) and all(
        register == entry or (entry == -FLAGS_SIZE and register in VOLATILE)
        for register, entry in zip(pops, undone, strict=True)
    )


def rejoins(epilogue: Epilogue, function: Function) -> bool:
    """Whether the instructions undo what a fragment did itself, and jump back to the function it belongs to."""
    own = function.own_pushes
    return bool(epilogue.target) and not epilogue.adjust and epilogue.pops == own[len(own) - len(epilogue.pops) :]


def match(function: Function, table: FunctionTable, rva: int) -> Epilogue | None:
    """The epilogue that the instructions at an RVA are; ``None`` when they are something else or not in the dump."""
    # Compilers give the last instruction of an epilogue an entry of its own: it is read on past the function's end.
    size = min(_LONGEST_EPILOGUE, table.size_of_image - rva)
    code = table.read_rva(rva, size)
    if code is None:
        code = table.read_rva(rva, min(size, _PAGE - rva % _PAGE))
        if code is None:
            return None
    # Most positions are told apart by their first byte: add/lea/jmp with a prefix, pop, ret, jmp.
    first = code[:1]
    if first not in _EPILOGUE_STARTS:
        return None
    position, stack, adjust = _stack_release(code, function)
    pops = []
    while True:
        wide = code[position : position + 1] == b"\x41"
        pop = code[position + wide : position + wide + 1]
        if not pop or pop[0] & 0xF8 != 0x58:
            break
        register = pop[0] - 0x58 + 8 * wide
        if register == RSP:
            return None
        pops.append(register)
        position += 1 + wide
    return _terminator(code, position, rva, Epilogue(stack, adjust, tuple(pops), False, None, 0))


_EPILOGUE_STARTS = frozenset(
    bytes([first]) for first in (*range(0x41, 0x50), *range(0x58, 0x60), 0xC2, 0xC3, 0xE9, 0xEB, 0xF2, 0xF3, 0xFF)
)


def _stack_release(code: bytes, function: Function) -> tuple[int, int, int]:
    """(bytes taken, register, displacement) of ``add rsp, n`` or ``lea rsp, [frame register+n]``, if it is there."""
    if code[:3] == b"\x48\x83\xc4" and len(code) > 3:
        return 4, RSP, struct.unpack_from("<b", code, 3)[0]
    if code[:3] == b"\x48\x81\xc4" and len(code) > 6:
        return 7, RSP, struct.unpack_from("<i", code, 3)[0]
    frame = function.frame_register
    if not frame or len(code) < 4 or code[0] != 0x48 | frame >> 3 or code[1] != 0x8D:
        return 0, RSP, 0
    mode, register, base = code[2] >> 6, code[2] >> 3 & 7, code[2] & 7
    if register != RSP or base != frame & 7 or mode not in (1, 2):
        return 0, RSP, 0
    # A base of r12 is encoded with a SIB byte that has no index.
    start = 4 if base == RSP else 3
    if base == RSP and code[3] != 0x24:
        return 0, RSP, 0
    size = 1 if mode == 1 else 4
    if len(code) < start + size:
        return 0, RSP, 0
    return start + size, frame, int.from_bytes(code[start : start + size], "little", signed=True)


def _terminator(code: bytes, position: int, rva: int, epilogue: Epilogue) -> Epilogue | None:
    """The return or jump that ends an epilogue; ``None`` when there is none."""
    rest = code[position : position + 16]
    if rest[:1] in (b"\xf2", b"\xf3") and rest[1:2] == b"\xc3":
        return epilogue
    if rest[:1] == b"\xc3":
        return epilogue
    if rest[:1] == b"\xc2" and len(rest) >= 3:
        return epilogue._replace(released=int.from_bytes(rest[1:3], "little"))
    # mov r10, [rip+n], by which a kernel that guards indirect jumps loads the target before it jumps.
    if rest[:3] == b"\x4c\x8b\x15" and len(rest) >= 8:
        position += 7
        rest = rest[7:]
        if rest[:1] not in (b"\xe9", b"\x41", b"\x49"):
            return None
        if rest[:3] in (b"\x41\xff\xe2", b"\x49\xff\xe2"):
            return epilogue._replace(jump=True)
    if rest[:1] == b"\xeb" and len(rest) >= 2:
        target = rva + position + 2 + struct.unpack_from("<b", rest, 1)[0]
        return epilogue._replace(jump=True, target=target)
    if rest[:1] == b"\xe9" and len(rest) >= 5:
        target = rva + position + 5 + struct.unpack_from("<i", rest, 1)[0]
        return epilogue._replace(jump=True, target=target)
    if rest[:2] == b"\xff\x25":
        return epilogue._replace(jump=True)
    # Compilers mark an indirect tail call with REX.W, which the instruction does not need; switches have none.
    if len(rest) >= 3 and rest[0] & 0xF8 == 0x48 and rest[1] == 0xFF and rest[2] & 0x38 == 0x20:
        return epilogue._replace(jump=True)
    return None
