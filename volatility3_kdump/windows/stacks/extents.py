"""Which stacks a backtrace may walk on: those of threads, of processors, and segments that a thread left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.cpu import Read
from volatility3_kdump.layout import StructReader
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import crash_context, crash_processor, crash_thread
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.stacks.frames import Start
from volatility3_kdump.windows.structures import field_offset

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_KERNEL_STACK_SIZE = 0x6000
LARGEST_STACK = 0x20000


def crash_segments(target: Target) -> tuple[tuple[int, int], ...]:
    segments: list[tuple[int, int]] = []
    thread, processor = crash_thread(target), crash_processor(target)
    if thread is not None:
        limits = stack_limits(target, thread.address)
        if limits:
            segments.append(limits)
        initial = thread_pointer(target, thread.address, "InitialStack", "OffsetKThreadInitialStack")
        segments += expansions(target, initial, target.memory.read)
    if processor is not None:
        segments += processor_stacks(target, processor.prcb)
    context = crash_context(target)
    return with_window(target, tuple(segments), context.sp if context else None)


def segments_around(target: Target, sp: int) -> tuple[tuple[int, int], ...]:
    """The crashing thread's stacks where they hold ``sp``, else those of the processors, else a window above it."""
    sp = sign_extended(sp, target.memory.pointer_size)
    segments = crash_segments(target)
    if _inside(segments, sp):
        return segments
    for processor in processors(target):
        limits = stack_limits(target, processor.current_thread) if processor.current_thread else None
        stacks = tuple([limits] if limits else []) + tuple(processor_stacks(target, processor.prcb))
        if _inside(stacks, sp):
            return stacks
    return with_window(target, (), sp)


def with_window(target: Target, segments: tuple[tuple[int, int], ...], sp: int | None) -> tuple[tuple[int, int], ...]:
    """The segments, and where none of them holds the stack pointer a window above it."""
    if sp is None:
        return segments
    sp = sign_extended(sp, target.memory.pointer_size)
    if _inside(segments, sp):
        return segments
    triage = target.dump.triage
    if triage is not None and triage.stack is not None:
        low, high = triage.stack.address, triage.stack.address + triage.stack.size
        if low <= sp < high:
            return (*segments, (low, high))
    return (*segments, (sp, sp + _KERNEL_STACK_SIZE))


def _inside(segments: tuple[tuple[int, int], ...], sp: int) -> bool:
    return any(low <= sp < high for low, high in segments)


def processor_stacks(target: Target, prcb: int | None) -> list[tuple[int, int]]:
    """The DPC and ISR stacks of a processor and those of its interrupt stack table (x64)."""
    if prcb is None:
        return []
    stacks = []
    tops = []
    for path, debugger_field in (("DpcStack", "OffsetPrcbDpcStack"), ("IsrStack", "OffsetPrcbIsrStack")):
        located = field_offset(target, "_KPRCB", path, debugger_field)
        tops.append(target.memory.pointer(prcb + located) if located is not None else None)
    nt = target.nt
    if (
        nt is not None
        and target.header.architecture == "x64"
        and nt.has("_KPCR", "TssBase")
        and nt.has("_KTSS64", "Ist")
    ):
        pcr = prcb - nt.offset("_KPCR", "Prcb")
        task_state = target.memory.pointer(pcr + nt.offset("_KPCR", "TssBase"))
        ist = nt.offset("_KTSS64", "Ist")
        for index in range(1, 8) if task_state else ():
            tops.append(target.memory.pointer((task_state or 0) + ist + 8 * index))
    for top in tops:
        if top and target.is_kernel_address(top):
            stacks.append((top - _KERNEL_STACK_SIZE, top))
    return stacks


def expansions(target: Target, control: int | None, read: Read) -> list[tuple[int, int]]:
    """Stack segments that a thread left when it expanded its kernel stack.

    ``control`` is KTHREAD.InitialStack, where a KSTACK_CONTROL names the previous segment.
    """
    segment_reader = target.once(_segment_reader)
    if segment_reader is None:
        return []
    previous, reader = segment_reader
    segments: list[tuple[int, int]] = []
    while control and len(segments) < 8:
        data = read(control + previous, reader.size)
        row = reader.unpack(data) if data else None
        if row is None or not row.base or not row.limit < row.base <= row.limit + LARGEST_STACK:
            break
        segments.append((row.limit, row.base))
        control = row.initial
    return segments


def _segment_reader(target: Target) -> tuple[int, StructReader] | None:
    """Where a KSTACK_CONTROL names the previous segment, and what reads that; ``None`` without their types."""
    nt = target.nt
    if nt is None or not nt.has("_KERNEL_STACK_SEGMENT", "StackLimit"):
        return None
    # Windows 8 renamed it.
    types = ("_KSTACK_CONTROL", "_KERNEL_STACK_CONTROL")
    previous = next((nt.offset(name, "Previous") for name in types if nt.has(name, "Previous")), None)
    if previous is None:
        return None
    return previous, nt.reader("_KERNEL_STACK_SEGMENT", base="StackBase", limit="StackLimit", initial="InitialStack")


def thread_pointer(target: Target, thread: int, path: str, debugger_field: str) -> int | None:
    located = field_offset(target, "_KTHREAD", path, debugger_field)
    return target.memory.pointer(thread + located) if located is not None else None


class Covered:
    """Memory of which a part was read before."""

    __slots__ = ("_data", "_low", "_size", "_source")

    def __init__(self, source: Read, low: int, data: bytes) -> None:
        self._source = source
        self._low = low
        self._data = data
        self._size = len(data)

    def read(self, address: int, size: int) -> bytes | None:
        offset = address - self._low
        if offset >= 0 and offset + size <= self._size:
            return self._data[offset : offset + size]
        return self._source(address, size)


def present(target: Target, low: int, high: int) -> bytes:
    """What the dump holds of a stack from ``low`` on, without a gap."""
    data = target.memory.read(low, high - low)
    while data is None and high - low > 0x1000:
        high = (high - 1) & ~0xFFF
        data = target.memory.read(low, high - low)
    return data or b""


def stack_bytes(target: Target, start: Start) -> Covered:
    """The target's memory, with the used part of the stack that the walk begins on read once."""
    sp, (low, data) = start.context.sp, start.held
    if sp is not None:
        sp = sign_extended(sp, target.memory.pointer_size)
    if sp is not None and not low <= sp < low + len(data):
        low, data = 0, b""
        for limit, base in start.segments:
            if limit <= sp < base:
                low, data = sp, present(target, sp, min(base, sp + LARGEST_STACK))
    return Covered(target.memory.read, low, data)
