from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.cpu import amd64
from volatility3_kdump.cpu.context import (
    Context,
    context_size,
    parse_context,
    recognise_architecture,
    register_names,
    why_not_context,
)
from volatility3_kdump.symbols.isf import load_table_file

HEADER_CONTEXT = 0x348

# Known from the bug check arguments, the stack's start in the triage header, and the published analyses of the files.
REAL_CONTEXTS = {
    "triage_x64_19041": (
        "x64",
        {
            "rip": 0xFFFFF8048B58334C,
            "rsp": 0xFFFF850429892120,
            "eflags": 0x50246,
            "cs": 0x10,
            "ss": 0x18,
            "ds": 0x2B,
            "es": 0x2B,
            "fs": 0x53,
            "gs": 0x2B,
        },
    ),
    "triage_x64_19041_0x1a": ("x64", {"rcx": 0x1A, "rdx": 0x402}),
    "triage_x64_17763": ("x64", {"rip": 0xFFFFF8044A24D2D4}),
    "triage_arm64_22000": ("arm64", {"sp": 0xFFFFE00E0E4BC4A0}),
}


def test_arm64_frame_and_program_counter_lie_where_they_must(dump_bytes: Callable[[str], bytes]) -> None:
    data = dump_bytes("triage_arm64_22000")
    context = parse_context(data[HEADER_CONTEXT : HEADER_CONTEXT + 0x390], "arm64", "header context")
    assert context is not None and context.ip is not None and context.sp is not None and context.fp is not None
    assert 0xFFFFF803F2E00000 <= context.ip < 0xFFFFF803F2E00000 + 0x103E000
    assert context.sp <= context.fp < 0xFFFFE00E0E4BD000
    assert {*(f"x{number}" for number in range(29)), "fp", "lr", "sp", "pc", "cpsr"} <= context.known


@pytest.mark.parametrize("name", REAL_CONTEXTS)
def test_header_context_of_real_dumps(name: str, dump_bytes: Callable[[str], bytes]) -> None:
    architecture, expected = REAL_CONTEXTS[name]
    data = dump_bytes(name)[HEADER_CONTEXT : HEADER_CONTEXT + 3000]
    context = parse_context(data, architecture, "header context")
    assert context is not None
    assert {register: context.registers[register] for register in expected} == expected
    assert recognise_architecture(data) == architecture
    assert context.address is None
    assert context.ip is not None and context.sp is not None and context.fp is not None
    assert context.has_segments == (architecture == "x64")


def test_vector_registers_of_a_real_context(dump_bytes: Callable[[str], bytes]) -> None:
    data = dump_bytes("triage_x64_19041")
    context = parse_context(data[HEADER_CONTEXT:][:0x4D0], "x64", "header context")
    assert context is not None and context.xmm is not None and len(context.xmm) == 16
    assert struct.pack("<QQ", *divmod(context.xmm[0], 1 << 64)[::-1]) == data[HEADER_CONTEXT + 0x1A0 :][:16]
    # The copy of MxCsr in the floating-point save area.
    assert context.registers["mxcsr"] == struct.unpack_from("<I", data, HEADER_CONTEXT + 0x118)[0]


def test_offsets_equal_the_kernel_symbols(isf_path: Path) -> None:
    layouts = load_table_file(isf_path)
    assert context_size("x64") == layouts.size_of("_CONTEXT")
    record = bytearray(layouts.size_of("_CONTEXT"))
    flags = layouts.field("_CONTEXT", "ContextFlags")
    record[flags.offset : flags.offset + 4] = struct.pack("<I", 0x10001F)
    expected = {}
    spelled = {"cs": "SegCs", "ss": "SegSs", "ds": "SegDs", "es": "SegEs", "fs": "SegFs", "gs": "SegGs"}
    spelled |= {"eflags": "EFlags", "mxcsr": "MxCsr"}
    for number, name in enumerate(sorted(register_names("x64"))):
        field = layouts.field("_CONTEXT", spelled.get(name, name.capitalize()))
        expected[name] = int.from_bytes(bytes([number + 1]) * field.size, "little")
        record[field.offset : field.offset + field.size] = expected[name].to_bytes(field.size, "little")
    vector = layouts.field("_CONTEXT", "Xmm5")
    record[vector.offset : vector.offset + 16] = (0x1122 << 64).to_bytes(16, "little")
    context = parse_context(bytes(record), "x64", "context record", 0x1000)
    assert context is not None
    assert context.registers == expected
    assert context.xmm is not None and context.xmm[5] == 0x1122 << 64


