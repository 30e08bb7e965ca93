"""Exception records that no argument names: found by their shape on the crashing stack and on captured user stacks.

The kernel dispatcher of exceptions leaves an EXCEPTION_RECORD on the stack of the thread that it is for; for those in
user mode it copies the record to the user stack as well. Stacks hold other values too, so that a record counts only
where every field has the form that the dispatcher gives it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.analysis.failure import crash_stack
from volatility3_kdump.cpu.exception import (
    ACCESS_VIOLATION,
    MAXIMUM_PARAMETERS,
    STACK_BUFFER_OVERRUN,
    ExceptionRecord,
    parse_exception_record,
    record_size,
)

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_HEAD = struct.Struct("<IIQQII")
#: Flags of a record: noncontinuable, unwinding, software originated.
_FLAGS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80
_ERROR, _SEVERITY = 0xC0000000, 0xF0000000
_ACCESSES = (0, 1, 8)
_FAST_FAIL_CODES = 0x200
_LOWEST_CODE = 0x10000
#: User memory that small memory dumps capture is a few pages of each stack.
_MOST_BLOCKS, _LARGEST_BLOCK, _MOST_BYTES = 4096, 0x10000, 4 << 20


class PlacedRecord(NamedTuple):
    """A record and where it lies; ``user`` says that the exception was raised in user mode."""

    address: int
    record: ExceptionRecord
    user: bool


def kernel_stack_records(target: Target) -> Iterator[PlacedRecord]:
    """The records on the crashing kernel stack, lowest address first."""
    extent = crash_stack(target)
    if extent is None:
        return
    start = (extent[0] + 7) & ~7
    for address, data in target.memory.present(start, extent[1] - start):
        yield from _records(target, address, data)


def user_stack_records(target: Target) -> Iterator[PlacedRecord]:
    """The records in the user memory that a small memory dump holds, lowest address first."""
    triage = target.dump.triage
    if triage is None:
        return
    blocks = [block for block in triage.blocks if not target.is_kernel_address(block.address)]
    room = _MOST_BYTES
    for block in sorted(blocks, key=lambda block: block.address)[:_MOST_BLOCKS]:
        data = target.memory.read(block.address, min(block.size, _LARGEST_BLOCK, room))
        if data is not None:
            room -= len(data)
            yield from _records(target, block.address, data)


def _records(target: Target, start: int, data: bytes) -> Iterator[PlacedRecord]:
    size = record_size(8)
    if target.memory.pointer_size != 8:
        return
    first = -start % 8
    for offset in range(first, len(data) - size + 1, 8):
        # The code's highest byte tells most values apart at once.
        if data[offset + 3] & 0xF0 not in (0xC0, 0x80):
            continue
        code, flags, nested, address, count, padding = _HEAD.unpack_from(data, offset)
        if flags & ~_FLAGS or nested or padding or count > MAXIMUM_PARAMETERS or address < _LOWEST_CODE:
            continue
        record = parse_exception_record(data[offset : offset + size])
        if record is not None and _has_its_form(code, record):
            yield PlacedRecord(start + offset, record, not target.is_kernel_address(address))


def _has_its_form(code: int, record: ExceptionRecord) -> bool:
    if code == ACCESS_VIOLATION:
        return len(record.parameters) == 2 and record.parameters[0] in _ACCESSES
    if code == STACK_BUFFER_OVERRUN:
        return record.flags & 1 == 1 and len(record.parameters) >= 1 and record.parameters[0] < _FAST_FAIL_CODES
    return code & _SEVERITY == _ERROR and record.name is not None and not any(record.parameters[4:])
