"""What a number can mean as an error code: an NTSTATUS, a Win32 error, an HRESULT.

An HRESULT of facility 7 carries a Win32 error in its low 16 bits, and one with bit 28 an NTSTATUS (``winerror.h``:
HRESULT_FROM_WIN32 and HRESULT_FROM_NT).
"""

from __future__ import annotations

from dataclasses import dataclass

from volatility3_kdump import tables

NTSTATUS, WIN32, HRESULT = "NTSTATUS", "Win32", "HRESULT"
_FAILURE, _FACILITY_WIN32, _FROM_NT = 0x80000000, 0x80070000, 0x10000000


@dataclass(frozen=True)
class ErrorCode:
    """One meaning of a number; ``name`` is that of its header, ``None`` where no public header has it."""

    kind: str
    value: int
    name: str | None


def error_codes(value: int, status: bool = False) -> list[ErrorCode]:
    """Every meaning of a number of 32 bits that has a name; one without a name where there is none.

    Small numbers are Win32 errors; with ``status`` the number is an NTSTATUS, whatever else it can be.
    """
    names = tables.win32_names()
    meanings = [(NTSTATUS, tables.status_names().get(value))]
    if not status:
        by_kind = [(WIN32, names[WIN32].get(value)), (HRESULT, names[HRESULT].get(value) or _carried(value))]
        meanings = meanings + by_kind if value & _FAILURE else [*by_kind, *meanings]
    named = [ErrorCode(kind, value, name) for kind, name in meanings if name is not None]
    return named or [ErrorCode(NTSTATUS if status or value & _FAILURE else WIN32, value, None)]


def _carried(value: int) -> str | None:
    """The error of another kind that an HRESULT carries."""
    if value & 0xFFFF0000 == _FACILITY_WIN32:
        name = tables.win32_names()[WIN32].get(value & 0xFFFF)
        return f"HRESULT_FROM_WIN32({name})" if name else None
    if value & _FROM_NT:
        name = tables.status_names().get(value & ~_FROM_NT)
        return f"HRESULT_FROM_NT({name})" if name else None
    return None
