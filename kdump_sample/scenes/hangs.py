"""Machines that hang, and one that is well: somebody asks for a dump (0xE2), and what holds the machine up is there.

The machine has been up for five minutes. What is to blame, where it is a driver, is a card reader's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.dispatch import DPCS
from kdump_sample.pool_contents import TagHistory
from kdump_sample.resources import WAIT_FRAMES, WAIT_FUNCTIONS
from kdump_sample.scene import (
    SECOND,
    KernelStructure,
    Location,
    PendingRequest,
    Resource,
    Scene,
    Thread,
    Timer,
    WaitObject,
    WorkQueue,
)
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import SPIN, TOUCHES, add, touch
from kdump_sample.scenes.power import card_reader_devices
from kdump_sample.scenes.processes import manual
from kdump_sample.scenes.workers import WORKER, third_party
from kdump_sample.stacks import Frame
from kdump_sample.variants import kernel_trap, with_process
from volatility3_kdump.layout import Layouts

#: Clock ticks since the start, and in a second.
_NOW, TICKS = 20_000, 64
_TICK = 156_250
#: The processor that something holds up; the dump is asked for on another one.
BUSY = 1
_DISPATCH = 2
_RUNNING, _READY, _WAITING = 2, 1, 5
_EXECUTIVE, _QUEUE_WAIT, _RESOURCE_WAIT = 0, 15, 27
_EVENT, _QUEUE = 0, 4

READER = 0xFFFFF80060EA0000
WAIT_RVA, LOOP_RVA, LOCK_RVA, LEAK_RVA = 0x1400, 0x1500, 0x1600, 0x1700
#: The tag of the pool that the card reader's driver leaks.
TAG = "RtsB"
QUEUE, _IO_QUEUE = 0xFFFF91894C2B6A00, 0xFFFF91894EF60000
_THREADS, _STACKS, _EVENTS = 0xFFFF918961200080, 0xFFFFD48F79800000, 0xFFFF918961A08000
RESOURCES = (0xFFFF918961A00000, 0xFFFF918961A00100)
TIMER_ROUTINE = "KiTimerExpiration"
TIMERS = 0xFFFF91894EF61000
POWER_IRP = 0xFFFF91894EF3A010
_DEVICE = 0xFFFF91894EF42B10
_FILE = 0xFFFF91894EF62000
_DPC, _DPC_OBJECT = 0xFFFF91894EF63100, 0x13

_FUNCTIONS: Mapping[int, Function] = {
    WAIT_RVA: Function(
        "WaitForReader", (*pushes("rbx", "rdi"), Allocate(0x38)), (Call(0x4C, "import:KeWaitForSingleObject"),)
    ),
    LOOP_RVA: touch("PollReader", SPIN),
    LOCK_RVA: Function(
        "LockReader", (*pushes("rbx"), Allocate(0x20)), (Call(0x1C, "import:KeAcquireSpinLockRaiseToDpc"),)
    ),
    # mov edx,'BstR'
    LEAK_RVA: Function("KeepBuffer", (*pushes("rbx"), Allocate(0x20)), body={0x10: b"\xba" + TAG.encode("ascii")}),
}
_CARD_READER = third_party(
    "RtsPer.sys", READER, _FUNCTIONS, ("KeWaitForSingleObject", "KeAcquireSpinLockRaiseToDpc", "IofCallDriver")
)
#: A spin lock that another processor has: mov, pause, jmp.
_SPINNING = (
    Function(
        "KeAcquireSpinLockRaiseToDpc",
        (*pushes("rbx"), Allocate(0x20)),
        (Call(0x2E, "KxWaitForSpinLockAndAcquire"),),
    ),
    Function("KxWaitForSpinLockAndAcquire", (*pushes("rbx", "rdi"), Allocate(0x20)), body={TOUCHES: SPIN}),
)


def thread_address(index: int) -> int:
    """The ETHREAD of one of the scenes' own system threads."""
    return _THREADS + 0x1000 * index


def thread_id(index: int) -> int:
    """Its id."""
    return 0x170 + 4 * index


