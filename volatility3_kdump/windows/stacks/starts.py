"""Where backtraces start: the registers of the crash, of a thread, a processor, a trap frame or a context record."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from volatility3_kdump.cpu import x86
from volatility3_kdump.cpu.context import Context, context_size, parse_context, why_not_context
from volatility3_kdump.cpu.trap_frames import read_trap_frame, why_not_trap_frame
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import crash_context, crash_process, crash_processor, crash_thread
from volatility3_kdump.windows.stacks.extents import (
    LARGEST_STACK,
    Covered,
    crash_segments,
    expansions,
    present,
    processor_stacks,
    segments_around,
    with_window,
)
from volatility3_kdump.windows.stacks.frames import CONTEXT, NOT_RESIDENT, TRAP_FRAME, NoStack, Start
from volatility3_kdump.windows.stacks.switches import (
    SavedStack,
    amd64_switch_frame,
    arm64_waiting,
    saved_stack,
    x86_switch_frame,
)

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_ARCHITECTURES = ("x64", "x86", "arm64")
#: KTHREAD.State of threads without a stack, and of those whose switch frame is of no use.
_WITHOUT_STACK = {0: "initialized", 4: "terminated"}
_RUNNING, _TRANSITION = 2, 6
#: The bits above a bug check code that small memory dumps set to say that the header's registers are the exception's.
_OF_EXCEPTION = 1


def crash_start(target: Target) -> Start:
    """The failure as the dump header has it. Raises :class:`NoStack` when the header holds no registers."""
    context = crash_context(target)
    if context is None or context.ip is None or context.sp is None:
        raise NoStack(why_no_registers(target))
    # The registers are those of the exception where the code has the bit that small memory dumps add.
    fault = (target.header.bug_check_code or 0) >> 28 == _OF_EXCEPTION
    thread = crash_thread(target)
    return Start(
        context,
        CONTEXT,
        crash_segments(target),
        crash=not fault,
        fault=fault,
        process=thread.owner if thread is not None else None,
        thread=thread.address if thread is not None else None,
    )


def why_no_registers(target: Target) -> str:
    """Why there are no registers to begin with."""
    if target.header.container is None:
        return "the dump header holds no registers"
    if target.header.crashed is True:
        return "nt!KiProcessorBlock leads to no processor that stopped in KeBugCheckEx"
    return target.dump.why_no_registers or f"the {target.header.container} holds none of this processor"


def registers_start(target: Target, context: Context) -> Start:
    """Any registers. Raises :class:`NoStack` when they lack a stack or an instruction pointer."""
    if context.ip is None or context.sp is None:
        raise NoStack("the registers do not give the stack and instruction pointers")
    return Start(context, CONTEXT, segments_around(target, context.sp))


def context_start(target: Target, address: int) -> Start:
    """A CONTEXT record in memory. Raises :class:`NoStack` when there is none at the address."""
    architecture = target.header.architecture
    if architecture not in _ARCHITECTURES:
        raise NoStack(f"the layout of context records of {architecture} is not known")
    data = target.memory.read(address, context_size(architecture))
    if data is None:
        raise NoStack(f"no context record at {address:#x}: {target.memory.why_unreadable(address)}")
    context = parse_context(data, architecture, "context record", address)
    if context is None or context.ip is None or context.sp is None:
        why = why_not_context(data, architecture) or "it does not give the stack and instruction pointers"
        raise NoStack(f"no context record at {address:#x}: {why}")
    return Start(context, CONTEXT, segments_around(target, context.sp), fault=True)


def start_at(target: Target, context: Context) -> Start:
    """Registers that were found elsewhere. Raises :class:`NoStack` where they do not give the stack pointer."""
    if context.ip is None or context.sp is None:
        raise NoStack(f"the {context.source} does not give the stack and instruction pointers")
    return Start(context, CONTEXT, segments_around(target, context.sp))


def trap_start(target: Target, address: int) -> Start:
    """A KTRAP_FRAME in memory. Raises :class:`NoStack` when there is none at the address."""
    architecture = target.header.architecture
    context = read_trap_frame(architecture, target.memory.read, address, target.nt)
    if context is None or context.sp is None:
        why = why_not_trap_frame(architecture, target.memory.read, address, target.nt)
        raise NoStack(f"no trap frame at {address:#x}" + (f": {why}" if why else ""))
    return Start(context, TRAP_FRAME, segments_around(target, context.sp), fault=True)


def task_start(target: Target, address: int) -> Start:
    """What a task switch saved (x86). Raises :class:`NoStack` when there is no task state at the address."""
    context = x86.task_state(target.memory.read, address)
    if context is None or context.sp is None:
        raise NoStack(f"no task state with registers at {address:#x}")
    return Start(context, CONTEXT, segments_around(target, context.sp), fault=True)


def processor_start(target: Target, number: int) -> Start:
    """What a processor ran when it was stopped. Raises :class:`NoStack`."""
    processor = next((entry for entry in processors(target) if entry.number == number), None)
    if processor is None:
        raise NoStack(f"processor {number} has no control block in the dump")
    if processor.context is None or processor.context.sp is None:
        crashing = crash_processor(target)
        if crashing is not None and crashing.number == number:
            return crash_start(target)
        if target.header.container is not None:
            raise NoStack(f"no registers of processor {number}: {why_no_registers(target)}")
        raise NoStack(f"the dump holds no registers of processor {number}")
    segments = []
    saved = saved_stack(target, processor.current_thread) if processor.current_thread else None
    if saved is not None and saved.limit < saved.base:
        segments.append((saved.limit, saved.base))
    segments += processor_stacks(target, processor.prcb)
    stacks = with_window(target, tuple(segments), processor.context.sp)
    return Start(
        processor.context,
        CONTEXT,
        stacks,
        saved is not None and _maps_user_memory(target, saved),
        process=saved.owner if saved is not None else None,
        thread=processor.current_thread,
    )


def thread_start(target: Target, thread: int) -> Start:
    """A thread by its ETHREAD address: its processor's registers while it runs, else those that it saved to wait.

    Raises :class:`NoStack` for a thread whose stack is not there.
    """
    for processor in processors(target):
        if processor.current_thread == thread:
            crashing = crash_processor(target)
            if crashing is not None and crashing.number == processor.number:
                return crash_start(target)
            return processor_start(target, processor.number)
    saved = saved_stack(target, thread)
    if saved is None:
        raise NoStack("the thread object is not in the dump")
    if saved.state in _WITHOUT_STACK:
        raise NoStack(f"the thread is {_WITHOUT_STACK[saved.state]}: it has no stack")
    if saved.state == _RUNNING:
        raise NoStack("the thread is running, and no processor in the dump says that it runs it")
    if saved.resident == 0 or saved.state == _TRANSITION:
        raise NoStack(NOT_RESIDENT)
    limits = (saved.limit, saved.base)
    stack = saved.kernel
    if not limits[0] <= stack < limits[1]:
        raise NoStack(f"KernelStack {stack:#x} lies outside the stack {limits[0]:#x} to {limits[1]:#x}")
    if target.header.architecture == "arm64":
        waiting = arm64_waiting(target, thread, stack, limits)
        user_memory = _maps_user_memory(target, saved)
        return dataclasses.replace(waiting, user_memory=user_memory, process=saved.owner, thread=thread)
    held = stack, present(target, stack, min(limits[1], stack + LARGEST_STACK))
    read = Covered(target.memory.read, *held).read
    if target.header.architecture == "x64":
        context = amd64_switch_frame(target, stack, read)
    else:
        context = x86_switch_frame(target, stack)
    segments = (limits, *expansions(target, saved.initial, read))
    user_memory = _maps_user_memory(target, saved)
    return Start(context, CONTEXT, segments, user_memory, held, process=saved.owner, thread=thread)


def _maps_user_memory(target: Target, saved: SavedStack) -> bool:
    """Whether a thread runs in the address space that the target shows: that of the process that crashed."""
    process = crash_process(target)
    return process is not None and saved.process == process.address
