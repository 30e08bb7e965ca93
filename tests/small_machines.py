"""Small memory dumps of x86 and ARM64 machines, laid out as Windows does, for a crash that a processor ran into.

The driver's code is executed (unicorn) until it faults. The trap frame, and what the kernel had on the stack below it,
are put where the kernel puts them: the trap handler's frame pointer leads to the trap frame on both.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.archives import packing
from volatility3_kdump import tables

#: The kernel has no names in these dumps: what it is known by is where it lies.
AV = 0xC0000005


@dataclass
class SmallMachine:
    """Registers at the fault, and memory by address. ``blocks`` are what the dump holds beside the stack."""

    registers: dict[str, int]
    stack: bytearray
    stack_base: int
    blocks: list[tuple[int, bytes]]
    drivers: list[tuple[str, int, int, int, int]]
    header: dict[str, Any] = field(default_factory=dict)
    low: int = 0
    copies: dict[str, bytes] = field(default_factory=dict)
    debugger_data: bytes = b""
    unloaded: list[tuple[str, int, int]] = field(default_factory=list)
    bits: int = 64

    def put(self, address: int, *values: int, code: str = "") -> None:
        """Write words of the machine's width on the stack."""
        code = code or ("Q" if self.bits == 64 else "I")
        struct.pack_into(f"<{len(values)}{code}", self.stack, address - self.stack_base, *values)

    def put_bytes(self, address: int, data: bytes) -> None:
        self.stack[address - self.stack_base : address - self.stack_base + len(data)] = data

    def write(self, path: Path, code: int, arguments: tuple[int, ...], context: bytes, low: int, **more: Any) -> Path:
        """A dump whose saved stack begins at ``low``."""
        mask = (1 << self.bits) - 1
        values: dict[str, Any] = {f"BugCheckParameter{n}": value & mask for n, value in enumerate(arguments, 1)}
        whole: Mapping[str, Any] = {**self.header, **values, **more}
        data = packing.triage(
            self.bits,
            drivers=self.drivers,
            unloaded=self.unloaded,
            blocks=self.blocks,
            stack=(low, bytes(self.stack[low - self.stack_base :])),
            debugger_data=self.debugger_data,
            copies=self.copies,
            BugCheckCode=code,
            ContextRecord=context,
            **whole,
        )
        path.write_bytes(data)
        return path


# x86 -----------------------------------------------------------------------------------------------------------------

NT_32, DRIVER_32, STACK_32 = 0x80400000, 0xF7A00000, 0xB2340000
#: outer: push ebp; mov ebp,esp; ...; call inner. inner: ...; mov eax,[ecx+24h]. leafcaller: ...; call fpo, which has no
#: frame: sub esp,8; ...; mov eax,[esi+24h]. thread: ...; call outer. Assembled with llvm-mc.
_CODE_32 = {
    0x1000: "5589e583ec10bb222211118b450850e82c000000c9c20400",
    0x1040: "5589e58b4d088b41245dc20400",
    0x1080: "5589e5568b7508e8340000005e5dc20400",
    0x10C0: "83ec08c70424341200008b462483c408c3",
    0x1100: "5589e56a00e8f6feffff5dc20800",
    0x1120: "5589e56a00e856ffffff5dc20800",
}
OUTER_32, INNER_FAULT_32, OUTER_RETURN_32 = DRIVER_32 + 0x1000, DRIVER_32 + 0x1046, DRIVER_32 + 0x1014
LEAFCALLER_RETURN_32, FPO_FAULT_32 = DRIVER_32 + 0x108C, DRIVER_32 + 0x10CA
THREAD_RETURN_32, FPO_THREAD_RETURN_32 = DRIVER_32 + 0x110A, DRIVER_32 + 0x112A
#: Places in the kernel, each behind a call: of KeBugCheckEx in KiTrap0E, in MmAccessFault, in KiDispatchException; of
#: MmAccessFault in KiTrap0E; of KiDispatchException in CommonDispatchException; of that one in KiTrap0E.
KERNEL_CALLS_32 = {
    name: NT_32 + 0x2000 + 0x100 * index
    for index, name in enumerate(
        (
            "KiTrap0E_bugcheck",
            "MmAccessFault",
            "KiDispatchException",
            "KiTrap0E_fault",
            "CommonDispatchException",
            "KiTrap0E_dispatch",
            "KiRetireDpcList",
            "KiDispatchInterrupt",
        )
    )
}
KE_BUG_CHECK_32 = NT_32 + 0x1E
_CALL_32 = bytes.fromhex("e800000000")


