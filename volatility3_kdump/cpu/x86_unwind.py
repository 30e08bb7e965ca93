"""x86 unwinding: the chain of frame pointers.

* :class:`Registers` - what is known of the registers of one frame.
* :func:`frame_pointer_step` - the caller's registers by the saved ``ebp`` and the return address above it.

x86 images carry no unwind data. A function with the standard prolog (``push ebp; mov ebp, esp``) leaves its caller's
``ebp`` at ``[ebp]``, the return address at ``[ebp+4]`` and its arguments from ``[ebp+8]``; functions compiled with
frame-pointer omission are passed over, so that every frame found this way is to be labelled ``frame pointer``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context

_MASK = 0xFFFFFFFF


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


def frame_pointer_step(registers: Registers, read: Read, limits: Sequence[tuple[int, int]] | None = None) -> Unwound:
    """The caller's registers by the frame that ``ebp`` points at.

    ``limits`` are the (lowest, end) addresses of the thread's stacks, ``None`` where they are not known; they are of 32
    bits, as the addresses given to ``read`` are. A frame must be a multiple of 4, lie inside one of them, and above the
    stack pointer and the frame before unless the stack changes. At the outermost frame ``registers`` is ``None`` and
    ``reason`` says that the chain ends. Never raises on any content of memory; a chain that alternates between two
    stacks is for the caller to bound.
    """
    ebp = registers.ebp
    if ebp is None:
        return Unwound(None, reason="ebp is not known")
    if ebp == 0:
        return Unwound(None, reason="the frame-pointer chain ends")
    if ebp & 3:
        return Unwound(None, ebp, f"ebp {ebp:#x} is not a multiple of 4")
    stack = _stack_of(ebp, limits)
    if limits is not None and stack is None:
        return Unwound(None, ebp, f"ebp {ebp:#x} is outside the stack")
    esp = registers.esp
    if esp is not None and ebp < esp and (stack is None or _stack_of(esp, limits) in (None, stack)):
        return Unwound(None, ebp, f"ebp {ebp:#x} is below esp {esp:#x}")
    frame = read(ebp, 8)
    if frame is None or len(frame) != 8:
        return Unwound(None, ebp, f"the frame at {ebp:#x} is not in the dump")
    following, address = struct.unpack("<II", frame)
    if address == 0:
        return Unwound(None, ebp, "the frame-pointer chain ends")
    if following and following <= ebp and (stack is None or _stack_of(following, limits) in (None, stack)):
        return Unwound(None, ebp, f"the frame-pointer chain goes down from {ebp:#x} to {following:#x}")
    return Unwound(Registers(address, ebp + 8 & _MASK, following), ebp)


def _stack_of(address: int, limits: Sequence[tuple[int, int]] | None) -> tuple[int, int] | None:
    return next(((low, end) for low, end in limits or () if low <= address and address + 8 <= end), None)
