"""The state of a processor from outside, as a hypervisor saves it: registers, and where its tables are.

What a guest's kernel cannot hide from its host: control registers, the bases of GS and the descriptor tables. A
hypervisor keeps them for every virtual processor.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from volatility3_kdump.cpu.context import Context

#: The bits of CR3 that name the top table; those below are flags and the process-context identifier.
CR3_TABLE = 0x000FFFFFFFFFF000
#: As CR3_TABLE, for the page directory pointers of 32-bit processors.
CR3_TABLE_32 = 0xFFFFFFE0

_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)), "rip")
#: CONTEXT_AMD64 with control, integer and segment registers; with the vector unit's control word besides.
_FLAGS, _FLOATING_POINT = 0x100007, 0x8
_CONTEXT_SIZE = 0x4D0
#: CONTEXT of ARM64 with control and integer registers.
_ARM64_FLAGS, _ARM64_SIZE = 0x400003, 0x390
_X86_GENERAL = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip")
_X86_SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")
#: CONTEXT of x86 with control and integer registers, and with segments; where each of them stands.
_X86_FLAGS, _X86_SEGMENTS, _X86_SIZE = 0x10003, 0x4, 0x2CC
_X86_ORDER = (
    "gs",
    "fs",
    "es",
    "ds",
    "edi",
    "esi",
    "ebx",
    "edx",
    "ecx",
    "eax",
    "ebp",
    "eip",
    "cs",
    "eflags",
    "esp",
    "ss",
)
_X86_AT = 0x8C
_ARM64_GENERAL = (*(f"x{number}" for number in range(29)), "fp", "lr", "sp", "pc")
#: The exception level in PSTATE: 0 is user mode.
_EXCEPTION_LEVEL = 0xC
_NARROW, _USER_RING = 0xFFFFFFFF, 3


@dataclass(frozen=True)
class ProcessorState:
    """One processor, x64, x86 or ARM64. ``number`` counts in the order of the container.

    ``registers`` has the names of :class:`~volatility3_kdump.cpu.context.Context`. ``control`` are CR0 to CR4 by
    number. The bases are of FS, of GS, of KERNEL_GS_BASE (what SWAPGS exchanges for GS), of the interrupt and global
    descriptor tables, and of the task state segment. What the container does not hold is absent or ``None``.
    ``source`` says in words which record it is.
    """

    number: int
    source: str
    registers: Mapping[str, int] = field(hash=False)
    control: Mapping[int, int] = field(default_factory=dict, hash=False)
    gs_base: int | None = None
    kernel_gs_base: int | None = None
    idt_base: int | None = None
    gdt_base: int | None = None
    task_base: int | None = None
    architecture: str = "x64"
    fs_base: int | None = None

    def narrowed(self) -> ProcessorState:
        """The processor as a 32-bit system uses it: hypervisors write the wide registers of any guest."""
        if self.architecture != "x64":
            return self
        wide = {name: f"r{name[1:]}" for name in _X86_GENERAL}
        registers = {name: self.registers[of] & _NARROW for name, of in wide.items() if of in self.registers}
        registers.update((name, self.registers[name]) for name in (*_X86_SELECTORS, "eflags") if name in self.registers)
        return dataclasses.replace(self, registers=registers, architecture="x86")

    @property
    def page_tables(self) -> int | None:
        """The physical address of the top page table, ``None`` where CR3 is not known or paging is off."""
        if not self.control.get(0, 1 << 31) >> 31 & 1:
            return None
        directory = self.control.get(3, 0) & CR3_TABLE
        return directory or None

    @property
    def context(self) -> Context:
        """The registers as a context."""
        return Context(self.architecture, self.registers, self.source)

    @property
    def in_user_mode(self) -> bool:
        """Whether an ARM64 or x86 processor ran user mode; of x86 only where its code segment is known."""
        if self.architecture == "x86":
            return self.registers.get("cs", 0) & _USER_RING == _USER_RING
        return not self.registers.get("cpsr", 0) & _EXCEPTION_LEVEL

    @property
    def platform_register(self) -> int | None:
        """Where Windows keeps the KPCR in the kernel and the TEB in user mode: x18 of ARM64, the base of FS of x86."""
        if self.architecture == "x86":
            return self.fs_base
        return self.registers.get("x18")


def context_record(context: Context) -> bytes:
    """A CONTEXT record with the registers of a context; groups that are not known whole are not flagged."""
    values = context.registers
    if context.architecture == "arm64":
        packed = struct.pack("<II", _ARM64_FLAGS, values.get("cpsr", 0) & 0xFFFFFFFF)
        packed += struct.pack("<33Q", *(values.get(name, 0) for name in _ARM64_GENERAL))
        return packed.ljust(_ARM64_SIZE, b"\0")
    if context.architecture == "x86":
        flags = _X86_FLAGS | (_X86_SEGMENTS if context.has_segments else 0)
        block = bytearray(_X86_SIZE)
        struct.pack_into("<I", block, 0, flags)
        struct.pack_into("<16I", block, _X86_AT, *(values.get(name, 0) & _NARROW for name in _X86_ORDER))
        return bytes(block)
    flags = _FLAGS if context.has_segments else 0x100003
    record = bytearray(_CONTEXT_SIZE)
    if "mxcsr" in values:
        flags |= _FLOATING_POINT
        struct.pack_into("<I", record, 0x34, values["mxcsr"])
        struct.pack_into("<I", record, 0x118, values["mxcsr"])
    struct.pack_into("<I", record, 0x30, flags)
    for place, name in enumerate(("cs", "ds", "es", "fs", "gs", "ss")):
        struct.pack_into("<H", record, 0x38 + 2 * place, values.get(name, 0) & 0xFFFF)
    struct.pack_into("<I", record, 0x44, values.get("eflags", 0) & 0xFFFFFFFF)
    for place, name in enumerate(_GENERAL):
        struct.pack_into("<Q", record, 0x78 + 8 * place, values.get(name, 0))
    for number, value in enumerate(context.xmm or ()):
        record[0x1A0 + 16 * number : 0x1B0 + 16 * number] = (value or 0).to_bytes(16, "little")
    return bytes(record)