def driver_image(code: Mapping[int, str]) -> bytes:
    image = bytearray(b"\xcc" * 0x400)
    for rva, text in code.items():
        data = bytes.fromhex(text)
        image[rva - 0x1000 : rva - 0x1000 + len(data)] = data
    return bytes(image)


def x86_machine(thread: int = 0x1100, null: int = 0) -> SmallMachine:
    """The driver's thread routine, run until it reads from near ``null``."""
    unicorn = pytest.importorskip("unicorn")
    import unicorn.x86_const as constants

    names = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip", "eflags")
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    machine.mem_map(DRIVER_32 + 0x1000, 0x1000)
    machine.mem_map(STACK_32, 0x3000)
    image = driver_image(_CODE_32)
    machine.mem_write(DRIVER_32 + 0x1000, image)
    top = STACK_32 + 0x2F00
    machine.reg_write(constants.UC_X86_REG_ESP, top)
    machine.reg_write(constants.UC_X86_REG_EBP, 0)
    # The thread's start routine: a return address in the kernel, and its argument.
    machine.mem_write(top, struct.pack("<III", 0, 0x10, 0x20))
    with pytest.raises(unicorn.UcError):
        machine.emu_start(DRIVER_32 + thread, 0)
    registers = {name: machine.reg_read(getattr(constants, f"UC_X86_REG_{name.upper()}")) for name in names}
    stack = bytearray(machine.mem_read(STACK_32, 0x3000))
    blocks = [(DRIVER_32 + 0x1000, image), (NT_32, bytes(0x80))]
    blocks += [(place - 0x10, bytes(11) + _CALL_32 + b"\x90" * 16) for place in KERNEL_CALLS_32.values()]
    drivers = [
        ("\\WINDOWS\\system32\\ntoskrnl.exe", NT_32, 0x200000, 0, 0x4802516A),
        ("\\SystemRoot\\system32\\drivers\\widget.sys", DRIVER_32, 0x6000, 0, 0x45DCF0A1),
    ]
    return SmallMachine(registers, stack, STACK_32, blocks, drivers, {"MinorVersion": 7601}, bits=32)


def x86_trap(machine: SmallMachine, newer: bool = False, **changes: int) -> int:
    """Put the trap frame of the fault on the stack; its address. The processor's pushes end at the esp of the fault."""
    values = {**machine.registers, **changes}
    trap = values["esp"] - 0x74
    frame = bytearray(0x8C)
    base = 0x38 if newer else 0x3C
    for offset, value in {
        0x00: values["ebp"],
        0x04: values["eip"],
        0x08: 0xBADB0D00,
        base: values["edx"],
        base + 4: values["ecx"],
        base + 8: values["eax"],
        base - 4: 0x23,
        base - 8: 0x23,
        base - 12: 0,
        0x50: 0x30,
        0x54: values["edi"],
        0x58: values["esi"],
        0x5C: values["ebx"],
        0x60: values["ebp"],
        0x64: 0,
        0x68: values["eip"],
        0x6C: 8,
        0x70: values["eflags"] | 0x10246,
    }.items():
        struct.pack_into("<I", frame, offset, value & 0xFFFFFFFF)
    machine.put_bytes(trap, bytes(frame[:0x74]))
    return trap


