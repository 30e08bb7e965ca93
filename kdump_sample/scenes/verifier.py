"""Driver Verifier: 0xC4."""

from __future__ import annotations

import struct

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.scene import KernelStructure, Record, Scene, Unloaded
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import MYFAULT, add, request
from kdump_sample.scenes.workers import on_worker
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed, crashing
from volatility3_kdump.layout import Layouts

_NAME = 0xFFFFD80248B05010
_EXECUTABLE_POOL, _TAG = 0, 0x6146794D
_LEAK, _ALLOCATIONS = 0x62, 3
_SUSPECTS = (0xFFFF91894EF50010, 0xFFFF91894EF50210)
_DEADLOCK, _DEADLOCK_PARTS, _LOCKS = 0xFFFF91894EF60000, 0xFFFF91894EF70010, (0xFFFF91894EF4E0A0, MYFAULT + 0x4120)
_CALL, _AFTER = 0x1B00, 0x1C

_REPORT = (
    Function(
        "VerifierExAllocatePoolWithTag",
        (*pushes("rbx", "rsi", "rdi"), Allocate(0x40)),
        (Call(0x5A, "VfCheckPoolType"),),
    ),
    Function("VfCheckPoolType", (*pushes("rbx"), Allocate(0x40)), (Call(0x90, "VfReportIssueWithOptions"),)),
    Function(
        "VfReportIssueWithOptions",
        (*pushes("rbx", "rsi", "rdi"), Allocate(0x50)),
        (Call(0x101, "VerifierBugCheckIfAppropriate"),),
    ),
    Function("VerifierBugCheckIfAppropriate", (*pushes("rbx"), Allocate(0x30)), (Call(0xDF, "KeBugCheckEx"),)),
)
_UNLOAD = (
    Function("IopLoadUnloadDriver", (*pushes("rbx"), Allocate(0x30)), (Call(0x1F0, "MmUnloadSystemImage"),)),
    Function("MmUnloadSystemImage", (*pushes("rbx"), Allocate(0x20)), (Call(0x29, "MiUnloadSystemImage"),)),
    Function(
        "MiUnloadSystemImage", (*pushes("rbx", "rsi", "rdi"), Allocate(0x70)), (Call(0x2E6, "VfPoolCheckForLeaks"),)
    ),
    Function(
        "VfPoolCheckForLeaks", (*pushes("rbx", "rsi"), Allocate(0x38)), (Call(0x4C, "VerifierBugCheckIfAppropriate"),)
    ),
    Function("VerifierBugCheckIfAppropriate", (*pushes("rbx"), Allocate(0x30)), (Call(0xDF, "KeBugCheckEx"),)),
)


@scene("verifier-pool-type")
def verifier_pool_type(layouts: Layouts) -> Scene:
    """0xC4, P1 = 2000: myfault.sys allocates executable pool, which it is verified for."""
    made = request(
        Function(
            "AllocateBuffer", (*pushes("rbx"), Allocate(0x20)), (Call(_AFTER, "import:VerifierExAllocatePoolWithTag"),)
        ),
        (Frame("myfault!AllocateBuffer"), *(Frame(function.name) for function in _REPORT)),
        _REPORT,
        ("VerifierExAllocatePoolWithTag",),
    )
    return crashed(made, 0xC4, (0x2000, MYFAULT + _CALL + _AFTER, _EXECUTABLE_POOL, _TAG))


