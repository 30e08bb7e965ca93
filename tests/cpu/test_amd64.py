from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.cpu import Read, amd64
from volatility3_kdump.cpu.amd64 import exception_frame, looks_like_trap_frame, trap_frame, why_not_trap_frame
from volatility3_kdump.cpu.context import parse_context
from volatility3_kdump.symbols.isf import load_table_file

FAULT_FRAME = 0xFFFF850429891F90


def _memory(start: int, data: bytes) -> Read:
    def read(address: int, size: int) -> bytes | None:
        offset = address - start
        return data[offset : offset + size] if offset >= 0 and offset + size <= len(data) else None

    return read


def _frame(
    *, rsp: int, rip: int = 0xFFFFF80060DA1981, cs: int = 0x10, eflags: int = 0x50286, ss: int = 0x18, active: int = 1
) -> bytes:
    frame = bytearray(0x190)
    frame[0x2B] = active
    for number, offset in enumerate((0x30, 0x38, 0x40, 0x48, 0x50, 0x58, 0x60, 0x140, 0x148, 0x150, 0x158)):
        struct.pack_into("<Q", frame, offset, 0xA0 + number)
    struct.pack_into("<QQQQQ", frame, 0x168, rip, cs, eflags, rsp, ss)
    return bytes(frame)


@pytest.mark.parametrize("dump, frame", [("triage_x64_19041", FAULT_FRAME), ("triage_x64_17763", 0xFFFF998071D4EE30)])
def test_real_fault_frame_equals_the_header_context(
    dump: str, frame: int, dump_bytes: Callable[[str], bytes], triage_reader: Callable[[str], Read]
) -> None:
    header = parse_context(dump_bytes(dump)[0x348 : 0x348 + 0x4D0], "x64", "header context")
    context = trap_frame(triage_reader(dump), frame)
    assert header is not None and context is not None
    assert (context.source, context.address) == ("trap frame", frame)
    assert context.known == {*amd64.VOLATILE, "rbp", "rip", "rsp", "eflags", "cs", "ss"}
    assert dict(context.registers) == {name: header.registers[name] for name in context.known}
    assert not context.has_segments


@pytest.mark.parametrize("dump, frame", [("triage_x64_19041", FAULT_FRAME), ("triage_x64_17763", 0xFFFF998071D4EE30)])
def test_the_fault_frame_is_the_only_one_on_the_real_stack(
    dump: str, frame: int, dump_bytes: Callable[[str], bytes], triage_reader: Callable[[str], Read]
) -> None:
    data = dump_bytes(dump)
    (size,) = struct.unpack_from("<I", data, 0x202C)
    (top,) = struct.unpack_from("<Q", data, 0x2048)
    read = triage_reader(dump)
    found = [address for address in range(top & ~15, top + size, 16) if looks_like_trap_frame(read, address)]
    assert found == [frame]


