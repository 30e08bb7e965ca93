"""A program whose threads are in user mode: DLLs with unwind data, stacks through them into the kernel, environment.

The program ``service.exe`` calls through its own code, kernelbase and ntdll; one of its threads waits in the kernel,
another runs its own code, and the stack of a third is paged out.
"""

from __future__ import annotations

import dataclasses

from kdump_sample.code import Allocate, Call, FramePointer, Function, Push, pushes
from kdump_sample.myfault import high_irql_fault
from kdump_sample.myfault.frames import waiting
from kdump_sample.scene import Process, Scene, Thread, UserDll, WaitObject
from kdump_sample.scenes import scene
from kdump_sample.stacks import Frame
from volatility3_kdump.layout import Layouts

PROCESS, THREADS = 0xFFFF918962000080, (0xFFFF918962004080, 0xFFFF918962005080, 0xFFFF918962006080)
PID, TIDS = 0x1F44, (0x1F48, 0x1F4C, 0x1F54)
_STACKS = 0xFFFFD48F7A000000
#: Where the stacks of its threads begin in user mode.
USER_STACKS = (0xC7_4F20_0000, 0xC7_4F30_0000, 0xC7_4F40_0000)
PROGRAM, KERNELBASE, KERNEL32, NTDLL = 0x7FF7C1A00000, 0x7FF8EE980000, 0x7FF8F0B40000, 0x7FF8F1600000
ENVIRONMENT = (
    "=::=::\\",
    "ALLUSERSPROFILE=C:\\ProgramData",
    "ComSpec=C:\\Windows\\system32\\cmd.exe",
    "Path=C:\\Windows\\system32;C:\\Windows",
    "windir=C:\\Windows",
)
COMMAND_LINE = '"C:\\Program Files\\Contoso\\service.exe" -run 7'
#: ERROR_ACCESS_DENIED, STATUS_ACCESS_DENIED.
LAST_ERROR, LAST_STATUS = 5, 0xC0000022
_EVENT = 0xFFFF918962008000

#: mov r10,rcx; mov eax,4; test byte ptr [7FFE0308h],1; jne; syscall; ret
_STUB = bytes.fromhex("4c8bd1 b804000000 f604250803fe7f01 7503 0f05 c3")

DLLS = (
    UserDll(
        "service.exe",
        PROGRAM,
        0x12000,
        "C:\\Program Files\\Contoso\\",
        functions={
            0x1000: Function("main", (*pushes("rbx", "rsi"), Allocate(0x28)), (Call(0x40, "Serve"),)),
            0x1200: Function(
                "Serve", (Push("rbp"), *pushes("rdi"), Allocate(0x48), FramePointer("rbp", 0x20)), (Call(0x88, "Wait"),)
            ),
            0x1400: Function("Wait", (*pushes("rbx"), Allocate(0x30)), (Call(0x24, "WaitForSingleObject"),)),
            0x1600: Function("Work", (*pushes("rbx", "r12"), Allocate(0x58)), body={0x40: b"\x90"}),
        },
    ),
    UserDll(
        "ntdll.dll",
        NTDLL,
        0x1F5000,
        functions={
            0x9D000: Function("NtWaitForSingleObject", body={0: _STUB}),
            0x4A300: Function("RtlUserThreadStart", (Allocate(0x78),), (Call(0x21, "BaseThreadInitThunk"),)),
        },
    ),
    UserDll(
        "kernel32.dll",
        KERNEL32,
        0xBE000,
        functions={0x17010: Function("BaseThreadInitThunk", (Allocate(0x28),), (Call(0x14, "main"),))},
    ),
    UserDll(
        "KERNELBASE.dll",
        KERNELBASE,
        0x2C8000,
        functions={
            0x1A300: Function(
                "WaitForSingleObjectEx",
                (*pushes("rbx", "rsi", "rdi", "r14"), Allocate(0x90)),
                (Call(0x9E, "NtWaitForSingleObject"),),
            )
        },
    ),
)
_OUTER = (
    Frame("ntdll!RtlUserThreadStart"),
    Frame("kernel32!BaseThreadInitThunk"),
    Frame("service!main", sets={"rbx": 0x11, "rsi": 0x22}),
    Frame("service!Serve", sets={"rdi": 0x33}),
)
#: Behind the syscall instruction of the stub.
_AFTER_SYSCALL = 0x14
_WAITING = (
    *_OUTER,
    Frame("service!Wait", sets={"rbx": 0x44}),
    Frame("KERNELBASE!WaitForSingleObjectEx", sets={"r14": 0x55}),
    Frame("ntdll!NtWaitForSingleObject", stopped_at=_AFTER_SYSCALL),
)


def _thread(index: int) -> Thread:
    return Thread(
        THREADS[index],
        TIDS[index],
        _STACKS + 0x8000 * index,
        waiting(0, 0),
        teb=0xC74F001000 + 0x2000 * index,
        start_address=NTDLL + 0x4A300,
        win32_start_address=PROGRAM + 0x1000,
        wait_objects=(WaitObject(_EVENT, 1),),
        wait_reason=6,
        wait_mode=1,
        wait_time=3000,
        created=30.0,
        user_frames=_WAITING,
        user_stack_base=USER_STACKS[index],
        last_error=LAST_ERROR,
        last_status=LAST_STATUS,
    )


def service() -> Process:
    """The program with its threads."""
    first, second, third = (_thread(index) for index in range(3))
    # Interrupted by the clock in its own code; ready since.
    second = dataclasses.replace(
        second, user_frames=(*_OUTER, Frame("service!Work", sets={"rbx": 0x66}, stopped_at=0x40))
    )
    return Process(
        PROCESS,
        PID,
        0x2D8,
        "service.exe",
        0x12A000000,
        30.0,
        "\\Device\\HarddiskVolume3\\Program Files\\Contoso\\service.exe",
        0,
        peb=0xC74F000000,
        token=0xFFFFD80249180060,
        handle_table=0xFFFFD80249280040,
        handles=44,
        threads=(first, second, third),
        command_line=COMMAND_LINE,
        parameters=0x21A5D2E0000,
        image_base=PROGRAM,
        dlls=DLLS,
        environment=ENVIRONMENT,
        paged_out=(USER_STACKS[2] - 0x1000,),
    )


@scene("user-stacks")
def user_stacks(layouts: Layouts) -> Scene:
    """A program whose stacks lead through its DLLs into the kernel, with environment and last errors."""
    base = high_irql_fault()
    return dataclasses.replace(base, processes=(*base.processes, service()))
