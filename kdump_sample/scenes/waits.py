"""Processes of every kind, threads in every state, and threads that wait for each other in circles.

On top of the demonstration's crash: ``deadlock.exe`` waits for mutants crosswise, two system threads for resources
crosswise, a third thread for one of them; one process is hidden from PsActiveProcessHead, others are exiting, frozen,
minimal and 32-bit; threads are ready, standby, terminated and without a stack in memory.
"""

from __future__ import annotations

import dataclasses
import struct

from kdump_sample.myfault import high_irql_fault
from kdump_sample.resources import WAIT_FRAMES, WAIT_FUNCTIONS
from kdump_sample.scene import KernelStructure, Process, Record, Resource, Scene, Thread, WaitObject
from kdump_sample.scenes import scene
from volatility3_kdump.layout import Layouts

_BASE = 0xFFFF918961000080
_STACKS = 0xFFFFD48F79000000
_MUTANT_A, _MUTANT_B, _MUTANT_FREE = 0xFFFF918961800020, 0xFFFF918961800120, 0xFFFF918961800220
_SEMAPHORE = 0xFFFF918961800320
_RESOURCE_1, _RESOURCE_2 = 0xFFFF918961801000, 0xFFFF918961801100
_NAME = 0xFFFF918961802000
_WOW64, _TOKEN = 0xFFFF918961802800, 0xFFFFD802491AA060
_IRP_1, _IRP_2 = 0xFFFF918961803000, 0xFFFF918961803400
_MUTANT_KIND, _PROCESS_KIND, _SEMAPHORE_KIND, _THREAD_KIND = 2, 3, 5, 6
_USER_REQUEST, _RESOURCE_WAIT, _DELAY = 6, 27, 4

#: Process ids. No id is a multiple of 0x400: those entries of the id table are reserved.
DEADLOCK, HIDDEN, EXITED, FROZEN, MINIMAL, WOW64 = 0x2040, 0x2100, 0x2200, 0x2300, 0x40, 0x2440


def process_address(index: int) -> int:
    """The EPROCESS of the scene's own process of this number, in the order of the list."""
    return _BASE + index * 0x20000


def thread_address(process: int, index: int) -> int:
    """The ETHREAD of a thread of such a process."""
    return process_address(process) + 0x4000 + index * 0x1000


#: The stacks of the demonstration's waiting threads.
_SYSTEM_FRAMES = high_irql_fault().processes[0].threads[0].frames
_USER_FRAMES = high_irql_fault().processes[1].threads[0].frames
_RESOURCE_FRAMES = (*_SYSTEM_FRAMES[:3], *WAIT_FRAMES)


def _thread(process: int, index: int, tid: int, **fields: object) -> Thread:
    values: dict[str, object] = {
        "win32_start_address": 0x7FF7A0B01234,
        "wait_reason": _USER_REQUEST,
        "wait_mode": 1,
        "wait_time": 3000 + 10 * index,
        "created": 10.0,
        "teb": 0x7A00000000 + tid * 0x1000,
        **fields,
    }
    base = _STACKS + (process * 16 + index) * 0x8000
    frames = values.pop("frames", _USER_FRAMES if values["teb"] else _SYSTEM_FRAMES)
    return Thread(thread_address(process, index), tid, base, frames, **values)  # type: ignore[arg-type]


def _processes() -> tuple[Process, ...]:
    def process(index: int, pid: int, image: str, threads: tuple[Thread, ...], **fields: object) -> Process:
        values: dict[str, object] = {
            "peb": 0x5500000000 + pid * 0x1000,
            "session": 2,
            "token": 0xFFFFD80249100060 + index * 0x1000,
            "handle_table": 0xFFFFD80249200040 + index * 0x1000,
            "handles": 10 + index,
            **fields,
        }
        address, directory = process_address(index), 0x130000000 + index * 0x10000
        return Process(address, pid, 0x15E8, image, directory, 10.0, threads=threads, **values)  # type: ignore[arg-type]

    deadlock = process(
        0,
        DEADLOCK,
        "deadlock.exe",
        (
            _thread(0, 0, 0x2044, wait_objects=(WaitObject(_MUTANT_B, _MUTANT_KIND),)),
            _thread(0, 1, 0x2048, wait_objects=(WaitObject(_MUTANT_A, _MUTANT_KIND),)),
            _thread(0, 2, 0x204C, wait_objects=(WaitObject(thread_address(0, 0), _THREAD_KIND),)),
            _thread(
                0,
                3,
                0x2050,
                wait_objects=(WaitObject(process_address(1), _PROCESS_KIND), WaitObject(_SEMAPHORE, _SEMAPHORE_KIND)),
            ),
            _thread(0, 4, 0x2054, state=1, processor=1, priority=11),
            _thread(0, 5, 0x2058, state=1, processor=1, priority=9),
            _thread(0, 6, 0x205C, state=3, processor=1, priority=13),
            _thread(0, 7, 0x2060, state=4),
            _thread(0, 8, 0x2064, wait_objects=(WaitObject(_MUTANT_FREE, _MUTANT_KIND),)),
        ),
        path="\\Device\\HarddiskVolume3\\Tools\\deadlock.exe",
    )
    hidden = process(1, HIDDEN, "hidden.exe", (_thread(1, 0, 0x2104),), hidden_from=("list",))
    exited = process(2, EXITED, "exited.exe", (), handle_table=0, session=None, peb=0)
    frozen = process(3, FROZEN, "SearchApp.exe", (_thread(3, 0, 0x2304),))
    minimal = process(4, MINIMAL, "Registry", (), peb=0, session=None)
    wow64 = process(5, WOW64, "old\x1b[31m.exe", (_thread(5, 0, 0x2444),))
    return deadlock, hidden, exited, frozen, minimal, wow64


