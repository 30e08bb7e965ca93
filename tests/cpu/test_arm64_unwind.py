"""The ARM64 unwinder against executed instructions, LLVM's reader and assembler, and a real dump.

The shadow-stack tests execute functions with unicorn. At every instruction the stack of pending calls says what the
unwinder must find: the return address, ``sp`` and the preserved registers as they were at the call.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part, step
from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.arm64_unwind import (
    Code,
    Function,
    FunctionTable,
    Registers,
    TableAbsent,
    decode_codes,
    decode_full,
    decode_packed,
    frame_pointer_step,
    unwind,
)
from volatility3_kdump.cpu.context import parse_context

IMAGES = ("nested_collided.exe", "xcpt4.exe", "xframe_eh_dll.dll", "xframe_eh_exe.exe")
RETURN = 0x7F0000000000
STACK, STACK_SIZE = 0x10000000, 0x40000
RET = 0xD65F03C0
PACIBSP, AUTIBSP = 0xD503237F, 0xD50323FF
_SIGNATURE = 0x5A35 << 48
_CODE_BITS = 0xFF7F << 48


@dataclass
class Image:
    """Bytes of an image as loaded, and its function table."""

    data: bytes
    base: int
    table: FunctionTable

    @property
    def functions(self) -> list[Function]:
        return list(self.table)

    def word(self, rva: int) -> int:
        return int(struct.unpack_from("<I", self.data, rva)[0])


def load_image(path: Path) -> Image:
    if not path.is_file():
        pytest.skip(f"no {path}")
    pefile = pytest.importorskip("pefile")
    image = pefile.PE(str(path))
    optional = image.OPTIONAL_HEADER
    data = bytearray(image.get_memory_mapped_image().ljust(optional.SizeOfImage, b"\0"))
    imports = optional.DATA_DIRECTORY[12]
    for slot in range(imports.VirtualAddress, imports.VirtualAddress + imports.Size, 8):
        struct.pack_into("<Q", data, slot, RETURN + 0x800)
    exceptions = optional.DATA_DIRECTORY[3]
    return make_image(bytes(data), optional.ImageBase, (exceptions.VirtualAddress, exceptions.Size))


def make_image(data: bytes, base: int, directory: tuple[int, int]) -> Image:
    def read(rva: int, size: int) -> bytes | None:
        return data[rva : rva + size] if rva >= 0 and rva + size <= len(data) else None

    return Image(data, base, FunctionTable(read, directory, len(data)))


# execution ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What the caller will have back: its address, ``sp``, x19 to x29, d8 to d15; and where the callee begins."""

    pc: int
    sp: int
    x: tuple[int, ...]
    d: tuple[int, ...]


@dataclass
class Shadow:
    """Executes functions of one image and unwinds at every instruction."""

    image: Image
    visited: set[int] = field(default_factory=set)
    checked: int = 0
    walked: int = 0
    signed: int = 0
    #: RVA of the instruction to what is wrong there.
    wrong: dict[int, str] = field(default_factory=dict)
    #: Functions, by RVA, that return with another sp than they were called with.
    moving: set[int] = field(default_factory=set)

    def explore(self, functions: Iterable[Function], most: int) -> None:
        for function in functions:
            for seed in range(most):
                self.run(function, seed)
                if seed >= 3 and self.visited.issuperset(range(function.begin, function.end, 4)):
                    break

    def coverage(self) -> float:
        instructions = {rva for function in self.image.functions for rva in range(function.begin, function.end, 4)}
        return len(self.visited & instructions) / len(instructions)

    def run(self, function: Function, seed: int) -> None:
        _Run(self, function, seed).execute()