def x86_bug_check(machine: SmallMachine, at: int, returns: int, ebp: int, code: int, arguments: tuple[int, ...]) -> int:
    """KeBugCheckEx's frame below ``at``: saved ebp, return address, code and arguments; its ebp."""
    frame = at - 8 - 20
    machine.put(frame, ebp, returns, code, *[value & 0xFFFFFFFF for value in (*arguments, 0, 0, 0, 0)[:4]])
    return frame


def x86_context(ebp: int, esp: int, eip: int = KE_BUG_CHECK_32) -> bytes:
    record = bytearray(1200)
    struct.pack_into("<I", record, 0, 0x10007)
    struct.pack_into("<IIIIII", record, 0xB4, ebp, eip, 8, 0x10246, esp, 0x10)
    return bytes(record)


#: Where the copies of the processor's, the process's and the thread's blocks belong, and offsets in them as KDBG of
#: Windows 7 has them.
PRCB_32, PROCESS_32, THREAD_32, KDBG_32 = 0x82F6D120, 0x86C2E030, 0x86DF0A48, 0x82F4EBE8
_PROCESSOR_BLOCK_32 = 0x82F68F40
_OFFSETS_32 = {
    **{"OffsetPrcbNumber": 0x3CC, "OffsetPrcbCurrentThread": 4, "OffsetPrcbIdleThread": 0xC, "SizePrcb": 0x400},
    **{"OffsetKThreadKernelStack": 0x30, "OffsetKThreadInitialStack": 0x28, "OffsetKThreadApcProcess": 0x50},
    **{"OffsetKThreadStackLimit": 0x2C, "OffsetKThreadStackBase": 0x190, "OffsetKThreadState": 0x68},
    **{"OffsetPrcbDpcStack": 0x3D0, "SizeEThread": 0x2C0, "SizeEProcess": 0x2C0, "OffsetKThreadTeb": 0x88},
}


def debugger_data(**values: int) -> bytes:
    """KDDEBUGGER_DATA64."""
    layouts = tables.structures()
    data = bytearray(layouts.size_of("_KDDEBUGGER_DATA64"))
    for name, value in {**values, "Size": len(data)}.items():
        place = layouts.field("_KDDEBUGGER_DATA64", name)
        data[place.offset : place.offset + place.size] = value.to_bytes(place.size, "little")
    data[0x10:0x14] = b"KDBG"
    return bytes(data)


def x86_blocks(machine: SmallMachine, dpc_stack: int = 0) -> None:
    """KDDEBUGGER_DATA64 (pointers sign-extended), and copies of the blocks of the crash: thread, process, processor."""
    high = 0xFFFFFFFF00000000
    values = {"KernBase": high | NT_32, "KiProcessorBlock": high | _PROCESSOR_BLOCK_32}
    machine.debugger_data = debugger_data(**values, **_OFFSETS_32)
    machine.header["KdDebuggerDataBlock"] = KDBG_32
    prcb, thread, process = bytearray(0x400), bytearray(0x2C0), bytearray(0x2C0)
    idle = 0x82F77380
    for block, offset, value in (
        *((prcb, 4, THREAD_32), (prcb, 0xC, idle), (prcb, 0x3D0, dpc_stack), (thread, 0x2C, STACK_32)),
        *((thread, 0x28, STACK_32 + 0x2F40), (thread, 0x30, STACK_32 + 0x2000), (thread, 0x190, STACK_32 + 0x3000)),
        *((thread, 0x50, PROCESS_32), (thread, 0x68, 2), (thread, 0, 6), (process, 0, 3)),
    ):
        struct.pack_into("<I", block, offset, value)
    machine.copies = {"PrcbOffset": bytes(prcb), "ProcessOffset": bytes(process), "ThreadOffset": bytes(thread)}
    machine.blocks.append((_PROCESSOR_BLOCK_32, struct.pack("<II", PRCB_32, 0)))


