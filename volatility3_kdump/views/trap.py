"""Rows of ``kdump.trap``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.analysis.failure import Failure, exception_site
from volatility3_kdump.cpu.exception import ExceptionRecord
from volatility3_kdump.target import Target
from volatility3_kdump.text.analyze import NOTE, exception_lines, shown_code
from volatility3_kdump.text.registers import register_block
from volatility3_kdump.views.analyze import ANALYSIS, exception_rows, failure_rows, register_rows
from volatility3_kdump.views.grid import KdumpGrid, Row


def failure_grid(target: Target, failure: Failure) -> KdumpGrid:
    """The registers of a trap frame or context record, the code there, and what could be recovered."""

    def rows() -> Iterator[Row]:
        yield from failure_rows(target, failure)
        yield from register_rows(failure)

    def kd_lines() -> Iterator[str]:
        if failure.trap_frame is not None:
            yield from NOTE
        yield from register_block(failure.shown, kd=True)
        yield from shown_code(failure, target.memory.pointer_size)

    return ANALYSIS.grid(rows(), kd_lines)


def exception_grid(target: Target, address: int, record: ExceptionRecord) -> KdumpGrid:
    """An exception record."""
    size = target.memory.pointer_size
    return ANALYSIS.grid(
        exception_rows(target, address, record),
        lambda: exception_lines(record, size, exception_site(target, record)),
    )
