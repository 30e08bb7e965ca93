"""What a thread saved when it gave up its processor: the bounds of its stack, and its switch frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump import tables
from volatility3_kdump.cpu import Read, arm64
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.layout import StructReader
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.stacks.extents import (
    thread_pointer,
)
from volatility3_kdump.windows.stacks.frames import CONTEXT, NoStack, Start
from volatility3_kdump.windows.structures import extended_pointers, field_offset

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


class SavedStack(NamedTuple):
    """Where a thread's kernel stack lies (KTHREAD): bounds, saved and initial stack pointer, state, residency; and the
    process whose address space it runs in. ``owner`` is the process that it belongs to."""

    limit: int
    base: int
    kernel: int
    initial: int | None
    state: int | None
    resident: int | None
    process: int | None
    owner: int | None = None


def saved_stack(target: Target, thread: int) -> SavedStack | None:
    """Read with one access where symbols are at hand: listings do this for thousands of threads."""
    reader = target.once(_saved_stack_reader)
    if reader is not None:
        data = target.memory.read(thread, reader.size)
        if data is None:
            return None
        row = extended_pointers(reader, reader.unpack(data), target.memory.pointer_size)
        return SavedStack(*row)
    limits = stack_limits(target, thread)
    kernel = thread_pointer(target, thread, "KernelStack", "OffsetKThreadKernelStack")
    if limits is None or kernel is None:
        return None
    initial = thread_pointer(target, thread, "InitialStack", "OffsetKThreadInitialStack")
    located = field_offset(target, "_KTHREAD", "State", "OffsetKThreadState")
    state = target.memory.unsigned(thread + located, 1) if located is not None else None
    process = thread_pointer(target, thread, "ApcState.Process", "OffsetKThreadApcProcess")
    return SavedStack(*limits, kernel, initial, state, None, process)


def _saved_stack_reader(target: Target) -> StructReader | None:
    nt = target.nt
    if nt is None or not nt.has("_KTHREAD", "StackLimit"):
        return None
    # In the order of SavedStack.
    return nt.reader(
        "_KTHREAD",
        limit="StackLimit",
        base="StackBase",
        kernel="KernelStack",
        initial="InitialStack",
        state="State",
        resident="KernelStackResident",
        process=("ApcState.Process", "Process"),
        owner="Process",
    )


def amd64_switch_frame(target: Target, stack: int, read: Read) -> Context:
    layouts = tables.structures()
    reader = layouts.reader("_KSWITCH_FRAME", rbp="Rbp", ip="Return")
    data = read(stack, reader.size)
    if data is None:
        raise NoStack(f"the switch frame at {stack:#x} cannot be read: {target.memory.why_unreadable(stack)}")
    row = reader.unpack(data)
    module = target.names.module_of(row.ip)
    if module is None or module.name != "nt":
        raise NoStack(f"no switch frame at {stack:#x}: its return address {row.ip:#x} is not in the kernel")
    registers = {"rip": row.ip, "rsp": stack + layouts.size_of("_KSWITCH_FRAME"), "rbp": row.rbp}
    return Context("x64", registers, "switch frame", stack)


def x86_switch_frame(target: Target, stack: int) -> Context:
    memory = target.memory
    # ExceptionList, ApcBypass, return into KiSwapContext, then what KiSwapContext pushed: ebp first.
    ip, fp = memory.pointer(stack + 8), memory.pointer(stack + 0xC)
    if ip is None or fp is None:
        raise NoStack(f"the switch frame at {stack:#x} cannot be read: {memory.why_unreadable(stack)}")
    registers = {"eip": ip & 0xFFFFFFFF, "esp": (stack + 0xC) & 0xFFFFFFFF, "ebp": fp & 0xFFFFFFFF}
    return Context("x86", registers, "switch frame", stack)


#: KTHREAD.SwitchFrame on ARM64 lies before VfpState; its Fp and Return at these distances (checked on a real dump).
_ARM64_SWITCH_FP, _ARM64_SWITCH_RETURN = 0x10, 0x18
_ARM64_SWITCH_FRAME = {0x910: 0x210}


def arm64_waiting(target: Target, thread: int, stack: int, limits: tuple[int, int]) -> Start:
    located = target.nt.find("_KTHREAD", "SwitchFrame") if target.nt else None
    size = target.debugger["SizeEThread"] if target.debugger else None
    offset = located.offset if located else _ARM64_SWITCH_FRAME.get(size or 0)
    if offset is None:
        raise NoStack("the thread's switch frame cannot be located without symbols of this kernel")
    fp = target.memory.pointer(thread + offset + _ARM64_SWITCH_FP)
    ip = target.memory.pointer(thread + offset + _ARM64_SWITCH_RETURN)
    if fp is None or ip is None or not limits[0] <= fp < limits[1]:
        raise NoStack("the thread's switch frame is not plausible")
    registers = {"pc": arm64.strip_pointer_authentication(ip), "fp": fp, "sp": stack}
    return Start(Context("arm64", registers, "switch frame", thread + offset), CONTEXT, (limits,))
