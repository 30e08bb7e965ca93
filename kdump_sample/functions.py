"""Kernel functions that appear on stacks: prologues, frame sizes and call sites.

Call sites and frame sizes are those that stack listings of Windows 10 19041 show; which registers a function saves is a
choice that gives the frame its size.
"""

from __future__ import annotations

from kdump_sample.code import (
    Allocate,
    Call,
    FramePointer,
    Function,
    MachineFrame,
    Operation,
    Pointer,
    Push,
    Save,
    pushes,
)

_ALL_SAVED = pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15")
_WITH_FRAME = pushes("rbx", "rbp", "rsi", "rdi", "r12", "r14", "r15")

#: The KEXCEPTION_FRAME that KiBugCheckDispatch and KiSwapContext build: allocation and saved registers.
EXCEPTION_FRAME: tuple[Operation, ...] = (
    Allocate(0x138),
    Pointer(0x100),
    *(Save(f"xmm{number}", 0x30 + 16 * (number - 6)) for number in range(6, 16)),
    *(
        Save(register, offset)
        for register, offset in (
            ("rbp", 0xF8),
            ("rbx", 0x100),
            ("rdi", 0x108),
            ("rsi", 0x110),
            ("r12", 0x118),
            ("r13", 0x120),
            ("r14", 0x128),
            ("r15", 0x130),
        )
    ),
)

#: The part of a KTRAP_FRAME below the error code: rbp is pushed, the rest allocated, rbp points 0x80 bytes into it.
TRAP_FRAME: tuple[Operation, ...] = (Push("rbp"), Allocate(0x158), FramePointer("rbp", 0x80))

#: swapgs; mov gs:[10h],rsp; mov rsp,gs:[1A8h]; push 2Bh; push gs:[10h]; push r11; push 33h; push rcx; mov rcx,r10
_SYSTEM_CALL_ENTRY = bytes.fromhex(
    "0f01f8 65488924251000 0000 65488b2425a8010000 6a2b 65ff342510000000 4153 6a33 51 498bca"
)

#: mov [rsp+8],rcx; mov [rsp+10h],rdx; mov [rsp+18h],r8; mov [rsp+20h],r9
_BUG_CHECK_ENTRY = bytes.fromhex("48894c2408 4889542410 4c89442418 4c894c2420")

_FUNCTIONS = (
    Function("KeBugCheckEx", (Allocate(0x38),), entry=_BUG_CHECK_ENTRY, returns=False),
    Function("KiBugCheckDispatch", EXCEPTION_FRAME, (Call(0x69, "KeBugCheckEx"),), returns=False),
    Function("KiPageFault", (MachineFrame(True), *TRAP_FRAME), (Call(0x469, "KiBugCheckDispatch"),)),
    Function("IofCallDriver", (Allocate(0x38),), (Call(0x55, "guard_dispatch_icall"),)),
    Function("IopSynchronousServiceTail", (*_WITH_FRAME, Allocate(0x60)), (Call(0x1A8, "IofCallDriver"),)),
    Function("IopXxxControlFile", (*_ALL_SAVED, Allocate(0x100)), (Call(0x5E5, "IopSynchronousServiceTail"),)),
    Function("NtDeviceIoControlFile", (Allocate(0x68),), (Call(0x56, "IopXxxControlFile"),)),
    Function(
        "KiSystemCall64",
        (
            MachineFrame(),
            Allocate(8),
            *TRAP_FRAME,
            *(Save("rbx", 0x140), Save("rdi", 0x148), Save("rsi", 0x150)),
        ),
        (Call(0x25, "register:r10", "KiSystemServiceCopyEnd"),),
        entry=_SYSTEM_CALL_ENTRY,
        below=0x70,
        end="KiSystemServiceExit",
    ),
    Function("SwapContext", (Allocate(0x38), Save("rbp", 0x30))),
    Function("KiSwapContext", EXCEPTION_FRAME, (Call(0x76, "SwapContext"),)),
    Function(
        "KiSwapThread",
        (*pushes("rbx", "rbp", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0x68)),
        (Call(0x500, "KiSwapContext"),),
    ),
    Function("KiCommitThreadWait", (*_WITH_FRAME, Allocate(0x60)), (Call(0x14F, "KiSwapThread"),)),
    Function("KeWaitForMultipleObjects", (*_ALL_SAVED, Allocate(0xD0)), (Call(0x2BE, "KiCommitThreadWait"),)),
    Function("KeWaitForSingleObject", (*_ALL_SAVED, Allocate(0xB0)), (Call(0x233, "KiCommitThreadWait"),)),
    Function("KeRemovePriQueue", (*_ALL_SAVED, Allocate(0x80)), (Call(0x249, "KiCommitThreadWait"),)),
    Function(
        "ObWaitForMultipleObjects",
        (*_ALL_SAVED, Allocate(0x4C0)),
        (Call(0x2F0, "KeWaitForMultipleObjects"),),
        aliases=("ObpWaitForMultipleObjects",),
    ),
    Function(
        "ObWaitForSingleObject", (*pushes("rbx", "rsi", "rdi"), Allocate(0x40)), (Call(0xBB, "KeWaitForSingleObject"),)
    ),
    Function("NtWaitForSingleObject", (Allocate(0x38),), (Call(0x6A, "ObWaitForSingleObject"),)),
    Function("ExpWorkerThread", (*_ALL_SAVED, Allocate(0xA0)), (Call(0x105, "KeRemovePriQueue"),)),
    Function("PspSystemThreadStartup", (*pushes("rbx", "rsi", "rdi"), Allocate(0x30)), (Call(0x55, "register:rbx"),)),
    Function("KiStartSystemThread", (Allocate(0x28),), (Call(0x28, "register:rax"),)),
    Function("HalProcessorIdle", (Allocate(0x28),), leaf_stop=0xF),
    Function(
        "PpmIdleDefaultExecute",
        (Allocate(0x38),),
        (Call(0x1C, "HalProcessorIdle"),),
    ),
    Function(
        "PpmIdleExecuteTransition",
        (*_ALL_SAVED, Allocate(0x1F0)),
        (Call(0x40C, "PpmIdleDefaultExecute"),),
    ),
    Function("PoIdle", (*_ALL_SAVED, Allocate(0x110)), (Call(0x36E, "PpmIdleExecuteTransition"),)),
    Function("KiIdleLoop", (Allocate(0x38),), (Call(0x54, "PoIdle"),), returns=False),
)

#: By name.
KERNEL_FUNCTIONS = {function.name: function for function in _FUNCTIONS}

#: Routines whose code no stack needs, but that others call or that images export.
KERNEL_EXPORTS = (
    "DbgPrint",
    "ExAllocatePoolWithTag",
    "ExFreePoolWithTag",
    "IofCallDriver",
    "IofCompleteRequest",
    "KeBugCheckEx",
    "KeRaiseIrqlToDpcLevel",
    "KeSetEvent",
    "KeWaitForMultipleObjects",
    "KeWaitForSingleObject",
    "NtBuildLab",
    "NtBuildNumber",
    "NtDeviceIoControlFile",
    "NtWaitForSingleObject",
    "PsInitialSystemProcess",
    "RtlInitUnicodeString",
)
