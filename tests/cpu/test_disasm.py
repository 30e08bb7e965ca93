"""Disassembly, judged by Unicorn (the processor that executes the same bytes) and by KD's published output."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part, step
from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context, parse_context
from volatility3_kdump.cpu.disasm import Instruction, decode, decode_many
from volatility3_kdump.cpu.instruction import MemoryOperand

unicorn = pytest.importorskip("unicorn")
x86_const = pytest.importorskip("unicorn.x86_const")
arm64_const = pytest.importorskip("unicorn.arm64_const")

CODE, DATA, STACK = 0x100000, 0x20000000, 0x30000000
CODE_SIZE, DATA_SIZE, STACK_SIZE = 0x2000, 0x200000, 0x10000
LOW_NAMES = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
X64_NAMES = (*(f"r{name}" for name in LOW_NAMES), *(f"r{number}" for number in range(8, 16)))
X86_NAMES = tuple(f"e{name}" for name in LOW_NAMES)

Accesses = list[tuple[str, int, int]]


def _memory(start: int, data: bytes) -> Read:
    def read(address: int, size: int) -> bytes | None:
        offset = address - start
        return data[offset : offset + size] if offset >= 0 and offset + size <= len(data) else None

    return read


# the processor as the oracle ----------------------------------------------------------------------------------------


class Processor:
    """Unicorn, set up to execute one instruction and to list the memory that it accesses."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self.accesses: Accesses = []
        if architecture == "arm64":
            self.machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
            self.machine.ctl_set_cpu_model(arm64_const.UC_CPU_ARM64_MAX)
        else:
            mode = unicorn.UC_MODE_64 if architecture == "x64" else unicorn.UC_MODE_32
            self.machine = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        for start, size in ((CODE, CODE_SIZE), (DATA, DATA_SIZE), (STACK, STACK_SIZE)):
            self.machine.mem_map(start, size)
        if architecture == "arm64":
            self.write("cpacr_el1", 3 << 20)
        else:
            self.write("cr4", self.read("cr4") | 0x600)
            self.write("cr0", (self.read("cr0") & ~0xC) | 2)
        kinds = unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE
        absent = unicorn.UC_HOOK_MEM_READ_UNMAPPED | unicorn.UC_HOOK_MEM_WRITE_UNMAPPED
        self.machine.hook_add(kinds, self._accessed)
        self.machine.hook_add(absent, self._accessed)
        self.start = self.machine.context_save()

    def _accessed(self, machine: Any, kind: int, address: int, size: int, value: int, data: Any) -> bool:
        writes = (unicorn.UC_MEM_WRITE, unicorn.UC_MEM_WRITE_UNMAPPED)
        self.accesses.append(("write" if kind in writes else "read", address, size))
        return False

    def _number(self, name: str) -> int:
        if self.architecture == "arm64":
            return int(getattr(arm64_const, f"UC_ARM64_REG_{name.upper()}"))
        return int(getattr(x86_const, f"UC_X86_REG_{name.upper()}"))

    def read(self, name: str) -> int:
        return int(self.machine.reg_read(self._number(name)))

    def write(self, name: str, value: int) -> None:
        self.machine.reg_write(self._number(name), value)

    def execute(self, code: bytes, registers: dict[str, int]) -> bool:
        """Execute one instruction; whether it ended without a fault. What it accessed is in ``accesses``."""
        self.accesses.clear()
        # Instructions change control registers and segments too.
        self.machine.context_restore(self.start)
        self.machine.mem_write(CODE, code.ljust(16, b"\x90"))
        self.machine.ctl_remove_cache(CODE, CODE + 16)
        for name, value in registers.items():
            self.write(name, value)
        try:
            self.machine.emu_start(CODE, CODE + 0x1000, count=1)
        except unicorn.UcError:
            return False
        return True


@functools.cache
def processor(architecture: str) -> Processor:
    return Processor(architecture)


def _spans(accesses: Accesses, low: int, high: int) -> dict[str, tuple[int, int]]:
    """For reads and writes inside a range, the first address and the address after the last."""
    spans: dict[str, tuple[int, int]] = {}
    for kind, address, size in accesses:
        if low <= address < high:
            first, last = spans.get(kind, (address, address))
            spans[kind] = min(first, address), max(last, address + size)
    return spans


