"""Watchdogs with more to tell: 0x133 with its samples, 0x101 where a thread faults again and again."""

from __future__ import annotations

import dataclasses
import struct

from kdump_sample.scene import KernelStructure, Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import MYFAULT, add
from kdump_sample.scenes.timeouts import dpc_queue_timeout
from kdump_sample.variants import crashed
from volatility3_kdump.layout import LayoutError, Layouts

_BLOCK, _BUFFER, _LENGTH = 0xFFFF91894ED42000, 0xFFFF91894ED43000, 0x1000
_SIGNATURE, _REVISION, _SIZE = 0xAEBECEDE, 1, 0x10
_PERIOD = 0x1E00
#: Where the samples of a stack were, the innermost address first: in myfault's DPC, in the kernel's loops below it.
_SAMPLE = (MYFAULT + 0x1A60, 0xFFFFF80062B21000, 0xFFFFF80062B21400)
_OTHER = (MYFAULT + 0x1A64, 0xFFFFF80062B21000, 0xFFFFF80062B21400)
_ELSEWHERE = (0xFFFFF80060182000, 0xFFFFF80062B21000)


@scene("dpc-samples")
def dpc_samples(layouts: Layouts) -> Scene:
    """0x133, P1 = 1: the watchdog's samples name the driver; argument 3 points at DPC_WATCHDOG_GLOBAL_TRIAGE_BLOCK.

    Kernels have the buffer since Windows 10 1809; small memory dumps copy it.
    """
    if not layouts.has("_KPRCB", "DpcWatchdogProfile"):
        raise LayoutError("the kernel samples no DPCs, which the scene needs")
    made = dpc_queue_timeout(layouts)
    processor = made.processors[made.bug_check.processor]
    control_block = processor.pcr + layouts.offset("_KPCR", "Prcb")
    offset = layouts.offset("_KPRCB", "DpcWatchdogProfile")
    # A zero ends each sampled stack.
    stacks = [*12 * (_SAMPLE,), *6 * (_OTHER,), *2 * (_ELSEWHERE,)]
    samples = b"".join(struct.pack(f"<{len(stack) + 1}Q", *stack, 0) for stack in stacks)
    block = struct.pack("<IHHHHI", _SIGNATURE, _REVISION, _SIZE, offset, 0, _LENGTH)
    made = add(
        made,
        structures=(KernelStructure("_KPRCB", control_block, {"DpcWatchdogProfile": _BUFFER}),),
        records=(Record(_BLOCK, block), Record(_BUFFER, samples.ljust(_LENGTH, b"\0"))),
        blocks=((_BLOCK, _SIZE), (_BUFFER, _LENGTH)),
    )
    return crashed(dataclasses.replace(made), 0x133, (1, _PERIOD, _BLOCK, 0))
