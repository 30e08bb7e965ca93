"""Trap frames and exception records on the stacks of the crash, and which trap frame is that of the failure (x64).

The exception dispatcher keeps, from its stack pointer on, a KEXCEPTION_FRAME, the exception record at 138h, the return
address into the trap handler at 1D8h and above it, at 1E0h, the trap frame: so a record lies 0A8h below the trap frame
of its exception, and 238h below the interrupted stack pointer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from volatility3_kdump import tables
from volatility3_kdump.cpu import amd64
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.exception import (
    CODES,
    MAXIMUM_PARAMETERS,
    ExceptionRecord,
    parse_exception_record,
    record_size,
)
from volatility3_kdump.windows.processes.crashed import crash_context
from volatility3_kdump.windows.stacks.switched import LiveStack, live_stacks, parts_of

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: From the exception dispatcher's stack pointer: its record, the return address into the trap handler, the trap frame.
RECORD_IN_DISPATCHER, RETURN_IN_DISPATCHER, TRAP_IN_DISPATCHER = 0x138, 0x1D8, 0x1E0
_RECORD_BELOW_TRAP = TRAP_IN_DISPATCHER - RECORD_IN_DISPATCHER
#: A trap handler's rbp is this far above its trap frame.
RBP_IN_TRAP_FRAME = 0x80
#: KTRAP_FRAME.SegCs.
_CODE_SEGMENT = 0x170
_SEGMENTS = (0x10, 0x33, 0x23)
_BREAKPOINT = 0x80000003
_MOST_FLAGS = 0xFF
#: EXCEPTION_RECORD: code, flags, chain, address and count of parameters.
_HEAD_SIZE = 0x20


class Trap(NamedTuple):
    """A trap frame: its address, the registers that it saved, and in words how it is known."""

    address: int
    context: Context
    how: str


@dataclass(frozen=True)
class StackedException:
    """An exception record on a stack; ``trap_frame`` is the address of the trap frame of that exception, ``None`` where
    none lies where the dispatcher keeps it. ``stack`` says whose stack it is."""

    address: int
    record: ExceptionRecord
    trap_frame: int | None
    stack: str


def failure_trap(target: Target) -> Trap | None:
    """The trap frame of what failed, ``None`` where the dump does not have it.

    Named by an argument, implied by one (a trap handler's rbp), or on a stack of the crash with the instruction
    pointer of the arguments.
    """
    return target.once(_failure_trap)


def trap_frames(target: Target) -> tuple[Trap, ...]:
    """Everything on the stacks of the crash that can be a trap frame, stack by stack, lowest address first."""
    return target.once(_trap_frames)


def stacked_exceptions(target: Target) -> tuple[StackedException, ...]:
    """The exception records on the stacks of the crash, stack by stack, lowest address first.

    Known by their shape: a known code, few flags, no chain, an address of code, at most 15 parameters.
    """
    return target.once(_stacked_exceptions)


def find_exception(target: Target, code: int, address: int) -> tuple[int, ExceptionRecord] | None:
    """The exception record with this code and ExceptionAddress on the stacks of the crash, and where it lies.

    The kernel's exception dispatcher builds one for every exception that the processor raises.
    """
    width = target.memory.pointer_size
    wanted, size = (code & 0xFFFFFFFF).to_bytes(4, "little"), record_size(width)
    for stack in live_stacks(target):
        for start, data in parts_of(target, stack):
            position = data.find(wanted)
            while position >= 0:
                content = target.memory.read(start + position, size) if (start + position) % width == 0 else None
                record = parse_exception_record(content, width) if content is not None else None
                if record is not None and record.address == address & (1 << 8 * width) - 1:
                    return start + position, record
                position = data.find(wanted, position + 1)
    return None


def exception_of(target: Target, trap: int) -> tuple[int, ExceptionRecord] | None:
    """The exception record that the dispatcher keeps below a trap frame, and its address."""
    address = trap - _RECORD_BELOW_TRAP
    data = target.memory.read(address, record_size(8))
    record = None if data is None or not _may_be_record(target, data) else parse_exception_record(data)
    return None if record is None else (address, record)


def _failure_trap(target: Target) -> Trap | None:
    if target.header.architecture != "x64":
        return None
    code, arguments = target.header.bug_check_code, target.header.bug_check_parameters
    rule: Mapping[str, Any] = (tables.bug_check_record(code) or {}).get("failure", {}) if code is not None else {}

    def argument(key: str) -> int | None:
        number = rule.get(key)
        return None if number is None or len(arguments) < int(number) else arguments[int(number) - 1]

    named, pointer = argument("trap_frame"), argument("trap_frame_pointer")
    for address, how in (
        (named, f"named by argument {rule.get('trap_frame')}"),
        (pointer - RBP_IN_TRAP_FRAME if pointer else None, f"implied by argument {rule.get('trap_frame_pointer')}"),
    ):
        context = amd64.trap_frame(target.memory.read, address, target.nt) if address else None
        if address and context is not None:
            return Trap(address, context, how)
    ip, exception = argument("ip"), argument("exception_code")
    header = crash_context(target)
    if not ip or (header is not None and header.ip == ip):
        return None
    # The processor reports a breakpoint behind it, and the dispatcher sets the record's address back.
    behind = 1 if exception is not None and exception & 0xFFFFFFFF == _BREAKPOINT else 0
    for trap in trap_frames(target):
        if trap.context.ip in (ip, ip + behind):
            return trap._replace(how=f"on the stack, its rip is argument {rule['ip']}")
    return None


def _trap_frames(target: Target) -> tuple[Trap, ...]:
    if target.header.architecture != "x64":
        return ()
    frames = []
    for stack in live_stacks(target):
        for address in _aligned(target, stack):
            context = amd64.trap_frame(target.memory.read, address, target.nt)
            if context is not None:
                frames.append(Trap(address, context, "on the stack"))
    return tuple(frames)


def _aligned(target: Target, stack: LiveStack) -> Iterator[int]:
    """Places on a stack where SegCs, the same in every x64 kernel, is one of Windows."""
    for start, data in parts_of(target, stack):
        first = -start % 16
        for offset in range(first, len(data) - 1, 16):
            if int.from_bytes(data[offset : offset + 2], "little") in _SEGMENTS:
                yield start + offset - _CODE_SEGMENT


def _stacked_exceptions(target: Target) -> tuple[StackedException, ...]:
    if target.memory.pointer_size != 8:
        return ()
    exceptions = []
    size = record_size(8)
    for stack in live_stacks(target):
        for start, data in parts_of(target, stack):
            for offset in range(-start % 8, len(data) - 7, 8):
                if int.from_bytes(data[offset : offset + 4], "little") not in CODES:
                    continue
                content = target.memory.read(start + offset, size)
                record = parse_exception_record(content) if content and _may_be_record(target, content) else None
                if record is None:
                    continue
                trap = start + offset + _RECORD_BELOW_TRAP
                context = amd64.trap_frame(target.memory.read, trap, target.nt)
                own = context is not None and context.ip in (record.address, record.address + 1)
                exceptions.append(StackedException(start + offset, record, trap if own else None, stack.kind))
    return tuple(exceptions)


def _may_be_record(target: Target, data: bytes) -> bool:
    code, flags = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
    chain, address = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    count = int.from_bytes(data[24:_HEAD_SIZE], "little") & 0xFFFFFFFF
    if code not in CODES or flags > _MOST_FLAGS or chain or count > MAXIMUM_PARAMETERS:
        return False
    if target.is_kernel_address(address):
        return amd64.is_canonical(address) and target.names.module_of(address) is not None
    return address >= 0x10000 and amd64.is_canonical(address)
