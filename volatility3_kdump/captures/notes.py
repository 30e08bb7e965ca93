"""The notes of an ELF core file: what QEMU writes of every virtual processor, and the guest's own dump header.

QEMU writes two notes for each processor, in their order: ``CORE`` (NT_PRSTATUS, as Linux has it) and ``QEMU``, type 0,
with control registers, segments and tables besides the general registers; the layout of the latter is QEMUCPUState in
QEMU's ``target/i386/arch_dump.c``. libvirt's ``dump --memory-only`` has QEMU write them. A driver in a Windows guest
may leave a crash-dump header with QEMU, which is then a note as well.

Of ARM64 there is NT_PRSTATUS only (aarch64_elf_prstatus in QEMU's ``target/arm/arch_dump.c``): general registers,
SP, PC and PSTATE, no system registers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from volatility3_kdump.cpu.state import ProcessorState

_NOTE = struct.Struct("<III")
_NT_PRSTATUS = 1
#: QEMUCPUState: version and size, 16 general registers, rip and rflags, ten segments of 24 bytes, CR0 to CR4; later
#: versions have KERNEL_GS_BASE behind.
_STATE = struct.Struct("<II18Q")
_SEGMENT = struct.Struct("<IIIIQ")
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_ORDER = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{number}" for number in range(8, 16)))
_CONTROL_AT = _STATE.size + len(_SEGMENTS) * _SEGMENT.size
_STATE_SIZE = _CONTROL_AT + 5 * 8
_KERNEL_GS_AT = _STATE_SIZE
#: elf_prstatus of x86-64: its registers stand at 112, in this order.
_PRSTATUS_SIZE, _REGISTERS_AT = 336, 112
_PRSTATUS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", ""),
    *("rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
#: elf_prstatus of x86, which QEMU writes for a processor that is not in long mode, into 64-bit files as well
#: (x86_elf_prstatus in ``target/i386/arch_dump.c``): registers at 72, each segment with two bytes of padding.
_X86_PRSTATUS_SIZE, _X86_REGISTERS_AT = 144, 72
_X86_PRSTATUS = (
    *("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", ""),
    *("eip", "cs", "eflags", "esp", "ss"),
)
#: elf_prstatus of ARM64: x0 to x30, sp, pc, pstate at 112.
_ARM64_PRSTATUS_SIZE = 392
_ARM64_PRSTATUS = (*(f"x{number}" for number in range(29)), "fp", "lr", "sp", "pc", "cpsr")
_HEADER_MAGIC, _HEADER_SIZE = b"PAGEDU64", 0x2000
#: Notes that are read at most: a machine of QEMU has up to 4,096 processors.
_MOST_NOTES = 1 << 14


class Note(NamedTuple):
    """A note: owner, type, content."""

    name: bytes
    kind: int
    data: bytes


def notes_in(data: bytes, complaints: list[str] | None = None) -> Iterator[Note]:
    """The notes of a segment; one that claims more than there is ends them, and is said in ``complaints``."""
    position = 0
    for _ in range(_MOST_NOTES):
        if position + _NOTE.size > len(data):
            return
        name_size, size, kind = _NOTE.unpack_from(data, position)
        begin = position + _NOTE.size + (name_size + 3 & ~3)
        if begin + size > len(data):
            if complaints is not None:
                complaints.append(
                    f"the note at {position:#x} of the notes claims {name_size + size:,} bytes, and "
                    f"{len(data) - position - _NOTE.size:,} are left: what follows is not read"
                )
            return
        name = data[position + _NOTE.size : position + _NOTE.size + name_size].rstrip(b"\0")
        yield Note(name, kind, data[begin : begin + size])
        position = begin + (size + 3 & ~3)


def processors_of(notes: list[Note]) -> tuple[list[ProcessorState], list[str]]:
    """The processors that notes tell of, and what is wrong with the notes.

    QEMU's own notes where there are any; those of Linux lack control registers and tables.
    """
    own = [note.data for note in notes if note.name == b"QEMU" and note.kind == 0]
    general = [note.data for note in notes if note.name == b"CORE" and note.kind == _NT_PRSTATUS]
    complaints = []
    if own and general and len(own) != len(general):
        complaints.append(
            f"the notes contradict each other: {len(general)} of the kind CORE, {len(own)} of the kind QEMU; the "
            "latter are used"
        )
    states = []
    for number, data in enumerate(own):
        if len(data) < _STATE_SIZE:
            complaints.append(f"the QEMU note of processor {number} has {len(data)} bytes, not {_STATE_SIZE}; ignored")
            continue
        states.append(_of_qemu(number, data))
    if not own:
        states = [_of_prstatus(number, data) for number, data in enumerate(general) if _is_prstatus(data)]
    return states, complaints


def header_in(notes: list[Note]) -> bytes | None:
    """The crash-dump header that the guest left with QEMU."""
    for note in notes:
        if note.data.startswith(_HEADER_MAGIC) and len(note.data) >= _HEADER_SIZE:
            return note.data[:_HEADER_SIZE]
    return None


def _of_qemu(number: int, data: bytes) -> ProcessorState:
    _, claimed, *values = _STATE.unpack_from(data, 0)
    registers = dict(zip((*_ORDER, "rip", "eflags"), values, strict=True))
    registers["eflags"] &= 0xFFFFFFFF
    bases = {}
    for place, name in enumerate(_SEGMENTS):
        selector, _, _, _, base = _SEGMENT.unpack_from(data, _STATE.size + place * _SEGMENT.size)
        bases[name] = base
        if len(name) == 2 and name != "tr":
            registers[name] = selector & 0xFFFF
    control = dict(enumerate(struct.unpack_from("<5Q", data, _CONTROL_AT)))
    kernel_gs = None
    if min(claimed, len(data)) >= _KERNEL_GS_AT + 8:
        (kernel_gs,) = struct.unpack_from("<Q", data, _KERNEL_GS_AT)
    return ProcessorState(
        number,
        f"QEMU note of processor {number}",
        registers,
        control,
        gs_base=bases["gs"],
        kernel_gs_base=kernel_gs or None,
        idt_base=bases["idt"],
        gdt_base=bases["gdt"],
        task_base=bases["tr"],
        fs_base=bases["fs"],
    )


def _is_prstatus(data: bytes) -> bool:
    return len(data) == _X86_PRSTATUS_SIZE or len(data) >= _PRSTATUS_SIZE


def _of_prstatus(number: int, data: bytes) -> ProcessorState:
    source = f"NT_PRSTATUS note of processor {number}"
    if len(data) == _X86_PRSTATUS_SIZE:
        words = struct.unpack_from(f"<{len(_X86_PRSTATUS)}I", data, _X86_REGISTERS_AT)
        values = dict(zip(_X86_PRSTATUS, words, strict=True))
        values.pop("")
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            values[name] &= 0xFFFF
        return ProcessorState(number, source, values, architecture="x86")
    if len(data) == _ARM64_PRSTATUS_SIZE:
        packed = struct.unpack_from(f"<{len(_ARM64_PRSTATUS)}Q", data, _REGISTERS_AT)
        return ProcessorState(number, source, dict(zip(_ARM64_PRSTATUS, packed, strict=True)), architecture="arm64")
    values = dict(zip(_PRSTATUS, struct.unpack_from(f"<{len(_PRSTATUS)}Q", data, _REGISTERS_AT), strict=True))
    gs_base = values.pop("gs_base")
    values.pop("fs_base")
    values.pop("")
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        values[name] &= 0xFFFF
    values["eflags"] &= 0xFFFFFFFF
    return ProcessorState(number, source, values, gs_base=gs_base)