def _system_threads() -> tuple[Thread, ...]:
    """Two threads of the System process, each of which owns the resource that the other one waits for."""
    return tuple(
        _thread(
            7,
            index,
            0x60 + 4 * index,
            teb=0,
            win32_start_address=0,
            wait_reason=_RESOURCE_WAIT,
            wait_mode=0,
            frames=_RESOURCE_FRAMES,
        )
        for index in range(2)
    )


def _structures(layouts: Layouts, base: Scene) -> tuple[KernelStructure, ...]:
    created = base.system_time - 100_000_000
    exited = 0xC0000005

    def irp(address: int, flags: int) -> KernelStructure:
        return KernelStructure("_IRP", address, {"Type": 6, "Size": 0x118, "Flags": flags})

    list_entry = layouts.offset("_IRP", "ThreadListEntry")
    irp_head = thread_address(0, 0) + layouts.offset("_ETHREAD", "IrpList")
    links = (irp_head, _IRP_1 + list_entry, _IRP_2 + list_entry)
    return (
        KernelStructure("_KMUTANT", _MUTANT_A, {"OwnerThread": thread_address(0, 0)}),
        KernelStructure("_KMUTANT", _MUTANT_B, {"OwnerThread": thread_address(0, 1)}),
        KernelStructure("_KMUTANT", _MUTANT_FREE, {"OwnerThread": 0, "Header.SignalState": 1}),
        KernelStructure("_KSEMAPHORE", _SEMAPHORE, {"Limit": 0x10}),
        KernelStructure(
            "_EPROCESS",
            process_address(2),
            {
                "ProcessExiting": 1,
                "ProcessDelete": 1,
                "CreateTime": created,
                "ExitTime": created + 30_000_000,
                "ExitStatus": exited,
            },
        ),
        KernelStructure("_EPROCESS", process_address(3), {"Pcb.DeepFreeze": 1, "Pcb.FreezeCount": 1}),
        KernelStructure("_EPROCESS", process_address(4), {"Minimal": 1}),
        KernelStructure("_EPROCESS", process_address(5), {("WoW64Process", "Wow64Process"): _WOW64}),
        KernelStructure("_ETHREAD", thread_address(0, 0), {"ThreadName": _NAME, "Tcb.SuspendCount": 1}),
        KernelStructure(
            "_ETHREAD",
            thread_address(0, 1),
            {"ActiveImpersonationInfo": 1, "ClientSecurity.ImpersonationToken": _TOKEN | 2},
        ),
        KernelStructure(
            "_ETHREAD",
            thread_address(0, 8),
            {"Tcb.ApcStateIndex": 1, "Tcb.ApcState.Process": process_address(3)},
        ),
        KernelStructure("_ETHREAD", thread_address(3, 0), {"Tcb.KernelStackResident": 0}),
        irp(_IRP_1, 0x60070),
        irp(_IRP_2, 0x60000),
        *(
            KernelStructure("_LIST_ENTRY", link, {"Flink": links[(index + 1) % 3], "Blink": links[index - 1]})
            for index, link in enumerate(links)
        ),
    )


@scene("waits")
def waits(layouts: Layouts) -> Scene:
    """Deadlocks, hidden, exiting, frozen, minimal and 32-bit processes, ready queues."""
    base = high_irql_fault()
    first, second = thread_address(7, 0), thread_address(7, 1)
    system, *others = base.processes
    system = dataclasses.replace(system, threads=(*system.threads, *_system_threads()))
    name = "Watch\x07dog".encode("utf-16-le")
    return dataclasses.replace(
        base,
        processes=(system, *others, *_processes()),
        kernel_functions=WAIT_FUNCTIONS,
        resources=(
            Resource(_RESOURCE_1, ((first, 1),), True, exclusive_waiters=(second,), contention=1),
            Resource(_RESOURCE_2, ((second, 1),), True, exclusive_waiters=(first,), contention=1),
        ),
        structures=(*base.structures, *_structures(layouts, base)),
        records=(
            *base.records,
            Record(_NAME, struct.pack("<HHIQ", len(name), len(name) + 2, 0, _NAME + 0x10) + name + bytes(2)),
            Record(_WOW64, bytes(0x20)),
        ),
    )
