"""The stacks of the session: the crash, a wait for messages, and the waits of threads that it does not show."""

from __future__ import annotations

from kdump_sample.myfault.addresses import (
    CONTROL_CODE,
    DEVICE_OBJECT,
    FAULT_ADDRESS,
    FAULT_IP,
    FILE_OBJECT,
    IRP,
    SYSTEM_FRAME,
)
from kdump_sample.stacks import Frame, Trap

#: The thread that crashed, from NtDeviceIoControlFile's caller in user mode down to the bug check.
CRASH_FRAMES = (
    Frame(
        "KiSystemCall64",
        trap=Trap(
            {"rax": 0x7, "rcx": 0x7FF8F16ECE54, "rdx": 0, "r8": 0, "r9": 0, "r10": 0x1E8, "r11": 0x246},
            eflags=0x246,
            cs=0x33,
            ss=0x2B,
            rip=0x00007FF8F16ECE54,
            rsp=0x0000007AE6BDE8D8,
            fields={"PreviousMode": 1, "ExceptionActive": 2},
        ),
        arguments=(0x00000000FFFFFFFC, 0xFFFF512100000000, 0x1, 0x000001E35F5E99A0),
        words={0x20: 0x7AE6BDE930, 0x28: CONTROL_CODE, 0x30: 0x1E35FB24550, 0x38: 0xF0, 0x40: 0, 0x48: 0},
    ),
    Frame(
        "NtDeviceIoControlFile",
        (0, 0, 0, 0),
        words={0x20: 0x7AE6BDE930, 0x28: CONTROL_CODE, 0x30: 0x1E35FB24550, 0x38: 0xF0},
    ),
    Frame(
        "IopXxxControlFile",
        (0, SYSTEM_FRAME, 0, SYSTEM_FRAME),
        sets={
            "rbx": IRP,
            "rsi": FILE_OBJECT,
            "rdi": 0,
            "r12": CONTROL_CODE,
            "r13": 0xE,
            "r14": DEVICE_OBJECT,
            "r15": 0x1,
        },
    ),
    Frame(
        "IopSynchronousServiceTail",
        (SYSTEM_FRAME, IRP, 0x1, 0xFFFFF80000000000),
        sets={"rbx": DEVICE_OBJECT, "rbp": 0x2, "rdi": IRP, "r12": 0, "r14": 0x1, "r15": FILE_OBJECT},
    ),
    Frame("IofCallDriver", (IRP, 0x1, SYSTEM_FRAME, 0x1)),
    Frame("myfault!DeviceControl", (IRP, 0, 0, 0xFFFFF80062BF5E51), sets={"rbx": IRP}),
    Frame("myfault!DoFault", (0xC85C00F0, 0x1E35FB24550, 0xF0, 0), sets={"rbx": DEVICE_OBJECT, "rsi": 0xF0}),
    Frame("myfault!HighIrqlFault", (0, 0xFFFFD48F77AF99C8, 0, 0), sets={"rbx": FAULT_ADDRESS}, stopped_at=0x31),
    Frame(
        "KiPageFault",
        (0x7FF8F16ECC00, 0, 0xF4D, 0),
        trap=Trap(
            {
                "rax": 0xC85C00F0,
                "rcx": 0xFFFFD80241E00340,
                "rdx": 0x890,
                "r8": 0xFFFFD8024ABBDC80,
                "r9": 0,
                "r10": 0xFFFFD80241E002C0,
                "r11": 0xFFFFD8024AA9BFF0,
            },
            eflags=0x50286,
            cs=0x10,
            ss=0x18,
            fields={"PreviousIrql": 2, "ExceptionActive": 1, "FaultAddress": FAULT_ADDRESS},
        ),
    ),
    Frame("KiBugCheckDispatch", (0xA, FAULT_ADDRESS, 0x2, 0), words={0x20: FAULT_IP}),
)

#: The frames under every wait.
SWITCH = (
    Frame("KiCommitThreadWait"),
    Frame("KiSwapThread"),
    Frame("KiSwapContext"),
    Frame("SwapContext"),
)


def system_call(rip: int, rsp: int) -> Frame:
    """Entry from user mode by a system call."""
    return Frame(
        "KiSystemCall64",
        trap=Trap(
            {"rax": 0, "rcx": rip, "rdx": 0, "r8": 0, "r9": 0, "r10": 0, "r11": 0x246},
            eflags=0x246,
            cs=0x33,
            ss=0x2B,
            rip=rip,
            rsp=rsp,
            fields={"PreviousMode": 1, "ExceptionActive": 2},
        ),
    )


NOTEPAD_FRAMES = (
    system_call(0x00007FF8EED7A104, 0x000000BB6F17E2D8),
    Frame("win32k!NtUserMsgWaitForMultipleObjectsEx"),
    Frame("win32kfull!NtUserMsgWaitForMultipleObjectsEx"),
    Frame("win32kfull!xxxMsgWaitForMultipleObjectsEx"),
    Frame("ObWaitForMultipleObjects"),
    Frame("KeWaitForMultipleObjects"),
    *SWITCH,
)


def waiting(rip: int, rsp: int) -> tuple[Frame, ...]:
    return (
        system_call(rip, rsp),
        Frame("NtWaitForSingleObject"),
        Frame("ObWaitForSingleObject"),
        Frame("KeWaitForSingleObject"),
        *SWITCH,
    )


WORKER_FRAMES = (
    Frame("KiStartSystemThread"),
    Frame("PspSystemThreadStartup"),
    Frame("ExpWorkerThread"),
    Frame("KeRemovePriQueue"),
    *SWITCH,
)