class _Run:
    """One execution of one function, from random registers along random branches."""

    def __init__(self, shadow: Shadow, function: Function, seed: int) -> None:
        import unicorn
        from unicorn import arm64_const as names

        self.shadow, self.image, self.function, self.seed = shadow, shadow.image, function, seed
        self.random = random.Random(seed * 1000003 + function.begin)
        self.unicorn = unicorn
        self.gpr = [*range(names.UC_ARM64_REG_X0, names.UC_ARM64_REG_X0 + 29), names.UC_ARM64_REG_X29]
        self.gpr += [names.UC_ARM64_REG_X30, names.UC_ARM64_REG_SP, names.UC_ARM64_REG_PC]
        self.vectors = [*range(names.UC_ARM64_REG_D8, names.UC_ARM64_REG_D8 + 8)]
        self.end = self.image.base + len(self.image.data)
        self.steps = 0
        self.mapped = 0
        self.pending: Call | None = None
        self.returned = False
        self.previous = 0

        self.cpu = cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        cpu.reg_write(names.UC_ARM64_REG_CPACR_EL1, cpu.reg_read(names.UC_ARM64_REG_CPACR_EL1) | 0x300000)
        cpu.mem_map(self.image.base, len(self.image.data) + 0xFFF & ~0xFFF)
        cpu.mem_write(self.image.base, self.image.data)
        cpu.mem_map(RETURN, 0x1000)
        cpu.mem_write(RETURN, struct.pack("<I", RET) * 0x400)
        cpu.mem_map(STACK, STACK_SIZE)
        values = [self.value() for _ in range(19)] + [self.random.getrandbits(47) & ~7 for _ in range(11)]
        values += [RETURN, STACK + STACK_SIZE - 0x4000, self.image.base + function.begin]
        for number, value in zip(self.gpr, values, strict=True):
            cpu.reg_write(number, value)
        for number in self.vectors:
            cpu.reg_write(number, self.random.getrandbits(64))
        x, d = self.state()
        self.calls = [Call(RETURN, x[31], x[19:30], d)]
        self.entered = [function.begin]
        cpu.hook_add(unicorn.UC_HOOK_CODE, self.step)
        cpu.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self.map_page)

    def value(self) -> int:
        return self.random.choice((0, 1, self.random.getrandbits(3), 0x20000000 + self.random.randrange(0, 0x10000, 8)))

    def state(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(self.cpu.reg_read_batch(self.gpr)), tuple(self.cpu.reg_read_batch(self.vectors))

    def execute(self) -> None:
        # A random address or a breakpoint ends a run: what was executed until then has been checked.
        with contextlib.suppress(self.unicorn.UcError):
            self.cpu.emu_start(self.image.base + self.function.begin, 0)

    def map_page(self, cpu: Any, access: int, address: int, size: int, value: int, data: object) -> bool:
        self.mapped += 1
        page = address & ~0xFFF
        try:
            cpu.mem_map(page, 0x2000 if (address + size - 1) & ~0xFFF != page else 0x1000)
        except self.unicorn.UcError:
            return False
        return self.mapped <= 40

    def read(self, address: int, size: int) -> bytes | None:
        try:
            return bytes(self.cpu.mem_read(address, size))
        except self.unicorn.UcError:
            return None

    def jump(self, address: int) -> None:
        self.cpu.reg_write(self.gpr[32], address)

    def step(self, cpu: Any, address: int, size: int, data: object) -> None:
        self.steps += 1
        if self.steps > 1500 or (address == RETURN and len(self.calls) == 1):
            cpu.emu_stop()
            return
        x, d = self.state()
        if self.pending is not None:
            self.calls.append(self.pending)
            self.entered.append(address - self.image.base)
            self.pending = None
        elif address == self.previous + 4 and self.leaves_function(address):
            # No code follows a call that does not return: the next instruction belongs to another function.
            cpu.emu_stop()
            return
        elif self.returned and self.visit_block(address):
            return
        self.returned, self.previous = False, address
        if not self.image.base <= address < self.end:
            self.return_from_outside(x)
            return
        if not STACK <= x[31] < STACK + STACK_SIZE:
            cpu.emu_stop()
            return
        rva = address - self.image.base
        word = self.image.word(rva)
        self.shadow.visited.add(rva)
        self.check(rva, x, d)
        self.follow(address, word, x, d)

    def leaves_function(self, address: int) -> bool:
        function = self.image.table.find(self.previous - self.image.base)
        return function is not None and function.end == address - self.image.base

    def visit_block(self, address: int) -> bool:
        """After a call, now and then go on in a block that only an exception reaches."""
        if len(self.calls) > 1 or self.image.table.find(address - self.image.base) != self.function:
            return False
        blocks = [block for block in _blocks(self.image, self.function) if block not in self.shadow.visited]
        if not blocks or self.random.random() > 0.4:
            return False
        self.returned = False
        self.jump(self.image.base + self.random.choice(blocks))
        return True

    def return_from_outside(self, x: tuple[int, ...]) -> None:
        call = self.calls[-1]
        if len(self.calls) == 1 or x[30] != call.pc:
            self.cpu.emu_stop()
            return
        self.calls.pop()
        self.entered.pop()
        for number in range(18):
            self.cpu.reg_write(self.gpr[number], self.value())
        self.returned, self.previous = True, call.pc - 4
        self.jump(call.pc)

    def follow(self, address: int, word: int, x: tuple[int, ...], d: tuple[int, ...]) -> None:
        if word >> 26 == 0b100101 or word & 0xFFFFFC1F == 0xD63F0000:  # bl, blr
            self.pending = Call(address + 4, x[31], x[19:30], d)
        elif word & 0xFFFFFC1F == 0xD65F0000:  # ret
            if x[31] != self.calls[-1].sp:
                self.shadow.moving.add(self.entered[-1])
            if x[word >> 5 & 31] != self.calls[-1].pc or len(self.calls) == 1:
                self.cpu.emu_stop()
                return
            self.previous = self.calls.pop().pc - 4
            self.entered.pop()
            self.returned = True
        elif word == PACIBSP:
            # The processor that is emulated has no pointer authentication: sign as one that has it.
            self.cpu.reg_write(self.gpr[30], x[30] ^ _SIGNATURE)
            self.shadow.signed += 1
        elif word == AUTIBSP:
            self.cpu.reg_write(self.gpr[30], x[30] ^ _SIGNATURE)
        else:
            self.branch(address, word)

    def branch(self, address: int, word: int) -> None:
        """A conditional branch goes either way: in the function itself, of some seeds in those that it calls too."""
        if word & 0xFF000010 == 0x54000000 or word & 0x7E000000 == 0x34000000:  # b.cond, cbz, cbnz
            distance = _signed(word >> 5 & 0x7FFFF, 19) * 4
        elif word & 0x7E000000 == 0x36000000:  # tbz, tbnz
            distance = _signed(word >> 5 & 0x3FFF, 14) * 4
        else:
            return
        # The checks of stack cookies are functions without a frame: passing a failed one is no path of the program.
        function = self.image.table.find(address - self.image.base)
        frameless = function is None or not any(code.registers for code in function.codes)
        own = len(self.calls) == 1
        if (own and self.seed % 4) or (not own and self.seed % 4 == 3 and not frameless):
            self.jump(address + (distance if self.random.random() < 0.5 else 4))

    def check(self, rva: int, x: tuple[int, ...], d: tuple[int, ...]) -> None:
        registers = Registers(x[:31], x[31], x[32], dict(zip(range(8, 16), d, strict=True)))
        # A whole walk at the first instruction of a function; one step elsewhere.
        depth = len(self.calls) if rva == self.entered[-1] else 1
        call_site = False
        for call in reversed(self.calls[-depth:]):
            outcome = unwind(registers, self.image.table, self.image.base, self.read, call_site=call_site)
            problem = difference(outcome.registers, call) if outcome.registers else outcome.reason
            if problem:
                self.shadow.wrong.setdefault(rva, problem)
                return
            assert outcome.registers is not None
            registers, call_site = outcome.registers, outcome.call_site
            self.shadow.walked += 1
        self.shadow.checked += 1


def difference(registers: Registers, call: Call) -> str | None:
    if registers.pc != call.pc:
        return f"pc {registers.pc:#x}, not {call.pc:#x}"
    if registers.sp != call.sp:
        return f"sp {registers.sp:#x}, not {call.sp:#x}"
    if tuple(registers.x[19:30]) != call.x:
        return f"x19 to x29 {registers.x[19:30]}, not {call.x}"
    if tuple(registers.d.get(number) for number in range(8, 16)) != call.d:
        return f"d8 to d15 {registers.d}, not {call.d}"
    if any(value is not None for value in [*registers.x[:18], registers.lr]):
        return "volatile registers are said to be known"
    return None


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def _blocks(image: Image, function: Function) -> list[int]:
    """Where code goes on after an unconditional branch or a return."""
    words = range(function.begin, function.end - 4, 4)
    return [rva + 4 for rva in words if image.word(rva) >> 26 == 0b000101 or image.word(rva) == RET]


# coverage of the images: the rest is startup code past calls that end the process
@pytest.mark.parametrize(
    "name, seeds, covered, steps",
    [
        ("nested_collided.exe", 8, 0.85, 5000),
        pytest.param("nested_collided.exe", 20, 0.88, 5000, marks=pytest.mark.thorough),
        pytest.param("xcpt4.exe", 6, 0.70, 20000, marks=pytest.mark.thorough),
        pytest.param("xframe_eh_dll.dll", 20, 0.90, 5000, marks=pytest.mark.thorough),
        pytest.param("xframe_eh_exe.exe", 20, 0.68, 5000, marks=pytest.mark.thorough),
    ],
)
def test_every_executed_instruction_unwinds_to_its_call(
    shared_data: Path, name: str, seeds: int, covered: float, steps: int
) -> None:
    pytest.importorskip("unicorn")
    shadow = Shadow(load_image(shared_data / "pe" / "seh" / "ARM64" / name))
    shadow.explore(shadow.image.functions, seeds)
    table = shadow.image.table
    # __security_push_cookie and __security_pop_cookie move the caller's sp by 16 bytes, which is what they are for:
    # their unwind data describe the sp that they return with.
    unexplained = {
        hex(rva): problem
        for rva, problem in shadow.wrong.items()
        if not (problem.startswith("sp ") and any(table.find(rva) == table.find(begin) for begin in shadow.moving))
    }
    assert unexplained == {}
    assert len(shadow.moving) <= 2
    assert len(shadow.wrong) <= 3
    assert shadow.coverage() > covered
    assert shadow.checked > steps
    assert shadow.walked > shadow.checked + 500
    assert shadow.signed > 50


# LLVM -----------------------------------------------------------------------------------------------------------------


@functools.cache
def llvm(tool: str) -> tuple[str, int]:
    """The newest of a tool's installed versions, and its number."""
    found = []
    for name in (tool, *(f"{tool}-{number}" for number in range(14, 25))):
        if path := shutil.which(name):
            text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            if match := re.search(r"version (\d+)", text):
                found.append((int(match[1]), path))
    if not found:
        pytest.skip(f"no {tool} (package llvm)")
    version, path = max(found)
    return path, version


@dataclass
class Printed:
    """What llvm-readobj prints of one function."""

    address: int
    length: int
    cr: int | None
    prolog: list[str]
    epilogs: list[tuple[int | None, list[str]]]


def readobj_unwind(path: Path) -> list[Printed]:
    program, _ = llvm("llvm-readobj")
    run = subprocess.run([program, "--unwind", path], capture_output=True, text=True, check=True, timeout=60)
    functions: list[Printed] = []
    target: list[str] = []
    start: int | None = None
    for line in run.stdout.splitlines():
        text = line.strip()
        if match := re.match(r"Function: .*?(0x[0-9A-F]+)\)?$", text):
            functions.append(Printed(int(match[1], 16), 0, None, [], []))
        elif match := re.match(r"(FunctionLength|CR|StartOffset): (\d+)$", text):
            if match[1] == "FunctionLength":
                functions[-1].length = int(match[2])
            elif match[1] == "CR":
                functions[-1].cr = int(match[2])
            else:
                start = int(match[2])
        elif text == "Prologue [":
            target = functions[-1].prolog
        elif text in ("Epilogue [", "Opcodes ["):
            target = []
            functions[-1].epilogs.append((start if text == "Opcodes [" else None, target))
        elif match := re.match(r"0x[0-9a-f]+\s*; (.*)$", text):
            target.append(match[1])
        elif functions and functions[-1].cr is not None and re.match(r"(mov|stp|str|sub|pacibsp|end)\b", text):
            target.append(text)
    return functions


def spelled(code: Code, *, prolog: bool, packed: bool = False) -> str:
    """A code as llvm-readobj writes it."""
    if code.name in ("end", "nop"):
        return code.name
    if code.name == "pac_sign_lr":
        return "pacibsp" if prolog else "autibsp"
    if code.name == "set_fp":
        return "mov x29, sp" if packed else "mov fp, sp" if prolog else "mov sp, fp"
    if code.name == "add_fp":
        return f"add fp, sp, #{code.adjust}" if prolog else f"sub sp, fp, #{code.adjust}"
    if code.name == "clear_unwound_to_call":
        return "clear unwound to call"
    if code.name.startswith("alloc"):
        operation = "sub" if prolog else "add"
        return f"{operation} sp, sp, #{code.adjust}" if packed else f"{operation} sp, #{code.adjust}"
    operation = ("st" if prolog else "ld") + ("p" if len(code.registers) == 2 else "r")
    names = [
        "lr" if number == 30 and (packed or code.name == "save_lrpair") else f"{code.bank}{number}"
        for number in code.registers
    ]
    if not code.adjust:
        place = f"[sp, #{code.offset}]"
    else:
        place = f"[sp, #-{code.adjust}]!" if prolog else f"[sp], #{code.adjust}"
    return f"{operation} {', '.join(names)}, {place}"


@pytest.mark.parametrize("name", IMAGES)
def test_codes_agree_with_llvm(shared_data: Path, name: str) -> None:
    path = shared_data / "pe" / "seh" / "ARM64" / name
    image = load_image(path)
    _, version = llvm("llvm-readobj")
    printed = readobj_unwind(path)
    assert [image.base + function.begin for function in image.functions] == [each.address for each in printed]
    compared = 0
    for function, other in zip(image.functions, printed, strict=True):
        packed = function.form == "packed"
        assert function.length == other.length
        if packed and other.cr == 2 and version < 17:
            continue  # older versions do not know signed return addresses
        prolog = [spelled(code, prolog=True, packed=packed) for code in function.codes]
        assert prolog == [_modern(text, "pacibsp") for text in other.prolog], hex(function.begin)
        compared += 1
        if packed:
            continue
        if not other.epilogs and len(function.epilogs) == 1:
            # Not printed where the single epilog at the function's end has the codes of the prolog.
            assert function.epilogs[0].codes == function.codes
            continue
        for epilog, (start, theirs) in zip(function.epilogs, other.epilogs, strict=True):
            mine = [spelled(code, prolog=False) for code in epilog.codes]
            assert mine == [_modern(text, "autibsp") for text in theirs], hex(function.begin)
            assert start in (None, epilog.start)
    assert compared > 0.5 * len(printed)


def _modern(text: str, pac: str) -> str:
    return pac if text == "Bad opcode!" else text


def assemble(directory: Path, source: str) -> Path:
    program, _ = llvm("llvm-mc")
    text, output = directory / "functions.s", directory / "functions.obj"
    text.write_text(source)
    run = subprocess.run(
        [program, "-triple", "aarch64-windows", "-filetype=obj", text, "-o", output],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr[:2000]
    return output


def packed_words() -> Iterator[int]:
    """Packed entries of all forms, with frames that reach each way of allocating the local area."""
    for cr, integers, floats, homed in itertools.product(range(4), range(11), range(8), range(2)):
        saved = 8 * integers + 8 * (cr == 1) + (8 * floats + 8 if floats else 0) + 64 * homed + 15 & ~15
        for local in (0, 16, 512, 528, 4080, 4096, 5136):
            # x19 and lr alone is a form that LLVM calls invalid: it has no code for the store that would allocate.
            if (local or cr < 2) and saved + local < 16 * 512 and (cr, integers) != (1, 1):
                frame = (saved + local) // 16
                yield 1 | 40 << 2 | floats << 13 | integers << 16 | homed << 20 | cr << 21 | frame << 23


def test_packed_prologs_agree_with_llvm(tmp_path: Path) -> None:
    _, version = llvm("llvm-readobj")
    if version < 17:
        pytest.skip(f"llvm-readobj {version} does not know signed return addresses")
    words = list(packed_words())
    lines = [".text", "f:", f".space {160 * len(words)}", '.section .pdata,"dr"']
    for number, word in enumerate(words):
        lines += [f".rva f+{160 * number}", f".long {word:#x}"]
    printed = readobj_unwind(assemble(tmp_path, "\n".join(lines) + "\n"))
    assert len(printed) == len(words) > 4000
    for word, other in zip(words, printed, strict=True):
        function = decode_packed(0x1000, word)
        assert function.reason is None
        mine = [spelled(code, prolog=True, packed=True) for code in function.codes]
        # The stores of homed arguments are no-ops of ours.
        theirs = [re.sub(r"^stp x[0246], x[1357], \[sp, #\d+\]$", "nop", text) for text in other.prolog]
        theirs = [re.sub(r"^stp x0, x1, \[sp, #-(\d+)\]!$", r"sub sp, sp, #\1", text) for text in theirs]
        assert mine == theirs, f"{word:#x}"


@dataclass
class Assembled:
    """A function in assembler, with the unwind directives beside its instructions."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, instruction: str, directive: str) -> None:
        self.lines += [instruction, directive]


def canonical_function(name: str, cr: int, integers: int, floats: int, homed: int, local: int) -> str:
    """A function with the prolog and epilog of Microsoft's table for packed unwind data.

    ``floats`` counts registers, 0 or 2 to 8; ``local`` is the local area in bytes.
    """
    int_size = 8 * integers + 8 * (cr == 1)
    saved = int_size + 8 * floats + 64 * homed + 15 & ~15
    steps: list[tuple[str, str, str]] = []  # prolog instruction, epilog instruction, directive
    stores: list[tuple[str, list[str], int]] = []
    numbers = [f"x{number}" for number in range(19, 19 + integers)]
    if cr == 1 and integers % 2:
        numbers.append("lr")
    stores += [("reg", numbers[first : first + 2], 8 * first) for first in range(0, len(numbers), 2)]
    if cr == 1 and integers % 2 == 0:
        stores.append(("reg", ["lr"], int_size - 8))
    vectors = [f"d{number}" for number in range(8, 8 + floats)]
    stores += [("freg", vectors[first : first + 2], int_size + 8 * first) for first in range(0, floats, 2)]
    for index, (kind, names, offset) in enumerate(stores):
        pair = "p" if len(names) == 2 else ""
        directive = "lrpair" if len(names) == 2 and names[1] == "lr" else kind + pair
        store, load = ("stp", "ldp") if pair else ("str", "ldr")
        listed = ", ".join(names)
        if index == 0 and directive != "lrpair":
            steps.append(
                (
                    f"{store} {listed}, [sp, #-{saved}]!",
                    f"{load} {listed}, [sp], #{saved}",
                    f".seh_save_{directive}_x {names[0]}, {saved}",
                )
            )
            continue
        if index == 0:
            steps.append(_allocate(saved))
        first = f"{names[0]}, {offset}"
        steps.append(
            (
                f"{store} {listed}, [sp, #{offset}]",
                f"{load} {listed}, [sp, #{offset}]",
                f".seh_save_{directive} {first}",
            )
        )
    if homed:
        if not stores:
            steps.append(_allocate(saved))
        for first in range(0, 8, 2):
            if first or stores:
                steps.append((f"stp x{first}, x{first + 1}, [sp, #{saved - 64 + 8 * first}]", "", ".seh_nop"))
    if cr == 3 and local <= 512:
        steps.append((f"stp x29, lr, [sp, #-{local}]!", f"ldp x29, lr, [sp], #{local}", f".seh_save_fplr_x {local}"))
    else:
        if local > 4080:
            steps.append(_allocate(4080))
        if local:
            steps.append(_allocate(local - 4080 if local > 4080 else local))
        if cr == 3:
            steps.append(("stp x29, lr, [sp]", "ldp x29, lr, [sp]", ".seh_save_fplr 0"))
    if cr == 3:
        steps.append(("mov x29, sp", "", ".seh_set_fp"))
    lines = [f".def {name}; .scl 2; .type 32; .endef", f".globl {name}", f"{name}:", f".seh_proc {name}"]
    for store, _, directive in steps:
        lines += [store, directive]
    lines.append(".seh_endprologue")
    # What the function preserves it may use.
    lines += [f"mov {register}, #{number}" for number, register in enumerate(numbers) if register != "lr"]
    lines += [f"fmov {register}, xzr" for register in vectors]
    if cr:
        lines.append("mov x30, #77")
    lines.append(".seh_startepilogue")
    for _, load, directive in reversed(steps):
        if load:
            lines += [load, directive]
    return "\n".join([*lines, ".seh_endepilogue", "ret", ".seh_endproc"])


def _allocate(size: int) -> tuple[str, str, str]:
    return f"sub sp, sp, #{size}", f"add sp, sp, #{size}", f".seh_stackalloc {size}"


def link(path: Path) -> Image:
    """The sections of an object file laid out as an image, with RVA relocations applied."""
    data = path.read_bytes()
    _, count, _, symbols, symbol_count = struct.unpack_from("<HHIII", data)
    names, places, raw = [], [], []
    position = 0x1000
    for index in range(count):
        name, _, _, size, offset, relocations, _, entries = struct.unpack_from("<8s6IH", data, 20 + 40 * index)
        names.append(name.rstrip(b"\0"))
        places.append(position)
        raw.append((size, offset, relocations, entries))
        position = position + size + 0xFFF & ~0xFFF
    image = bytearray(position)
    for place, (size, offset, relocations, entries) in zip(places, raw, strict=True):
        if offset:
            image[place : place + size] = data[offset : offset + size]
        for index in range(entries):
            where, symbol, kind = struct.unpack_from("<IIH", data, relocations + 10 * index)
            assert kind == 2 and symbol < symbol_count  # IMAGE_REL_ARM64_ADDR32NB
            value, section = struct.unpack_from("<IH", data, symbols + 18 * symbol + 8)
            (addend,) = struct.unpack_from("<I", image, place + where)
            struct.pack_into("<I", image, place + where, addend + value + places[section - 1])
    index = names.index(b".pdata")
    return make_image(bytes(image), 0x140000000, (places[index], raw[index][0]))


def test_canonical_prologs_and_epilogs_unwind_at_every_instruction(tmp_path: Path) -> None:
    """As the assembler describes them, packed where it can; then all others by packed entries made here."""
    pytest.importorskip("unicorn")
    functions, words = [], []
    frames = list(itertools.product((0, 1, 3), (0, 1, 2, 3, 10), (0, 2, 3, 8), (0, 1)))
    for cr, integers, floats, homed in frames[:: step()]:
        for local in (16, 528, 4096) if cr == 3 else (0, 4096):
            functions.append(canonical_function(f"f{len(functions)}", cr, integers, floats, homed, local))
            saved = 8 * integers + 8 * (cr == 1) + 8 * floats + 64 * homed + 15 & ~15
            word = 1 | max(floats - 1, 0) << 13 | integers << 16 | homed << 20 | cr << 21 | (saved + local) // 16 << 23
            words.append(word)
    image = link(assemble(tmp_path, ".text\n" + "\n".join(functions) + "\n"))
    described = image.functions
    assert len(described) == len(functions)
    check_all(image, described)
    entries = []
    for function, word in zip(described, words, strict=True):
        if function.form == "packed":
            assert decode_packed(function.begin, word | function.length).codes == function.codes
        else:
            entries.append(struct.pack("<II", function.begin, word | function.length))
    assert len(functions) / 3 < len(entries) < len(functions) * 2 / 3
    directory = b"".join(entries)
    packed_image = make_image(image.data + directory, image.base, (len(image.data), len(directory)))
    check_all(packed_image, packed_image.functions)


def check_all(image: Image, functions: list[Function]) -> None:
    shadow = Shadow(image)
    for function in functions:
        shadow.run(function, 0)
    assert {hex(rva): problem for rva, problem in shadow.wrong.items()} == {}
    assert shadow.coverage() == 1.0


def test_packed_and_full_descriptions_of_a_prolog_agree() -> None:
    """The same frame described by a packed entry and by codes: equal effect at every instruction of the prolog."""
    # stp x19,x20,[sp,-48]!; str x21,[sp,16]; stp d8,d9,[sp,24]; stp fp,lr,[sp,-32]!; mov fp,sp
    packed = decode_packed(0x1000, 1 | 30 << 2 | 1 << 13 | 3 << 16 | 3 << 21 | 5 << 23)
    full = record(codes="e1 83 d803 d082 cc05 e4", length=30)
    assert [code[2:6] for code in packed.codes] == [code[2:6] for code in full.codes]
    for rva in range(0x1000, 0x1000 + 4 * packed.prolog, 4):
        assert packed.effect_at(rva) == full.effect_at(rva)


# hand-made unwind data ------------------------------------------------------------------------------------------------


def record(
    codes: str,
    length: int = 32,
    *,
    scopes: tuple[tuple[int, int], ...] = (),
    single: int | None = None,
    extended: bool = False,
    handler: int | None = None,
) -> Function:
    """A function of ``length`` instructions at RVA 0x1000, described by an ``.xdata`` record made here.

    ``scopes`` are epilogs as (start in instructions, index of the first code); ``single`` is the index of the first
    code of a single epilog at the end.
    """
    data = bytes.fromhex(codes)
    data += b"\xe3" * (-len(data) % 4)
    count = len(scopes) if single is None else single
    header = length | (handler is not None) << 20 | (single is not None) << 21
    words = [header, count | len(data) // 4 << 16] if extended else [header | count << 22 | len(data) // 4 << 27]
    words += [start | index << 22 for start, index in scopes]
    blob = struct.pack(f"<{len(words)}I", *words) + data + (b"" if handler is None else struct.pack("<I", handler))

    def read(rva: int, size: int) -> bytes | None:
        return blob[rva - 0x8000 : rva - 0x8000 + size] if rva >= 0x8000 and rva - 0x8000 + size <= len(blob) else None

    return decode_full(0x1000, read, 0x8000)


def table_of(function: Function) -> FunctionTable:
    table = FunctionTable(lambda rva, size: None, None, 0x100000)
    table.find = lambda rva: function if function.begin <= rva < function.end else None  # type: ignore[method-assign]
    return table


SP = 0xFFFFE00E0E4BC400


def stack_of(slots: dict[int, int], base: int = SP) -> Read:
    """Memory of 0x2000 bytes from ``base`` with 8-byte values at offsets; others hold the offset plus 0x1000000."""
    data = bytearray()
    for offset in range(0, 0x2000, 8):
        data += struct.pack("<Q", slots.get(offset, 0x1000000 + offset))
    return lambda address, size: (
        bytes(data[address - base : address - base + size])
        if base <= address and address - base + size <= len(data)
        else None
    )


def body(function: Function, slots: dict[int, int] | None = None, **known: Any) -> Any:
    """Unwind from the middle of the function's body."""
    registers = Registers([0x100 + number for number in range(31)], SP, 0x1000 + 4 * 16)
    registers.d = {number: 0x200 + number for number in range(8, 16)}
    for name, value in known.items():
        if name == "sp":
            registers.sp = value
        else:
            registers.x[{"fp": 29, "lr": 30}[name]] = value
    return unwind(registers, table_of(function), 0, stack_of(slots or {}), call_site=False)


def at(offset: int) -> int:
    return 0x1000000 + offset


@pytest.mark.parametrize(
    "codes, registers, sp",
    [
        ("01 e4", {}, 16),
        ("c010 e4", {}, 256),
        ("e0000100 e4", {}, 4096),
        ("24 e4", {19: at(0), 20: at(8)}, 32),
        ("42 e4", {29: at(16), "pc": at(24)}, 0),
        ("81 e4", {29: at(0), "pc": at(8)}, 16),
        ("c842 e4", {20: at(16), 21: at(24)}, 0),
        ("cc41 e4", {20: at(0), 21: at(8)}, 16),
        ("d042 e4", {20: at(16)}, 0),
        ("d421 e4", {20: at(0)}, 16),
        ("d642 e4", {21: at(16), "pc": at(24)}, 0),
        ("d842 e4", {"d9": at(16), "d10": at(24)}, 0),
        ("da43 e4", {"d9": at(0), "d10": at(8)}, 32),
        ("dc42 e4", {"d9": at(16)}, 0),
        ("de21 e4", {"d9": at(0)}, 16),
        # save_next continues the pair that follows: two and one pairs here
        ("e6 e6 c803 e4", {19: at(24), 20: at(32), 21: at(40), 22: at(48), 23: at(56), 24: at(64)}, 0),
        ("e6 da01 e4", {"d8": at(0), "d9": at(8), "d10": at(16), "d11": at(24)}, 16),
        ("e6 24 e4", {19: at(0), 20: at(8), 21: at(16), 22: at(24)}, 32),
        # save_any_reg: x5 at 16; x5,x6 at 32; x5 pre-indexed by 48; d9 at 16; q9,q10 at 32
        ("e70502 e4", {5: at(16)}, 0),
        ("e74502 e4", {5: at(32), 6: at(40)}, 0),
        ("e72502 e4", {5: at(0)}, 48),
        ("e70942 e4", {"d9": at(16)}, 0),
        ("e74982 e4", {"d9": at(32), "d10": at(48)}, 0),
        # the saves of a frame whose sp is restored from fp, half of them made before fp was set
        ("c803 e1 81 e4", {19: at(24), 20: at(32), 29: at(0x100), "pc": at(0x108)}, 0x110),
        ("e202 42 e4", {29: at(0x100), "pc": at(0x108)}, 0x100 - 16),
        # the codes of a fragment end at end_c and go on with those of the function that it was split from
        ("e5 e1 83 e4", {29: at(0x100), "pc": at(0x108)}, 0x120),
        # codes without effect, and scalable registers: the low half of z9 is lost, p4 is of no interest
        ("e3 fc e701c0 e714c0 01 e4", {"d9": None}, 16),
    ],
)
def test_codes(codes: str, registers: dict[int | str, int | None], sp: int) -> None:
    outcome = body(record(codes), fp=SP + 0x100, lr=0x5000)
    assert outcome.reason is None
    caller = outcome.registers
    expected = {number: None if number < 18 or number == 30 else 0x100 + number for number in range(31)}
    expected[29] = SP + 0x100
    expected.update({number: value for number, value in registers.items() if isinstance(number, int)})
    assert dict(enumerate(caller.x)) == expected
    vectors = {f"d{number}": caller.d.get(number) for number in range(8, 16)}
    wanted = {f"d{number}": 0x200 + number for number in range(8, 16)}
    wanted.update({number: value for number, value in registers.items() if str(number).startswith("d")})
    assert vectors == wanted
    assert caller.pc == registers.get("pc", 0x5000)
    assert caller.sp == SP + sp
    assert outcome.call_site


@pytest.mark.parametrize(
    "codes, reason",
    [
        ("f8 00 e4", "reserved unwind code 0xf8"),
        ("ed e4", "reserved unwind code 0xed"),
        ("fd e4", "reserved unwind code 0xfd"),
        ("e78000 e4", "reserved unwind code 0xe78000"),
        ("01 01 01 01", "run past the end"),
        ("01 01 01 c0", "0xc0 runs past the end"),
        ("df01 e4", "vector length"),
        ("e6 01 e4", "save_next"),
        ("e6 e4", "save_next"),
        ("e6 42 e4", "save_next"),
        ("cac0 c800 e4 cb00", "names a register past the last"),
        ("81 e1 e4", "fp that is restored before"),
        ("eb e4", "emulated x64"),
        ("e8 e4", "layout of the trap frame"),
        ("e9 01 e4", "alloc_s after machine_frame"),
    ],
)
def test_codes_that_cannot_be_undone_say_why(codes: str, reason: str) -> None:
    outcome = body(record(codes), fp=SP + 0x100, lr=0x5000)
    assert outcome.registers is None
    assert reason in outcome.reason


def test_machine_frame_gives_sp_and_pc_and_keeps_all_registers() -> None:
    outcome = body(record("01 e9 e4"), {16: 0xFFFFE00E0E4B0000, 24: 0xFFFFF80312345678})
    assert outcome.machine_frame == SP + 16
    assert not outcome.call_site
    assert (outcome.registers.sp, outcome.registers.pc) == (0xFFFFE00E0E4B0000, 0xFFFFF80312345678)
    assert outcome.registers.x == [0x100 + number for number in range(31)]


def test_context_record_is_taken_over() -> None:
    slots = {8 * (1 + number): 0x900 + number for number in range(33)}
    slots[0] = 0x400007
    slots.update({0x110 + 16 * number: 0x700 + number for number in range(32)})
    outcome = body(record("ec ea e4"), slots)
    assert outcome.machine_frame == SP
    assert not outcome.call_site
    assert outcome.registers.x == [0x900 + number for number in range(31)]
    assert (outcome.registers.sp, outcome.registers.pc) == (0x900 + 31, 0x900 + 32)
    assert outcome.registers.d == {number: 0x700 + number for number in range(8, 16)}
    assert "context record" in body(record("ea e4")).reason


def test_trap_frame_is_read_by_the_caller_that_knows_its_layout() -> None:
    found = Registers([None] * 31, 0x7000, 0x8000)
    addresses: list[int] = []

    def trap_frame(address: int) -> Registers:
        addresses.append(address)
        return found

    registers = Registers([0] * 31, SP, 0x1040)
    table = table_of(record("01 e8 e4"))
    outcome = unwind(registers, table, 0, stack_of({}), call_site=True, trap_frame=trap_frame)
    assert (outcome.registers, outcome.machine_frame, outcome.call_site) == (found, SP + 16, False)
    assert addresses == [SP + 16]


def test_extended_header_scopes_and_handler() -> None:
    # 40 epilogs of two instructions each, more than the five bits of the first word can count
    scopes = tuple((100 + 4 * number, 2) for number in range(40))
    function = record("83 e4 83 e4", 300, scopes=scopes, extended=True, handler=0x4321)
    assert (function.length, function.prolog, len(function.epilogs), function.handler) == (1200, 1, 40, 0x4321)
    assert function.epilogs[0] == (100, 2, decode_codes(bytes.fromhex("83e4")))
    assert function.position(0x1000) == (-1, 1)
    assert function.position(0x1000 + 4 * 99) == (-1, 0)
    assert function.position(0x1000 + 4 * 100) == (0, 0)
    assert function.position(0x1000 + 4 * 105) == (1, 1)
    assert function.position(0x1000 + 4 * 106) == (-1, 0)


def test_single_epilog_ends_the_function() -> None:
    function = record("e1 83 c803 e4", 20, single=1)
    assert function.epilogs == ((17, 3, function.codes[1:]),)
    # the last instruction returns: nothing is left to undo
    registers = Registers([None] * 30 + [0x5000], SP, 0x1000 + 4 * 19)
    outcome = unwind(registers, table_of(function), 0, stack_of({}), call_site=False)
    assert (outcome.registers.pc, outcome.registers.sp) == (0x5000, SP)  # type: ignore[union-attr]


def test_versions_and_kinds_that_are_not_known_are_refused() -> None:
    assert "version 1" in (decode_full(0, lambda rva, size: struct.pack("<I", 1 << 18), 4).reason or "")
    assert "kind 3" in (decode_packed(0, 0xB).reason or "")
    assert "contradicts itself" in (decode_packed(0, 1 | 15 << 16).reason or "")


# one step -------------------------------------------------------------------------------------------------------------


def test_a_leaf_function_returns_to_lr_unless_it_was_called_from() -> None:
    table = FunctionTable(lambda rva, size: None, None, 0x100000)
    registers = Registers([5] * 30 + [0x5A35F80312345678], SP, 0x1000)
    outcome = unwind(registers, table, 0, stack_of({}), call_site=False)
    assert outcome.leaf
    assert outcome.registers is not None
    assert (outcome.registers.pc, outcome.registers.sp) == (0xF80312345678, SP)
    assert outcome.registers.x[:18] == [None] * 18
    assert outcome.registers.x[18:30] == [5] * 12
    assert unwind(outcome.registers, table, 0, stack_of({}), call_site=True).registers is None


def test_a_return_address_is_looked_up_as_its_call() -> None:
    """The call that ends a function does not return: its return address lies in the next function."""
    first, second = record("83 e4", 8), record("83 e4", 8)
    second = Function(first.end, second.length, "full", decode_codes(bytes.fromhex("01e4")), 1)
    functions = [first, second]
    table = table_of(first)
    table.find = lambda rva: next(each for each in functions if each.begin <= rva < each.end)  # type: ignore[method-assign]
    registers = Registers([None] * 31, SP, first.end)
    outcome = unwind(registers, table, 0, stack_of({}), call_site=True)
    assert outcome.function == first
    assert outcome.registers is not None
    assert outcome.registers.sp == SP + 32


@pytest.mark.parametrize(
    "codes, known, reason",
    [
        (
            "e1 81 e4",
            {"fp": SP - 0x100},
            "the return address was saved on the stack, at bytes that are not in the dump",
        ),
        ("e1 81 e4", {"fp": None}, "fp is not known"),
        ("81 e4", {"sp": None}, "sp is not known"),
        ("01 e4", {"lr": None}, "the return address is in lr, which is not known"),
        ("d421 e4", {"sp": SP + 8}, "is not a multiple of 16"),
        ("e220 e4", {"fp": SP + 0x80}, "sp goes down"),
        ("e4", {"lr": 0x1040}, "returns to itself"),
    ],
)
def test_a_step_that_cannot_be_made_says_why(codes: str, known: dict[str, Any], reason: str) -> None:
    outcome = body(record(codes), **known)
    assert outcome.registers is None
    assert reason in outcome.reason


def test_registers_saved_where_the_dump_has_no_bytes_become_unknown() -> None:
    # x19 to x22 below fp, lr: only the frame record is in the dump
    function = record("c800 c882 e1 81 e4")
    memory = stack_of({}, SP + 0x40)
    registers = Registers([7] * 31, SP, 0x1040, {8: 1})
    registers.x[29] = SP + 0x40
    outcome = unwind(registers, table_of(function), 0, memory, call_site=True)
    assert outcome.registers is not None
    assert outcome.registers.x[19:23] == [None] * 4
    assert outcome.registers.x[23:29] == [7] * 6
    assert (outcome.registers.fp, outcome.registers.pc) == (at(0), at(8))


def test_registers_round_trip_through_a_context() -> None:
    record_bytes = bytearray(0x390)
    struct.pack_into("<II31QQQ", record_bytes, 0, 0x400007, 0, *range(100, 133))
    for number in range(32):
        struct.pack_into("<QQ", record_bytes, 0x110 + 16 * number, 500 + number, 9)
    context = parse_context(bytes(record_bytes), "arm64", "context record")
    assert context is not None
    registers = Registers.from_context(context)
    assert (registers.x, registers.sp, registers.pc) == ([*range(100, 131)], 131, 132)
    assert registers.d == {number: 500 + number for number in range(8, 16)}
    registers.x[5] = None
    back = registers.to_context("unwind")
    assert back.registers == {
        name: value for name, value in context.registers.items() if name not in ("x5", "cpsr", "fpcr", "fpsr")
    }


# the exception directory ----------------------------------------------------------------------------------------------


def directory_table(entries: list[tuple[int, int]], absent: Callable[[int], bool] = lambda rva: False) -> FunctionTable:
    data = b"".join(struct.pack("<II", begin, word) for begin, word in entries)

    def read(rva: int, size: int) -> bytes | None:
        offset = rva - 0x10000
        if any(absent(byte) for byte in range(rva, rva + size)) or not 0 <= offset <= len(data) - size:
            return None
        return data[offset : offset + size]

    return FunctionTable(read, (0x10000, len(data)), 0x100000)


def packed(instructions: int) -> int:
    return 1 | instructions << 2 | 3 << 21 | 1 << 23


def test_an_island_runs_in_the_frame_of_the_entry_that_it_names() -> None:
    """Kind 3, as linkers emit it for ``adrp x16; add x16; br x16`` between parts of a function."""
    full = packed(8)
    table = directory_table([(0x1000, full), (0x1020, 0x10000 | 3), (0x1040, packed(4))])
    function = table.find(0x1024)
    assert function is not None and (function.begin, function.length, function.reason) == (0x1020, 12, None)
    parent = table.find(0x1000)
    assert parent is not None and function.codes == parent.codes
    assert (function.prolog, function.epilogs) == (0, ())
    # Behind it a leaf function may follow.
    assert table.find(0x102C) is None
    stack = stack_of({0: SP + 0x100, 8: 0x5000})
    island, inside = (
        unwind(Registers([0] * 29 + [SP, 0x7000], SP, pc), table, 0, stack, call_site=False) for pc in (0x1024, 0x1010)
    )
    assert island.registers is not None and inside.registers is not None
    assert (island.registers.pc, island.registers.sp) == (inside.registers.pc, inside.registers.sp)


@pytest.mark.parametrize("word", [0x10008 | 3, 0x10004 | 3, 0x20000 | 3, 3])
def test_an_island_that_names_no_entry_is_refused(word: int) -> None:
    """Its own entry, a place between two, one outside of the table, and none."""
    function = directory_table([(0x1000, packed(8)), (0x1020, word)]).find(0x1024)
    assert function is not None and "names no entry" in (function.reason or "")


def test_a_scope_whose_codes_run_past_their_words_is_body() -> None:
    """Fragments keep scopes of their parent's epilogs, as MSVC emits them."""
    function = record("83 e4 83 e4", 100, scopes=((20, 2), (40, 4), (60, 9)))
    assert [epilog.start for epilog in function.epilogs] == [20]
    assert function.position(0x1000 + 4 * 40) == (-1, 0)


def test_functions_are_found_by_address() -> None:
    table = directory_table([(0, 0), (0x1000, packed(8)), (0x1020, packed(4)), (0x2000, packed(4)), (0, 0)])
    found = {rva: table.find(rva) for rva in (0xFFF, 0x1000, 0x101C, 0x1020, 0x102F, 0x1030, 0x2000, 0x2010)}
    assert {rva: function and function.begin for rva, function in found.items()} == {
        0xFFF: None,
        0x1000: 0x1000,
        0x101C: 0x1000,
        0x1020: 0x1020,
        0x102F: 0x1020,
        0x1030: None,
        0x2000: 0x2000,
        0x2010: None,
    }
    assert table.find(0x1000) is table.find(0x1004)


def test_an_unsorted_directory_is_searched_all_the_same() -> None:
    table = directory_table([(0x2000, packed(4)), (0x1000, packed(8)), (0x3000, packed(4))])
    assert [table.find(rva) and table.find(rva).begin for rva in (0x1004, 0x2004, 0x3004, 0x1100)] == [  # type: ignore[union-attr]
        0x1000,
        0x2000,
        0x3000,
        None,
    ]


def test_absent_pages_of_the_directory_leave_the_rest_usable() -> None:
    """Entries 512 to 1023, at 0x1000 bytes to a page of the directory, are absent."""
    entries = [(0x1000 + 0x40 * number, packed(8)) for number in range(1400)]
    table = directory_table(entries, lambda rva: 0x11000 <= rva < 0x12000)
    for number in (0, 100, 511, 1024, 1399):
        function = table.find(0x1000 + 0x40 * number + 4)
        assert function is not None
        assert function.begin == 0x1000 + 0x40 * number
    # between present entries: known to be a leaf; where absent entries may lie: not known
    assert table.find(0x1000 + 0x40 * 100 + 0x30) is None
    assert table.find(0x1000 + 0x40 * 1399 + 0x30) is None
    for number in (511, 512, 700, 1023):
        with pytest.raises(TableAbsent):
            table.find(0x1000 + 0x40 * number + 0x30)


def test_absent_unwind_data_are_told_from_a_leaf() -> None:
    table = directory_table([(0x1000, 0x50000)])
    with pytest.raises(TableAbsent, match="0x50000"):
        table.find(0x1000)
    outcome = unwind(Registers([1] * 31, SP, 0x1000), table, 0, stack_of({}), call_site=False)
    assert outcome.registers is None
    assert not outcome.leaf
    assert "not in the dump" in (outcome.reason or "")


def test_a_directory_of_absurd_size_is_bounded() -> None:
    sizes = []

    def read(rva: int, size: int) -> bytes | None:
        sizes.append(size)
        return None

    table = FunctionTable(read, (0x1000, 0xFFFFFFFF), 0xFFFFFFFF)
    with pytest.raises(TableAbsent):
        table.find(0x5000)
    assert max(sizes) <= 16 << 20
    assert len(sizes) <= 4097


@settings(max_examples=part(300), deadline=None)
@given(st.binary(max_size=600), st.binary(max_size=160), st.integers(0, 0x300), st.booleans(), st.randoms())
def test_random_images_and_stacks_never_raise(
    image: bytes, memory: bytes, rva: int, call_site: bool, source: random.Random
) -> None:
    def read_rva(start: int, size: int) -> bytes | None:
        return image[start : start + size] if start >= 0 and start + size <= len(image) else None

    def read(address: int, size: int) -> bytes | None:
        start = address - 0x1000
        return memory[start : start + size] if start >= 0 and start + size <= len(memory) else None

    table = FunctionTable(read_rva, (source.randrange(0, 64), source.randrange(0, 700)), 0x400)
    values = [
        source.choice((None, 0, 0x1000, 0x1010, 0x1038, (1 << 64) - 8, source.getrandbits(64))) for _ in range(32)
    ]
    registers = Registers(values[:31], values[31], rva)
    before = registers.copy()
    outcome = unwind(registers, table, 0, read, call_site=call_site)
    assert (outcome.registers is None) == (outcome.reason is not None)
    assert (registers.x, registers.sp, registers.pc, registers.d) == (before.x, before.sp, before.pc, before.d)
    if outcome.registers is not None and outcome.machine_frame is None and registers.sp is not None:
        assert outcome.registers.sp is not None
        assert outcome.registers.sp >= registers.sp
    chain = frame_pointer_step(registers, read)
    assert (chain.registers is None) == (chain.reason is not None)


@settings(max_examples=part(300), deadline=None)
@given(st.binary(max_size=64), st.integers(0, 0xFFFFFFFF))
def test_random_codes_and_words_always_decode(codes: bytes, word: int) -> None:
    decoded = decode_codes(codes)
    assert decoded[-1].name in ("end", "reserved")
    assert sum(code.size for code in decoded) <= len(codes) + 4
    if word & 3:
        function = decode_packed(0x1000, word)
        for rva in range(function.begin, min(function.end, function.begin + 400), 4):
            if function.reason is None:
                assert function.effect_at(rva).reason is None


# the frame-pointer chain ----------------------------------------------------------------------------------------------


def chain_memory(records: dict[int, tuple[int, int]]) -> Read:
    return lambda address, size: struct.pack("<QQ", *records[address])[:size] if address in records else None


def test_frame_records_are_followed_to_the_outermost() -> None:
    pc, mask = 0xFFFFF80312340000, 0x7F << 48
    memory = chain_memory({0x1000: (0x1040, pc ^ _SIGNATURE), 0x1040: (0, pc + 4), 0x1080: (0x1040, 0)})
    registers = Registers([3] * 31, 0x1000, 0x10)
    registers.x[29] = 0x1000
    assert repr(registers) == "Registers(pc=0x10, sp=0x1000, fp=0x1000, lr=0x3)"
    first = frame_pointer_step(registers, memory, (0x1000, 0x1050))
    assert first.registers is not None
    assert first.registers.pc == pc
    assert (first.registers.sp, first.registers.stack_address, registers.stack_address) == (None, 0x1040, 0x1000)
    assert first.registers.x == [None] * 18 + [3] + [None] * 10 + [0x1040, None]
    assert first.registers.d == {}
    assert frame_pointer_step(registers, memory, mask=mask).registers is not None
    second = frame_pointer_step(first.registers, memory, (0x1000, 0x1050))
    assert second.registers is not None
    assert (second.registers.pc, second.registers.fp) == (pc + 4, 0)
    assert "chain ends" in (frame_pointer_step(second.registers, memory).reason or "")


@pytest.mark.parametrize(
    "fp, limits, reason",
    [
        (None, None, "fp is not known"),
        (0, None, "chain ends"),
        (0x1004, None, "not a multiple of 8"),
        (0x1000, (0x1008, 0x2000), "outside the stack"),
        (0x1000, (0, 0x1008), "outside the stack"),
        (0x3000, None, "not in the dump"),
        (0x1080, None, "chain ends"),
        (0x1100, None, "goes down"),
        (0x1180, None, "goes down"),
    ],
)
def test_a_broken_chain_says_why(fp: int | None, limits: tuple[int, int] | None, reason: str) -> None:
    memory = chain_memory({0x1000: (0x1040, 4), 0x1080: (0x1200, 0), 0x1100: (0x1000, 4), 0x1180: (0x1180, 4)})
    registers = Registers([None] * 31, None, 0x10)
    registers.x[29] = fp
    outcome = frame_pointer_step(registers, memory, limits)
    assert outcome.registers is None
    assert reason in (outcome.reason or "")


def test_a_chain_may_leave_its_stack_downwards() -> None:
    memory = chain_memory({0x9000: (0x1000, 4)})
    registers = Registers([None] * 31, None, 0x10)
    registers.x[29] = 0x9000
    outcome = frame_pointer_step(registers, memory, (0x8000, 0xA000))
    assert outcome.registers is not None
    assert outcome.registers.fp == 0x1000


# a real dump ----------------------------------------------------------------------------------------------------------

DUMP = "triage_arm64_22000"
NT = 0xFFFFF803F2E00000
THREAD_START = NT + 0x207DE4


def chain(registers: Registers, read: Read, limits: tuple[int, int] | None = None) -> tuple[list[int], str | None]:
    found = []
    while len(found) < 100:
        outcome = frame_pointer_step(registers, read, limits)
        if outcome.registers is None:
            return found, outcome.reason
        registers = outcome.registers
        found.append(registers.pc)
    raise AssertionError("the chain does not end")


def modules(data: bytes) -> list[tuple[str, int, int]]:
    """(name without path and extension, base, size) of a 64-bit triage dump's drivers: entries of 0x90 bytes."""
    start, count = struct.unpack_from("<II", data, 0x2030)
    found = []
    for index in range(count):
        entry = start + 0x90 * index
        (name,) = struct.unpack_from("<I", data, entry)
        (length,) = struct.unpack_from("<I", data, name)
        base, _, size = struct.unpack_from("<QQI", data, entry + 8 + 0x30)
        path = data[name + 4 : name + 4 + 2 * length].decode("utf-16-le")
        found.append((path.rsplit("\\", 1)[-1].split(".")[0].lower(), base, size))
    return found


def module_of(data: bytes, address: int) -> str:
    return next((name for name, base, size in modules(data) if base <= address < base + size), "none")


def test_crash_thread_reaches_its_start(
    dump_bytes: Callable[[str], bytes], triage_reader: Callable[[str], Read]
) -> None:
    data, read = dump_bytes(DUMP), triage_reader(DUMP)
    context = parse_context(data[0x348 : 0x348 + 0x390], "arm64", "header context")
    assert context is not None
    found, reason = chain(Registers.from_context(context), read, (0xFFFFE00E0E4BC4A0, 0xFFFFE00E0E4BD000))
    assert [address - NT for address in found] == [0x5442A0, 0x29FF1C, 0x373340, 0x207DE4]
    assert reason == "the frame-pointer chain ends"
    # each return address whose code the dump holds follows a call
    calls = [read(address - 4, 4) for address in found]
    assert [struct.unpack("<I", call)[0] >> 26 for call in calls if call] == [0b100101] * sum(map(bool, calls))
    assert sum(map(bool, calls)) >= 2


def test_waiting_thread_reaches_its_start(
    dump_bytes: Callable[[str], bytes], triage_reader: Callable[[str], Read]
) -> None:
    """KTHREAD.SwitchFrame of ffffbb8e`bafe2280, which waits in win32k."""
    data, read = dump_bytes(DUMP), triage_reader(DUMP)
    frame = read(0xFFFFBB8EBAFE2280 + 0x210 + 0x10, 16)
    assert frame is not None
    fp, pc = struct.unpack("<QQ", frame)
    assert pc == NT + 0x2084D0
    registers = Registers([None] * 29 + [fp, None], None, pc)
    found, reason = chain(registers, read, (0xFFFFE00E0F145000, 0xFFFFE00E0F14D000))
    assert reason == "the frame-pointer chain ends"
    assert len(found) == 21
    assert found[-1] == THREAD_START
    names = [module_of(data, address) for address in found]
    assert [(name, len(list(group))) for name, group in itertools.groupby(names)] == [
        ("ntoskrnl", 6),
        ("win32kbase", 2),
        ("win32k", 1),
        ("ntoskrnl", 12),
    ]


def test_other_processors_of_the_dump(dump_bytes: Callable[[str], bytes], triage_reader: Callable[[str], Read]) -> None:
    """Idle processors return to the idle loop; processor 6 runs a graphics driver's thread."""
    data, read = dump_bytes(DUMP), triage_reader(DUMP)
    stacks = []
    for number in range(1, 8):
        prcb = read(0xFFFFF803F3B1B780 + 8 * number, 8)
        assert prcb is not None
        pointer = read(struct.unpack("<Q", prcb)[0] + 0x8A0, 8)
        assert pointer is not None
        (address,) = struct.unpack("<Q", pointer)
        context = parse_context(read(address, 0x390) or b"", "arm64", "PRCB.Context", address)
        assert context is not None
        stacks.append((context.ip, *chain(Registers.from_context(context), read)))
    idle = [stack for stack in stacks if stack[0] == NT + 0x38D180]
    assert len(idle) == 6
    assert all(stack[1:] == ([NT + 0x9EF764], "the frame-pointer chain ends") for stack in idle)
    (busy,) = [stack for stack in stacks if stack[0] != NT + 0x38D180]
    names = [module_of(data, address) for address in busy[1]]
    assert names == ["qcdxkm7180"] * 3 + ["dxgkrnl"] + ["dxgmms2"] * 4 + ["ntoskrnl"] * 2
    assert busy[1][-1] == THREAD_START