def _claimed(operands: list[MemoryOperand]) -> dict[str, tuple[int, int]]:
    claims: Accesses = []
    for operand in operands:
        assert operand.address is not None, operand
        if operand.access:
            claims += [(kind, operand.address, operand.size) for kind in operand.access.split("-")]
    return _spans(claims, 0, 1 << 64)


# every opcode -------------------------------------------------------------------------------------------------------

#: Where Unicorn reads more than the manuals say that the instruction does, or less of a large save area.
UNICORN_DIFFERS = frozenset(
    "cvttps2pi cvtps2pi cvtps2pd cvtdq2pd punpcklbw punpcklwd punpckldq roundss roundsd bndmov bndldx bndstx fldenv "
    "fxsave fxrstor fxsave64 fxrstor64 xsave xsave64 xsaveopt xsaveopt64 xrstor xrstor64 vmread vmwrite lss lfs lgs "
    "ret retf iretd int sysret sysexit".split()
)


#: Opcodes whose instruction depends on the register field of the ModRM byte, by opcode map.
GROUPS = {
    b"": {
        *range(0x80, 0x84),
        0x8F,
        0xC0,
        0xC1,
        0xC6,
        0xC7,
        *range(0xD0, 0xD4),
        *range(0xD8, 0xE0),
        0xF6,
        0xF7,
        0xFE,
        0xFF,
    },
    b"\x0f": {0x00, 0x01, 0x0D, 0x18, 0x1F, 0x71, 0x72, 0x73, 0xAE, 0xBA, 0xC7},
}


#: Redundant prefixes that Unicorn takes for other instructions: REX.W before x87 state, F3 before movnti.
UNICORN_MISREADS = (b"\x48\xdd\x23", b"\x48\xdd\x33", b"\xf3\x48\x0f\xc3\x03")


