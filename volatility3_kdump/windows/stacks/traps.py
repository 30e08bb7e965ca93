"""Trap frames and exception records on the stacks of the crash, and which trap frame is that of the failure.

On x64 the exception dispatcher keeps, from its stack pointer on, a KEXCEPTION_FRAME, the exception record at 138h, the
return address into the trap handler at 1D8h and above it, at 1E0h, the trap frame: so a record lies 0A8h below the trap
frame of its exception, and 238h below the interrupted stack pointer. On x86 CommonDispatchException has its return
address right below the trap frame, and the record below that. On ARM64 a record is known by its shape alone, and the
trap frame by the address in the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from volatility3_kdump import tables
from volatility3_kdump.cpu import amd64, arm64, x86
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.exception import (
    CODES,
    MAXIMUM_PARAMETERS,
    ExceptionRecord,
    parse_exception_record,
    record_size,
)
from volatility3_kdump.cpu.trap_frames import alignment, is_known, places_of, read_trap_frame, trap_frame_size
from volatility3_kdump.memory import sign_extended
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
#: EXCEPTION_RECORD.NumberParameters, by the size of a pointer.
_COUNT_OFFSET = {8: 0x18, 4: 0x10}


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


def names_null(rule: Mapping[str, Any]) -> bool:
    """Whether a zero for the instruction pointer means a jump to null: the arguments tell of an access or exception."""
    return "address" in rule or "exception_code" in rule


def trap_at(target: Target, address: int) -> Context | None:
    """The registers in the trap frame at an address; ``None`` when there is none."""
    return read_trap_frame(target.header.architecture, target.memory.read, address, target.nt)


def is_record_at(target: Target, address: int) -> bool:
    """Whether an exception record lies at an address, by its shape."""
    data = target.memory.read(address, record_size(target.memory.pointer_size))
    return data is not None and _may_be_record(target, data)


def _failure_trap(target: Target) -> Trap | None:
    architecture = target.header.architecture
    if not is_known(architecture):
        return None
    code, arguments = target.header.bug_check_code, target.header.bug_check_parameters
    rule: Mapping[str, Any] = (tables.bug_check_record(code) or {}).get("failure", {}) if code is not None else {}

    def argument(key: str) -> int | None:
        number = rule.get(key)
        return None if number is None or len(arguments) < int(number) else arguments[int(number) - 1]

    named, pointer = argument("trap_frame"), argument("trap_frame_pointer")
    implied = pointer - RBP_IN_TRAP_FRAME if pointer and architecture == "x64" else None
    for address, how in (
        (named, f"named by argument {rule.get('trap_frame')}"),
        (implied, f"implied by argument {rule.get('trap_frame_pointer')}"),
    ):
        context = trap_at(target, address) if address else None
        if address and context is not None:
            return Trap(sign_extended(address, target.memory.pointer_size), context, how)
    ip, exception = argument("ip"), argument("exception_code")
    header = crash_context(target)
    if ip is None or (not ip and not names_null(rule)) or (header is not None and header.ip == ip):
        return None
    # The processor reports a breakpoint behind it, and the dispatcher sets the record's address back.
    places = places_of(architecture, ip, exception is not None and exception & 0xFFFFFFFF == _BREAKPOINT)
    for trap in trap_frames(target):
        if trap.context.ip in places:
            return trap._replace(how=f"on the stack, its {trap.context.ip_name} is argument {rule['ip']}")
    return None


def _trap_frames(target: Target) -> tuple[Trap, ...]:
    if not is_known(target.header.architecture):
        return ()
    places = _aligned if target.header.architecture == "x64" else _searched
    frames = []
    for stack in live_stacks(target):
        for address in places(target, stack):
            context = trap_at(target, address)
            if context is not None:
                frames.append(Trap(address, context, "on the stack"))
    return tuple(frames)


def _searched(target: Target, stack: LiveStack) -> Iterator[int]:
    """Places on a stack where a trap frame can lie: those with the marks of the trap handler."""
    architecture, read = target.header.architecture, target.memory.read
    is_marked = x86.is_marked if architecture == "x86" else arm64.is_marked
    step, size = alignment(architecture), trap_frame_size(architecture)
    for start, data in parts_of(target, stack):
        for offset in range(-start % step, len(data) - size + 1, step):
            if is_marked(read, start + offset):
                yield start + offset


def _aligned(target: Target, stack: LiveStack) -> Iterator[int]:
    """Places on a stack where SegCs, the same in every x64 kernel, is one of Windows."""
    for start, data in parts_of(target, stack):
        first = -start % 16
        for offset in range(first, len(data) - 1, 16):
            if int.from_bytes(data[offset : offset + 2], "little") in _SEGMENTS:
                yield start + offset - _CODE_SEGMENT


def _stacked_exceptions(target: Target) -> tuple[StackedException, ...]:
    exceptions = []
    width = target.memory.pointer_size
    size = record_size(width)
    for stack in live_stacks(target):
        for start, data in parts_of(target, stack):
            for offset in range(-start % width, len(data) - 7, width):
                if int.from_bytes(data[offset : offset + 4], "little") not in CODES:
                    continue
                content = target.memory.read(start + offset, size)
                record = parse_exception_record(content, width) if content and _may_be_record(target, content) else None
                if record is None:
                    continue
                trap = _trap_of(target, start + offset, record)
                exceptions.append(StackedException(start + offset, record, trap, stack.kind))
    return tuple(exceptions)


def _trap_of(target: Target, address: int, record: ExceptionRecord) -> int | None:
    """The trap frame of an exception whose record lies at an address; ``None`` where it is not where it belongs."""
    architecture = target.header.architecture
    places = places_of(architecture, record.address, record.code == _BREAKPOINT)
    if architecture == "arm64":
        above = (trap for trap in trap_frames(target) if trap.address > address and trap.context.ip in places)
        return next((trap.address for trap in above), None)
    trap = address + (x86.RECORD_BELOW_TRAP_FRAME if architecture == "x86" else _RECORD_BELOW_TRAP)
    context = trap_at(target, trap)
    # That the debugger's dispatcher sets RIP back for some breakpoints and not for others makes no difference here.
    own = context is not None and context.ip in (*places, record.address + 1)
    return trap if own else None


def _may_be_record(target: Target, data: bytes) -> bool:
    record = parse_exception_record(data, target.memory.pointer_size)
    if record is None or record.code not in CODES or record.flags > _MOST_FLAGS or record.nested:
        return False
    width = target.memory.pointer_size
    count_at = _COUNT_OFFSET[width]
    if int.from_bytes(data[count_at : count_at + 4], "little") > MAXIMUM_PARAMETERS:
        return False
    if target.is_kernel_address(record.address):
        return amd64.is_canonical(sign_extended(record.address, width)) and bool(target.names.module_of(record.address))
    return record.address >= 0x10000 and amd64.is_canonical(record.address)
