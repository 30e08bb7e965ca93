"""Faults on stacks of their own, and bug checks whose arguments imply the trap frame: 0x1E, 0x4A, 0x101.

What a switch of stacks leaves is that of Windows 10 19041 (seen in small dumps): the routine that switches builds a
machine frame at the top of the new stack, with no selectors and no flags, that says where its caller goes on.
"""

from __future__ import annotations

import dataclasses

from kdump_sample.code import Allocate, Call, Function, MachineFrame, pushes
from kdump_sample.dispatch import DPCS, EXCEPTIONS, RECORD_IN_FRAME, TO_EXCEPTION, UNHANDLED
from kdump_sample.functions import KERNEL_FUNCTIONS
from kdump_sample.scene import Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import MYFAULT, SPIN, TOUCHES, add, request, touch
from kdump_sample.stacks import Frame, Trap
from kdump_sample.variants import (
    ACCESS_VIOLATION,
    crashed,
    crashing,
    draft_stack,
    exception_record,
    kernel_trap,
    with_frames,
    with_functions,
)
from volatility3_kdump.layout import Layouts

_WRITE = 1
_SIGN = 0xFFFFFFFF00000000
_PAGE = 0x1000
_FAULTING_DPC = 0x1A40
#: The exception stack of the crashing processor.
_EXCEPTION_STACK = 0xFFFFC3014F48C000
#: KiDispatchInterruptContinue and KiExceptionDispatchOnExceptionStackContinue, in the routines that they belong to.
_DISPATCH_CONTINUES, _EXCEPTION_CONTINUES = 0x40, 0x20
_DISPATCH_LEVEL = 2
_RBP_IN_TRAP_FRAME = 0x80

_SWITCHES = (
    Function("KiDispatchInterrupt", (Allocate(0x28),), body={_DISPATCH_CONTINUES: b"\x90"}),
    Function("KxRetireDpcList", (MachineFrame(), Allocate(0x28)), (Call(0x5, "KiRetireDpcList"),)),
    Function("KiExceptionDispatchOnExceptionStack", body={_EXCEPTION_CONTINUES: b"\x90"}),
    Function(
        "KxExceptionDispatchOnExceptionStack",
        (MachineFrame(), Allocate(0x28)),
        (Call(0x12, "KiDispatchException"),),
    ),
)


def _switch(top: int) -> Trap:
    """What the routine that switches builds at the top of a stack."""
    return Trap({}, eflags=0, cs=0, ss=0, stack=top)


def _on_own_stack(function: Function) -> Function:
    """KiExceptionDispatch as it is since Windows 10 2004: it calls for the exception stack."""
    call = Call(0x125, "KiExceptionDispatchOnExceptionStack")
    return dataclasses.replace(function, calls=(call,)) if function.name == "KiExceptionDispatch" else function


@scene("exception-in-dpc")
def exception_in_dpc(layouts: Layouts) -> Scene:
    """0x1E: a DPC of myfault.sys writes through a null pointer; exception stack, DPC stack and thread's stack."""
    wait = touch("Wait", SPIN)
    base = request(wait, ())
    dpc_top = (base.processors[base.bug_check.processor].dpc_stack + _PAGE - 1) & -_PAGE
    frames = (
        Frame("myfault!Wait", stopped_at=TOUCHES),
        Frame("KiDpcInterrupt", trap=kernel_trap(eflags=0x246)),
        Frame("KiDispatchInterrupt", stopped_at=_DISPATCH_CONTINUES),
        Frame("KxRetireDpcList", trap=_switch(dpc_top)),
        Frame("KiRetireDpcList"),
        Frame("KiExecuteAllDpcs"),
        Frame("myfault!FaultingDpc", sets={"rbx": 0x10}, stopped_at=TOUCHES),
        Frame("KiPageFault", trap=kernel_trap(), call=TO_EXCEPTION),
        Frame("KiExceptionDispatch"),
        Frame("KiExceptionDispatchOnExceptionStack", stopped_at=_EXCEPTION_CONTINUES),
        Frame("KxExceptionDispatchOnExceptionStack", trap=_switch(_EXCEPTION_STACK)),
        Frame("KiDispatchException", call=UNHANDLED),
    )
    own = {function.name for function in _SWITCHES}
    others = (_on_own_stack(function) for function in (*DPCS, *EXCEPTIONS) if function.name not in own)
    made = request(wait, frames, (*others, *_SWITCHES))
    faulting = Function("FaultingDpc", (*pushes("rbx"), Allocate(0x20)), body={TOUCHES: bytes.fromhex("8903")})
    made = with_functions(made, "myfault", {_FAULTING_DPC: faulting})
    draft = draft_stack(made, layouts)
    ip = MYFAULT + _FAULTING_DPC + TOUCHES
    record = draft.frame("KiExceptionDispatch").child_sp + RECORD_IN_FRAME
    low = draft.frame("KiRetireDpcList").child_sp & -_PAGE
    made = add(
        made,
        records=(Record(record, exception_record(ACCESS_VIOLATION, ip, (_WRITE, 0x10))),),
        # A small dump saves the stack of the bug check; the kernel adds the others as blocks.
        blocks=((low, dpc_top - low), (draft.frame("KiDispatchInterrupt").child_sp & -_PAGE, _PAGE)),
    )
    return crashed(made, 0x1E, (_SIGN | ACCESS_VIOLATION, ip, _WRITE, 0x10))


@scene("raised-irql-at-exit")
def raised_irql_at_exit(layouts: Layouts) -> Scene:
    """0x4A: a system call returns at DISPATCH_LEVEL; argument 4 is the trap handler's rbp, 80h above its trap frame."""
    base = request(touch("Wait", SPIN), ())
    entry = KERNEL_FUNCTIONS["KiSystemCall64"]
    leave = Call(0x1FC, "KiBugCheckDispatch", "KiSystemServiceExit")
    outer = crashing(base)[1].frames
    index = next(number for number, frame in enumerate(outer) if frame.function == "KiSystemCall64")
    leaving = dataclasses.replace(outer[index], call=len(entry.calls))
    made = dataclasses.replace(
        with_frames(base, (*outer[:index], leaving, Frame("KiBugCheckDispatch"))),
        kernel_functions=(dataclasses.replace(entry, calls=(*entry.calls, leave)),),
    )
    trap = draft_stack(made, layouts).trap_frame("KiSystemCall64")
    ip = leaving.trap.rip if leaving.trap is not None else None
    return crashed(made, 0x4A, (ip or 0, _DISPATCH_LEVEL, 0, trap + _RBP_IN_TRAP_FRAME))


@scene("nested-faults")
def nested_faults(layouts: Layouts) -> Scene:
    """0x101: the page fault handler faults at its own instruction, again and again, on the thread's stack."""
    wait = touch("Wait", bytes.fromhex("8903"))
    first = Frame("KiPageFault", trap=kernel_trap(), stopped_at=0x60)
    frames = (
        Frame("myfault!Wait", stopped_at=TOUCHES),
        *([first] * 20),
        Frame("KiPageFault", trap=kernel_trap()),
        Frame("KiBugCheckDispatch"),
    )
    made = request(wait, frames, EXCEPTIONS)
    return crashed(made, 0x101, (0x18, 0, 0, 0))