@scene("verifier-deadlock")
def verifier_deadlock(layouts: Layouts) -> Scene:
    """0xC4, P1 = 1001: two drivers are verified; two threads took a mutex and a spin lock in different orders."""
    made = request(
        Function(
            "TakeLocks", (*pushes("rbx"), Allocate(0x20)), (Call(_AFTER, "import:VerifierExAllocatePoolWithTag"),)
        ),
        (Frame("myfault!TakeLocks"), *(Frame(function.name) for function in _REPORT)),
        _REPORT,
        ("VerifierExAllocatePoolWithTag",),
    )
    base = made.kernel_base
    head, data, globals_at = (
        base + (layouts.symbol(name) or 0) for name in ("VfSuspectDriversList", "MmVerifierData", "ViDeadlockGlobals")
    )
    names = [name.encode("utf-16-le") for name in ("myfault.sys", "ghost.sys")]
    structures = [
        KernelStructure(
            "_MM_DRIVER_VERIFIER_DATA",
            data,
            {
                "Level": 0x209BB,
                "RaiseIrqls": 0x12,
                "AcquireSpinLocks": 0x362,
                "SynchronizeExecutions": 0,
                "Trims": 0xA34A,
                "AllocationsAttempted": 0x7B058,
                "AllocationsSucceeded": 0x7B058,
                "AllocationsSucceededSpecialPool": 0x7B050,
                "AllocationsWithNoTag": 0,
                "AllocationsFailed": 0,
                "AllocationsFailedDeliberately": 0,
                "CurrentPagedPoolAllocations": 0x1A,
                "PagedBytes": 0x950,
                "PeakPagedPoolAllocations": 0x1B,
                "PeakPagedBytes": 0xAC4,
                "CurrentNonPagedPoolAllocations": 0xE3,
                "NonPagedBytes": 0x46110,
                "PeakNonPagedPoolAllocations": 0x10F,
                "PeakNonPagedBytes": 0x48E40,
            },
        )
    ]
    for place, (name, loads) in enumerate(zip(names, (1, 0), strict=True)):
        name_buffer = _SUSPECTS[place] + 0x100
        head_of_name = struct.pack("<HHIQ", len(name), len(name) + 2, 0, name_buffer)
        structures.append(
            KernelStructure(
                "_VF_SUSPECT_DRIVER_ENTRY", _SUSPECTS[place], {"Loads": loads, "Unloads": 0, "BaseName": head_of_name}
            )
        )
    records = [Record(_SUSPECTS[place] + 0x100, name + b"\0\0") for place, name in enumerate(names)]
    first, second = _SUSPECTS
    records += [
        Record(head, struct.pack("<QQ", first, second)),
        Record(first, struct.pack("<QQ", second, head)),
        Record(second, struct.pack("<QQ", head, first)),
        Record(globals_at, struct.pack("<Q", _DEADLOCK)),
    ]
    threads = [made.processes[0].threads[0].address, crashing(made)[1].address]
    nodes = [_DEADLOCK_PARTS + 0x100 * place for place in range(4)]
    locks = [_DEADLOCK_PARTS + 0x1000, _DEADLOCK_PARTS + 0x1200]
    owners = [_DEADLOCK_PARTS + 0x1800, _DEADLOCK_PARTS + 0x1900]
    structures += [
        KernelStructure("_VI_DEADLOCK_GLOBALS", _DEADLOCK, {"NumberOfParticipants": 4, "Participant": tuple(nodes)}),
        KernelStructure("_VI_DEADLOCK_RESOURCE", locks[0], {"Type": 1, "ResourceAddress": _LOCKS[0]}),
        KernelStructure("_VI_DEADLOCK_RESOURCE", locks[1], {"Type": 5, "ResourceAddress": _LOCKS[1]}),
        *(KernelStructure("_VI_DEADLOCK_THREAD", owners[place], {"Thread": threads[place]}) for place in (0, 1)),
    ]
    for place, (parent, lock, owner) in enumerate(((None, 0, 0), (0, 1, 0), (None, 1, 1), (2, 0, 1))):
        structures.append(
            KernelStructure(
                "_VI_DEADLOCK_NODE",
                nodes[place],
                {
                    "Parent": 0 if parent is None else nodes[parent],
                    "Root": locks[lock],
                    "ThreadEntry": owners[owner],
                    "StackTrace": (MYFAULT + _CALL + 0x10 * place, MYFAULT + _CALL + 0x100),
                },
            )
        )
    made = add(made, structures=tuple(structures), records=tuple(records))
    return crashed(made, 0xC4, (0x1001, _LOCKS[0], nodes[1], 0))


@scene("verifier-leak")
def verifier_leak(layouts: Layouts) -> Scene:
    """0xC4, P1 = 62: leaky.sys is being unloaded and has not freed all of its pool."""
    made = on_worker(tuple(Frame(function.name) for function in _UNLOAD), _UNLOAD)
    name = "leaky.sys".encode("utf-16-le") + b"\0\0"
    made = add(
        made,
        records=(Record(_NAME, name),),
        blocks=((_NAME, len(name)),),
        unloaded=(Unloaded("leaky.sys", 0xFFFFF80060F10000, 0xFFFFF80060F18000, 0),),
    )
    return crashed(made, 0xC4, (_LEAK, _NAME, 0, _ALLOCATIONS))
