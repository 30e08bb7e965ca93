"""Executive resources as a busy system has them, on top of the demonstration's crash.

A static resource with waiters of both kinds, one with more owners than a row shows, a free one, a fast one, and a chain
of waits: for the static resource, whose owner waits for another one, which Notepad owns.
"""

from __future__ import annotations

import dataclasses

from kdump_sample.myfault import high_irql_fault
from kdump_sample.resources import SHARED_WAIT_FRAMES, WAIT_FRAMES, WAIT_FUNCTIONS
from kdump_sample.scene import Process, Resource, Scene, Thread
from kdump_sample.scenes import scene
from volatility3_kdump.layout import Layouts

_THREADS, _STACKS = 0xFFFF918961200080, 0xFFFFD48F79800000
_RESOURCE_WAIT = 27

#: The static resource, and those in pool.
STATIC = "PiEngineLock"
CHAINED, SHARED, FREE, FAST = (0xFFFF918961A00000 + 0x100 * index for index in range(4))
#: What an owner that is no thread points to.
OWNER_POINTER = 0xFFFF918961A00800


def thread_address(index: int) -> int:
    """The ETHREAD of one of the scene's system threads, which wait for resources."""
    return _THREADS + 0x1000 * index


def process(base: Scene, image: str) -> Process:
    return next(process for process in base.processes if process.image == image)


def _thread(index: int, shared: bool, system: Process) -> Thread:
    return Thread(
        thread_address(index),
        0x70 + 4 * index,
        _STACKS + 0x8000 * index,
        (*system.threads[0].frames[:3], *(SHARED_WAIT_FRAMES if shared else WAIT_FRAMES)),
        wait_reason=_RESOURCE_WAIT,
        wait_time=3100 + 10 * index,
        created=20.0,
    )


@scene("locks")
def locks(layouts: Layouts) -> Scene:
    """Resources with owners and waiters, and who blocks whom."""
    base = high_irql_fault()
    system, *others = base.processes
    first, second, third, fourth = (_thread(index, index == 1, system) for index in range(4))
    owners = [process.threads[0].address for process in others[:4]]
    notepad = process(base, "notepad.exe").threads[0].address
    return dataclasses.replace(
        base,
        processes=(dataclasses.replace(system, threads=(*system.threads, first, second, third, fourth)), *others),
        kernel_functions=WAIT_FUNCTIONS,
        resources=(
            Resource(
                0,
                ((first.address, 1),),
                True,
                shared_waiters=(second.address,),
                exclusive_waiters=(third.address,),
                contention=23,
                symbol=STATIC,
            ),
            Resource(
                CHAINED, ((notepad, 2),), True, exclusive_waiters=(fourth.address, first.address), contention=0x1B5
            ),
            Resource(
                SHARED,
                (
                    *((owner, 1 + index) for index, owner in enumerate(owners)),
                    (notepad | 3, 1),
                    (OWNER_POINTER | 3, 17),
                ),
            ),
            Resource(FREE, contention=4),
            Resource(FAST, ((notepad, 1),), True, contention=2, fast=True),
        ),
    )
