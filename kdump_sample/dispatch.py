"""Kernel functions between a fault and its bug check: trap handlers, exception dispatch, DPCs, process termination.

Frame sizes and call sites are those that published stack listings of Windows 10 19041 show, and the places of the
records in the frames those of real dumps: KiExceptionDispatch and KiFastFailDispatch keep the EXCEPTION_RECORD at
:data:`RECORD_IN_FRAME`, KiDispatchException the CONTEXT at :data:`CONTEXT_IN_FRAME`. Call sites that lie behind the
next public symbol (in code that the linker has moved away) are put in front of it.
"""

from __future__ import annotations

from kdump_sample.code import Allocate, Call, FramePointer, Function, MachineFrame, Push, Save, pushes
from kdump_sample.functions import EXCEPTION_FRAME, TRAP_FRAME

RECORD_IN_FRAME = 0x138
CONTEXT_IN_FRAME = 0x30

_SAVED = pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15")
#: A KEXCEPTION_FRAME with an EXCEPTION_RECORD above it.
_DISPATCH_FRAME = (
    Allocate(0x1D8),
    *(operation for operation in EXCEPTION_FRAME if not isinstance(operation, Allocate)),
)

PAGE_FAULT = Function(
    "KiPageFault",
    (MachineFrame(True), *TRAP_FRAME),
    (Call(0x469, "KiBugCheckDispatch"), Call(0x443, "KiExceptionDispatch"), Call(0x35E, "MmAccessFault")),
)
#: Which call of KiPageFault a frame is stopped at.
TO_BUG_CHECK, TO_EXCEPTION, TO_MEMORY_MANAGER = 0, 1, 2

EXCEPTIONS = (
    PAGE_FAULT,
    Function("KiGeneralProtectionFault", (MachineFrame(True), *TRAP_FRAME), (Call(0x320, "KiExceptionDispatch"),)),
    Function("KiDivideErrorFault", (MachineFrame(), Allocate(8), *TRAP_FRAME), (Call(0x30A, "KiExceptionDispatch"),)),
    Function("KiExceptionDispatch", _DISPATCH_FRAME, (Call(0x12C, "KiDispatchException"),), returns=False),
    Function(
        "KiDispatchException",
        (*_SAVED, Allocate(0x680)),
        (Call(0x186, "RtlDispatchException"), Call(0x1DDCC4, "KeBugCheckEx")),
    ),
    Function("RtlDispatchException", (*_SAVED, Allocate(0x6E0)), (Call(0x297, "RtlpExecuteHandlerForException"),)),
    Function("RtlpExecuteHandlerForException", (Allocate(0x28),), (Call(0xF, "register:rax"),)),
    Function("KiSystemServiceHandler", (Allocate(0x38),), (Call(0x7C, "KiBugCheckDispatch"),)),
    Function("_C_specific_handler", (*_SAVED, Allocate(0x40)), (Call(0x96, "register:rax"),)),
)
#: Which call of KiDispatchException a frame is stopped at.
TO_HANDLERS, UNHANDLED = 0, 1

FAST_FAIL = (
    Function(
        "KiRaiseSecurityCheckFailure", (MachineFrame(), Allocate(8), *TRAP_FRAME), (Call(0x323, "KiFastFailDispatch"),)
    ),
    Function("KiFastFailDispatch", _DISPATCH_FRAME, (Call(0xD0, "KiBugCheckDispatch"),), returns=False),
)

DOUBLE_FAULT = (
    Function("KiDoubleFaultAbort", (MachineFrame(True), *TRAP_FRAME), (Call(0x2C3, "KiBugCheckDispatch"),)),
)

MEMORY_MANAGER = (
    PAGE_FAULT,
    Function(
        "MmAccessFault",
        (*_SAVED, Allocate(0x160)),
        (Call(0x400, "MiSystemFault"), Call(0x1C5, "MiRaisedIrqlFault")),
    ),
    Function("MiSystemFault", (*_SAVED, Allocate(0xC0)), (Call(0x172315, "KeBugCheckEx"),), returns=False),
)

DPCS = (
    Function("KiDpcInterrupt", (MachineFrame(), Allocate(8), *TRAP_FRAME), (Call(0x2EE, "KiDispatchInterrupt"),)),
    Function(
        "KiDispatchInterrupt",
        (Push("rbp"), Allocate(0x30), FramePointer("rbp", 0x20)),
        (Call(0x2E, "KiRetireDpcList"),),
    ),
    Function("KiRetireDpcList", (*_SAVED, Allocate(0x180)), (Call(0x1F4, "KiExecuteAllDpcs"),)),
    Function("KiExecuteAllDpcs", (*_SAVED, Allocate(0x130)), (Call(0x30E, "guard_dispatch_icall"),)),
)

CLOCK = (
    Function(
        "KiInterruptDispatchNoLockNoEtw",
        (MachineFrame(), Allocate(8), *TRAP_FRAME),
        (Call(0x37, "KiInterruptSubDispatchNoLockNoEtw"),),
    ),
    Function(
        "KiInterruptSubDispatchNoLockNoEtw",
        (Allocate(0x138), Save("rbp", 0xF8)),
        (Call(0xFA, "KiCallInterruptServiceRoutine"),),
    ),
    Function(
        "KiCallInterruptServiceRoutine",
        (*pushes("rbx", "rsi"), Allocate(0x38)),
        (Call(0xA5, "HalpTimerClockInterrupt"),),
    ),
    Function("HalpTimerClockInterrupt", (*pushes("rbx"), Allocate(0x20)), (Call(0xE2, "KeClockInterruptNotify"),)),
    Function("KeClockInterruptNotify", (*_SAVED, Allocate(0x100)), (Call(0x453, "KeAccumulateTicks"),)),
    Function("KeAccumulateTicks", (*_SAVED, Allocate(0x90)), (Call(0x1C8B9A, "KeBugCheckEx"),), returns=False),
)

TERMINATION = (
    Function("PspCatchCriticalBreak", (*_SAVED, Allocate(0x70)), (Call(0x10E, "KeBugCheckEx"),), returns=False),
    Function("PspTerminateAllThreads", (*_SAVED, Allocate(0x40)), (Call(0x1F4, "PspCatchCriticalBreak"),)),
    Function(
        "PspTerminateProcess", (*pushes("rbx", "rsi", "rdi"), Allocate(0x30)), (Call(0xE0, "PspTerminateAllThreads"),)
    ),
    Function(
        "NtTerminateProcess", (*pushes("rbx", "rsi", "rdi"), Allocate(0x40)), (Call(0xA9, "PspTerminateProcess"),)
    ),
)

#: A routine of the kernel that reads through a pointer that its caller gives: mov eax,dword ptr [rbx] at +0x20.
SET_EVENT = Function("KeSetEvent", (*pushes("rbx", "rsi", "rdi"), Allocate(0x20)), body={0x20: b"\x8b\x03"})