def _record(architecture: str, flags: int) -> bytes:
    record = bytearray(context_size(architecture))
    struct.pack_into("<I", record, 0x30 if architecture == "x64" else 0, flags)
    return bytes(record)


def test_only_the_written_groups_are_known() -> None:
    control = parse_context(_record("x64", 0x100001), "x64", "context record")
    assert control is not None
    assert control.known == {"rip", "rsp", "cs", "ss", "eflags"}
    assert control.get("rax") is None and control.xmm is None and not control.has_segments
    integer = parse_context(_record("x64", 0x100002), "x64", "context record")
    assert integer is not None and integer.ip is None
    assert integer.known == {*amd64.VOLATILE, *amd64.NONVOLATILE}


def test_x86_context() -> None:
    record = bytearray(_record("x86", 0x10007))
    struct.pack_into("<III", record, 0xB4, 0xF8A2DC6C, 0x804E3592, 0x8)
    struct.pack_into("<III", record, 0xC0, 0x246, 0xF8A2DC5C, 0x10)
    context = parse_context(bytes(record), "x86", "header context")
    assert context is not None
    assert (context.ip, context.sp, context.fp) == (0x804E3592, 0xF8A2DC5C, 0xF8A2DC6C)
    assert context.has_segments and context.pointer_size == 4
    assert recognise_architecture(bytes(record)) == "x86"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PAGE" * 0x200, "never written"),
        (bytes(0x4D0), "not those of an x64"),
        (_record("x64", 0x100000), "no register was written"),
        (_record("arm64", 0x400007) + bytes(0x200), "not those of an x64"),
        (bytes(0x20), "too few"),
    ],
)
def test_what_is_not_a_context_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    assert parse_context(data, "x64", "header context") is None
    why = why_not_context(data, "x64")
    assert why is not None and reason in why


def test_a_record_cut_short_loses_only_what_is_missing() -> None:
    for size in (0xF8, 0xFC):
        context = parse_context(_record("x64", 0x10000F)[:size], "x64", "context record")
        assert context is not None
        assert "r15" in context.known and context.ip is None and context.xmm is None


@pytest.mark.parametrize(
    "architecture, names",
    [("x64", ("rip", "rsp", "rbp")), ("arm64", ("pc", "sp", "fp")), ("x86", ("eip", "esp", "ebp"))],
)
def test_pointers_of_each_architecture(architecture: str, names: tuple[str, str, str]) -> None:
    context = Context(architecture, {name: number for number, name in enumerate(names)}, "test")
    assert (context.ip, context.sp, context.fp) == (0, 1, 2)
    assert not context.has_segments
    assert Context(architecture, {}, "test").ip is None


def test_replace_derives_a_context() -> None:
    first = Context("x64", {"rip": 1, "rsp": 2, "rbx": 3}, "header context", 0x1000)
    second = first.replace("unwind", rip=10, rbx=None, r12=4)
    assert second.registers == {"rip": 10, "rsp": 2, "r12": 4}
    assert (second.source, second.address) == ("unwind", None)
    assert first.registers == {"rip": 1, "rsp": 2, "rbx": 3}
    assert first.replace(rip=9).address == 0x1000
    with pytest.raises(ValueError, match="eip"):
        first.replace(eip=1)


@given(data=st.binary(max_size=0x600), architecture=st.sampled_from(["x64", "arm64", "x86", "ia64"]))
def test_random_bytes_never_raise(data: bytes, architecture: str) -> None:
    context = parse_context(data, architecture, "context record")
    assert (context is None) or (why_not_context(data, architecture) is None)


@given(flags=st.integers(0, 0xFFFFFFFF), size=st.integers(0x34, 0x4D0), architecture=st.sampled_from(["x64", "arm64"]))
def test_any_flags_and_length(flags: int, size: int, architecture: str) -> None:
    context = parse_context(_record(architecture, flags)[:size], architecture, "context record")
    if context is not None:
        assert context.known <= register_names(architecture)
        assert flags & 0xFF0000 == (0x100000 if architecture == "x64" else 0x400000)