def test_the_transcript_frame(isf_path: Path) -> None:
    """The frame of a page fault in the kernel, laid out by each kernel's own symbols."""
    layouts = load_table_file(isf_path)
    frame = bytearray(layouts.size_of("_KTRAP_FRAME"))
    values = {
        "ExceptionActive": 1,
        "Rax": 0xC85C00F0,
        "Rbx": 0xDEAD,
        "Rcx": 0xFFFFD80241E00340,
        "Rdx": 0x890,
        "Rbp": 2,
        "R8": 0xFFFFD8024ABBDC80,
        "R9": 0,
        "R10": 0xFFFFD80241E002C0,
        "R11": 0xFFFFD8024AA9BFF0,
        "Rip": 0xFFFFF80060DA1981,
        "Rsp": 0xFFFFD48F77AF9970,
        "SegCs": 0x10,
        "SegSs": 0x18,
        "EFlags": 0x50286,
    }
    for name, value in values.items():
        field = layouts.field("_KTRAP_FRAME", name)
        frame[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")
    address = 0xFFFFD48F77AF97E0
    with_symbols = trap_frame(_memory(address, bytes(frame)), address, layouts)
    without = trap_frame(_memory(address, bytes(frame)), address)
    assert with_symbols is not None and with_symbols == without
    expected = {name.lower(): value for name, value in values.items() if name.startswith("R") and name != "Rbx"}
    assert dict(with_symbols.registers) == {**expected, "cs": 0x10, "ss": 0x18, "eflags": 0x50286}


def test_fixed_offsets_equal_the_kernel_symbols(isf_path: Path) -> None:
    layouts = load_table_file(isf_path)
    for type_name, fixed, size in (
        ("_KTRAP_FRAME", amd64.TRAP_FRAME_FIELDS, amd64.TRAP_FRAME_SIZE),
        ("_KEXCEPTION_FRAME", amd64.EXCEPTION_FRAME_FIELDS, amd64.EXCEPTION_FRAME_SIZE),
    ):
        assert layouts.size_of(type_name) == size
        for name, place in fixed.items():
            field = layouts.field(type_name, name)
            assert (field.offset, field.size) == place, f"{type_name}.{name}"


def test_a_system_call_saves_other_registers_than_a_fault() -> None:
    address = 0xFFFFD48F77AF9E40
    data = _frame(rsp=0x7AE6BDE8D8, rip=0x7FF8F16ECE54, cs=0x33, eflags=0x246, ss=0x2B, active=2)
    context = trap_frame(_memory(address, data), address)
    assert context is not None
    assert context.known == {"rip", "rsp", "eflags", "cs", "ss", "rbp", "rbx", "rdi", "rsi"}
    assert (context.registers["rbx"], context.registers["rdi"], context.registers["rsi"]) == (0xA7, 0xA8, 0xA9)


def test_a_zw_call_is_known_by_its_return_address() -> None:
    address = 0xFFFFD48F77AF9E40
    linkage = 0xFFFFF80062A09000
    # ExceptionActive and SegSs hold what was on the stack before.
    data = _frame(rsp=address + 0x190, rip=linkage, eflags=0x40246, ss=0x8F1, active=1)
    context = trap_frame(_memory(address, data), address, service_linkage=linkage)
    assert trap_frame(_memory(address, data), address) is None
    assert context is not None
    assert context.known == {"rip", "rsp", "eflags", "cs", "rbp", "rbx", "rdi", "rsi"}


def test_parts_that_are_absent_leave_registers_unknown() -> None:
    address = 0xFFFFD48F77AF97E0
    data = _frame(rsp=address + 0x190)
    context = trap_frame(_memory(address + 0x158, data[0x158:]), address)
    assert context is not None
    assert context.known == {"rip", "rsp", "eflags", "cs", "ss", "rbp"}
    assert trap_frame(_memory(address, data[:0x180]), address) is None
    why = why_not_trap_frame(_memory(address, data[:0x180]), address)
    assert why is not None and "Rsp" in why and "not in the dump" in why


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"cs": 0x18}, "SegCs 0x18"),
        ({"eflags": 0x246 & ~2}, "reserved"),
        ({"eflags": 0x8246}, "reserved"),
        ({"rip": 0x1234567800000000}, "canonical"),
        ({"rsp": 0}, "Rsp 0x0"),
        ({"ss": 0x1234}, "SegSs 0x1234"),
        ({"rsp": 0xFFFFD48F77AF9000, "active": 113}, "another stack"),
        ({"cs": 0x33, "rip": 0x7FF8F16ECE54, "ss": 0x18}, "SegSs"),
        ({"cs": 0x33, "ss": 0x2B, "eflags": 0x246}, "user code segment"),
        ({"cs": 0x33, "ss": 0x2B, "rip": 0x7FF8F16ECE54, "eflags": 0x46}, "interrupts off"),
    ],
)
def test_implausible_frames_are_refused_with_a_reason(changes: dict[str, int], reason: str) -> None:
    address = 0xFFFFD48F77AF97E0
    read = _memory(address, _frame(**{"rsp": address + 0x190, **changes}))
    why = why_not_trap_frame(read, address)
    assert why is not None and reason in why
    assert trap_frame(read, address) is None


def test_frames_on_the_interrupted_stack_need_no_mark() -> None:
    address = 0xFFFFD48F77AF97E0
    assert looks_like_trap_frame(_memory(address, _frame(rsp=address + 0x198, active=113)), address)


def test_frames_of_32_bit_user_code() -> None:
    address = 0xFFFFD48F77AF9E40
    data = _frame(rsp=0x19FF30, rip=0x77561234, cs=0x23, eflags=0x10246, ss=0x2B)
    context = trap_frame(_memory(address, data), address)
    assert context is not None and context.ip == 0x77561234


def test_interrupts_with_their_own_stack_and_misaligned_addresses() -> None:
    address = 0xFFFFF80065C8EE70
    read = _memory(address, _frame(rsp=0xFFFFD48F77AF9970, ss=0, active=1))
    assert looks_like_trap_frame(read, address)
    why = why_not_trap_frame(_memory(address + 8, _frame(rsp=address + 0x198)), address + 8)
    assert why is not None and "aligned" in why


def test_exception_frame() -> None:
    data = bytearray(0x140)
    for number, offset in enumerate(range(0xF8, 0x138, 8)):
        struct.pack_into("<Q", data, offset, number)
    address = 0xFFFFD48F77AF96A0
    expected = {"rbp": 0, "rbx": 1, "rdi": 2, "rsi": 3, "r12": 4, "r13": 5, "r14": 6, "r15": 7}
    assert exception_frame(_memory(address, bytes(data)), address) == expected
    assert exception_frame(_memory(address + 0x118, bytes(data[0x118:])), address) == {
        name: value for name, value in expected.items() if value >= 4
    }
    assert exception_frame(_memory(0, b""), address) == {}


@given(data=st.binary(min_size=0, max_size=0x190), shift=st.integers(0, 0x190))
def test_random_bytes_never_raise(data: bytes, shift: int) -> None:
    address = 0xFFFFD48F77AF97E0
    read = _memory(address + shift, data)
    context = trap_frame(read, address)
    assert (context is not None) == looks_like_trap_frame(read, address)
    assert set(exception_frame(read, address)) <= set(amd64.NONVOLATILE)
