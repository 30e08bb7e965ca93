"""Failures that the instruction at RIP cannot have caused, and pointers that one changed bit explains.

What the dump holds is the same as after a real fault of a driver: trap frame or CONTEXT, exception record, code bytes.
Only the exception does not go with the instruction.
"""

from __future__ import annotations

import dataclasses

from kdump_sample.code import Allocate, Call, Function, MachineFrame, pushes
from kdump_sample.dispatch import (
    EXCEPTIONS,
    MEMORY_MANAGER,
    PAGE_FAULT,
    TO_BUG_CHECK,
    TO_EXCEPTION,
    TO_HANDLERS,
    TO_MEMORY_MANAGER,
    UNHANDLED,
)
from kdump_sample.functions import TRAP_FRAME
from kdump_sample.processor_models import CORE_2_QUAD, CPUID, RYZEN_5
from kdump_sample.scene import Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import TOUCHES, request, touch
from kdump_sample.scenes.traps import record_and_context
from kdump_sample.stacks import Frame
from kdump_sample.variants import (
    ACCESS_VIOLATION,
    BREAKPOINT,
    crashed,
    draft_stack,
    exception_record,
    kernel_trap,
)
from volatility3_kdump.layout import Layouts

_READ, _WRITE = 0, 1
_SIGN = 0xFFFFFFFF00000000
_ILLEGAL_INSTRUCTION = 0xC000001D

_TRAPS = (
    *EXCEPTIONS,
    Function("KiBreakpointTrap", (MachineFrame(), Allocate(8), *TRAP_FRAME), (Call(0x30A, "KiExceptionDispatch"),)),
    Function("KiInvalidOpcodeFault", (MachineFrame(), Allocate(8), *TRAP_FRAME), (Call(0x30A, "KiExceptionDispatch"),)),
)
_UNHANDLED = (Frame("KiExceptionDispatch"), Frame("KiDispatchException", call=UNHANDLED))
_TO_HANDLER = (
    Frame("KiExceptionDispatch"),
    Frame("KiDispatchException", call=TO_HANDLERS),
    Frame("RtlDispatchException"),
    Frame("RtlpExecuteHandlerForException"),
)
#: The distance from the start of _LONG_MOVE to where RIP is.
_INSIDE = 0x60
#: mov rax,[rsp+0F0h]; from its fifth byte on it reads lock add [rax],al
_LONG_MOVE = bytes.fromhex("488b8424f0000000")


