"""Stacks that the processor switched to: where the code was before, and which stacks the crash is on (x64).

DPCs, interrupts and (since Windows 10 2004) exceptions run on stacks of their own. The routine that switches leaves its
frame at the top of the new stack; ``top`` is the first address above it, a multiple of the page size::

    top-58h  return address into the routine that switched, below its frame
    top-50h  that frame (KPRCB.DpcStack points here)
    top-28h  a machine frame: where the code goes on, on the stack before (KiDispatchInterruptContinue,
    top-10h    KiExceptionDispatchOnExceptionStackContinue), and the stack pointer there

x86 has the stack pointer before right below the top of the DPC stack (KPRCB.DpcStack), and nothing else there.

The interrupt stack keeps only the stack pointer, at which a return address lies. Read on small dumps of Windows 8.1,
10 (19041) and 11.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.cpu import amd64
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.processes.crashed import crash_context, crash_processor, crash_thread
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.stacks.places import may_follow_call
from volatility3_kdump.windows.structures import field_offset

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

PAGE = 0x1000
#: The frame of the routine that switched, the return address below it, and what its machine frame holds.
FRAME_BELOW_TOP = 0x50
_RETURN_BELOW_TOP, _GOES_ON_BELOW_TOP, _PREVIOUS_BELOW_TOP = 0x58, 0x28, 0x10
#: The routine that switched and the place where it goes on are parts of one piece of assembly code.
_SAME_CODE = 0x1000
#: No stack that is switched to is larger.
_LARGEST = 0x8000
_MOST_STACKS = 8
#: Bytes of one stack that are looked through, in case the recorded limits are wrong.
_MOST_BYTES = 0x20000
#: KTRAP_FRAME.SegCs of a trap taken in the kernel, and how far below its stack an overflow leaves a stack pointer.
_CODE_SEGMENT, _KERNEL_CODE = 0x170, 0x10
_OVERFLOW = 0x2000
_WINDOW = 0x6000

THREAD, DPC, INTERRUPT, SEPARATE = "thread", "DPC", "interrupt", "separate"


class Switch(NamedTuple):
    """One switch. ``goes_on`` is where the code goes on after it, ``None`` where only a return address lies on the
    stack before; ``previous`` the stack pointer there; ``returns`` the address in the routine that switched."""

    top: int
    returns: int
    goes_on: int | None
    previous: int


class LiveStack(NamedTuple):
    """The used part of a stack: its stack pointer, the first address above it, and whose it is: ``thread``, ``DPC``,
    ``interrupt``, or ``separate`` where the dump does not say whose."""

    low: int
    high: int
    kind: str


@dataclass(frozen=True)
class Interruption:
    """The bug check was raised while the processor did something that is not the thread's: ``reason`` says what.

    Thread and process are then only those that were interrupted.
    """

    kind: str
    reason: str


def switch_at(target: Target, top: int) -> Switch | None:
    """The switch whose frame lies below ``top``; ``None`` where there is none."""
    pointer = target.memory.pointer
    previous, returns = pointer(top - _PREVIOUS_BELOW_TOP), pointer(top - _RETURN_BELOW_TOP)
    if previous is None or returns is None or not _is_kernel_code(target, returns):
        return None
    if previous & 7 or top - _LARGEST <= previous < top:
        return None
    if not target.is_kernel_address(previous) or not amd64.is_canonical(previous):
        return None
    goes_on = pointer(top - _GOES_ON_BELOW_TOP)
    if goes_on is not None and abs(goes_on - returns) < _SAME_CODE and _is_kernel_code(target, goes_on):
        return Switch(top, returns, goes_on, previous)
    value = pointer(previous)
    if value is not None and _is_kernel_code(target, value):
        called = may_follow_call(target, value)
        if called or (called is None and _kind_of(target, top) == INTERRUPT):
            return Switch(top, returns, None, previous)
    return None


def switch_above(target: Target, sp: int, high: int | None = None) -> Switch | None:
    """The nearest switch above a stack pointer; ``high`` is the first address above the stack where that is known."""
    top = (sp + FRAME_BELOW_TOP + PAGE - 1) & -PAGE
    last = sp + _LARGEST if high is None else min(sp + _LARGEST, high + PAGE)
    while top <= last:
        switch = switch_at(target, top)
        if switch is not None:
            return switch
        top += PAGE
    return None


def narrow_switch(target: Target, stack: tuple[int, int] | None) -> Switch | None:
    """The switch to the DPC stack of an x86 processor, where ``stack`` (32-bit addresses) is that stack."""
    top = top_of(target, "DpcStack", "OffsetPrcbDpcStack")
    if target.header.architecture != "x86" or top is None or stack is None or top & 0xFFFFFFFF != stack[1]:
        return None
    previous = target.memory.pointer(top - 4)
    limits = _thread_limits(target)
    if previous is None or limits is None or not limits[0] <= previous < limits[1]:
        return None
    return Switch(top, 0, None, previous & 0xFFFFFFFF)


def live_stacks(target: Target) -> tuple[LiveStack, ...]:
    """The stacks that the crash is on, from that of the bug check to that of the interrupted thread.

    Switches are known on x64, and that to the DPC stack on x86; ARM64 has one stack more in its chain of frames.
    """
    return target.once(_live_stacks)


def _live_stacks(target: Target) -> tuple[LiveStack, ...]:
    context = crash_context(target)
    if context is None or context.sp is None:
        return ()
    stacks: list[LiveStack] = []
    sp = sign_extended(context.sp, target.memory.pointer_size)
    triage = target.dump.triage
    saved = triage.stack if triage is not None else None
    if saved is not None and saved.address <= sp < saved.address + saved.size:
        # Where the header's registers are those of an exception, what handled it lies below.
        sp = saved.address
    while len(stacks) < _MOST_STACKS and not any(stack.low <= sp < stack.high for stack in stacks):
        limits = _thread_limits(target)
        # Above a stack pointer below the thread's stack, what an overflow left.
        below = limits is not None and bool(stacks) and limits[0] - _OVERFLOW <= sp < limits[0]
        inside = limits is not None and (below or limits[0] <= sp < limits[1])
        switch = None if inside or target.header.architecture != "x64" else switch_above(target, sp)
        if inside and limits is not None:
            stacks.append(LiveStack(sp, limits[1], THREAD))
        elif switch is not None:
            stacks.append(LiveStack(sp, switch.top, _kind_of(target, switch.top)))
        else:
            stacks.append(_own_stack(target, sp) or LiveStack(sp, _end_of(target, sp), SEPARATE))
        previous = switch.previous if switch is not None else None
        if previous is None and not inside and target.header.architecture == "x64":
            previous = _interrupted_thread(target, stacks[-1], limits)
        if previous is None and target.header.architecture == "x86":
            narrow = narrow_switch(target, (stacks[-1].low & 0xFFFFFFFF, stacks[-1].high & 0xFFFFFFFF))
            previous = sign_extended(narrow.previous, 4) if narrow is not None else None
        if previous is None:
            break
        sp = previous
    return tuple(stacks)


def _own_stack(target: Target, sp: int) -> LiveStack | None:
    """The DPC or interrupt stack of the processor that holds a stack pointer; x64 tells by its switches."""
    if target.header.architecture == "x64":
        return None
    for path, debugger_field in (("DpcStack", "OffsetPrcbDpcStack"), ("IsrStack", "OffsetPrcbIsrStack")):
        top = top_of(target, path, debugger_field)
        if top is not None and top - _WINDOW <= sp < top:
            return LiveStack(sp, top, _kind_of(target, top))
    return None


def _interrupted_thread(target: Target, stack: LiveStack, limits: tuple[int, int] | None) -> int | None:
    """The stack pointer on the thread's stack that a trap frame on a stack of the interrupt stack table saved."""
    if limits is None:
        return None
    for trap in range((stack.low + 15) & -16, stack.high - amd64.TRAP_FRAME_SIZE + 1, 16):
        if target.memory.unsigned(trap + _CODE_SEGMENT, 2) != _KERNEL_CODE:
            continue
        context = amd64.trap_frame(target.memory.read, trap, target.nt)
        # Code that used up its stack is interrupted below it.
        if context is not None and context.sp is not None and limits[0] - _OVERFLOW <= context.sp < limits[1]:
            return context.sp
    return None


