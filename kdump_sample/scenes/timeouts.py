"""Watchdogs: 0x133 and 0x101."""

from __future__ import annotations

import dataclasses

from kdump_sample.code import Allocate, Function, pushes
from kdump_sample.dispatch import CLOCK, DPCS
from kdump_sample.scene import KernelStructure, Processor, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import MYFAULT, SPIN, TOUCHES, add, interrupted, request, touch
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed, crashing, kernel_trap, with_functions, with_thread
from volatility3_kdump.layout import Layouts

_DPC = 0xFFFF91894ED40100
_DPC_OBJECT = 0x13
_SPIN_RVA = 0x1A40
_LIMIT, _PERIOD = 0x500, 0x1E00
_SPIN_FUNCTION = Function("SpinDpc", (*pushes("rbx"), Allocate(0x20)), body={TOUCHES: SPIN})
_NOT_STOPPED = 5
_WATCHED, _CLOCK_TICKS = 1, 0x18

_CLOCK_FRAMES = (
    Frame("KiInterruptDispatchNoLockNoEtw", trap=kernel_trap(eflags=0x246)),
    Frame("KiInterruptSubDispatchNoLockNoEtw"),
    Frame("KiCallInterruptServiceRoutine"),
    Frame("HalpTimerClockInterrupt"),
    Frame("KeClockInterruptNotify"),
    Frame("KeAccumulateTicks"),
)


def _control_block(processor: Processor, layouts: Layouts) -> int:
    return processor.pcr + layouts.offset("_KPCR", "Prcb")


def _dpc(made: Scene, layouts: Layouts) -> Scene:
    """A DPC of myfault.sys that interrupts a request and does not end."""
    made = with_functions(made, "myfault", {_SPIN_RVA: _SPIN_FUNCTION})
    block = _control_block(made.processors[made.bug_check.processor], layouts)
    return add(
        made,
        structures=(
            KernelStructure(
                "_KDPC", _DPC, {"DeferredRoutine": MYFAULT + _SPIN_RVA, "Type": _DPC_OBJECT, "Importance": 1}
            ),
            KernelStructure("_KPRCB", block, {"DpcRoutineActive": 1, "DpcData[0].ActiveDpc": _DPC}),
        ),
        blocks=((_DPC, layouts.size_of("_KDPC")),),
    )


def _dpc_scene(layouts: Layouts) -> Scene:
    frames = (Frame("KiExecuteAllDpcs"), Frame("myfault!SpinDpc", stopped_at=TOUCHES), *_CLOCK_FRAMES)
    return _dpc(interrupted(frames, (*DPCS, *CLOCK), lambda processor: processor.dpc_stack), layouts)


@scene("dpc-timeout")
def dpc_timeout(layouts: Layouts) -> Scene:
    """0x133, P1 = 0: one DPC ran longer than it may."""
    return crashed(_dpc_scene(layouts), 0x133, (0, _LIMIT + 1, _LIMIT, 0))


@scene("dpc-queue-timeout")
def dpc_queue_timeout(layouts: Layouts) -> Scene:
    """0x133, P1 = 1: too long at DISPATCH_LEVEL, all routines together."""
    return crashed(_dpc_scene(layouts), 0x133, (1, _PERIOD, 0, 0))


@scene("hung-processor")
def hung_processor(layouts: Layouts) -> Scene:
    """0x101: a thread of myfault.sys spins on processor 1 with interrupts off."""
    made = request(
        touch("Wait", SPIN),
        (Frame("myfault!Wait", stopped_at=TOUCHES), *_CLOCK_FRAMES),
        CLOCK,
    )
    made = with_functions(made, "myfault", {_SPIN_RVA: _SPIN_FUNCTION})
    _, thread = crashing(made)
    spinning = dataclasses.replace(
        thread,
        address=0xFFFF91894C2D3040,
        tid=0x1B8,
        teb=0,
        win32_thread=0,
        start_address=MYFAULT + _SPIN_RVA,
        win32_start_address=MYFAULT + _SPIN_RVA,
        stack_base=0xFFFFD48F77E21000,
        frames=(
            Frame("KiStartSystemThread"),
            Frame("PspSystemThreadStartup"),
            Frame("myfault!SpinDpc", stopped_at=TOUCHES),
        ),
        processor=_WATCHED,
        registers={},
    )
    made = with_thread(made, made.processes[0], spinning)
    block = _control_block(made.processors[_WATCHED], layouts)
    made = add(made, structures=(KernelStructure("_KPRCB", block, {"IpiFrozen": _NOT_STOPPED}),))
    return crashed(made, 0x101, (_CLOCK_TICKS, 0, block, _WATCHED))