@scene("acquitted-read")
def acquitted_read(layouts: Layouts) -> Scene:
    """0x7E: a read of its own stack, where the exception says that a null pointer was read."""
    made = request(
        touch("ReadStack", bytes.fromhex("4c8b642418")),  # mov r12,[rsp+18h]
        (
            Frame("myfault!ReadStack", sets={"rbx": 0}, stopped_at=TOUCHES),
            Frame("KiPageFault", trap=kernel_trap(), call=TO_EXCEPTION),
            *_TO_HANDLER,
            Frame("_C_specific_handler"),
        ),
        EXCEPTIONS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!ReadStack").ip
    record = exception_record(ACCESS_VIOLATION, ip, (_READ, 0xF025))
    made, record_address, context = record_and_context(made, draft, "KiPageFault", record)
    return crashed(made, 0x7E, (_SIGN | ACCESS_VIOLATION, ip, record_address, context))


@scene("refused-access")
def refused_access(layouts: Layouts) -> Scene:
    """0x7E: a write to a device's register, at which a hypervisor raised a general protection fault."""
    register = 0xFFFF9B0003360008
    made = request(
        touch("WriteRegister", bytes.fromhex("895344")),  # mov dword ptr [rbx+44h],edx
        (
            Frame("myfault!WriteRegister", sets={"rbx": register}, stopped_at=TOUCHES),
            Frame("KiGeneralProtectionFault", trap=kernel_trap()),
            *_TO_HANDLER,
            Frame("_C_specific_handler"),
        ),
        EXCEPTIONS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!WriteRegister").ip
    record = exception_record(ACCESS_VIOLATION, ip, (_WRITE, (1 << 64) - 1))
    made, record_address, context = record_and_context(made, draft, "KiGeneralProtectionFault", record)
    return crashed(made, 0x7E, (_SIGN | ACCESS_VIOLATION, ip, record_address, context))


@scene("padding-jump")
def padding_jump(layouts: Layouts) -> Scene:
    """0x1E: a breakpoint in the padding between two functions, one bit from the start of the second."""
    body = {TOUCHES - 5: b"\xc3" + 8 * b"\xcc" + bytes.fromhex("48895c2408")}
    made = request(
        Function("Leaf", (), body=body),
        (
            Frame("myfault!Leaf", stopped_at=TOUCHES),
            Frame("KiBreakpointTrap", trap=kernel_trap()),
            *_UNHANDLED,
        ),
        _TRAPS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!Leaf").ip
    made, _, _ = record_and_context(made, draft, "KiBreakpointTrap", exception_record(BREAKPOINT, ip, (0,)))
    return crashed(made, 0x1E, (_SIGN | BREAKPOINT, ip, 0, 0))


@scene("misaligned-ip")
def misaligned_ip(layouts: Layouts) -> Scene:
    """0xD1: RIP is in the middle of an instruction, and what it reads as writes to a null pointer."""
    rip = _INSIDE + 4
    made = request(
        Function("Misled", (*pushes("rbx"), Allocate(0x20)), body={_INSIDE: _LONG_MOVE}),
        (
            Frame("myfault!Misled", sets={"rbx": 0}, stopped_at=rip),
            Frame("KiPageFault", trap=kernel_trap({"rax": 0x10}), call=TO_BUG_CHECK),
            Frame("KiBugCheckDispatch"),
        ),
        (PAGE_FAULT,),
    )
    ip = draft_stack(made, layouts).frame("myfault!Misled").ip
    return crashed(made, 0xD1, (0x10, 2, _WRITE, ip), called_with=(0xA, 0x10, 2, _WRITE, ip))


def _illegal(layouts: Layouts, name: str, code: str) -> Scene:
    made = request(
        touch(name, bytes.fromhex(code)),
        (
            Frame(f"myfault!{name}", sets={"rbx": 0}, stopped_at=TOUCHES),
            Frame("KiInvalidOpcodeFault", trap=kernel_trap({"rax": 1})),
            *_UNHANDLED,
        ),
        _TRAPS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame(f"myfault!{name}").ip
    made, _, _ = record_and_context(made, draft, "KiInvalidOpcodeFault", exception_record(_ILLEGAL_INSTRUCTION, ip))
    return crashed(made, 0x1E, (_SIGN | _ILLEGAL_INSTRUCTION, ip, 0, 0))


@scene("legal-instruction")
def legal_instruction(layouts: Layouts) -> Scene:
    """0x1E: an illegal instruction is reported at one that every processor runs."""
    return _illegal(layouts, "SetUp", "4883ec28")  # sub rsp,28h


@scene("missing-feature")
def missing_feature(layouts: Layouts) -> Scene:
    """0x1E: popcnt on a processor of 2008, which does not have it."""
    made = _illegal(layouts, "CountBits", "f30fb8d8")  # popcnt ebx,eax
    return dataclasses.replace(made, tagged={CPUID: CORE_2_QUAD.records()})


@scene("null-plus-bit")
def null_plus_bit(layouts: Layouts) -> Scene:
    """0x3B: a null pointer with one bit set; the CONTEXT lies on the stack."""
    pointer = 1 << 37 | 0x68
    made = request(
        touch("CheckEntry", bytes.fromhex("48833b00")),  # cmp qword ptr [rbx],0
        (
            Frame("myfault!CheckEntry", sets={"rbx": pointer}, stopped_at=TOUCHES),
            Frame("KiPageFault", trap=kernel_trap(), call=TO_EXCEPTION),
            *_TO_HANDLER,
            Frame("KiSystemServiceHandler"),
            Frame("KiBugCheckDispatch"),
        ),
        EXCEPTIONS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!CheckEntry").ip
    record = exception_record(ACCESS_VIOLATION, ip, (_READ, pointer))
    made, _, context = record_and_context(made, draft, "KiPageFault", record)
    return crashed(made, 0x3B, (ACCESS_VIOLATION, ip, context, 0))


@scene("wild-call")
def wild_call(layouts: Layouts) -> Scene:
    """0x3B: a call through a pointer that is not canonical; the processor reports it at the call itself."""
    pointer = 0x4141414141414141
    made = request(
        touch("CallBack", bytes.fromhex("ffd3")),  # call rbx
        (
            Frame("myfault!CallBack", sets={"rbx": pointer}, stopped_at=TOUCHES),
            Frame("KiGeneralProtectionFault", trap=kernel_trap()),
            *_TO_HANDLER,
            Frame("KiSystemServiceHandler"),
            Frame("KiBugCheckDispatch"),
        ),
        EXCEPTIONS,
    )
    draft = draft_stack(made, layouts)
    ip = draft.frame("myfault!CallBack").ip
    record = exception_record(ACCESS_VIOLATION, ip, (_READ, 0xFFFFFFFFFFFFFFFF))
    made, _, context = record_and_context(made, draft, "KiGeneralProtectionFault", record)
    return crashed(made, 0x3B, (ACCESS_VIOLATION, ip, context, 0))


@scene("wrong-page-number")
def wrong_page_number(layouts: Layouts) -> Scene:
    """0xBE: a write to the page-frame entry of a page that the machine does not have; one bit makes it one that it has.

    Argument 3 is the trap frame of the page fault.
    """
    page = 0x1234
    made = request(
        touch("ReleasePage", bytes.fromhex("488903")),  # mov [rbx],rax
        (),
    )
    address = made.pfn_database + (page | 1 << 25) * 0x30 + 0x18
    made = request(
        touch("ReleasePage", bytes.fromhex("488903")),
        (
            Frame("myfault!ReleasePage", sets={"rbx": address}, stopped_at=TOUCHES),
            Frame("KiPageFault", trap=kernel_trap(), call=TO_MEMORY_MANAGER),
            Frame("MmAccessFault"),
            Frame("MiSystemFault"),
        ),
        MEMORY_MANAGER,
    )
    made = dataclasses.replace(made, lists_memory=True, tagged={CPUID: RYZEN_5.records()})
    trap = draft_stack(made, layouts).trap_frame("KiPageFault")
    return crashed(made, 0xBE, (address, 0x8A00000000200121, trap, 0xA))
