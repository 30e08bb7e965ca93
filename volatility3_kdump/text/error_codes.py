"""Error codes in the layout of KD's ``!error``, with their names in place of Microsoft's texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.windows.machine.error_codes import ErrorCode


def error_lines(codes: Iterable[ErrorCode]) -> Iterator[str]:
    """``Error code: (NTSTATUS) 0xc0000005 (3221225477) - STATUS_ACCESS_VIOLATION``."""
    for code in codes:
        name = code.name or "no name in the public headers"
        yield f"Error code: ({code.kind}) {code.value:#x} ({code.value}) - {name}"