# ARM64 ---------------------------------------------------------------------------------------------------------------

NT_64, DRIVER_64, STACK_64 = 0xFFFFF80312200000, 0xFFFFF80345600000, 0xFFFFE00E0E4B5000
#: outer: pacibsp; stp fp,lr,[sp,#-20h]!; mov fp,sp; ...; bl inner. inner: ...; bl leaf. leaf: add x1,x0,#10h;
#: ldr x2,[x1,#14h]; ret. Assembled with llvm-mc.
_CODE_64 = {
    0x1000: "7f2303d5fd7bbea9fd030091f35301a9332282d20b0000941f2003d5f35341a9fd7bc2a8ff2303d5c0035fd6",
    0x1040: "7f2303d5fd7bbfa9fd0300910d0000941f2003d5fd7bc1a8ff2303d5c0035fd6" + "1f2003d5" * 8,
    0x1080: "01400091224041f8c0035fd6",
}
LEAF_FAULT_64 = DRIVER_64 + 0x1084
INNER_RETURN_64, OUTER_RETURN_64 = DRIVER_64 + 0x1050, DRIVER_64 + 0x1018
#: Places in the kernel behind a bl: of the driver, of KeBugCheckEx in KiBugCheckDispatch, of that one in the handler of
#: the fault, of that one in the code that the exception vector leads to.
KERNEL_CALLS_64 = {
    name: NT_64 + 0x2000 + 0x100 * index for index, name in enumerate(("thread", "dispatch", "handler", "vector"))
}
KE_BUG_CHECK_64 = NT_64 + 0x4DE014
SPSR_64 = 0x20001144


def arm64_machine(x0: int = 0, sign: bool = False) -> SmallMachine:
    """The driver's code, run until its leaf function reads from ``x0`` + 24h."""
    unicorn = pytest.importorskip("unicorn")
    import unicorn.arm64_const as constants

    machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    image = driver_image(_CODE_64)
    # Unicorn starts without translation: the low half of the addresses stands for the kernel's.
    machine.mem_map(0x1000, 0x1000)
    machine.mem_map(0x100000, 0x8000)
    machine.mem_write(0x1000, image)
    top = 0x107E00
    machine.reg_write(constants.UC_ARM64_REG_SP, top)
    machine.reg_write(constants.UC_ARM64_REG_X29, top)
    machine.reg_write(constants.UC_ARM64_REG_X30, 0x900)
    machine.reg_write(constants.UC_ARM64_REG_X0, x0)
    moved = {0x1000: DRIVER_64, 0x100000: STACK_64}
    with pytest.raises(unicorn.UcError):
        machine.emu_start(0x1000, 0)

    def real(value: int) -> int:
        if 0x100000 <= value < 0x108000:
            return value - 0x100000 + STACK_64
        if 0x1000 <= value < 0x2000:
            return DRIVER_64 + value
        return KERNEL_CALLS_64["thread"] if value == 0x900 else value

    assert moved
    names = {f"x{n}": f"X{n}" for n in range(29)} | {"fp": "X29", "lr": "X30", "sp": "SP", "pc": "PC"}
    registers = {
        name: real(machine.reg_read(getattr(constants, f"UC_ARM64_REG_{register}"))) for name, register in names.items()
    }
    raw = machine.mem_read(0x100000, 0x8000)
    words = [real(word) for (word,) in struct.iter_unpack("<Q", bytes(raw))]
    stack = bytearray(struct.pack(f"<{len(words)}Q", *words))
    made = SmallMachine(registers, stack, STACK_64, [(DRIVER_64 + 0x1000, image)], [], bits=64)
    # The thread's outermost record.
    made.put(STACK_64 + 0x7E00, 0, 0)
    if sign:
        _sign(made)
    made.blocks += [
        (place - 0x10, bytes.fromhex("1f2003d5") * 3 + bytes.fromhex("00000094") + bytes.fromhex("1f2003d5") * 4)
        for place in KERNEL_CALLS_64.values()
    ]
    made.drivers = [
        ("\\SystemRoot\\system32\\ntoskrnl.exe", NT_64, 0x103E000, 0, 0xDF291B09),
        ("\\SystemRoot\\System32\\drivers\\widget.sys", DRIVER_64, 0x6000, 0, 0x5F8555EF),
    ]
    made.header = {"MachineImageType": 0xAA64, "MinorVersion": 22000}
    return made


