"""Core files of VirtualBox and Xen, packed from their headers: the same processors as in QEMU's file of the machine."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.memory_images import elf_core
from volatility3_kdump.captures import Capture, open_capture
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.cpu.state import ProcessorState
from volatility3_kdump.dump import FileSource, extents

Image = Callable[..., Path]
_GENERAL = "rax rbx rcx rdx rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip rsp rbp eflags".split()
_USER_REGISTERS = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi".split()


def _opened(path: Path) -> Capture:
    capture = open_capture(FileSource(path), path)
    assert capture is not None
    return capture


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    """As Elf64WriteNoteHdr writes it: n_namesz without the terminator, name and content padded to 8 bytes."""
    data += bytes(-len(data) % 8)
    return struct.pack("<III", len(name), len(data), kind) + (name + b"\0").ljust(8, b"\0") + data


def _core_cpu(state: ProcessorState) -> bytes:
    """DBGFCORECPU of format version 0x10006."""
    take = state.registers
    data = struct.pack("<18Q", *(take[name] for name in _GENERAL))
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        data += struct.pack("<QIIHHI", (state.gs_base or 0) if name == "gs" else 0, 0xFFFF, 0, take[name], 0, 0)
    control = state.control
    data += struct.pack("<4Q8Q", control[0], control[2], control[3], control[4], *(0,) * 8)
    data += struct.pack("<QII", state.gdt_base or 0, 0x57, 0) + struct.pack("<QII", state.idt_base or 0, 0xFFF, 0)
    data += struct.pack("<QIIHHI", 0, 0, 0, 0, 0, 0) + struct.pack("<QIIHHI", state.task_base or 0, 0x67, 0, 0x40, 0, 0)
    data += struct.pack("<3Q", 0, 0, 0) + struct.pack("<6Q", 0xD01, 1, 2, 3, 4, 5)
    data += struct.pack("<Q", state.kernel_gs_base or 0) + struct.pack("<5QII", 0xFEE00900, 0, 1, 0, 0, 0x240, 0)
    return data + bytes(0x240)


def virtualbox(source: Path, path: Path, version: int = 0x10006, cut: int = 0, descriptor: bool = True) -> Path:
    """The file with VirtualBox's notes instead of QEMU's."""
    reference = _opened(source)
    notes = (
        _note(b"VBCORE", 0xB00, struct.pack("<6I", 0xC01AC0DE, version, 24, 0x07000010, 1, 3)) if descriptor else b""
    )
    for state in reference.processors:
        data = _core_cpu(state)
        notes += _note(b"VBCPU", 0xB01, data[: len(data) - cut])
    ranges = [
        (stretch.pfn << 12, reference.source.read(stretch.offset or 0, stretch.count << 12))
        for stretch in extents(reference.pages, 0, (reference.pages.highest or 0) + 1)
    ]
    path.write_bytes(elf_core(notes, ranges, flags=7))
    return path


def _guest_context(state: ProcessorState) -> bytes:
    """vcpu_guest_context of x86-64, as Xen fills it in for an HVM guest."""
    take = state.registers
    user = take["cs"] & 3 == 3
    kernel_gs, user_gs = state.gs_base or 0, state.kernel_gs_base or 0
    if user:
        kernel_gs, user_gs = user_gs, kernel_gs
    data = bytes(512) + struct.pack("<Q", 0x21)
    data += struct.pack("<15Q", *(take[name] for name in _USER_REGISTERS)) + struct.pack("<II", 0, 0xBEEF)
    data += struct.pack("<QHHB3xQQ", take["rip"], take["cs"], 0, 1, take["eflags"], take["rsp"])
    data += b"".join(struct.pack("<H6x", take[name]) for name in ("ss", "es", "ds", "fs", "gs"))
    data += bytes(256 * 16) + bytes(16) + bytes(17 * 8) + bytes(16)
    control = state.control
    data += struct.pack("<8Q", control[0], 0, control[2], control[3], control[4], 0, 0, 0)
    return data + bytes(8 * 8) + bytes(3 * 8) + bytes(8) + struct.pack("<QQQ", 0, kernel_gs, user_gs)


def xen(source: Path, path: Path, keep: int | None = None) -> Path:
    """The pages and processors of a file as ``xl dump-core`` writes them."""
    reference = _opened(source)
    contexts = [_guest_context(state) for state in reference.processors]
    assert {len(context) for context in contexts} == {5168}
    stretches = list(extents(reference.pages, 0, (reference.pages.highest or 0) + 1))
    frames = [stretch.pfn + index for stretch in stretches for index in range(stretch.count)]
    parts = {
        ".shstrtab": (b"", 0),
        ".xen_prstatus": (b"".join(contexts)[:keep], 5168),
        ".xen_pfn": (struct.pack(f"<{len(frames)}Q", *frames), 8),
        ".xen_pages": (
            b"".join(reference.source.read(stretch.offset or 0, stretch.count << 12) for stretch in stretches),
            0x1000,
        ),
    }
    names = b"\0" + b"".join(name.encode() + b"\0" for name in parts)
    parts[".shstrtab"] = names, 0
    offset = 0x40 + 0x40 * (len(parts) + 1)
    sections, body = [bytes(0x40)], b""
    for name, (data, entry) in parts.items():
        place = names.index(b"\0" + name.encode() + b"\0") + 1
        sections.append(struct.pack("<IIQQQQIIQQ", place, 1, 0, 0, offset + len(body), len(data), 0, 0, 8, entry))
        body += data
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 0x40, 0, 0x40, 0, 0, 0x40, len(sections), 1)
    path.write_bytes(header + b"".join(sections) + body)
    return path


@pytest.mark.parametrize("write", [virtualbox, xen])
def test_processors_are_those_of_the_machine(write: Callable[..., Path], image: Image, tmp_path: Path) -> None:
    ours, theirs = _opened(write(image("elf"), tmp_path / "vm.core")), _opened(image("elf"))
    assert len(ours.processors) == len(theirs.processors) == 3
    for state, reference in zip(ours.processors, theirs.processors, strict=True):
        assert dict(state.registers) == dict(reference.registers)
        assert {number: reference.control[number] for number in (0, 2, 3, 4)} == dict(state.control)
        assert (state.page_tables, state.gs_base, state.kernel_gs_base) == (
            reference.page_tables,
            reference.gs_base,
            reference.kernel_gs_base,
        )
        if write is virtualbox:
            assert (state.idt_base, state.gdt_base, state.task_base) == (
                reference.idt_base,
                reference.gdt_base,
                reference.task_base,
            )


@pytest.mark.parametrize("write", [virtualbox, xen])
def test_the_prompt_shows_every_processor(write: Callable[..., Path], image: Image, tmp_path: Path) -> None:
    answers = []
    for path in (write(image("elf", running=True), tmp_path / "vm.core"), image("elf", running=True)):
        session = Session()
        session.open(str(path))
        commands = ("r", "k", "~1s", "k", "!running -it")
        answers.append([line for command in commands for line in execute(session, command)])
        target = volatility3_kdump.open(path)
        assert target.problems == [] and len(target.dump.processors) == 3
        source = target.header.source_of("directory_table_base") or ""
        assert source.startswith("CR3 of the ")
    assert answers[0] == answers[1] and len(answers[0]) > 30


def test_damaged_notes_are_said(image: Image, tmp_path: Path) -> None:
    source = image("elf")
    old = _opened(virtualbox(source, tmp_path / "old.core", version=0x10000))
    assert old.processors == () and old.pages.warnings == (
        "the notes of VirtualBox have version 0x10000: processors are read from 0x10005 on",
    )
    assert old.why_no_registers == "the ELF file has no notes of processors that are understood here"
    short = _opened(virtualbox(source, tmp_path / "short.core", cut=0x300))
    assert short.processors == () and "the VBCPU note of processor 0 has" in short.pages.warnings[0]
    alone = _opened(virtualbox(source, tmp_path / "alone.core", descriptor=False))
    assert alone.processors == () and "no descriptor (VBCORE)" in alone.pages.warnings[0]
    cut = _opened(xen(source, tmp_path / "cut.core", keep=5168 + 100))
    assert len(cut.processors) == 1
    assert cut.pages.warnings == (".xen_prstatus ends within the entry of processor 1",)
