"""One step of ARM64 unwinding: by unwind codes, or along the chain of frame pointers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.arm64 import strip_pointer_authentication
from volatility3_kdump.cpu.arm64_unwind.effects import Block
from volatility3_kdump.cpu.arm64_unwind.functions import Function, TableAbsent
from volatility3_kdump.cpu.arm64_unwind.registers import FP, LR, Registers
from volatility3_kdump.cpu.arm64_unwind.table import FunctionTable
from volatility3_kdump.cpu.context import context_size, parse_context

_MASK = 0xFFFFFFFFFFFFFFFF
#: x0 to x17 belong to the callee; x18 is the platform register, which points at the KPCR (kernel) or the TEB (user).
_FIRST_KEPT = 18


@dataclass(frozen=True)
class Unwound:
    """One step to the caller.

    ``registers`` are the caller's, ``None`` when the step failed or the chain ended; ``reason`` says why then. ``leaf``
    is set where no unwind data covers the function, so that ``lr`` was taken. ``machine_frame`` is the address of the
    trap frame, machine frame or context record that was crossed: the caller was interrupted there, and its volatile
    registers are valid as far as they are known. ``call_site`` says that the caller's ``pc`` is a return address, to be
    looked up as the call before it.
    """

    registers: Registers | None
    leaf: bool = False
    function: Function | None = None
    machine_frame: int | None = None
    reason: str | None = None
    call_site: bool = True


def unwind(
    registers: Registers,
    table: FunctionTable,
    base: int,
    read: Read,
    *,
    call_site: bool,
    mask: int | None = None,
    trap_frame: Callable[[int], Registers | None] | None = None,
) -> Unwound:
    """The caller's registers.

    ``table`` is that of the image at ``base`` which holds ``registers.pc``. ``call_site`` says that ``pc`` is a return
    address, as in every frame that a call reached: it is then looked up as the call before it, and a function without
    unwind data cannot be left, because its ``lr`` is gone. ``mask`` is ``KDDEBUGGER_DATA64.PointerAuthMask``, ``None``
    where it is not known. ``trap_frame`` reads the KTRAP_FRAME at an address; its layout is the kernel's own, so that
    without the function a trap frame ends the walk with a reason.

    Never raises on any content of memory or image.
    """
    pc = registers.pc
    rva = (pc - 4 if call_site else pc) - base
    try:
        function = table.find(rva)
    except TableAbsent as error:
        return Unwound(None, reason=str(error))
    if function is None:
        return _leave_leaf(registers, call_site, mask)
    if function.reason:
        return Unwound(None, function=function, reason=function.reason)
    effect = function.effect_at(rva)
    if effect.reason:
        return Unwound(None, function=function, reason=effect.reason)
    start = registers.x[FP] if effect.by_fp else registers.sp
    if start is None:
        return Unwound(None, function=function, reason=f"{'fp' if effect.by_fp else 'sp'} is not known")
    caller = registers.copy()
    x = caller.x
    if not effect.special:
        x[:_FIRST_KEPT] = [None] * _FIRST_KEPT
    for number in effect.lost:
        caller.d.pop(number, None)
    for block in effect.blocks:
        _restore(caller, block, registers.x[FP] if block.by_fp else registers.sp, read)
    sp = start + effect.final & _MASK
    caller.sp = sp
    if effect.special:
        return _cross(effect.special, caller, function, read, trap_frame)
    lr = x[LR]
    if lr is None:
        why = (
            "was saved on the stack, at bytes that are not in the dump"
            if effect.lr_restored
            else "is in lr, which is not known"
        )
        return Unwound(None, function=function, reason=f"the return address {why}")
    caller.pc = strip_pointer_authentication(lr, mask)
    x[LR] = None
    if sp & 15:
        return Unwound(None, function=function, reason=f"sp {sp:#x} is not a multiple of 16")
    if registers.sp is not None and sp < registers.sp:
        return Unwound(None, function=function, reason=f"sp goes down from {registers.sp:#x} to {sp:#x}")
    if sp == registers.sp and caller.pc == pc:
        return Unwound(None, function=function, reason="the function returns to itself without a frame")
    return Unwound(caller, function=function, call_site=effect.after_call)


def _restore(caller: Registers, block: Block, base: int | None, read: Read) -> None:
    """Load the saved registers; one whose slot is not in the dump, or not known, becomes unknown."""
    data = None
    if base is not None:
        data = read(base + block.low & _MASK, block.size)
    whole = data is not None and len(data) == block.size
    for registers, target in ((block.x, caller.x), (block.d, caller.d)):
        for number, offset in registers:
            value: int | None = None
            if whole and data is not None:
                value = int.from_bytes(data[offset : offset + 8], "little")
            elif base is not None:
                value = _unsigned(read, base + block.low + offset)
            if target is caller.x:
                caller.x[number] = value
            elif value is None:
                caller.d.pop(number, None)
            else:
                caller.d[number] = value


def _leave_leaf(registers: Registers, call_site: bool, mask: int | None) -> Unwound:
    lr = registers.lr
    if call_site or lr is None:
        return Unwound(None, leaf=True, reason="no unwind data for the function, whose lr is not known")
    caller = registers.copy()
    caller.x[:_FIRST_KEPT] = [None] * _FIRST_KEPT
    caller.x[LR] = None
    caller.pc = strip_pointer_authentication(lr, mask)
    if caller.pc == registers.pc:
        return Unwound(None, leaf=True, reason="the function returns to itself without a frame")
    return Unwound(caller, leaf=True)


def _cross(
    special: str,
    caller: Registers,
    function: Function,
    read: Read,
    trap_frame: Callable[[int], Registers | None] | None,
) -> Unwound:
    """To the code that was interrupted, whose registers lie at ``sp``."""
    address = caller.sp or 0
    names_of_frames = {"trap_frame": "trap frame", "machine_frame": "machine frame", "context": "context record"}[
        special
    ]

    def failed(reason: str) -> Unwound:
        return Unwound(None, function=function, machine_frame=address, reason=reason)

    registers: Registers | None
    if special == "machine_frame":
        sp, pc = _unsigned(read, address), _unsigned(read, address + 8)
        if sp is None or pc is None:
            return failed(f"the machine frame at {address:#x} is not in the dump")
        registers = caller
        registers.sp, registers.pc = sp, pc
    elif special == "context":
        data = read(address, context_size("arm64"))
        context = parse_context(data, "arm64", names_of_frames, address) if data else None
        if context is None or context.ip is None:
            return failed(f"no context record of the interrupted code is at {address:#x}")
        registers = Registers.from_context(context)
    elif trap_frame is None:
        return failed(f"the layout of the trap frame at {address:#x} is not known")
    else:
        registers = trap_frame(address)
        if registers is None:
            return failed(f"the trap frame at {address:#x} is not in the dump")
    return Unwound(registers, function=function, machine_frame=address, call_site=False)


def frame_pointer_step(
    registers: Registers, read: Read, limits: tuple[int, int] | None = None, *, mask: int | None = None
) -> Unwound:
    """The caller's registers by the frame record at ``fp``: the caller's fp, then the return address, 8 bytes each.

    Windows compiles every function that calls another with such a record, so that this needs no image; the caller of a
    function interrupted before it has set up its record, or of a leaf function, is passed over. Only ``pc``, ``fp`` and
    the platform register x18 are known afterwards: the record says neither where the caller's ``sp`` is nor where its
    other registers are saved.

    ``limits`` is the stack that ``fp`` must lie in, as (lowest address, end), ``None`` where it is not known. A record
    must be a multiple of 8 and lie above the one before; one outside ``limits`` is returned as the caller's ``fp``
    without judging it, because code may have switched stacks there: the caller of this function knows the stacks of a
    thread, gives the limits of the next one and counts the switches. ``mask`` as for :func:`unwind`. At the outermost
    frame ``registers`` is ``None`` and ``reason`` says that the chain ends.
    """
    fp = registers.fp
    if fp is None:
        return Unwound(None, reason="fp is not known")
    if fp == 0:
        return Unwound(None, reason="the frame-pointer chain ends")
    if fp & 7:
        return Unwound(None, reason=f"fp {fp:#x} is not a multiple of 8")
    if limits is not None and not limits[0] <= fp <= limits[1] - 16:
        return Unwound(None, reason=f"fp {fp:#x} is outside the stack")
    record = read(fp, 16)
    if record is None or len(record) != 16:
        return Unwound(None, reason=f"the frame record at {fp:#x} is not in the dump")
    following, lr = struct.unpack("<QQ", record)
    if lr == 0:
        return Unwound(None, reason="the frame-pointer chain ends")
    if 0 < following <= fp and (limits is None or limits[0] <= following):
        return Unwound(None, reason=f"the frame-pointer chain goes down from {fp:#x} to {following:#x}")
    x: list[int | None] = [None] * (LR + 1)
    x[18] = registers.x[18]
    x[FP] = following
    return Unwound(Registers(x, None, strip_pointer_authentication(lr, mask)))


def _unsigned(read: Read, address: int) -> int | None:
    data = read(address & _MASK, 8)
    return int.from_bytes(data, "little") if data is not None and len(data) == 8 else None