def interruption(target: Target) -> Interruption | None:
    """Whether thread and process of the bug check are only whoever was interrupted; ``None`` where they are its own."""
    for stack in live_stacks(target):
        if stack.kind in (DPC, INTERRUPT):
            what = "a DPC" if stack.kind == DPC else "an interrupt"
            reason = f"the stack of the bug check is the processor's {stack.kind} stack: {what} was running"
            return Interruption(stack.kind, reason)
    processor = crash_processor(target)
    thread = crash_thread(target)
    idle = processor.idle_thread if processor is not None else None
    # A thread that is all zeros has no process either.
    if thread is not None and (idle == thread.address or (idle is None and thread.pid == 0 and thread.process)):
        return Interruption("idle", "the processor's thread is its idle thread")
    return None


def top_of(target: Target, path: str, debugger_field: str) -> int | None:
    """The top of one of the crashing processor's stacks, as a multiple of the page size."""
    processor = crash_processor(target)
    offset = field_offset(target, "_KPRCB", path, debugger_field)
    if processor is None or processor.prcb is None or offset is None:
        return None
    value = target.memory.pointer(processor.prcb + offset)
    return None if not value or not target.is_kernel_address(value) else (value + PAGE - 1) & -PAGE


def parts_of(target: Target, stack: LiveStack) -> Iterator[tuple[int, bytes]]:
    """What the dump holds of a stack, as (address, bytes)."""
    yield from target.memory.present(stack.low, min(stack.high - stack.low, _MOST_BYTES))


def _kind_of(target: Target, top: int) -> str:
    if top == top_of(target, "DpcStack", "OffsetPrcbDpcStack"):
        return DPC
    if top == top_of(target, "IsrStack", "OffsetPrcbIsrStack"):
        return INTERRUPT
    return SEPARATE


def _thread_limits(target: Target) -> tuple[int, int] | None:
    thread = crash_thread(target)
    return stack_limits(target, thread.address) if thread is not None else None


def _end_of(target: Target, sp: int) -> int:
    """Where a stack of unknown extent ends: that of the saved stack of a small dump, else a window above it."""
    triage = target.dump.triage
    saved = triage.stack if triage is not None else None
    if saved is not None and saved.address <= sp < saved.address + saved.size:
        return min(saved.address + saved.size, sp + _MOST_BYTES)
    return sp + _WINDOW


def _is_kernel_code(target: Target, address: int) -> bool:
    module = target.names.module_of(address)
    return module is not None and module.name == "nt" and target.names.may_be_code(module, address)
