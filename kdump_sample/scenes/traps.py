"""Exceptions and processor traps: 0x1E, 0x3B, 0x7E, 0x8E, 0x7F, 0x139."""

from __future__ import annotations

import dataclasses

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.dispatch import (
    CONTEXT_IN_FRAME,
    DOUBLE_FAULT,
    EXCEPTIONS,
    FAST_FAIL,
    RECORD_IN_FRAME,
    TO_EXCEPTION,
    TO_HANDLERS,
    UNHANDLED,
)
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import KernelStructure, Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import TOUCHES, add, request, touch
from kdump_sample.stacks import Frame
from kdump_sample.variants import (
    ACCESS_VIOLATION,
    DIVIDE_BY_ZERO,
    STACK_BUFFER_OVERRUN,
    Draft,
    crashed,
    crashing,
    draft_stack,
    exception_record,
    kernel_trap,
    with_frames,
    with_functions,
    with_thread,
)
from volatility3_kdump.layout import Layouts

_READ, _WRITE = 0, 1
_SIGN = 0xFFFFFFFF00000000
_NO_ADDRESS = 0xFFFFFFFFFFFFFFFF
_CORRUPT_LIST_ENTRY = 3
_DOUBLE_FAULT_TRAP = 8
_TASK_STATE = 0x11000
#: The stack of the double-fault entry of the interrupt stack table, on the crashing processor.
_FAULT_STACK = 0xFFFFC3014F47C000


def record_and_context(made: Scene, draft: Draft, handler: str, record: bytes) -> tuple[Scene, int, int]:
    """Put the exception record and the context where the dispatcher keeps them; returns their addresses."""
    record_address = draft.frame("KiExceptionDispatch").child_sp + RECORD_IN_FRAME
    context_address = draft.frame("KiDispatchException").child_sp + CONTEXT_IN_FRAME
    records = (Record(record_address, record), Record(context_address, draft.context(handler)))
    return add(made, records=records), record_address, context_address


