"""Rows of ``kdump.error``."""

from __future__ import annotations

from collections.abc import Sequence

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text.error_codes import error_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.table import table
from volatility3_kdump.windows.machine.error_codes import error_codes

ERRORS = table(
    "kdump.error",
    keys.VALUE(lambda code: code.value),
    keys.KIND(lambda code: code.kind, "`NTSTATUS`, `Win32`, `HRESULT`"),
    keys.NAME(lambda code: code.name, "as in the public headers; null for a number that they do not have"),
)


def error_grid(values: Sequence[int], status: bool = False) -> KdumpGrid:
    """What numbers mean as error codes; with ``status`` as an NTSTATUS alone. Raises :class:`KdumpError`."""
    for value in values:
        # A status that was sign-extended to 64 bits is still one.
        if value >> 32 not in (0, 0xFFFFFFFF):
            raise KdumpError(f"{value:#x} is no error code: those have 32 bits")
    codes = [code for value in values for code in error_codes(value & 0xFFFFFFFF, status)]
    return ERRORS.grid((ERRORS.row(0, code) for code in codes), lambda: error_lines(codes))
