"""x86 code without frame pointers, compiled by clang: each instruction, run by an emulator, unwinds to its callers.

The frame data is what lld writes into the PDB file, beside what llvm-pdbutil reads of it.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from volatility3_kdump.cpu.x86_frames import FrameData, FrameTable
from volatility3_kdump.symbols.pdb.frames import frame_table
from volatility3_kdump.symbols.pdb.names import PdbFile
from volatility3_kdump.windows.stacks.x86_steps import Position, Steps

CODE = """
typedef unsigned u;
volatile u sink;
__declspec(noinline) u leaf(u a, u b) { return a * 3 + b; }
__declspec(noinline) u __stdcall std(u a, u b, u c) {
    u x[7]; for (u i = 0; i < 7; i++) x[i] = leaf(a + i, b) ^ c;
    u s = 0; for (u i = 0; i < 7; i++) s += x[i] * leaf(s, i); sink = s; return s; }
__declspec(noinline) u __fastcall fast(u a, u b, u c, u d) {
    u r = std(a, b, c) + std(d, c, b); sink = r; return r + leaf(r, a); }
__declspec(noinline) u deep(u n) {
    if (!n) return fast(1, 2, 3, 4);
    u v[3] = {n, n + 1, n + 2}; u r = deep(n - 1); return r + v[n % 3] + std(r, n, v[1]); }
