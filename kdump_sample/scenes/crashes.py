"""What the scenes of this package have in common: a request to myfault.sys that ends in some fault of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.dispatch import MEMORY_MANAGER, TO_MEMORY_MANAGER
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import KernelStructure, Processor, Record, Scene, Unloaded
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashing, kernel_trap, with_frames, with_functions

MYFAULT = 0xFFFFF80060DA0000
_DO_FAULT, _FAULT = 0x1C80, 0x1B00
#: How many of the frames of the demonstration's stack come before the fault itself: up to DeviceControl.
_OUTER_FRAMES = 6


def request(
    fault: Function,
    frames: Sequence[Frame],
    kernel_functions: Sequence[Function] = (),
    imports: Sequence[str] = (),
    sets: Mapping[str, int] | None = None,
) -> Scene:
    """A device control request that reaches the function ``fault`` of myfault.sys, and what happens from there on.

    ``frames`` are those behind DoFault, that of ``fault`` first; ``sets`` are nonvolatile registers at DoFault's call.
    """
    scene = high_irql_fault()
    caller = Function("DoFault", (*pushes("rbx", "rsi", "rdi"), Allocate(0x120)), (Call(0xBD, f"local:{fault.name}"),))
    scene = with_functions(scene, "myfault", {_DO_FAULT: caller, _FAULT: fault}, imports)
    outer = crashing(scene)[1].frames[:_OUTER_FRAMES]
    do_fault = Frame("myfault!DoFault", (0xC85C00F0, 0x1E35FB24550, 0xF0, 0), sets=dict(sets or {}))
    scene = with_frames(scene, (*outer, do_fault, *frames))
    return dataclasses.replace(scene, kernel_functions=tuple(kernel_functions), paged_out=())


def called_out(address: int, handler: int, frames: Sequence[Frame], kernel_functions: Sequence[Function]) -> Scene:
    """The request of a driver that calls an address whose page is not there to run.

    ``handler`` is which call of the page fault handler it is, ``frames`` those behind it.
    """
    call = Function("CallOut", (*pushes("rbx"), Allocate(0x20)), (Call(0x1C, "register:rbx"),))
    stack = (
        Frame("myfault!CallOut", sets={"rbx": address}),
        Frame("KiPageFault", trap=kernel_trap(rip=address, called=True), call=handler),
    )
    return request(call, (*stack, *frames), kernel_functions)


def called_pool(pool: int) -> Scene:
    """The request of a driver that calls an address in pool, where a block begins with its tag."""
    made = called_out(pool, TO_MEMORY_MANAGER, (Frame("MmAccessFault"), Frame("MiSystemFault")), MEMORY_MANAGER)
    return add(made, records=(Record(pool, bytes.fromhex("4d79466101000000")),))


def touch(name: str, code: bytes) -> Function:
    """A function whose instruction at +0x20 is the one that faults."""
    return Function(name, (*pushes("rbx"), Allocate(0x20)), body={0x20: code})


TOUCHES = 0x20

#: pause; jmp to itself
SPIN = bytes.fromhex("f390ebfc")


def interrupted(
    frames: Sequence[Frame], kernel_functions: Sequence[Function], stack_of: Callable[[Processor], int]
) -> Scene:
    """A DPC that interrupts a request to myfault.sys, which waits.

    ``frames`` are those behind KiRetireDpcList; they lie on the stack below what ``stack_of`` gives for the processor.
    """
    wait = touch("Wait", SPIN)
    base = request(wait, ())
    head = (
        Frame("myfault!Wait", stopped_at=TOUCHES),
        Frame("KiDpcInterrupt", trap=kernel_trap(eflags=0x246)),
        Frame("KiDispatchInterrupt", switches_to=stack_of(base.processors[base.bug_check.processor])),
        Frame("KiRetireDpcList"),
    )
    return request(wait, (*head, *frames), kernel_functions)


def add(
    scene: Scene,
    *,
    structures: Sequence[KernelStructure] = (),
    records: Sequence[Record] = (),
    blocks: Sequence[tuple[int, int]] = (),
    unloaded: Sequence[Unloaded] = (),
) -> Scene:
    """The scene with more in its memory, and more in its small memory dumps."""
    return dataclasses.replace(
        scene,
        structures=(*scene.structures, *structures),
        records=(*scene.records, *records),
        triage_blocks=(*scene.triage_blocks, *blocks),
        unloaded=(*scene.unloaded, *unloaded),
    )
