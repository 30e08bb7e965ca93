from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.exception import (
    access_kind,
    accessed_address,
    code_name,
    code_text,
    parse_exception_record,
    record_size,
)
from volatility3_kdump.symbols.isf import load_table_file


def test_the_synthetic_record_in_real_headers(dump_bytes: Callable[[str], bytes]) -> None:
    for name in ("triage_x64_19041", "triage_arm64_22000"):
        record = parse_exception_record(dump_bytes(name)[0xF00 : 0xF00 + 0x98], 8)
        assert record is not None
        assert (record.code, record.flags, record.parameters, record.nested) == (0x80000003, 1, (), None)
        assert record.name == "STATUS_BREAKPOINT"


def test_the_record_of_a_real_access_violation(triage_reader: Callable[[str], Read]) -> None:
    """Argument 3 of bug check 0x7E is the address of the exception record."""
    data = triage_reader("triage_x64_19041")(0xFFFF850429891EE8, 0x98)
    assert data is not None
    record = parse_exception_record(data)
    assert record is not None
    assert (record.code, record.address) == (0xC0000005, 0xFFFFF8048B58334C)
    assert access_kind(record) == "write"
    assert len(record.parameters) == 2 and accessed_address(record) == record.parameters[1]


def test_offsets_equal_the_kernel_symbols(isf_path: Path) -> None:
    layouts = load_table_file(isf_path)
    type_name = "_EXCEPTION_RECORD"
    assert record_size(8) == layouts.size_of(type_name)
    data = bytearray(layouts.size_of(type_name))

    def put(name: str, value: int, index: int = 0) -> None:
        field = layouts.field(type_name, name)
        size = field.size // (field.count or 1)
        data[field.offset + size * index : field.offset + size * (index + 1)] = value.to_bytes(size, "little")

    put("ExceptionCode", 0xC0000006)
    put("ExceptionFlags", 1)
    put("ExceptionRecord", 0x1111)
    put("ExceptionAddress", 0x2222)
    put("NumberParameters", 3)
    for index in range(15):
        put("ExceptionInformation", 0x3330 + index if index else 8, index)
    record = parse_exception_record(bytes(data))
    assert record is not None
    assert (record.code, record.flags, record.nested, record.address) == (0xC0000006, 1, 0x1111, 0x2222)
    assert record.parameters == (8, 0x3331, 0x3332)
    assert access_kind(record) == "execute"


def test_32_bit_record() -> None:
    data = struct.pack("<IIIII3I", 0xC0000005, 0, 0, 0x804E3592, 2, 0, 0x14, 0xFFFF) + bytes(0x2C)
    record = parse_exception_record(data, 4)
    assert record is not None
    assert (record.address, record.parameters) == (0x804E3592, (0, 0x14))
    assert (access_kind(record), accessed_address(record)) == ("read", 0x14)


def test_parameters_are_bounded() -> None:
    data = struct.pack("<IIQQI", 0xC0000005, 0, 0, 1, 0xFFFFFFFF) + bytes(4 + 15 * 8)
    full = parse_exception_record(data + bytes(0x100))
    assert full is not None and len(full.parameters) == 15
    cut = parse_exception_record(data[:0x34])
    assert cut is not None and len(cut.parameters) == 2
    none = parse_exception_record(data[:0x1C])
    assert none is not None and none.parameters == () and access_kind(none) is None


@pytest.mark.parametrize("data", [b"", b"PAGE" * 0x26, bytes(0x98), bytes(0x10)])
def test_what_was_never_written_is_no_record(data: bytes) -> None:
    assert parse_exception_record(data) is None


def test_other_codes_have_no_access() -> None:
    record = parse_exception_record(struct.pack("<IIQQIIQQ", 0x80000003, 0, 0, 1, 2, 0, 1, 2))
    assert record is not None
    assert access_kind(record) is None and accessed_address(record) is None


@pytest.mark.parametrize(
    "code, name, text",
    [
        (0xC0000005, "STATUS_ACCESS_VIOLATION", "Access violation"),
        (0xFFFFFFFFC0000005, "STATUS_ACCESS_VIOLATION", "Access violation"),
        (0x80000003, "STATUS_BREAKPOINT", "Break instruction exception"),
        (0xC0000409, "STATUS_STACK_BUFFER_OVERRUN", "Security check failure or stack buffer overrun"),
        (0xC0000006, "STATUS_IN_PAGE_ERROR", "In-page I/O error"),
        (0x12345678, None, None),
    ],
)
def test_codes_have_names_and_words(code: int, name: str | None, text: str | None) -> None:
    assert (code_name(code), code_text(code)) == (name, text)


@given(data=st.binary(max_size=0xA0), pointer_size=st.sampled_from([4, 8]))
def test_random_bytes_never_raise(data: bytes, pointer_size: int) -> None:
    record = parse_exception_record(data, pointer_size)
    if record is not None:
        assert len(record.parameters) <= 15
        assert access_kind(record) in (None, "read", "write", "execute")
