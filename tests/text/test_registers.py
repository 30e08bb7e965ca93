"""KD's words for registers and instructions, judged by published KD output."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.amd64 import trap_frame
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.disasm import decode
from volatility3_kdump.text.addresses import address64, little_endian, named, pointer
from volatility3_kdump.text.registers import absent_code_line, code_line, flags_words, register_block

FRAME = 0xFFFFD48F77AF97E0
FAULT = 0xFFFFF80060DA1981

TRANSCRIPT_BLOCK = """\
rax=00000000c85c00f0 rbx=0000000000000000 rcx=ffffd80241e00340
rdx=0000000000000890 rsi=0000000000000000 rdi=0000000000000000
rip=fffff80060da1981 rsp=ffffd48f77af9970 rbp=0000000000000002
 r8=ffffd8024abbdc80  r9=0000000000000000 r10=ffffd80241e002c0
r11=ffffd8024aa9bff0 r12=0000000000000000 r13=0000000000000000
r14=0000000000000000 r15=0000000000000000
iopl=0         nv up ei ng nz na pe nc"""
TRANSCRIPT_CODE = "fffff800`60da1981 8b03            mov     eax,dword ptr [rbx] ds:00000000`00000000=????????"


def _memory(start: int, data: bytes) -> Read:
    def read(address: int, size: int) -> bytes | None:
        offset = address - start
        return data[offset : offset + size] if offset >= 0 and offset + size <= len(data) else None

    return read


def _transcript_context() -> Context:
    frame = bytearray(0x190)
    frame[0x2B] = 1
    volatile = (0xC85C00F0, 0xFFFFD80241E00340, 0x890, 0xFFFFD8024ABBDC80, 0, 0xFFFFD80241E002C0, 0xFFFFD8024AA9BFF0)
    struct.pack_into("<7Q", frame, 0x30, *volatile)
    struct.pack_into("<Q", frame, 0x158, 2)
    struct.pack_into("<5Q", frame, 0x168, FAULT, 0x10, 0x50286, 0xFFFFD48F77AF9970, 0x18)
    context = trap_frame(_memory(FRAME, bytes(frame)), FRAME)
    assert context is not None
    return context


def test_the_expected_text_is_the_transcript() -> None:
    data = os.environ.get("KDUMP_TEST_DATA")
    shared = Path(data).parent if data else Path(__file__).resolve().parents[3] / "shared"
    transcript = shared / "seeds" / "article-transcript.md"
    if not transcript.is_file():
        pytest.skip("no transcript beside the test data")
    text = transcript.read_text(encoding="utf-8")
    assert TRANSCRIPT_BLOCK + "\nmyfault+0x1981:\n" + TRANSCRIPT_CODE in text


def test_trap_frame_as_kd_shows_it() -> None:
    context = _transcript_context()
    assert "\n".join(register_block(context, kd=True)) == TRANSCRIPT_BLOCK
    instruction = decode(_memory(FAULT, b"\x8b\x03"), FAULT, "x64", context)
    assert instruction is not None
    assert code_line(instruction, context, kd=True) == TRANSCRIPT_CODE


def test_unknown_registers_are_not_zero() -> None:
    context = _transcript_context()
    lines = register_block(context)
    assert lines[0] == "rax=00000000c85c00f0 rbx=???????????????? rcx=ffffd80241e00340"
    assert lines[5] == "r14=???????????????? r15=????????????????"
    assert lines[6] == "iopl=0         nv up ei ng nz na pe nc"
    instruction = decode(_memory(FAULT, b"\x8b\x03"), FAULT, "x64", context)
    assert instruction is not None
    assert code_line(instruction, context) == (
        "fffff800`60da1981 8b03            mov     eax,dword ptr [rbx] ds:????????`????????=???????? (rbx not known)"
    )
    bare = register_block(Context("x64", {}, "nothing"))
    assert bare[0] == "rax=???????????????? rbx=???????????????? rcx=????????????????"
    assert bare[-1] == "iopl=?         ?? ?? ?? ?? ?? ?? ?? ??"


SEGMENTS = {"cs": 0x10, "ss": 0x18, "ds": 0x2B, "es": 0x2B, "fs": 0x53, "gs": 0x2B, "eflags": 0x50206}


def test_segments_of_a_full_context() -> None:
    context = Context("x64", {"rax": 0x4141414141414141, **SEGMENTS}, "context record")
    lines = register_block(context)
    assert lines[-2:] == [
        "iopl=0         nv up ei pl nz na pe nc",
        "cs=0010  ss=0018  ds=002b  es=002b  fs=0053  gs=002b             efl=00050206",
    ]
    at = 0xFFFFF8076624F3D4
    instruction = decode(_memory(at, b"\x33\x00"), at, "x64", context)
    assert instruction is not None
    assert code_line(instruction, context) == (
        "fffff807`6624f3d4 3300            xor     eax,dword ptr [rax] ds:002b:41414141`41414141=????????"
    )


def test_x86_block() -> None:
    names = ("eax", "ebx", "ecx", "edx", "esi", "edi", "eip", "esp", "ebp")
    registers = {name: number for number, name in enumerate(names)}
    context = Context("x86", {**registers, **SEGMENTS, "eflags": 0x10246}, "context record")
    assert register_block(context) == [
        "eax=00000000 ebx=00000001 ecx=00000002 edx=00000003 esi=00000004 edi=00000005",
        "eip=00000006 esp=00000007 ebp=00000008 iopl=0         nv up ei pl zr na pe nc",
        "cs=0010  ss=0018  ds=002b  es=002b  fs=0053  gs=002b             efl=00010246",
    ]


def test_arm64_block() -> None:
    registers = {f"x{number}": number for number in range(29)}
    registers |= {"fp": 0xF, "lr": 0xE, "sp": 0xD, "pc": 0xFFFFF803F2E00000, "cpsr": 0x60000044}
    lines = register_block(Context("arm64", registers, "header context"))
    assert len(lines) == 9
    assert lines[0] == " x0=0000000000000000   x1=0000000000000001   x2=0000000000000002   x3=0000000000000003"
    assert lines[7] == "x28=000000000000001c   fp=000000000000000f   lr=000000000000000e   sp=000000000000000d"
    assert lines[8] == " pc=fffff803f2e00000  psr=60000044 -ZC- EL1"
    assert register_block(Context("arm64", {}, "nothing"))[8] == " pc=????????????????  psr=????????"


@pytest.mark.parametrize(
    "eflags, words",
    [
        (0x50286, "nv up ei ng nz na pe nc"),
        (0x246, "nv up ei pl zr na pe nc"),
        (0xED7, "ov dn ei ng zr ac pe cy"),
        (0x2, "nv up di pl nz na po nc"),
        (0x180202, "nv up ei pl nz na po nc vip vif"),
    ],
)
def test_flags(eflags: int, words: str) -> None:
    assert flags_words(eflags) == words


def test_privilege_level_of_port_access() -> None:
    assert register_block(Context("x64", {"eflags": 0x3202}, "test"))[-1].startswith("iopl=3 ")


@pytest.mark.parametrize(
    "code, note",
    [
        # Stack operands are in ss; the value has the operand's width.
        ("4889442408", " ss:0018:ffffd48f`77af9978=1716151413121110"),
        ("8a4508", " ss:0018:00000000`0000000a=??"),
        ("0f10442408", " ss:0018:ffffd48f`77af9978=1f1e1d1c1b1a19181716151413121110"),
        # The base of gs is not known, and KD shows the offset.
        ("65488b042588010000", " gs:002b:00000000`00000188=????????????????"),
        ("488b0500000000", " ds:002b:fffff800`60da1988=????????????????"),
        # String moves have two.
        ("f3a4", " es:002b:ffffd48f`77af9978=10 ds:002b:00000000`00000005=??"),
        # Branches.
        ("7405", " [br=1]"),
        ("7505", " [br=0]"),
        ("e800000000", ""),
        ("ffd3", " {nt!Foo (fffff800`62a00000)}"),
        ("ffd0", " {00000000`c85c00f0}"),
        ("ff542408", " ss:0018:ffffd48f`77af9978={17161514`13121110}"),
        ("ff5508", " ss:0018:00000000`0000000a=????????????????"),
        ("0fae4508", " ss:0018:00000000`0000000a"),
        # Addressed but not accessed.
        ("488d442408", ""),
        ("0f1f00", ""),
    ],
)
def test_notes_on_the_current_instruction(code: str, note: str) -> None:
    registers = {"rax": 0xC85C00F0, "rbx": 0xFFFFF80062A00000, "rsp": 0xFFFFD48F77AF9970, "rbp": 2, "rcx": 1}
    registers |= {"rsi": 5, "rdi": 0xFFFFD48F77AF9978}
    context = Context("x64", {**registers, **SEGMENTS, "eflags": 0x246}, "context record")

    def read(address: int, size: int) -> bytes | None:
        found = _memory(FAULT, bytes.fromhex(code))(address, size)
        return found or _memory(0xFFFFD48F77AF9978, bytes(range(0x10, 0x20)))(address, size)

    names = {0xFFFFF80062A00000: "nt!Foo"}
    instruction = decode(read, FAULT, "x64", context, name_of=names.get)
    assert instruction is not None
    assert code_line(instruction, context) == code_line(instruction) + note


def test_lines_of_code() -> None:
    long = bytes.fromhex("48c7442420feffffff")
    instruction = decode(_memory(FAULT, long), FAULT, "x64")
    assert instruction is not None
    assert code_line(instruction) == (
        "fffff800`60da1981 48c7442420feffffff mov     qword ptr [rsp+20h],0FFFFFFFFFFFFFFFEh"
    )
    ret = decode(_memory(FAULT, b"\xc3"), FAULT, "x64")
    assert ret is not None and code_line(ret) == "fffff800`60da1981 c3              ret"
    arm = decode(_memory(FAULT & ~3, bytes.fromhex("fd7bbfa9")), FAULT & ~3, "arm64")
    assert arm is not None and code_line(arm) == "fffff800`60da1980 a9bf7bfd stp         fp,lr,[sp,#-0x10]!"
    short = decode(_memory(0x804E3592, b"\x8b\x03"), 0x804E3592, "x86")
    assert short is not None and code_line(short) == "804e3592 8b03            mov     eax,dword ptr [ebx]"
    assert absent_code_line(FAULT) == "fffff800`60da1981 ??              ???"
    assert absent_code_line(0x804E3592, "x86") == "804e3592 ??              ???"


def test_addresses() -> None:
    assert pointer(FAULT) == address64(FAULT) == "fffff800`60da1981"
    assert pointer(FAULT, tick=False) == "fffff80060da1981"
    assert pointer(0xFFFFFFFF804E3592, 4) == "804e3592"
    assert pointer(None) == "????????`????????"
    assert pointer(None, 4) == "????????"
    assert named(FAULT, "nt!Foo") == "nt!Foo (fffff800`60da1981)"
    assert named(FAULT, None) == "fffff800`60da1981"
    assert little_endian(b"\x10\x20", 2) == "2010"
    assert little_endian(None, 2) == "????"