def _encodings(architecture: str) -> Iterator[bytes]:
    """Every opcode of the one-, two- and three-byte maps with ``[rbx]`` as its memory operand."""
    prefixes = [b"", b"\x66", b"\xf2", b"\xf3"] + ([b"\x48", b"\xf3\x48"] if architecture == "x64" else [])
    skipped = {0x0F, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xC4, 0xC5, 0x62, 0xF0, 0xF2, 0xF3, 0xF4}
    if architecture == "x64":
        skipped |= set(range(0x40, 0x50))
    for table in (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a"):
        for prefix in prefixes:
            for opcode in range(256):
                if (not table and opcode in skipped) or (table == b"\x0f" and opcode in (0x38, 0x3A)):
                    continue
                for extension in range(8 if opcode in GROUPS.get(table, ()) else 1):
                    yield prefix + table + bytes([opcode, 0x03 | extension << 3]) + b"\x01" * 8


@pytest.mark.parametrize("architecture", ["x64", pytest.param("x86", marks=pytest.mark.thorough)])
def test_every_opcode_accesses_what_is_claimed(architecture: str) -> None:
    names = X64_NAMES if architecture == "x64" else X86_NAMES
    registers = {name: DATA + 0x80000 + 0x1000 * number for number, name in enumerate(names)}
    registers[names[2]] = 0x11
    registers[names[4]] = STACK + 0x8000
    context = Context(architecture, registers, "test")
    machine = processor(architecture)
    executed = wrong = 0
    seen = set()
    for code in itertools.islice(_encodings(architecture), 0, None, step()):
        instruction = decode(_memory(CODE, code), CODE, architecture, context)
        if instruction is None or not machine.execute(code, registers):
            continue
        if instruction.mnemonic.split()[-1] in UNICORN_DIFFERS or code[:-8].endswith(UNICORN_MISREADS):
            continue
        executed += 1
        stack = [instruction.stack] if instruction.stack is not None else []
        expected = _spans(machine.accesses, 0, 1 << 64)
        if _claimed([*instruction.memories, *stack]) != expected:
            wrong += 1
            seen.add((code.hex(), instruction.mnemonic, instruction.operands))
    assert not wrong, sorted(seen)[:10]
    assert executed > 1000 // step()


# every form of address ----------------------------------------------------------------------------------------------

#: Opcode, operand size in bytes (``None`` is the register size), access.
FORMS = {
    "mov r, m": (b"\x8b", None, "read"),
    "mov m, r": (b"\x89", None, "write"),
    "mov m8, r8": (b"\x88", 1, "write"),
    "add m, r": (b"\x01", None, "read-write"),
    "cmp m, r": (b"\x39", None, "read"),
    "movzx r, m8": (b"\x0f\xb6", 1, "read"),
    "movzx r, m16": (b"\x0f\xb7", 2, "read"),
    "movups x, m": (b"\x0f\x10", 16, "read"),
    "movlps m, x": (b"\x0f\x13", 8, "write"),
    "xchg m, r": (b"\x87", None, "read-write"),
    "sete m8": (b"\x0f\x94", 1, "write"),
    "xadd m, r": (b"\x0f\xc1", None, "read-write"),
}
SEGMENTS = {"": b"", "fs": b"\x64", "gs": b"\x65"}


LEA = (b"\x8d", None, "")


@st.composite
def _address_forms(draw: st.DrawFn, architecture: str, lea: bool = False) -> tuple[bytes, str, int, str]:
    """A memory instruction with any ModRM and SIB byte, its segment override, operand size and access."""
    opcode, size, access = LEA if lea else FORMS[draw(st.sampled_from(sorted(FORMS)))]
    segment = draw(st.sampled_from(sorted(SEGMENTS) if architecture == "x64" else [""]))
    modrm = draw(st.integers(0, 0xBF))
    rex = draw(st.sampled_from([None, *range(0x40, 0x50)])) if architecture == "x64" else None
    short = draw(st.booleans()) and architecture == "x64"
    code = SEGMENTS[segment] + (b"\x67" if short else b"") + (b"" if rex is None else bytes([rex]))
    code += opcode + bytes([modrm])
    base = None
    if modrm & 7 == 4:
        sib = draw(st.integers(0, 255))
        base = sib & 7
        code += bytes([sib])
    if modrm >> 6 == 1:
        code += draw(st.binary(min_size=1, max_size=1))
    elif modrm >> 6 == 2 or (modrm >> 6 == 0 and (modrm & 7 == 5 or base == 5)):
        code += draw(st.binary(min_size=4, max_size=4))
    wide = rex is not None and bool(rex & 8)
    return code, segment, size or (8 if wide else 4), access


def _check_address(architecture: str, form: tuple[bytes, str, int, str], values: list[int]) -> None:
    code, segment, size, access = form
    names = X64_NAMES if architecture == "x64" else X86_NAMES
    registers = {name: values[number] for number, name in enumerate(names)}
    machine = processor(architecture)
    bases = {"fs": 0x123456780, "gs": 0x7FF0000000}
    started = {f"{name}_base": base for name, base in bases.items()} if architecture == "x64" else {}
    machine.execute(code, {**registers, **started})
    instruction = decode(
        _memory(CODE, code), CODE, architecture, Context(architecture, registers, "test"), segment_bases=bases
    )
    assert instruction is not None and instruction.size == len(code)
    operand = instruction.memory
    assert operand is not None
    assert (operand.size, operand.access, operand.unknown) == (size, access, ())
    kind, address, _ = machine.accesses[0]
    # Unicorn keeps 52 bits of the address of an access; test_addresses_that_lea_loads compares the others.
    assert operand.address is not None and operand.address & (1 << 52) - 1 == address & (1 << 52) - 1
    assert kind in access.split("-")
    if segment:
        without = decode(_memory(CODE, code), CODE, architecture, Context(architecture, registers, "test"))
        assert without is not None and without.memory is not None
        assert without.memory.address is None and without.memory.segment == segment
        assert without.memory.offset == operand.offset


U64 = st.one_of(
    st.integers(0, (1 << 64) - 1), st.integers(0, 0xFFFF), st.integers((1 << 64) - 0xFFFF, (1 << 64) - 0x100)
)


@settings(max_examples=part(400), deadline=None)
@given(form=_address_forms("x64"), values=st.lists(U64, min_size=16, max_size=16))
def test_effective_addresses_x64(form: tuple[bytes, str, int, str], values: list[int]) -> None:
    _check_address("x64", form, values)


@settings(max_examples=part(200), deadline=None)
@given(form=_address_forms("x64", lea=True), values=st.lists(U64, min_size=16, max_size=16))
def test_addresses_that_lea_loads(form: tuple[bytes, str, int, str], values: list[int]) -> None:
    code = form[0]
    registers = {name: values[number] for number, name in enumerate(X64_NAMES)}
    machine = processor("x64")
    assert machine.execute(code, registers)
    instruction = decode(_memory(CODE, code), CODE, "x64", Context("x64", registers, "test"))
    assert instruction is not None and instruction.memory is not None and instruction.memory.offset is not None
    assert instruction.memory.access is None and instruction.memory.value is None
    register = instruction.parts[0].text
    narrow = register.startswith("e") or register.endswith("d")
    assert machine.read(register) == instruction.memory.offset & ((1 << (32 if narrow else 64)) - 1)


@settings(max_examples=part(200), deadline=None)
@given(form=_address_forms("x86"), values=st.lists(st.integers(0, 0xFFFFFFF0), min_size=8, max_size=8))
def test_effective_addresses_x86(form: tuple[bytes, str, int, str], values: list[int]) -> None:
    _check_address("x86", form, values)


@settings(max_examples=part(100), deadline=None)
@given(opcode=st.sampled_from([0xA3, 0xAB, 0xB3, 0xBB]), wide=st.booleans(), bit=st.integers(-(1 << 23), (1 << 23) - 1))
def test_bit_tests_reach_beyond_their_operand(opcode: int, wide: bool, bit: int) -> None:
    code = (b"\x48" if wide else b"") + bytes([0x0F, opcode, 0x10])
    registers = {"rax": DATA + DATA_SIZE // 2, "rdx": bit & 0xFFFFFFFFFFFFFFFF}
    machine = processor("x64")
    machine.execute(code, registers)
    instruction = decode(_memory(CODE, code), CODE, "x64", Context("x64", registers, "test"))
    assert instruction is not None and instruction.memory is not None
    assert (instruction.memory.address, instruction.memory.size) == machine.accesses[0][1:]


@pytest.mark.parametrize("code", ["50", "6650", "664850", "58", "6658", "664858", "c3", "c8100000", "c8100002"])
def test_stack_slots(code: str) -> None:
    registers = {"rsp": STACK + 0x8000, "rbp": STACK + 0x9000}
    machine = processor("x64")
    machine.execute(bytes.fromhex(code), registers)
    instruction = decode(_memory(CODE, bytes.fromhex(code)), CODE, "x64", Context("x64", registers, "test"))
    assert instruction is not None and instruction.stack is not None and instruction.stack.access is not None
    kind = instruction.stack.access
    accessed = [access for access in machine.accesses if access[1] < STACK + 0x8800]
    assert _claimed([instruction.stack])[kind] == _spans(accessed, STACK, STACK + STACK_SIZE)[kind]


def test_pop_to_memory_uses_the_popped_stack_pointer() -> None:
    code = bytes.fromhex("8f442408")
    registers = {"rsp": STACK + 0x8000}
    machine = processor("x64")
    assert machine.execute(code, registers)
    instruction = decode(_memory(CODE, code), CODE, "x64", Context("x64", registers, "test"))
    assert instruction is not None and instruction.memory is not None and instruction.stack is not None
    assert ("write", instruction.memory.address, 8) in machine.accesses
    assert ("read", instruction.stack.address, 8) in machine.accesses


# conditions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", range(16))
@given(flags=st.integers(0, 0xFFF))
@settings(max_examples=part(40), deadline=None)
def test_conditional_jumps(code: int, flags: int) -> None:
    registers = {"eflags": (flags & 0x8D5) | 2, "rcx": 0, "rsp": STACK + 0x8000}
    _check_branch("x64", bytes([0x70 | code, 0x40]), registers, "rip")


@pytest.mark.parametrize("code", ["e340", "67e340", "e240", "e140", "e040"])
@pytest.mark.parametrize("count", [0, 1, 2, 0x100000000, 0x100000001])
@pytest.mark.parametrize("flags", [0x2, 0x42])
def test_counted_jumps(code: str, count: int, flags: int) -> None:
    _check_branch("x64", bytes.fromhex(code), {"eflags": flags, "rcx": count}, "rip")


def _check_branch(architecture: str, code: bytes, registers: dict[str, int], counter: str) -> None:
    machine = processor(architecture)
    assert machine.execute(code, registers)
    known = {"cpsr" if name == "nzcv" else name: value for name, value in registers.items()}
    instruction = decode(_memory(CODE, code), CODE, architecture, Context(architecture, known, "test"))
    assert instruction is not None
    after = instruction.target if instruction.taken else CODE + len(code)
    assert machine.read(counter) == after
    unknown = decode(_memory(CODE, code), CODE, architecture)
    assert unknown is not None and unknown.taken is None and unknown.target == instruction.target


def test_indirect_calls() -> None:
    table = 0xFFFFF80062A00000
    target = 0xFFFFF80062A09169

    def read(address: int, size: int) -> bytes | None:
        code = _memory(CODE, bytes.fromhex("ff5118"))(address, size)
        return code if code is not None else _memory(table + 0x18, struct.pack("<Q", target))(address, size)

    instruction = decode(read, CODE, "x64", Context("x64", {"rcx": table}, "test"), name_of=lambda _: "nt!Foo")
    assert instruction is not None and instruction.target is None
    assert (instruction.indirect, instruction.indirect_name) == (target, "nt!Foo")
    unknown = decode(read, CODE, "x64", Context("x64", {}, "test"))
    assert unknown is not None and unknown.indirect is None and unknown.memory is not None
    assert unknown.memory.unknown == ("rcx",) and unknown.memory.address is None and unknown.memory.value is None
    through = decode(_memory(CODE, b"\xff\xe0"), CODE, "x64", Context("x64", {"rax": target}, "test"))
    assert through is not None and through.indirect == target


# ARM64 ----------------------------------------------------------------------------------------------------------------

ARM64_NAMES = (*(f"x{number}" for number in range(29)), "fp", "lr", "sp")

#: Instruction word with its Rt, Rn, Rm and immediate fields zero, the mask of the fields to vary.
ARM64_FORMS = {
    "ldr x, [n, #imm]": (0xF9400000, 0x3FC1F),
    "str w, [n, #imm]": (0xB9000000, 0x3FC1F),
    "ldrb w, [n, #imm]": (0x39400000, 0x3FC1F),
    "strh w, [n, #imm]": (0x79000000, 0x3FC1F),
    "ldrsw x, [n, #imm]": (0xB9800000, 0x3FC1F),
    "ldrsb w, [n, #imm]": (0x39C00000, 0x3FC1F),
    "str q, [n, #imm]": (0x3D800000, 0x3FC1F),
    "ldr s, [n, #imm]": (0xBD400000, 0x3FC1F),
    "ldur x, [n, #imm]": (0xF8400000, 0x1FF01F),
    "sturb w, [n, #imm]": (0x38000000, 0x1FF01F),
    "ldr x, [n], #imm": (0xF8400400, 0x1FF01F),
    "str x, [n, #imm]!": (0xF8000C00, 0x1FF01F),
    "ldr x, [n, x, lsl #3]": (0xF8607800, 0x1F001F),
    "ldr w, [n, w, uxtw #2]": (0xB8605800, 0x1F001F),
    "str w, [n, w, sxtw]": (0xB820C800, 0x1F001F),
    "ldrh w, [n, x, sxtx #1]": (0x7860F800, 0x1F001F),
    "ldp x, x, [n, #imm]": (0xA9400400, 0x3F801F),
    "stp w, w, [n, #imm]!": (0x29800400, 0x3F801F),
    "stp q, q, [n], #imm": (0xAC800400, 0x3F801F),
    "ldpsw x, x, [n, #imm]": (0x69400400, 0x3F801F),
    "ldar w, [n]": (0x88DFFC00, 0x1F),
    "stlr x, [n]": (0xC89FFC00, 0x1F),
    "ldxr x, [n]": (0xC85F7C00, 0x1F),
    "ldaxrb w, [n]": (0x085FFC00, 0x1F),
    "ld1 {16b x 4}, [n]": (0x4C402000, 0),
    "st1 {4h x 2}, [n]": (0x0C00A400, 0),
    "st1 {b}[0], [n]": (0x0D000000, 0),
    "ld1r {4s}, [n]": (0x4D40C800, 0),
    "ld4 {8b x 4}, [n]": (0x0C400000, 0),
    "ldadd x, x, [n]": (0xF8200000, 0),
    "swp w, w, [n]": (0xB8208000, 0),
    "ldr x, literal": (0x58000000, 0x1F0),
}


@settings(max_examples=part(400), deadline=None)
@given(
    form=st.sampled_from(sorted(ARM64_FORMS)),
    base=st.integers(20, 31),
    bits=st.integers(0, 0xFFFFFFFF),
    offsets=st.lists(st.integers(-0x800, 0x800), min_size=20, max_size=20),
)
def test_effective_addresses_arm64(form: str, base: int, bits: int, offsets: list[int]) -> None:
    word, mask = ARM64_FORMS[form]
    # Rt and Rm stay below x16 and differ from Rn, as write-back requires.
    word |= base << 5 | (bits & mask & ~0x3F0 & ~0x1F) | 0x3
    if mask == 0x1F001F:
        word = word & ~0x1F0000 | (bits % 16) << 16
    if "literal" in form:
        word = 0x58000003 | (bits & 0xFF) << 5
    code = struct.pack("<I", word)
    registers = {name: DATA + 0x100000 + 0x40 * number for number, name in enumerate(ARM64_NAMES)}
    registers["sp"] = STACK + 0x8000
    for number, offset in enumerate(offsets[:16]):
        registers[f"x{number}"] = offset & (0xFFFFFFFFFFFFFFFF if offset & 1 else 0xFFFFFFFF)
    machine = processor("arm64")
    names = {"fp": "x29", "lr": "x30"}
    fitted = machine.execute(code, {names.get(name, name): value for name, value in registers.items()})
    instruction = decode(_memory(CODE, code), CODE, "arm64", Context("arm64", registers, "test"))
    assert instruction is not None and instruction.memory is not None
    operand = instruction.memory
    if not fitted:
        # The address is outside the mapped memory: the first access tells it.
        assert operand.address == machine.accesses[0][1]
        return
    assert _claimed([operand]) == _spans(machine.accesses, 0, 1 << 64)


@pytest.mark.parametrize("code", range(15))
@given(flags=st.integers(0, 15))
@settings(max_examples=16, deadline=None)
def test_arm64_conditional_branches(code: int, flags: int) -> None:
    _check_branch("arm64", struct.pack("<I", 0x54000200 | code), {"nzcv": flags << 28}, "pc")


@pytest.mark.parametrize("word", [0xB4000203, 0xB5000203, 0x34000203, 0x36080203, 0x37080203, 0xB6F80203])
@pytest.mark.parametrize("value", [0, 1, 2, 0x100000000, 0x8000000000000000])
def test_arm64_compare_and_branch(word: int, value: int) -> None:
    _check_branch("arm64", struct.pack("<I", word), {"x3": value}, "pc")


def test_arm64_zero_register_and_unknown_base() -> None:
    code = struct.pack("<I", 0xF87F6841)  # ldr x1, [x2, xzr]
    known = decode(_memory(CODE, code), CODE, "arm64", Context("arm64", {"x2": 0x1000}, "test"))
    assert known is not None and known.memory is not None and known.memory.address == 0x1000
    unknown = decode(_memory(CODE, code), CODE, "arm64", Context("arm64", {}, "test"))
    assert unknown is not None and unknown.memory is not None
    assert (unknown.memory.address, unknown.memory.unknown) == (None, ("x2",))


@pytest.mark.parametrize(
    "word, text",
    [
        (0xA9BF7BFD, "stp fp,lr,[sp,#-0x10]!"),
        # nt!PsGetCurrentProcess, from a published listing: the platform register holds the KPCR.
        (0xF944C648, "ldr x8,[xpr,#0x988]"),
        (0xD63F0200, "blr xip0"),
        (0xD61F0220, "br xip1"),
        (0xD43E0000, "brk #0xF000"),
        (0xF9401FE8, "ldr x8,[sp,#0x38]"),
        (0x94000002, "bl nt!Foo (00000000`00100008)"),
        (0x54000040, "beq nt!Foo (00000000`00100008)"),
        (0x90000008, "adrp x8,00000000`00100000"),
        (0xD65F03C0, "ret "),
    ],
)
def test_arm64_text(word: int, text: str) -> None:
    names = {0x100008: "nt!Foo"}
    instruction = decode(_memory(CODE, struct.pack("<I", word)), CODE, "arm64", name_of=names.get)
    assert instruction is not None
    assert f"{instruction.mnemonic} {instruction.operands}" == text


# text -----------------------------------------------------------------------------------------------------------------

HERE = 0xFFFFF80060DA1981


@pytest.mark.parametrize(
    "code, text",
    [
        ("8b03", "mov eax,dword ptr [rbx]"),
        ("43891401", "mov dword ptr [r9+r8],edx"),
        ("3300", "xor eax,dword ptr [rax]"),
        ("48894c2408", "mov qword ptr [rsp+8],rcx"),
        ("4883ec28", "sub rsp,28h"),
        ("0f2945f0", "movaps xmmword ptr [rbp-10h],xmm0"),
        ("8b84c800000080", "mov eax,dword ptr [rax+rcx*8-80000000h]"),
        ("65488b042588010000", "mov rax,qword ptr gs:[188h]"),
        ("83f8ff", "cmp eax,0FFFFFFFFh"),
        ("4883c8ff", "or rax,0FFFFFFFFFFFFFFFFh"),
        ("48c7442420feffffff", "mov qword ptr [rsp+20h],0FFFFFFFFFFFFFFFEh"),
        ("c601fe", "mov byte ptr [rcx],0FEh"),
        ("48b80000000080f7ffff", "mov rax,0FFFFF78000000000h"),
        ("b90a000000", "mov ecx,0Ah"),
        ("b909000000", "mov ecx,9"),
        ("cc", "int 3"),
        ("cd29", "int 29h"),
        ("6690", "xchg ax,ax"),
        ("0f1f440000", "nop dword ptr [rax+rax]"),
        ("f348a5", "rep movs qword ptr [rdi],qword ptr [rsi]"),
        ("f348ab", "rep stos qword ptr [rdi]"),
        ("f3a6", "repe cmps byte ptr [rsi],byte ptr [rdi]"),
        ("f0490fc70e", "lock cmpxchg16b oword ptr [r14]"),
        ("f3c3", "rep ret "),
        ("488d4c2420", "lea rcx,[rsp+20h]"),
        ("0f0d8b90000000", "prefetchw [rbx+90h]"),
        ("488b0500000000", "mov rax,qword ptr [fffff800`60da1988]"),
        ("ff1501000000", "call qword ptr [nt!Foo+0x10 (fffff800`60da1988)]"),
        ("7405", "je nt!Foo+0x10 (fffff800`60da1988)"),
        ("e800000000", "call fffff800`60da1986"),
        ("e802000000", "call nt!Foo+0x10 (fffff800`60da1988)"),
        ("c4e269900440", "vpgatherdd xmm0,xmmword ptr [rax+xmm0*2],xmm2"),
        ("62f17c491001", "vmovups zmm0 {k1},zmmword ptr [rcx]"),
        # From published listings of the debugger.
        ("49f7f8", "idiv rax,r8"),
        ("48f7e1", "mul rax,rcx"),
        ("f77c2428", "idiv eax,dword ptr [rsp+28h]"),
        ("48f7e9", "imul rcx"),
        ("488701", "xchg rax,qword ptr [rcx]"),
        ("f00fb111", "lock cmpxchg dword ptr [rcx],edx"),
        ("f20f5802", "addsd xmm0,mmword ptr [rdx]"),
        ("f20f1002", "movsd xmm0,mmword ptr [rdx]"),
        ("660f2f02", "comisd xmm0,mmword ptr [rdx]"),
        ("f20f2a02", "cvtsi2sd xmm0,dword ptr [rdx]"),
        ("dcff", "fdiv st(7),st"),
        ("dac1", "fcmovb st,st(1)"),
        ("d9c0", "fld st(0)"),
    ],
)
def test_text_as_kd_writes_it(code: str, text: str) -> None:
    named_at = HERE + 7
    if code.startswith(("488b05", "e80000")):
        named_at = 0
    instruction = decode(
        _memory(HERE, bytes.fromhex(code)), HERE, "x64", name_of=lambda at: "nt!Foo+0x10" if at == named_at else None
    )
    assert instruction is not None
    if code == "ff1501000000":
        text = text.replace("60da1988", f"{(HERE + 7) & 0xFFFFFFFF:08x}")
    assert f"{instruction.mnemonic} {instruction.operands}" == text


@pytest.mark.parametrize(
    "code, text",
    [
        ("f3a5", "rep movs dword ptr es:[edi],dword ptr [esi]"),
        ("64a118000000", "mov eax,dword ptr fs:[00000018h]"),
        ("8b0d20a45580", "mov ecx,dword ptr [nt!Foo (8055a420)]"),
        ("8b0d24a45580", "mov ecx,dword ptr ds:[8055A424h]"),
        ("e800000000", "call 804e3597"),
        ("60", "pushad "),
    ],
)
def test_x86_text(code: str, text: str) -> None:
    names = {0x8055A420: "nt!Foo"}
    instruction = decode(_memory(0x804E3592, bytes.fromhex(code)), 0x804E3592, "x86", name_of=names.get)
    assert instruction is not None
    assert f"{instruction.mnemonic} {instruction.operands}" == text


# real code, and bytes that are not there ------------------------------------------------------------------------------


def test_the_faulting_instruction_of_a_real_dump(
    dump_bytes: Callable[[str], bytes], triage_reader: Callable[[str], Read]
) -> None:
    context = parse_context(dump_bytes("triage_x64_19041")[0x348 : 0x348 + 0x4D0], "x64", "header context")
    assert context is not None and context.ip is not None
    read = triage_reader("triage_x64_19041")
    instruction = decode(read, context.ip, "x64", context)
    assert instruction is not None and instruction.memory is not None
    assert instruction.raw.hex() == "43891401"
    assert (instruction.mnemonic, instruction.operands) == ("mov", "dword ptr [r9+r8],edx")
    assert (instruction.memory.size, instruction.memory.access) == (4, "write")
    assert instruction.memory.registers == (("r9", 0x44), ("r8", 0xFFFF9B0003360008))
    assert instruction.memory.address == 0xFFFF9B000336004C


def test_the_faulting_bit_test_of_a_real_dump(
    dump_bytes: Callable[[str], bytes], triage_reader: Callable[[str], Read]
) -> None:
    context = parse_context(dump_bytes("triage_x64_17763")[0x348 : 0x348 + 0x4D0], "x64", "header context")
    assert context is not None and context.ip is not None
    instruction = decode(triage_reader("triage_x64_17763"), context.ip, "x64", context)
    assert instruction is not None and instruction.memory is not None
    assert (instruction.mnemonic, instruction.operands) == ("bt", "dword ptr [rax],edx")
    assert (instruction.memory.address, instruction.memory.access) == (0, "read")


def test_code_at_the_end_of_what_is_present() -> None:
    code = bytes.fromhex("8b03")
    found = decode(_memory(HERE, code), HERE, "x64")
    assert found is not None and found.size == 2
    assert decode(_memory(HERE, code[:1]), HERE, "x64") is None
    assert decode(_memory(HERE, b""), HERE, "x64") is None
    assert decode(_memory(HERE, b"\x06"), HERE, "x64") is None
    assert decode(_memory(HERE, code), HERE, "ia64") is None


def test_registers_of_another_architecture_are_not_used() -> None:
    instruction = decode(_memory(HERE, b"\x8b\x03"), HERE, "x64", Context("x86", {"ebx": 1}, "test"))
    assert instruction is not None and instruction.memory is not None
    assert instruction.memory.unknown == ("rbx",)
    jump = decode(_memory(HERE, b"\x74\x05"), HERE, "x64", Context("x86", {"eflags": 0x40}, "test"))
    assert jump is not None and jump.taken is None


def test_memory_values_and_the_top_of_the_address_space() -> None:
    def read(address: int, size: int) -> bytes | None:
        assert address + size <= 1 << 64
        code = _memory(HERE, bytes.fromhex("8b03"))(address, size)
        return code if code is not None else bytes(range(size)) if address == 0x1000 else None

    def memory(rbx: int) -> MemoryOperand:
        instruction = decode(read, HERE, "x64", Context("x64", {"rbx": rbx}, "test"))
        assert instruction is not None and instruction.memory is not None
        return instruction.memory

    assert memory(0x1000).value == b"\x00\x01\x02\x03"
    assert memory(0x2000).value is None
    assert memory((1 << 64) - 2).value is None
    assert memory(0x1000).registers == (("rbx", 0x1000),)


def test_consecutive_instructions() -> None:
    code = bytes.fromhex("48894c2408 4883ec28 cc 06".replace(" ", ""))
    found = decode_many(_memory(HERE, code), HERE, 8, "x64")
    assert [(one.address - HERE, one.mnemonic) for one in found] == [(0, "mov"), (5, "sub"), (9, "int")]
    assert len(decode_many(_memory(HERE, code), HERE, 2, "x64")) == 2


@settings(max_examples=part(500), deadline=None)
@given(data=st.binary(min_size=1, max_size=15), architecture=st.sampled_from(["x64", "x86", "arm64"]))
def test_random_bytes_never_raise(data: bytes, architecture: str) -> None:
    read = _memory(CODE, data)
    zeros = {"arm64": ARM64_NAMES, "x64": X64_NAMES, "x86": X86_NAMES}[architecture]
    context = Context(architecture, dict.fromkeys(zeros, 0), "test")
    for instruction in (decode(read, CODE, architecture), decode(read, CODE, architecture, context)):
        _consistent(instruction, data)


def _consistent(instruction: Instruction | None, data: bytes) -> None:
    if instruction is None:
        return
    assert instruction.raw == data[: instruction.size]
    for memory in instruction.memories:
        assert (memory.offset is None) == bool(memory.unknown)
        assert memory.address is None or memory.offset is not None