def _unhandled_access(layouts: Layouts, code: Function, address: int, kind: int) -> tuple[Scene, Draft, int]:
    """An access through rbx that nobody handles: the scene, its stack, and where the instruction is."""
    made = request(
        code,
        (
            Frame(f"myfault!{code.name}", sets={"rbx": address}, stopped_at=TOUCHES),
            Frame("KiPageFault", trap=kernel_trap(), call=TO_EXCEPTION),
            Frame("KiExceptionDispatch"),
            Frame("KiDispatchException", call=UNHANDLED),
        ),
        EXCEPTIONS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame(f"myfault!{code.name}").ip
    record = exception_record(ACCESS_VIOLATION, ip, (kind, address))
    made, _, _ = record_and_context(made, draft, "KiPageFault", record)
    return made, draft, ip


@scene("unhandled-exception")
def unhandled_exception(layouts: Layouts) -> Scene:
    """0x1E: a write through a null pointer that nobody handles."""
    code = touch("WriteNull", bytes.fromhex("8903"))
    made, _, ip = _unhandled_access(layouts, code, 0x10, _WRITE)
    return crashed(made, 0x1E, (_SIGN | ACCESS_VIOLATION, ip, _WRITE, 0x10))


@scene("bad-pointer")
def bad_pointer(layouts: Layouts) -> Scene:
    """0x3B: a read through a pointer whose bit 47 has been lost; the CONTEXT lies on the stack."""
    pointer = 0xFFFF918953118260 & ~(1 << 47)
    made = request(
        touch("ReadObject", bytes.fromhex("8b03")),
        (
            Frame("myfault!ReadObject", sets={"rbx": pointer}, stopped_at=TOUCHES),
            Frame("KiGeneralProtectionFault", trap=kernel_trap()),
            Frame("KiExceptionDispatch"),
            Frame("KiDispatchException", call=TO_HANDLERS),
            Frame("RtlDispatchException"),
            Frame("RtlpExecuteHandlerForException"),
            Frame("KiSystemServiceHandler"),
            Frame("KiBugCheckDispatch"),
        ),
        EXCEPTIONS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!ReadObject").ip
    record = exception_record(ACCESS_VIOLATION, ip, (_READ, _NO_ADDRESS))
    made, _, context = record_and_context(made, draft, "KiGeneralProtectionFault", record)
    return crashed(made, 0x3B, (ACCESS_VIOLATION, ip, context, 0))


@scene("system-thread")
def system_thread(layouts: Layouts) -> Scene:
    """0x7E: a division by zero in a worker thread of the system; exception record and CONTEXT lie on the stack."""
    made = high_irql_fault()
    divide = Function("Divide", (*pushes("rbx"), Allocate(0x20)), body={TOUCHES: bytes.fromhex("f7f1")})
    worker = Function("Worker", (*pushes("rbx", "rsi"), Allocate(0x28)), (Call(0x30, "local:Divide"),))
    made = with_functions(made, "myfault", {0x1A40: divide, 0x1B00: worker})
    process, thread = crashing(made)
    system = made.processes[0]
    made = dataclasses.replace(
        made,
        processes=tuple(other for other in made.processes if other.address != process.address),
        requests=(),
        driver_objects=(),
        paged_out=(),
        kernel_functions=EXCEPTIONS,
    )
    running = dataclasses.replace(
        thread, tid=0x1A4, teb=0, win32_thread=0, start_address=0, win32_start_address=0, registers={}
    )
    made = with_thread(made, system, running)
    made = with_frames(
        made,
        (
            Frame("KiStartSystemThread"),
            Frame("PspSystemThreadStartup"),
            Frame("myfault!Worker"),
            Frame("myfault!Divide", sets={"rbx": 0}, stopped_at=TOUCHES),
            Frame("KiDivideErrorFault", trap=kernel_trap({"rax": 0x64})),
            Frame("KiExceptionDispatch"),
            Frame("KiDispatchException", call=TO_HANDLERS),
            Frame("RtlDispatchException"),
            Frame("RtlpExecuteHandlerForException"),
            Frame("_C_specific_handler"),
        ),
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!Divide").ip
    made, record, context = record_and_context(made, draft, "KiDivideErrorFault", exception_record(DIVIDE_BY_ZERO, ip))
    return crashed(made, 0x7E, (_SIGN | DIVIDE_BY_ZERO, ip, record, context))


@scene("kernel-exception")
def kernel_exception(layouts: Layouts) -> Scene:
    """0x8E: a read through a null pointer; argument 3 is the trap frame."""
    made, draft, ip = _unhandled_access(layouts, touch("ReadNull", bytes.fromhex("8b03")), 0, _READ)
    return crashed(made, 0x8E, (_SIGN | ACCESS_VIOLATION, ip, draft.trap_frame("KiPageFault"), 0))


@scene("list-corruption")
def list_corruption(layouts: Layouts) -> Scene:
    """0x139: a list entry is removed twice; int 29h with fast-fail code 3."""
    made = request(
        touch("Unlink", bytes.fromhex("cd29")),
        (
            Frame("myfault!Unlink", sets={"rbx": 0xFFFF91894EE41000}, stopped_at=TOUCHES),
            Frame("KiRaiseSecurityCheckFailure", trap=kernel_trap({"rcx": _CORRUPT_LIST_ENTRY})),
            Frame("KiFastFailDispatch"),
            Frame("KiBugCheckDispatch"),
        ),
        FAST_FAIL,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!Unlink").ip
    address = draft.frame("KiFastFailDispatch").child_sp + RECORD_IN_FRAME
    record = exception_record(STACK_BUFFER_OVERRUN, ip, (_CORRUPT_LIST_ENTRY,), 1)
    made = add(made, records=(Record(address, record),))
    return crashed(made, 0x139, (_CORRUPT_LIST_ENTRY, draft.trap_frame("KiRaiseSecurityCheckFailure"), address, 0))


@scene("double-fault")
def double_fault(layouts: Layouts) -> Scene:
    """0x7F: a function calls itself until the kernel stack is used up; the processor goes on with another stack."""
    recurse = Function(
        "Recurse",
        (*pushes("rbx"), Allocate(0x400)),
        (Call(0x60, "local:Recurse"),),
        body={0x20: bytes.fromhex("48891c24")},  # mov [rsp],rbx
    )
    _, thread = crashing(high_irql_fault())
    limit = thread.stack_base - thread.stack_size
    made = request(recurse, ())
    depth = (draft_stack(made, layouts).stack.sp - limit) // (recurse.size() + 8) + 1
    frames = [Frame("myfault!Recurse") for _ in range(depth)]
    frames[-1] = Frame("myfault!Recurse", stopped_at=0x20)
    frames += [
        Frame("KiDoubleFaultAbort", trap=kernel_trap(stack=_FAULT_STACK)),
        Frame("KiBugCheckDispatch"),
    ]
    made = request(recurse, frames, DOUBLE_FAULT)
    draft = draft_stack(made, layouts)
    fault = draft.frame("myfault!Recurse")
    processor = made.processors[made.bug_check.processor]
    task_state = processor.pcr + _TASK_STATE
    made = add(
        made,
        structures=(KernelStructure("_KTSS64", task_state, {"Ist[1]": _FAULT_STACK}),),
        blocks=((task_state, 0x68),),
    )
    trap_frame = draft.trap_frame("KiDoubleFaultAbort")
    return crashed(made, 0x7F, (_DOUBLE_FAULT_TRAP, trap_frame, fault.child_sp, fault.ip))
