"""x86 unwinding: the chain of frame pointers.

* :class:`Registers` - what is known of the registers of one frame.
* :func:`frame_pointer_step` - the caller's registers by the saved ``ebp`` and the return address above it.
* :func:`epilogue` - the caller's registers of a function that is about to return.

x86 images carry no unwind data; what PDB files have instead is read in :mod:`x86_frames`.
A function with the standard prolog (``push ebp; mov ebp, esp``) leaves its caller's
``ebp`` at ``[ebp]``, the return address at ``[ebp+4]`` and its arguments from ``[ebp+8]``; functions compiled with
frame-pointer omission are passed over, so that every frame found this way is to be labelled ``frame pointer``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context

_MASK = 0xFFFFFFFF
#: ret, ret imm16, pop r32, leave; the numbers of registers in instructions.
_RET, _RET_POP, _POP, _LEAVE = 0xC3, 0xC2, 0x58, 0xC9
_NAMES = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
_ESP = 4
_LONGEST_EPILOGUE = 16


@dataclass(frozen=True)
class Registers:
    """The registers of one frame that the chain gives: 32-bit addresses, ``None`` where not known.

    ``esp`` of a caller is its value just after the return address was popped, where arguments of the callee begin.
    """

    eip: int
    esp: int | None
    ebp: int | None

    @classmethod
    def from_context(cls, context: Context) -> Registers:
        """The registers of an x86 context. Raises ``ValueError`` for another architecture or an unknown ``eip``."""
        if context.architecture != "x86":
            raise ValueError(f"a context of {context.architecture}, not of x86")
        if context.ip is None:
            raise ValueError("the context does not give eip")
        sp, fp = context.sp, context.fp
        return cls(context.ip & _MASK, None if sp is None else sp & _MASK, None if fp is None else fp & _MASK)

    def to_context(self, source: str) -> Context:
        """The known registers as a context."""
        values = {"eip": self.eip, "esp": self.esp, "ebp": self.ebp}
        return Context("x86", {name: value for name, value in values.items() if value is not None}, source)


@dataclass(frozen=True)
class Unwound:
    """One step to the caller: its registers, or ``None`` and the reason why there are none.

    ``frame`` is the ``ebp`` that was followed: arguments of the function left behind begin at ``frame + 8``.
    """

    registers: Registers | None
    frame: int | None = None
    reason: str | None = None


def frame_pointer_step(registers: Registers, read: Read, limits: tuple[int, int] | None = None) -> Unwound:
    """The caller's registers by the frame that ``ebp`` points at.

    ``limits`` is the stack that ``ebp`` must lie in, as (lowest address, end), ``None`` where it is not known; 32-bit
    or sign-extended. ``read`` is given addresses of 32 bits. A frame must be a multiple of 4 and lie above the stack
    pointer and the frame before; one outside ``limits`` is returned as the caller's ``ebp`` without judging it, because
    code may have switched stacks there: the caller of this function knows the stacks of a thread, gives the limits of
    the next one and counts the switches. At the outermost frame ``registers`` is ``None`` and ``reason`` says that the
    chain ends. Never raises on any content of memory.
    """
    ebp, esp = registers.ebp, registers.esp
    if ebp is None:
        return Unwound(None, reason="ebp is not known")
    if ebp == 0:
        return Unwound(None, reason="the frame-pointer chain ends")
    if ebp & 3:
        return Unwound(None, ebp, f"ebp {ebp:#x} is not a multiple of 4")
    # The end of a stack at the top of the address space is 2 to the power of 32, which truncates to 0.
    low, end = (limits[0] & _MASK, (limits[1] & _MASK) or _MASK + 1) if limits else (0, _MASK + 1)
    if not low <= ebp <= end - 8:
        return Unwound(None, ebp, f"ebp {ebp:#x} is outside the stack")
    if esp is not None and low <= esp and ebp < esp:
        return Unwound(None, ebp, f"ebp {ebp:#x} is below esp {esp:#x}")
    frame = read(ebp, 8)
    if frame is None or len(frame) != 8:
        return Unwound(None, ebp, f"the frame at {ebp:#x} is not in the dump")
    following, address = struct.unpack("<II", frame)
    if address == 0:
        return Unwound(None, ebp, "the frame-pointer chain ends")
    if 0 < following <= ebp and low <= following:
        return Unwound(None, ebp, f"the frame-pointer chain goes down from {ebp:#x} to {following:#x}")
    return Unwound(Registers(address, ebp + 8 & _MASK, following), ebp)


def epilogue(registers: Mapping[str, int | None], read: Read) -> tuple[dict[str, int | None], int] | None:
    """(the caller's registers, bytes of parameters that the return takes) where the code is about to return.

    ``None`` where it does something else before: what stands at eip is carried out as far as it is ``pop``,
    ``add esp``, ``leave`` and ``ret``. The stack pointer is that just behind the return address.
    """
    caller = dict(registers)
    for _ in range(_LONGEST_EPILOGUE):
        ip, esp = caller.get("eip"), caller.get("esp")
        code = read(ip, 1) if ip is not None else None
        if ip is None or esp is None or code is None:
            return None
        opcode = code[0]
        if opcode in (_RET, _RET_POP):
            popped = read(ip + 1, 2) if opcode == _RET_POP else b"\0\0"
            back = read(esp, 4)
            if popped is None or back is None:
                return None
            caller |= {"eip": int.from_bytes(back, "little"), "esp": esp + 4 & _MASK}
            return caller, int.from_bytes(popped, "little")
        if opcode & 0xF8 == _POP and opcode & 7 != _ESP:
            value = read(esp, 4)
            if value is None:
                return None
            caller |= {_NAMES[opcode & 7]: int.from_bytes(value, "little"), "esp": esp + 4 & _MASK, "eip": ip + 1}
        elif opcode == _LEAVE:
            ebp = caller.get("ebp")
            value = read(ebp, 4) if ebp is not None else None
            if ebp is None or value is None:
                return None
            caller |= {"ebp": int.from_bytes(value, "little"), "esp": ebp + 4 & _MASK, "eip": ip + 1}
        else:
            size = {b"\x83\xc4": 1, b"\x81\xc4": 4}.get(read(ip, 2) or b"")
            amount = read(ip + 2, size) if size is not None else None
            if size is None or amount is None:
                return None
            caller |= {"esp": esp + int.from_bytes(amount, "little", signed=True) & _MASK, "eip": ip + 2 + size}
    return None
