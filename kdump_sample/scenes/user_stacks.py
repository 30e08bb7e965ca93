"""A program whose threads are in user mode: DLLs with unwind data, stacks through them into the kernel, environment.

The program ``service.exe`` calls through its own code, kernelbase and ntdll; one of its threads waits in the kernel,
another runs its own code, and the stack of a third is paged out.
"""

from __future__ import annotations

import dataclasses
import struct

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


# a 32-bit program -----------------------------------------------------------------------------------------------------

NARROW_PROCESS, NARROW_THREADS = 0xFFFF918962100080, (0xFFFF918962104080, 0xFFFF918962105080)
NARROW_PID = 0x2204
_WOW64 = 0xFFFF918962108000
#: Where the 32-bit modules, and the ends of the 32-bit stacks, lie.
OLD, NTDLL32, KERNEL32_32 = 0x400000, 0x77A00000, 0x76F00000
_NARROW_STACKS = (0x19F000, 0x29F000)
_WOW, _WOWCPU = 0x7FF8F1400000, 0x7FF8F1500000
#: mov eax,4; mov edx,imm32; call edx; ret 0Ch
_STUB_32 = bytes.fromhex("b804000000 ba703fa177 ffd2 c20c00")
#: Behind its call: at the ret.
NARROW_IP = NTDLL32 + 0x71000 + 0x0C
#: push ebp; mov ebp,esp; ...; call rel32
_CALLS_32 = bytes.fromhex("558bec 83ec20 e800000000 c9 c3")
_NARROW_RETURN = 0x0B


def _narrow(name: str, base: int, size: int, functions: dict[int, Function], directory: str) -> UserDll:
    return UserDll(name, base, size, directory, functions=functions, narrow=True)


_SYSWOW = "C:\\Windows\\SysWOW64\\"
NARROW_DLLS = (
    UserDll(
        "wow64.dll",
        _WOW,
        0x60000,
        functions={
            0x9000: Function("Wow64SystemServiceEx", (*pushes("rbx", "rsi"), Allocate(0x98)), (Call(0x155, "Next"),)),
            0xA000: Function("RunCpuSimulation", (Allocate(0x28),), (Call(0xD, "Next"),)),
        },
    ),
    UserDll(
        "wow64cpu.dll",
        _WOWCPU,
        0xA000,
        functions={
            0x1B00: Function("ServiceNoTurbo", (Allocate(0x28),), (Call(0xB, "Next"),)),
            0x1C00: Function("BTCpuSimulate", (*pushes("rbx", "rbp"), Allocate(0x68)), (Call(0x19, "ServiceNoTurbo"),)),
        },
    ),
    DLLS[1],
    _narrow("old.exe", OLD, 0x12000, {0x1500: Function("Main32", body={0: _CALLS_32})}, "C:\\Old\\"),
    _narrow("ntdll.dll", NTDLL32, 0x1A4000, {0x71000: Function("NtWaitForSingleObject", body={0: _STUB_32})}, _SYSWOW),
    _narrow("kernel32.dll", KERNEL32_32, 0xF0000, {0x20000: Function("WaitFor32", body={0: _CALLS_32})}, _SYSWOW),
)
_SIMULATED = (
    Frame("wow64!RunCpuSimulation"),
    Frame("wow64cpu!BTCpuSimulate", sets={"rbx": 0x7}),
    Frame("wow64cpu!ServiceNoTurbo"),
    Frame("wow64!Wow64SystemServiceEx"),
    Frame("ntdll!NtWaitForSingleObject", stopped_at=_AFTER_SYSCALL),
)


def _narrow_thread(index: int) -> Thread:
    base, top = service().threads[0], _NARROW_STACKS[index]
    stack_bytes = bytearray(0x200)
    frame, outer = top + 0x40, top + 0x90
    # At the ret of the system call: the return into WaitFor32, its frame, then that of Main32, the outermost one.
    struct.pack_into("<I", stack_bytes, 0, KERNEL32_32 + 0x20000 + _NARROW_RETURN)
    struct.pack_into("<II", stack_bytes, frame - top, outer, OLD + 0x1500 + _NARROW_RETURN)
    struct.pack_into("<II", stack_bytes, outer - top, 0, 0)
    return dataclasses.replace(
        base,
        address=NARROW_THREADS[index],
        tid=NARROW_PID + 4 + 4 * index,
        stack_base=_STACKS + 0x40000 + 0x8000 * index,
        teb=0x2F1000 + 0x4000 * index,
        start_address=OLD + 0x1500,
        win32_start_address=OLD + 0x1500,
        user_frames=_SIMULATED,
        user_stack_base=0x8F0000 + 0x10000 * index,
        narrow_registers={"eip": NARROW_IP, "esp": top, "ebp": frame, "ebx": 0x1234},
        narrow_stack=(top, bytes(stack_bytes)),
    )


@scene("wow64-stacks")
def wow64_stacks(layouts: Layouts) -> Scene:
    """A 32-bit program: 64-bit stacks through WOW64, and the 32-bit code above them; the second runs it."""
    base = high_irql_fault()
    first, second = _narrow_thread(0), _narrow_thread(1)
    running = waiting(OLD + 0x1506, _NARROW_STACKS[1] + 0x20)
    second = dataclasses.replace(
        second, user_frames=(), frames=running, registers={"rbp": _NARROW_STACKS[1] + 0x40}, narrow_registers={}
    )
    process = dataclasses.replace(
        service(),
        address=NARROW_PROCESS,
        pid=NARROW_PID,
        image="old.exe",
        directory_table_base=0x12B000000,
        path="\\Device\\HarddiskVolume3\\Old\\old.exe",
        peb=0x2F0000 - 0x10000,
        parameters=0x5D0000,
        image_base=OLD,
        command_line="C:\\Old\\old.exe",
        threads=(first, second),
        dlls=NARROW_DLLS,
        paged_out=(),
        wow64=_WOW64,
    )
    return dataclasses.replace(base, processes=(*base.processes, process))
