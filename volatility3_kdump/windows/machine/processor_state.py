"""What a processor keeps beside its registers: interprocessor interrupts, its task state segment, its NUMA node."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The low bits of KPRCB.IpiFrozen, and flags above them, as the documentation's example of !ipi names them.
_FROZEN = {0: "Running", 2: "Frozen", 3: "Thaw", 4: "Owner", 5: "TargetFreeze"}
_FREEZE_ACTIVE = 0x20
_STACKS = ("Rsp0", "Rsp1", "Rsp2")
_INTERRUPT_STACKS, _LARGEST_NODES = 7, 64
_TASK = struct.Struct("<4x3Q8x7Q8xHH")
#: Processors of a group.
_GROUP = 64


@dataclass(frozen=True)
class IpiState:
    """Interprocessor interrupts of a processor, by its KPRCB; ``None`` is not in the dump or not in this kernel."""

    number: int
    frozen: int | None
    target_set: int | None
    target_count: int | None
    barrier: int | None
    request_summary: int | None

    @property
    def frozen_words(self) -> str:
        """``[FreezeActive] [Owner]``."""
        if self.frozen is None:
            return ""
        states = ["FreezeActive"] if self.frozen & _FREEZE_ACTIVE else []
        states.append(self.state_word or "")
        return " ".join(f"[{word}]" for word in states)

    @property
    def state_word(self) -> str | None:
        """``Frozen``; the number where it has no name, ``None`` where it is not known."""
        return None if self.frozen is None else _FROZEN.get(self.frozen & 0xF, f"{self.frozen & 0xF:x}")


@dataclass(frozen=True)
class TaskState:
    """A KTSS64: stacks of the rings, stacks of the interrupt stack table, offset of the I/O map."""

    address: int
    rings: tuple[int, int, int]
    interrupt_stacks: tuple[int, ...]
    io_map: int


@dataclass(frozen=True)
class Node:
    """A NUMA node; ``mask`` are the processors of its first group, ``None`` where this kernel keeps them elsewhere."""

    number: int
    address: int
    group: int | None
    mask: int | None


def ipi_states(target: Target, wanted: int | None = None) -> list[IpiState]:
    """The state of each processor, or of one. Raises :class:`KdumpError` where there is none."""
    nt = require_symbols(target, "interprocessor interrupts", "_KPRCB.IpiFrozen")
    paths = {
        "frozen": "IpiFrozen",
        "set": "TargetSet",
        "count": "TargetCount",
        "barrier": "PacketBarrier",
        "summary": "RequestSummary",
    }
    reader = nt.reader("_KPRCB", **paths)
    states = []
    for processor in processors(target):
        if processor.prcb is None or wanted not in (None, processor.number):
            continue
        row: Any = read_row(target.memory, reader, processor.prcb)
        values = [None if row is None else getattr(row, name) for name in paths]
        states.append(IpiState(processor.number, *(value if isinstance(value, int) else None for value in values)))
    if not states:
        raise KdumpError(f"{target.name}: no control block of {'a' if wanted is None else 'such a'} processor is there")
    return states


def task_state(target: Target, address: int) -> TaskState:
    """The task state segment at an address. Raises :class:`KdumpError` where it is not in the dump, or not x64."""
    if target.header.architecture != "x64":
        raise KdumpError(f"{target.name}: task state segments of {target.header.architecture} are not read")
    data = target.memory.read(address, _TASK.size)
    if data is None:
        raise Unreadable.at(address, "a task state segment", target.memory.why_unreadable(address))
    values = _TASK.unpack(data)
    return TaskState(address, values[:3], values[3 : 3 + _INTERRUPT_STACKS], values[-1])


def task_address(target: Target, number: int) -> int:
    """Where a processor's KPCR says that its task state segment lies. Raises :class:`KdumpError`."""
    from volatility3_kdump.windows.machine.processors import control_region

    for processor in processors(target):
        if processor.number == number:
            region = control_region(target, processor)
            address = region.region["tss"] if region is not None else None
            if address:
                return address
    raise KdumpError(f"{target.name}: the KPCR of processor {number} is not in the dump: give an address")


def numa_nodes(target: Target) -> list[Node]:
    """The nodes of KeNodeBlock. Raises :class:`KdumpError` where they are not in the dump."""
    nt = require_symbols(target, "NUMA nodes", "_KNODE", names=True)
    block, count_at = target.symbol("KeNodeBlock"), target.symbol("KeNumberNodes")
    count = target.memory.unsigned(count_at, 2) if count_at is not None else None
    if block is None or count is None:
        raise KdumpError(f"{target.name}: nt!KeNumberNodes is not in the dump")
    nodes = []
    paths = {"number": "NodeNumber", "mask": "Affinity.Mask", "group": ("Affinity.Group", "PrimaryGroup")}
    reader = nt.reader("_KNODE", **paths)
    for index in range(min(count, _LARGEST_NODES)):
        address = target.memory.pointer(block + index * target.memory.pointer_size)
        row: Any = read_row(target.memory, reader, address) if address else None
        if address:
            described = row is not None
            nodes.append(Node(index, address, row.group if described else None, row.mask if described else None))
    if not nodes:
        raise KdumpError(f"{target.name}: nt!KeNodeBlock is not in the dump; the kernel counts {count} nodes")
    return nodes
