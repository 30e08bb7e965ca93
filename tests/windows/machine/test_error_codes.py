"""Error codes by name, against the values that Microsoft documents ([MS-ERREF])."""

from __future__ import annotations

import pytest

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text.error_codes import error_lines
from volatility3_kdump.views.error_codes import error_grid
from volatility3_kdump.windows.machine.error_codes import error_codes


@pytest.mark.parametrize(
    ("value", "kind", "name"),
    [
        (0xC0000005, "NTSTATUS", "STATUS_ACCESS_VIOLATION"),
        (0xC000021A, "NTSTATUS", "STATUS_SYSTEM_PROCESS_TERMINATED"),
        (0x5, "Win32", "ERROR_ACCESS_DENIED"),
        (0x3E5, "Win32", "ERROR_IO_PENDING"),
        (1314, "Win32", "ERROR_PRIVILEGE_NOT_HELD"),
        (0x80004005, "HRESULT", "E_FAIL"),
        (0x80070057, "HRESULT", "E_INVALIDARG"),
        (0x80070490, "HRESULT", "HRESULT_FROM_WIN32(ERROR_NOT_FOUND)"),
        (0xD0000022, "HRESULT", "HRESULT_FROM_NT(STATUS_ACCESS_DENIED)"),
        (0xE1234567, "NTSTATUS", None),
        (0x00FFFFFF, "Win32", None),
    ],
)
def test_the_first_meaning(value: int, kind: str, name: str | None) -> None:
    first = error_codes(value)[0]
    assert (first.kind, first.value, first.name) == (kind, value, name)


def test_a_small_number_can_be_a_status() -> None:
    assert [(code.kind, code.name) for code in error_codes(0x103)] == [
        ("Win32", "ERROR_NO_MORE_ITEMS"),
        ("NTSTATUS", "STATUS_PENDING"),
    ]
    assert [code.name for code in error_codes(0x103, status=True)] == ["STATUS_PENDING"]


def test_lines() -> None:
    assert list(error_lines(error_codes(0xC0000005))) == [
        "Error code: (NTSTATUS) 0xc0000005 (3221225477) - STATUS_ACCESS_VIOLATION"
    ]
    assert list(error_lines(error_codes(0xE1234567))) == [
        "Error code: (NTSTATUS) 0xe1234567 (3777185127) - no name in the public headers"
    ]


def test_a_sign_extended_status_is_one() -> None:
    assert list(error_grid([0xFFFFFFFFC0000005]).kd_lines()) == list(error_grid([0xC0000005]).kd_lines())
    with pytest.raises(KdumpError, match="0x1c0000005 is no error code: those have 32 bits"):
        error_grid([0x1C0000005])