def _sign(machine: SmallMachine) -> None:
    """Give the return addresses on the stack authentication codes, as a processor with FEAT_PAuth does."""
    for offset in range(0, len(machine.stack), 8):
        (word,) = struct.unpack_from("<Q", machine.stack, offset)
        if word >> 40 == 0xFFFFF8:
            struct.pack_into("<Q", machine.stack, offset, word & ~(0x7F << 56) | 0x2A << 56)


def arm64_trap(machine: SmallMachine, esr: int, far: int, **changes: int) -> int:
    """Put the trap frame of the fault on the stack, with room for the vector registers behind it; its address."""
    values = {**machine.registers, **changes}
    trap = values["sp"] - 0x370
    frame = bytearray(0x150)
    frame[0] = 1
    struct.pack_into("<QQ", frame, 8, far, trap + 0x150)
    struct.pack_into("<IIQ", frame, 0x90, values.get("spsr", SPSR_64), esr, values["sp"])
    struct.pack_into("<19Q", frame, 0xA0, *(values[f"x{number}"] for number in range(19)))
    struct.pack_into("<3Q", frame, 0x138, values["lr"], values["fp"], values["pc"])
    machine.put_bytes(trap, bytes(frame))
    return trap


def arm64_context(pc: int, sp: int, fp: int, lr: int = 0) -> bytes:
    record = bytearray(3000)
    struct.pack_into("<II", record, 0, 0x400007, SPSR_64)
    struct.pack_into("<QQQQ", record, 0xF0, fp, lr, sp, pc)
    return bytes(record)


PRCB_64, THREAD_64, KDBG_64 = 0xFFFFF803EFD00980, 0xFFFFBB8EB1719180, 0xFFFFF80312E00000
_PROCESSOR_BLOCK_64 = 0xFFFFF80312E10000
_OFFSETS_64 = {
    **{"OffsetPrcbNumber": 0x30, "OffsetPrcbCurrentThread": 8, "OffsetPrcbIdleThread": 0x18, "SizePrcb": 0x400},
    **{"OffsetKThreadStackLimit": 0x30, "OffsetKThreadStackBase": 0x38, "OffsetKThreadState": 0x184},
    **{"OffsetPrcbDpcStack": 0x3D0, "SizeEThread": 0x2C0, "OffsetKThreadApcProcess": 0xC8},
}


def arm64_blocks(machine: SmallMachine, thread_stack: tuple[int, int], dpc_stack: int) -> None:
    """KDDEBUGGER_DATA64, and copies of the processor's and the thread's block."""
    values = {"KernBase": NT_64, "KiProcessorBlock": _PROCESSOR_BLOCK_64}
    machine.debugger_data = debugger_data(**values, **_OFFSETS_64)
    machine.header["KdDebuggerDataBlock"] = KDBG_64
    prcb, thread = bytearray(0x400), bytearray(0x2C0)
    struct.pack_into("<Q", prcb, 8, THREAD_64)
    struct.pack_into("<Q", prcb, 0x18, THREAD_64 + 0x10000)
    struct.pack_into("<Q", prcb, 0x3D0, dpc_stack)
    struct.pack_into("<QQ", thread, 0x30, *thread_stack)
    machine.copies = {"PrcbOffset": bytes(prcb), "ThreadOffset": bytes(thread)}
    machine.blocks.append((_PROCESSOR_BLOCK_64, struct.pack("<QQ", PRCB_64, 0)))
