"""Rows of ``kdump.cpu``: control regions and blocks, models, deferred calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from volatility3_kdump.target import Target
from volatility3_kdump.text.machine import model_lines
from volatility3_kdump.text.processors import block_lines, dpc_lines, region_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, HEX, NUMBER, POINTER, TEXT, Column, table
from volatility3_kdump.windows.machine.control_blocks import ControlBlock, control_blocks, dpc_queues_of, models_of
from volatility3_kdump.windows.machine.dpcs import Dpc, DpcQueue
from volatility3_kdump.windows.machine.processors import ProcessorModel


def _region(name: str) -> Callable[[ControlBlock], object]:
    return lambda control: control.region.region[name]


def _block(name: str) -> Callable[[ControlBlock], object]:
    return lambda control: control.region.block[name]


def _model(get: Callable[[ProcessorModel], object]) -> Callable[[ControlBlock], object]:
    return lambda control: None if control.model is None else get(control.model)


def _irql(control: ControlBlock) -> int | None:
    saved = control.region.block["saved_irql"]
    return None if saved is None else saved & 0xFF


PROCESSORS = table(
    "kdump.cpu",
    keys.PROCESSOR(lambda control: control.region.number),
    Column("Pcr", ADDRESS, "the KPCR", lambda control: control.region.address),
    keys.PRCB(lambda control: control.region.prcb),
    Column("CurrentThread", POINTER, "ETHREAD that it runs", _block("current")),
    Column("NextThread", POINTER, "ETHREAD that it runs next", _block("next")),
    Column("IdleThread", POINTER, "its idle ETHREAD", _block("idle")),
    keys.IRQL(_irql, "the one before it was stopped"),
    Column("PcrIrql", NUMBER, "KPCR.Irql", _region("irql")),
    Column("Idt", POINTER, "interrupt descriptor table", _region("idt")),
    Column("Gdt", POINTER, "global descriptor table", _region("gdt")),
    Column("Tss", POINTER, "task state segment", _region("tss")),
    Column("Group", NUMBER, "processor group; unknown on kernels without groups", _block("group")),
    Column("GroupIndex", NUMBER, "number in the group", _block("group_index")),
    Column("Interrupts", NUMBER, "KPRCB.InterruptCount", _block("interrupts")),
    Column("DpcTicks", NUMBER, "clock ticks in DPCs, KPRCB.DpcTime", _block("dpc_time")),
    Column("InterruptTicks", NUMBER, "clock ticks in interrupts, KPRCB.InterruptTime", _block("interrupt_time")),
    Column("KernelTicks", NUMBER, "clock ticks in the kernel, KPRCB.KernelTime", _block("kernel_time")),
    Column("UserTicks", NUMBER, "clock ticks in user mode, KPRCB.UserTime", _block("user_time")),
    Column("ProcessorVendor", TEXT, "KPRCB.VendorString", _model(lambda model: model.vendor)),
    Column("Family", NUMBER, "KPRCB.CpuType", _model(lambda model: model.family)),
    Column("Model", NUMBER, "the upper byte of KPRCB.CpuStep", _model(lambda model: model.model)),
    Column("Stepping", NUMBER, "the lower byte of KPRCB.CpuStep", _model(lambda model: model.stepping)),
    Column("Mhz", NUMBER, "KPRCB.MHz", _model(lambda model: model.mhz)),
    Column("UpdateSignature", HEX, "version of the microcode", _model(lambda model: model.update_signature)),
    Column("FeatureBits", HEX, "KPRCB.FeatureBits", _model(lambda model: model.features)),
)

DPCS = table(
    "kdump.cpu --dpcs",
    keys.PROCESSOR(),
    Column("DpcKind", TEXT, "`Normal`, `Threaded`"),
    Column("DpcState", TEXT, "`queued`, or `active` for the one that runs"),
    Column("Dpc", ADDRESS, "the KDPC", lambda dpc: dpc.address),
    Column("Routine", POINTER, "DeferredRoutine", lambda dpc: dpc.routine),
    keys.SYMBOL(more="of the routine"),
    keys.NOTES(),
)


def processors_grid(target: Target, numbers: Sequence[int] = ()) -> KdumpGrid:
    """Each processor, or those of these numbers; KD's text is that of ``!pcr``, ``!prcb`` and ``!cpuinfo``."""
    blocks = control_blocks(target, numbers)

    def lines() -> Iterator[str]:
        size = target.memory.pointer_size
        for block in blocks:
            yield from region_lines(block.region, size)
            yield ""
            yield from block_lines(block.region, size)
            yield ""
        yield from model_lines([block.model for block in blocks if block.model is not None])

    return PROCESSORS.grid((PROCESSORS.row(0, block) for block in blocks), lines)


def region_grid(target: Target, number: int) -> KdumpGrid:
    """``!pcr``."""
    (block,) = control_blocks(target, [number])
    return PROCESSORS.grid([PROCESSORS.row(0, block)], lambda: region_lines(block.region, target.memory.pointer_size))


def block_grid(target: Target, number: int) -> KdumpGrid:
    """``!prcb``."""
    (block,) = control_blocks(target, [number])
    return PROCESSORS.grid([PROCESSORS.row(0, block)], lambda: block_lines(block.region, target.memory.pointer_size))


def models_grid(target: Target, number: int | None = None) -> KdumpGrid:
    """``!cpuinfo``."""
    models = models_of(target, number)
    blocks = control_blocks(target, [model.number for model in models])
    return PROCESSORS.grid((PROCESSORS.row(0, block) for block in blocks), lambda: model_lines(models))


def dpcs_grid(target: Target, number: int | None = None) -> KdumpGrid:
    """The deferred calls that are queued, and those that run (``!dpcs``)."""
    queues = dpc_queues_of(target, number)
    return DPCS.grid(_dpc_rows(queues), lambda: dpc_lines(queues, target.memory.pointer_size))


def _dpc_rows(queues: Sequence[DpcQueue]) -> Iterator[Row]:
    def row(queue: DpcQueue, dpc: Dpc, state: str) -> Row:
        return DPCS.row(0, dpc, Processor=queue.processor, DpcKind=queue.kind, DpcState=state, Symbol=dpc.symbol)

    for queue in queues:
        for dpc in queue.queued:
            yield row(queue, dpc, "queued")
        if queue.active is not None:
            yield row(queue, queue.active, "active")
        if queue.problem is not None:
            yield DPCS.row(0, Processor=queue.processor, DpcKind=queue.kind, DpcState=BLANK, Notes=[queue.problem])