u start(void) { return deep(3); }
"""
TOOLS = ("clang", "lld-link", "llvm-pdbutil")
STACK, STACK_SIZE, SENTINEL = 0x200000, 0x10000, 0x7FFF0000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image ``a.dll``, its PDB beside it."""
    if not all(map(shutil.which, TOOLS)):
        pytest.skip("needs clang, lld-link and llvm-pdbutil")
    directory = tmp_path_factory.mktemp("x86")
    (directory / "a.c").write_text(CODE)
    target = ("--target=i686-pc-windows-msvc", "-O2", "-fomit-frame-pointer", "-g", "-gcodeview")
    subprocess.run(["clang", *target, "-c", "a.c", "-o", "a.obj"], cwd=directory, check=True)
    link = ("/dll", "/noentry", "/nodefaultlib", "/safeseh:no", "/debug", "/export:start", "/out:a.dll", "a.obj")
    subprocess.run(["lld-link", *link], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return directory / "a.dll"


def _table(built: Path) -> FrameTable:
    with PdbFile(built.with_suffix(".pdb")) as pdb:
        return frame_table(pdb)


def test_frame_data_is_what_llvm_reads(built: Path) -> None:
    table = _table(built)
    told = subprocess.run(
        ["llvm-pdbutil", "dump", "-fpo", built.with_suffix(".pdb")], capture_output=True, text=True, check=True
    ).stdout
    rows = re.findall(r"^([0-9A-F]{8}) \|(.*)\| (\$.*)$", told, re.MULTILINE)
    assert len(rows) == len(table) > 10
    for address, numbers, program in rows:
        size, locals_, parameters, _, _, saved = (int(number) for number in numbers.split("|")[:6])
        entry = table.find(int(address, 16))
        assert entry == FrameData(int(address, 16), size, locals_, parameters, saved, program)


def test_every_instruction_unwinds_to_its_callers(built: Path) -> None:
    """Registers, return addresses and stack pointers of all callers are those that the emulator noted at the calls."""
    unicorn = pytest.importorskip("unicorn")
    import pefile
    from unicorn import x86_const as x86

    pe = pefile.PE(str(built))
    base = pe.OPTIONAL_HEADER.ImageBase
    data = pe.get_memory_mapped_image()
    start = base + pe.DIRECTORY_ENTRY_EXPORT.symbols[0].address
    table = _table(built)
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    machine.mem_map(base, -(-len(data) // 0x1000) * 0x1000)
    machine.mem_write(base, data)
    machine.mem_map(STACK, STACK_SIZE)
    esp = STACK + STACK_SIZE - 0x100
    machine.mem_write(esp, struct.pack("<I", SENTINEL))
    numbers = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in ("eip", "esp", "ebp", "ebx", "esi", "edi")}
    for name, value in (("esp", esp), ("ebp", 0x1111), ("ebx", 0x2222), ("esi", 0x3333), ("edi", 0x4444)):
        machine.reg_write(numbers[name], value)

    def read(address: int, size: int) -> bytes | None:
        try:
            return bytes(machine.mem_read(address, size))
        except unicorn.UcError:
            return None

    def is_code(address: int) -> bool:
        return base <= address < base + len(data) or address == SENTINEL

    steps = Steps(lambda address: table.find(address - base), is_code, read, (STACK, STACK + STACK_SIZE))
    frames: list[dict[str, int]] = []
    counts = {"instructions": 0, "frames": 0, "searched": 0}

    def observe(_: Any, address: int, size: int, __: Any) -> None:
        registers = {name: machine.reg_read(number) for name, number in numbers.items()}
        while frames and registers["esp"] > frames[-1]["esp"] - 4:
            frames.pop()
        counts["instructions"] += 1
        at = Position(dict(registers), "context", False)
        for frame in reversed(frames[-4:]):
            outcome = steps.step(at)
            assert isinstance(outcome, Position), (hex(address), outcome)
            counts["frames"] += 1
            counts["searched"] += outcome.trust == "scan"
            assert outcome.eip == frame["eip"], (hex(address), hex(outcome.eip), hex(frame["eip"]))
            known = {name: value for name, value in outcome.registers.items() if value is not None}
            assert {name: frame[name] for name in known} == known, hex(address)
            at = outcome
        code = machine.mem_read(address, size)
        if code[0] == 0xE8:
            # Behind the return the callee's registers are the caller's again.
            frames.append({**registers, "eip": address + size})

    machine.hook_add(unicorn.UC_HOOK_CODE, observe)
    machine.emu_start(start, SENTINEL, count=100_000)
    assert machine.reg_read(numbers["eip"]) == SENTINEL
    assert counts["instructions"] > 900 and counts["frames"] > 2000
    # Only where arguments are just being passed is anything searched for.
    assert counts["searched"] < counts["frames"] // 4


def test_frame_data_that_makes_no_sense_ends_in_words() -> None:
    from volatility3_kdump.cpu.x86_frames import step

    known = {"eip": 0x1000, "esp": 0x2000, "ebp": None, "ebx": 1, "esi": 2, "edi": 3}

    def run(program: str) -> Any:
        return step(FrameData(0x1000, 16, 0, 0, 0, program), known, lambda at, size: bytes(size), lambda value: True)

    assert run("$eip $ebp 4 + ^ =") == "$ebp is not known"
    assert run("$eip = =") == "its program takes more than it has"
    assert run("$eip 8 0 / =") == "its program divides by zero"
    assert run("$eip 8 0 % =") == "its program divides by zero"
    assert run("1 1 =") == "its program assigns to a number"
    assert run("$eip wrong =") == "its program is of another kind"
    assert run("1 " * 300) == "its program has more than 256 parts"
    assert run("$eip 16 16 * =").registers["eip"] == 256
    assert run("$esp 4099 4096 @ =").registers["esp"] == 4096


def test_user_mode_of_a_32_bit_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the trap frame of a system call: ret of KiFastSystemCallRet, ret n of the stub, frame pointers from there.

    The stack is that of Windows 7: the stub calls SharedUserData's SystemCall, which is ntdll!KiFastSystemCall.
    """
    import volatility3_kdump
    from tests.small_machines import x86_bug_check, x86_context, x86_machine, x86_trap
    from volatility3_kdump.cpu.x86_unwind import Registers
    from volatility3_kdump.memory import Memory
    from volatility3_kdump.windows.stacks.starts import crash_start
    from volatility3_kdump.windows.stacks.walker import walker
    from volatility3_kdump.windows.stacks.x86_walk import X86Walk

    ntdll, program, stack = 0x77100000, 0x401000, 0x12F000
    memory = bytearray(0x2000)
    # ret; behind the stub's call edx: ret 0Ch; push ebp; mov ebp,esp; ...; call rel32.
    code = {ntdll: b"\xc3", ntdll + 0x10: b"\xff\xd2\xc2\x0c\x00", program: b"\x55\x8b\xec\x90\x90\xe8\0\0\0\0\xc9\xc3"}
    returned = program + 10
    words = {0: ntdll + 0x12, 4: returned, 8: 1, 12: 2, 16: 3, 0x40: 0x12F080, 0x44: returned, 0x80: 0, 0x84: 0}
    for offset, value in words.items():
        struct.pack_into("<I", memory, offset, value)

    def read(address: int, size: int) -> bytes | None:
        if stack <= address < stack + len(memory):
            return bytes(memory[address - stack : address - stack + size])
        for start, held in code.items():
            if start <= address < start + len(held):
                return held[address - start : address - start + size]
        return None

    class Code:
        wow64 = False
        memory = Memory(read, 4, lambda address: "absent")
        space = SimpleNamespace(narrow=memory, memory=memory)

        def image_of(self, address: int) -> object | None:
            return self if address >> 12 in (ntdll >> 12, program >> 12) else None

        def frame_data(self, address: int) -> None:
            return None

        def name_at(self, ip: int, call_site: bool) -> None:
            return None

    machine = x86_machine()
    trap = x86_trap(machine)
    ebp = x86_bug_check(machine, trap, 0x80402000, trap, 0xD1, (0, 2, 0, ntdll))
    machine.write(tmp_path / "x86.dmp", 0xD1, (0, 2, 0, ntdll), x86_context(ebp, ebp - 0x20), ebp - 0x20)
    target = volatility3_kdump.open(tmp_path / "x86.dmp")
    monkeypatch.setattr(X86Walk, "user_code", lambda self: Code())
    walk = X86Walk(walker(target), crash_start(target), 32)
    walk.rows.clear()
    walk.add(ntdll, stack, "trap frame", False, stack + 0x40)
    told = walk.user_mode(Registers(ntdll, stack, stack + 0x40), "trap frame", False)
    assert [frame.ip for frame in told.frames] == [ntdll, ntdll + 0x12, returned, returned]
    assert told.complete and told.end == "start of the thread"