def _base(layouts: Layouts) -> Scene:
    made = manual(layouts)
    queue = WorkQueue(QUEUE, idle=(made.processes[0].threads[0].address,), processed=1_204)
    return dataclasses.replace(
        made,
        drivers=(*made.drivers, _CARD_READER),
        # The demonstration's request would be older than the machine that is well.
        tick_count=_NOW,
        uptime=_NOW * _TICK,
        processes=tuple(
            dataclasses.replace(
                process,
                threads=tuple(
                    dataclasses.replace(thread, wait_time=_NOW - 10 - thread.tid % 50) for thread in process.threads
                ),
            )
            for process in made.processes
        ),
        work_queues=(queue, WorkQueue(_IO_QUEUE)),
        timers=(
            Timer(TIMERS, 0, 17, 2 * SECOND, routine=_symbol(made, layouts, "KiProcessExpiredTimerList"), period=1000),
            Timer(TIMERS + 0x100, BUSY, 3, SECOND // 2, thread=made.processes[0].threads[0].address),
        ),
    )


def _symbol(made: Scene, layouts: Layouts, name: str) -> int:
    return made.kernel_base + (layouts.symbol(name) or 0)


def _system_thread(made: Scene, index: int, frames: Sequence[Frame], seconds: float, **fields: object) -> Scene:
    """The scene with a thread of the System process that has been as it is for some seconds."""
    system = made.processes[0]
    values: dict[str, object] = {
        "wait_time": _NOW - round(seconds * TICKS),
        "wait_reason": _EXECUTIVE,
        "created": 250.0,
        "priority": 12,
        "wait_objects": (WaitObject(_EVENTS + 0x40 * index, _EVENT),),
        **fields,
    }
    if values.get("state", _WAITING) != _WAITING:
        values["wait_objects"] = ()
    thread = Thread(thread_address(index), thread_id(index), _STACKS + 0x8000 * index, tuple(frames), **values)  # type: ignore[arg-type]
    return with_process(made, dataclasses.replace(system, threads=(*system.threads, thread)))


def _with_kernel(made: Scene, functions: Sequence[Function]) -> Scene:
    return dataclasses.replace(made, kernel_functions=(*made.kernel_functions, *functions))


def _block(made: Scene, layouts: Layouts, number: int, fields: Mapping[str | tuple[str, ...], int]) -> Scene:
    """The scene with fields of a processor's control block."""
    block = made.processors[number].pcr + layouts.offset("_KPCR", "Prcb")
    return add(made, structures=(KernelStructure("_KPRCB", block, fields),))  # type: ignore[arg-type]


_WAIT = (
    Frame("KeWaitForSingleObject"),
    Frame("KiCommitThreadWait"),
    Frame("KiSwapThread"),
    Frame("KiSwapContext"),
    Frame("SwapContext"),
)
_IN_READER = (*WORKER, Frame("RtsPer!WaitForReader"), *_WAIT)
_IN_RESOURCE = (*WORKER, *WAIT_FRAMES)


@scene("hang-none")
def nothing(layouts: Layouts) -> Scene:
    """0xE2 on a machine that is well: nothing points at a hang."""
    return _base(layouts)


@scene("hang-resources")
def resources(layouts: Layouts) -> Scene:
    """Two system threads wait for each other's resource, two more for the first of them, for a minute."""
    made = _with_kernel(_base(layouts), WAIT_FUNCTIONS)
    for index in range(4):
        made = _system_thread(made, index, _IN_RESOURCE, 60 - index, wait_reason=_RESOURCE_WAIT)
    first, second, third, fourth = (thread_address(index) for index in range(4))
    return dataclasses.replace(
        made,
        resources=(
            Resource(RESOURCES[0], ((first, 1),), True, exclusive_waiters=(second, third, fourth), contention=3),
            Resource(RESOURCES[1], ((second, 1),), True, exclusive_waiters=(first,), contention=1),
        ),
    )


@scene("hang-workers")
def workers(layouts: Layouts) -> Scene:
    """All workers wait in the card reader's driver, and work items pile up behind them."""
    made = _base(layouts)
    for index in range(6):
        made = _system_thread(made, index, _IN_READER, 45 - index)
    routine = READER + WAIT_RVA
    queue = WorkQueue(
        QUEUE,
        busy=tuple(thread_address(index) for index in range(6)),
        items=(*((12, routine) for _ in range(9)), (8, _symbol(made, layouts, "ExpWorkerThread"))),
        most=6,
        processed=88_310,
    )
    return dataclasses.replace(made, work_queues=(queue, WorkQueue(_IO_QUEUE)))


@scene("hang-dpc")
def runaway_dpc(layouts: Layouts) -> Scene:
    """A DPC of the card reader's driver does not end: it has run for 25 s on a processor whose threads starve."""
    made = _with_kernel(_base(layouts), DPCS)
    frames = (
        *WORKER,
        Frame("KiDpcInterrupt", trap=kernel_trap(eflags=0x246)),
        Frame("KiDispatchInterrupt", switches_to=made.processors[BUSY].dpc_stack),
        Frame("KiRetireDpcList"),
        Frame("KiExecuteAllDpcs"),
        Frame("RtsPer!PollReader", stopped_at=TOUCHES),
    )
    worker = dataclasses.replace(WORKER[-1], stopped_at=0x60)
    made = _system_thread(made, 0, (*WORKER[:-1], worker, *frames[3:]), 25, state=_RUNNING, processor=BUSY)
    made = _system_thread(made, 1, _IN_READER, 24, state=_READY, processor=BUSY, priority=15)
    fields: dict[str | tuple[str, ...], int] = {
        "DpcRoutineActive": 1,
        "DpcData[0].ActiveDpc": _DPC,
        "DpcTimeCount": 25 * TICKS,
        ("DpcTimeLimitTicks", "DpcTimeLimit"): 20 * TICKS,
        "DpcWatchdogCount": 25 * TICKS,
        "DebuggerSavedIRQL": _DISPATCH,
    }
    made = _block(made, layouts, BUSY, fields)
    made = dataclasses.replace(
        made, timers=(*made.timers, Timer(TIMERS + 0x200, BUSY, 4, -24 * SECOND, thread=thread_address(1)))
    )
    return add(
        made,
        structures=(
            KernelStructure(
                "_KDPC", _DPC, {"DeferredRoutine": READER + LOOP_RVA, "Type": _DPC_OBJECT, "Importance": 1}
            ),
        ),
    )


@scene("hang-spin-lock")
def spin_lock(layouts: Layouts) -> Scene:
    """A processor spins for a lock of the card reader's driver, which another one is in at DISPATCH_LEVEL."""
    made = _with_kernel(_base(layouts), _SPINNING)
    frames = (
        *WORKER,
        Frame("RtsPer!LockReader"),
        Frame("KeAcquireSpinLockRaiseToDpc"),
        Frame("KxWaitForSpinLockAndAcquire", stopped_at=TOUCHES),
    )
    made = _system_thread(made, 0, frames, 12, state=_RUNNING, processor=0)
    holder = (*WORKER, Frame("RtsPer!PollReader", stopped_at=TOUCHES))
    made = _system_thread(made, 1, holder, 12, state=_RUNNING, processor=BUSY)
    raised: dict[str | tuple[str, ...], int] = {"DebuggerSavedIRQL": _DISPATCH, "DpcWatchdogCount": 12 * TICKS}
    return _block(_block(made, layouts, 0, {"DebuggerSavedIRQL": _DISPATCH}), layouts, BUSY, raised)


@scene("hang-starved")
def starved(layouts: Layouts) -> Scene:
    """A thread of the card reader's driver at a real-time priority polls, and others get no processor for 30 s."""
    made = _base(layouts)
    polling = (*WORKER, Frame("RtsPer!PollReader", stopped_at=TOUCHES))
    made = _system_thread(made, 0, polling, 31, state=_RUNNING, processor=BUSY, priority=16)
    for index in range(1, 4):
        made = _system_thread(made, index, _IN_READER, 31 - index, state=_READY, processor=BUSY, priority=12)
    return made


@scene("hang-power-irp")
def power_request(layouts: Layouts) -> Scene:
    """A power request is with the card reader's driver for two minutes, and a thread waits for it."""
    made = _base(layouts)
    devices = card_reader_devices(made, layouts)
    made = add(made, structures=devices.structures, records=devices.records)
    made = _system_thread(made, 0, (*WORKER, *_WAIT), 120)
    locations = (
        Location(22, 2, 0xFFFF91894EF40060),
        Location(22, 2, 0xFFFF91894EF41A40),
        Location(22, 2, _DEVICE, control=1, parameters=(0x51100, 1, 4, 2)),
    )
    request = PendingRequest(POWER_IRP, thread_address(0), _FILE, "", locations, 3)
    return dataclasses.replace(made, pending=(*made.pending, request))


@scene("hang-pool")
def pool(layouts: Layouts) -> Scene:
    """Nonpaged pool is at its limit, most of it with the tag of the card reader's driver."""
    made = _base(layouts)
    use = made.memory_use
    most = use.counters["nonpaged pool maximum"]
    used = most * 97 // 100
    history = TagHistory(TAG, (1_480_000, 0, used * 0x1000 * 8 // 10))
    return dataclasses.replace(
        made,
        memory_use=dataclasses.replace(
            use,
            counters={**use.counters, "nonpaged pool": used, "nonpaged pool commit": used},
            commit_failures=(0, 12, 0, 0),
        ),
        pools=dataclasses.replace(made.pools, history=(*made.pools.history, history)),
    )
