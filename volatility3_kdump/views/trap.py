"""Rows of ``kdump.trap``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.analysis.failure import Failure
from volatility3_kdump.cpu.exception import ExceptionRecord, access_kind, accessed_address, code_text
from volatility3_kdump.grid import KdumpGrid, Row
from volatility3_kdump.target import Target
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.analyze import NOTE, shown_code
from volatility3_kdump.text.registers import register_block
from volatility3_kdump.views.analyze import COLUMNS, exception_rows, failure_rows, register_rows


def failure_grid(target: Target, failure: Failure) -> KdumpGrid:
    """The registers of a trap frame or context record, the code there, and what could be recovered."""

    def rows() -> Iterator[Row]:
        yield from failure_rows(target, failure)
        yield from register_rows(failure)

    def kd_lines() -> Iterator[str]:
        if failure.trap_frame is not None:
            yield from NOTE
        yield from register_block(failure.shown, kd=True)
        yield from shown_code(target, failure)

    return KdumpGrid(COLUMNS, rows(), kd_lines)


def exception_grid(target: Target, address: int, record: ExceptionRecord) -> KdumpGrid:
    """An exception record."""
    return KdumpGrid(COLUMNS, exception_rows(target, address, record), lambda: _exception_lines(target, record))


def _exception_lines(target: Target, record: ExceptionRecord) -> Iterator[str]:
    size = target.memory.pointer_size
    name = target.lookup(record.address)
    site = ""
    if name is not None:
        stem = name.module if name.symbol is None else f"{name.module}!{name.symbol}"
        site = f" ({stem}+0x{name.offset:016x})"
    words = code_text(record.code)
    yield f"ExceptionAddress: {pointer(record.address, size, tick=False)}{site}"
    yield f"   ExceptionCode: {record.code:08x}" + (f" ({words})" if words else "")
    yield f"  ExceptionFlags: {record.flags:08x}"
    yield f"NumberParameters: {len(record.parameters)}"
    for number, value in enumerate(record.parameters):
        yield f"   Parameter[{number}]: {pointer(value, size, tick=False)}"
    kind = access_kind(record)
    if kind is not None:
        phrase = {"read": "read from", "write": "write to", "execute": "execute non-executable"}[kind]
        accessed = accessed_address(record)
        yield f"Attempt to {phrase} address {pointer(accessed, size, tick=False)}"
