"""Exception records in the target's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.cpu.exception import ExceptionRecord, parse_exception_record, record_size
from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.memory import Memory

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


def read_exception_record(target: Target, address: int, memory: Memory | None = None) -> ExceptionRecord:
    """The EXCEPTION_RECORD at an address; ``memory`` is another address space than that of the crash.

    Raises :class:`KdumpError` where the dump holds none there, :class:`Unreadable` where it holds nothing.
    """
    memory = memory or target.memory
    data = memory.read(address, record_size(memory.pointer_size))
    if data is None:
        raise Unreadable.at(address, f"{target.name}: no exception record", memory.why_unreadable(address))
    record = parse_exception_record(data, memory.pointer_size)
    if record is None:
        raise KdumpError(f"{target.name}: no exception record at {address:#x}: the bytes there are none")
    return record
