"""Bug checks whose evidence lies beside the arguments: 0x50, 0x7A, 0x9F, 0xEA, 0xEF, 0xF7, 0x101, a borrowed 0x65."""

from __future__ import annotations

import dataclasses
import struct

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.dispatch import PAGE_FAULT, TO_MEMORY_MANAGER
from kdump_sample.scene import Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import SPIN, TOUCHES, add, called_pool, request
from kdump_sample.scenes.power import blocked_power_irp, card_reader_devices
from kdump_sample.scenes.processes import critical_process
from kdump_sample.scenes.timeouts import hung_processor
from kdump_sample.scenes.workers import on_worker, third_party
from kdump_sample.stacks import Frame
from kdump_sample.variants import (
    STACK_BUFFER_OVERRUN,
    crashed,
    crashing,
    draft_stack,
    exception_record,
    kernel_trap,
    with_functions,
    with_thread,
)
from volatility3_kdump.layout import Layouts

_POOL = 0xFFFF91894EE41230
_FETCH = 0x11
_LOCK, _NO_SUCH_DEVICE = 1, 0xFFFFFFFFC000000E
_PAGED_OUT = 0xFFFFD80249C31000
_COOKIE = 0x0000F3A1C5D27E88
_UNEXPECTED_HEAP_EXCEPTION = 0x23
_USER_CODE = 0x7FFAF29B5438
_DISTANCE, _FAULTS = 0x190, 12
_FLAGS = 0x10246
#: The thread that spins in the scene of a hung processor, and its function in myfault.sys.
_STUCK, _SPIN_RVA = 0xFFFF91894C2D3040, 0x1A40


def _calls_bug_check(name: str) -> Function:
    return Function(name, (Allocate(0x38),), (Call(0x20, "import:KeBugCheckEx"),), returns=False)


@scene("instruction-fetch")
def instruction_fetch(layouts: Layouts) -> Scene:
    """0x50, P2 = 11h: a call to a page that may not be executed; the processor's error code is a set of bits."""
    return crashed(called_pool(_POOL), 0x50, (_POOL, _FETCH, _POOL, 2))


@scene("page-read-failure")
def page_read_failure(layouts: Layouts) -> Scene:
    """0x7A, P1 = 1: the disk of a page is gone while a lock is held; P3 is the process, P4 the address."""
    read = Function(
        "MiIssueHardFault", (*pushes("rbx", "rsi"), Allocate(0x78)), (Call(0x60, "MiWaitForInPageComplete"),)
    )
    wait = Function(
        "MiWaitForInPageComplete", (*pushes("rbx"), Allocate(0x50)), (Call(0x80, "KeBugCheckEx"),), returns=False
    )
    fault = Function(
        "MmAccessFault",
        (*pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0x160)),
        (Call(0x400, "MiIssueHardFault"),),
    )
    made = request(
        Function("ReadPaged", (*pushes("rbx"), Allocate(0x20)), body={TOUCHES: bytes.fromhex("8b03")}),
        (
            Frame("myfault!ReadPaged", sets={"rbx": _PAGED_OUT}, stopped_at=TOUCHES),
            Frame("KiPageFault", trap=kernel_trap(), call=TO_MEMORY_MANAGER),
            Frame("MmAccessFault"),
            Frame("MiIssueHardFault"),
            Frame("MiWaitForInPageComplete"),
        ),
        (PAGE_FAULT, fault, read, wait),
    )
    process, _ = crashing(made)
    return crashed(made, 0x7A, (_LOCK, _NO_SUCH_DEVICE, process.address, _PAGED_OUT))


@scene("raid-power-irp")
def raid_power_irp(layouts: Layouts) -> Scene:
    """0x9F, P1 = 3: one of Windows' drivers has the IRP; it waits for the device of a third party's driver below it."""
    made = blocked_power_irp(layouts)
    swapped = card_reader_devices(made, layouts, below="RtsPer", above="pci")
    return dataclasses.replace(
        made, structures=(*made.structures, *swapped.structures), records=(*made.records, *swapped.records)
    )


