"""Processors in the words of KD's ``!pcr``, ``!prcb`` and ``!dpcs``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.windows.machine.dpcs import Dpc, DpcQueue
from volatility3_kdump.windows.machine.processors import ControlRegion

_WIDTH = 19


def region_lines(control: ControlRegion, size: int = 8) -> Iterator[str]:
    """``!pcr``. What this kernel's KPCR does not have is left out."""

    def labelled(label: str, value: int | None) -> str:
        return f"\t{label:>{_WIDTH}}: {pointer(value, size, tick=False)}"

    region, block = control.region, control.block
    yield f"KPCR for Processor {control.number} at {pointer(control.address, size, tick=False)}:"
    yield f"    Major {decimal(region['major'])} Minor {decimal(region['minor'])}"
    yield labelled("SelfPcr", region["own"])
    yield labelled("Prcb", region["prcb"])
    yield f"\t{'Irql':>{_WIDTH}}: {_hex(region['irql'], 8)}"
    for label, name in (("IRR", "interrupt_requests"), ("IDR", "interrupts_disabled")):
        if region[name] is not None:
            yield f"\t{label:>{_WIDTH}}: {_hex(region[name], 8)}"
    yield labelled("IDT", region["idt"])
    yield labelled("GDT", region["gdt"])
    yield labelled("TSS", region["tss"])
    if region["user_stack"] is not None:
        yield labelled("UserRsp", region["user_stack"])
    yield ""
    yield labelled("CurrentThread", block["current"])
    yield labelled("NextThread", block["next"])
    yield labelled("IdleThread", block["idle"])


def block_lines(control: ControlRegion, size: int = 8) -> Iterator[str]:
    """``!prcb``. The IRQL is the one before the processor was stopped."""
    block = control.block
    threads = (pointer(block[name], size, tick=False) for name in ("current", "next", "idle"))
    yield f"PRCB for Processor {control.number} at {pointer(control.prcb, size, tick=False)}:"
    yield f"Current IRQL -- {decimal(None if block['saved_irql'] is None else block['saved_irql'] & 0xFF)}"
    yield "Threads--  Current {} Next {} Idle {}".format(*threads)
    group = f"({decimal(block['group'] or 0)}, {decimal(block['group_index'])})"
    member = "?" if block["group_member"] is None else f"{block['group_member']:x}"
    yield f"Processor Index {decimal(block['number'])} Number {group} GroupSetMember {member}"
    yield f"Interrupt Count -- {_hex(block['interrupts'], 8)}"
    yield f"Times -- Dpc    {_hex(block['dpc_time'], 8)} Interrupt {_hex(block['interrupt_time'], 8)} "
    yield f"         Kernel {_hex(block['kernel_time'], 8)} User      {_hex(block['user_time'], 8)} "


def dpc_lines(queues: Iterable[DpcQueue], size: int = 8) -> Iterator[str]:
    """``!dpcs``, and notes on those that run and on queues that are torn."""
    yield "CPU Type      KDPC       Function"
    notes = []
    none = True

    def words(dpc: Dpc) -> str:
        shown = "0x" + pointer(dpc.address, size, tick=False)
        if dpc.routine is None:
            return f"{shown} ?"
        name = "" if dpc.symbol is None else f" {dpc.symbol}"
        return f"{shown} 0x{pointer(dpc.routine, size, tick=False)}{name}"

    for queue in queues:
        for dpc in queue.queued:
            none = False
            yield f"{queue.processor:2d}: {queue.kind:<8}: {words(dpc)}"
        if queue.active is not None:
            notes.append(f"NOTE: processor {queue.processor} runs the {queue.kind.lower()} DPC {words(queue.active)}")
        if queue.problem is not None:
            notes.append(f"NOTE: {queue.problem}")
            none = False
    if none:
        yield "no DPC is queued"
    yield from notes


def _hex(value: int | None, digits: int) -> str:
    return "?" * digits if value is None else f"{value:0{digits}x}"
