"""Driver Verifier: 0xC4."""

from __future__ import annotations

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.scene import Record, Scene, Unloaded
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import MYFAULT, add, request
from kdump_sample.scenes.workers import on_worker
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed
from volatility3_kdump.layout import Layouts

_NAME = 0xFFFFD80248B05010
_EXECUTABLE_POOL, _TAG = 0, 0x6146794D
_LEAK, _ALLOCATIONS = 0x62, 3
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