_GPU = third_party(
    "gpudrv.sys",
    0xFFFFF80060EE0000,
    {
        0x1400: Function("WaitForIdle", (*pushes("rbx"), Allocate(0x20)), (Call(0x18, "local:Poll"),)),
        0x1500: Function("Poll", (*pushes("rbx"), Allocate(0x20)), (Call(0x18, "local:Poll"),), body={0x40: SPIN}),
    },
)


@scene("stuck-display-thread")
def stuck_display_thread(layouts: Layouts) -> Scene:
    """0xEA: a display driver polls its hardware; argument 3 does not name it, its frames fill the stack."""
    made = on_worker(
        (Frame("gpudrv!WaitForIdle"), *4 * (Frame("gpudrv!Poll"),), Frame("gpudrv!Poll", stopped_at=0x40)),
        drivers=(_GPU,),
    )
    _, thread = crashing(made)
    watcher = Function("Watch", (Allocate(0x38),), (Call(0x20, "import:KeBugCheckEx"),), returns=False)
    other = request(watcher, (Frame("myfault!Watch"),), imports=("KeBugCheckEx",))
    system = other.processes[0]
    stuck = dataclasses.replace(thread, processor=1, state=2)
    other = dataclasses.replace(other, drivers=(*other.drivers, _GPU))
    other = with_thread(other, system, stuck)
    return crashed(other, 0xEA, (stuck.address, 0, 0, 1))


@scene("critical-fast-fail")
def critical_fast_fail(layouts: Layouts) -> Scene:
    """0xEF: the process stopped itself by a fast fail, whose record the dispatcher left on the kernel stack."""
    made = critical_process(layouts)
    frame = draft_stack(made, layouts).frame("NtTerminateProcess").child_sp
    record = exception_record(STACK_BUFFER_OVERRUN, _USER_CODE, (_UNEXPECTED_HEAP_EXCEPTION,), 1)
    # The arguments of the system call's frame are above; the record has the room of its locals and of its caller's.
    return add(made, records=(Record(frame + 0x100, record),))


@scene("stack-cookie")
def stack_cookie(layouts: Layouts) -> Scene:
    """0xF7: one bit of a function's stack cookie changed."""
    report = Function("report_gsfailure", (Allocate(0x38),), (Call(0x20, "import:KeBugCheckEx"),), returns=False)
    made = request(report, (Frame("myfault!report_gsfailure"),), imports=("KeBugCheckEx",))
    return crashed(made, 0xF7, (_COOKIE ^ 1 << 11, _COOKIE, ~_COOKIE & 0xFFFFFFFFFFFFFFFF, 0))


@scene("borrowed-code")
def borrowed_code(layouts: Layouts) -> Scene:
    """0x65: a driver stops the system with a code that Windows itself raises only at start-up."""
    made = request(_calls_bug_check("GiveUp"), (Frame("myfault!GiveUp"),), imports=("KeBugCheckEx",))
    return crashed(made, 0x65, (1, 2, 3, 4))


@scene("hung-in-faults")
def nested_faults(layouts: Layouts) -> Scene:
    """0x101: the processor that hangs faults again while its fault is handled: equal machine frames on its stack."""
    made = hung_processor(layouts)
    deep = Function("SpinDpc", (*pushes("rbx"), Allocate(0x2800)), body={TOUCHES: SPIN})
    made = with_functions(made, "myfault", {_SPIN_RVA: deep})
    stuck = next(thread for thread in made.processes[0].threads if thread.address == _STUCK)
    first = draft_stack(made, layouts, stuck).frame("myfault!SpinDpc").child_sp + 0x100
    ip = made.kernel_base + (layouts.symbol("KiPageFault") or 0)
    places = [first + number * _DISTANCE for number in range(_FAULTS)]
    frames = [Record(place, struct.pack("<5Q", ip, 0x10, _FLAGS, place + 0x28, 0x18)) for place in places]
    return add(made, records=frames)
