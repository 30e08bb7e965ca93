"""The unwinder against execution: at every instruction that an emulator executes, a shadow stack knows the caller.

The images are programs of Microsoft's compiler and a signed kernel driver, whose functions have version 2 unwind
information and fragments chained to each other; what those do not use (frame registers, vector registers, unusual
epilogues) is in a few functions written for the purpose.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from volatility3_kdump.cpu.amd64_unwind import FunctionTable, Registers, Unwound, unwind

pytest.importorskip("unicorn")
pefile = pytest.importorskip("pefile")
capstone = pytest.importorskip("capstone")


def _load_shadow_stack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kdump_shadow_stack", Path(__file__).with_name("shadow_stack.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


shadow = _load_shadow_stack()
VECTORS = range(6, 16)


def _driver() -> Path:
    """The driver that the package pydivert carries; the package itself cannot be imported outside of Windows."""
    spec = importlib.util.find_spec("pydivert")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    for location in locations:
        path = Path(location) / "windivert_dll" / "WinDivert64.sys"
        if path.is_file():
            return path
    pytest.skip("no WinDivert64.sys: install pydivert>=3,<4")


def _image(name: str, data: Path) -> Any:
    path = _driver() if name == "WinDivert64.sys" else data / "pe" / "seh" / "x64" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return shadow.Image.load(path)


def _table(image: Any) -> FunctionTable:
    return FunctionTable(image.read_rva, image.directory, len(image.data))


class Comparison:
    """Compares what the unwinder says with the shadow stack; ``wrong`` collects what differs."""

    def __init__(self, image: Any, table: FunctionTable, *, vectors: bool = False, visits: int = 8) -> None:
        self.image = image
        self.table = table
        self.machine = shadow.ShadowStack(image, vectors=vectors, visits=visits)
        self.compared = 0
        self.wrong: list[tuple[int, int | None, str]] = []

    def observe(self, state: Any, frames: Sequence[Any]) -> None:
        vectors = dict(zip(VECTORS, state.vectors, strict=True)) if state.vectors else None
        registers = Registers(list(state.registers), state.rip, vectors)
        for number, frame in enumerate(reversed(frames)):
            unwound = unwind(registers, self.table, self.image.base, self.machine.read, call_site=number > 0)
            self.compared += 1
            difference = _difference(unwound, frame)
            if difference:
                self.wrong.append((state.rip - self.image.base, state.strayed, f"frame {number}: {difference}"))
                return
            assert unwound.registers is not None
            registers = unwound.registers
            if not 0 <= registers.rip - self.image.base < len(self.image.data):
                return

    def run(self, seeds: int, most: int = 1500) -> None:
        for begin, _, info in self.image.runtime_functions():
            if not self.image.is_chained(info):
                for seed in range(seeds):
                    self.machine.run(begin, seed, self.observe, most)
        for begin in self.image.exports:
            self.machine.run(begin, seeds, self.observe, most)

    def coverage(self) -> float:
        """The share of the instructions of all functions that were executed, padding and traps apart."""
        decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        decoder.skipdata = True
        instructions = {
            address
            for begin, end, _ in self.image.runtime_functions()
            for address, _, mnemonic, _ in decoder.disasm_lite(self.image.data[begin:end], begin)
            if mnemonic not in ("int3", "nop", ".byte")
        }
        return len(instructions & self.machine.visited.keys()) / len(instructions)


def _difference(unwound: Unwound, frame: Any) -> str:
    """What is wrong with a step, in words; empty when it agrees with the frame."""
    registers = unwound.registers
    if registers is None:
        return f"stopped: {unwound.reason}"
    if registers.rip != frame.rip:
        return f"rip {registers.rip:#x}, not {frame.rip:#x}"
    if registers.rsp != frame.rsp:
        return f"rsp {registers.rsp or 0:#x}, not {frame.rsp:#x}"
    if tuple(registers.gpr[number] for number in shadow.NONVOLATILE) != frame.preserved:
        return "preserved registers differ"
    if frame.vectors and (registers.xmm is None or tuple(registers.xmm[n] for n in VECTORS) != frame.vectors):
        return "vector registers differ"
    if any(registers.gpr[number] is not None for number in (0, 1, 2, 8, 9, 10, 11)):
        return "volatile registers are claimed to be known"
    return ""


@pytest.mark.parametrize(
    "name, seeds, share",
    [
        pytest.param("nested_collided.exe", 8, 0.75, marks=pytest.mark.thorough),
        pytest.param("xframe_eh_exe.exe", 8, 0.70, marks=pytest.mark.thorough),
        ("xframe_eh_dll.dll", 8, 0.75),
        pytest.param("WinDivert64.sys", 12, 0.60, marks=pytest.mark.thorough),
    ],
)
def test_every_executed_instruction_unwinds_to_its_caller(
    name: str, seeds: int, share: float, shared_data: Path, record_property: Any
) -> None:
    image = _image(name, shared_data)
    comparison = Comparison(image, _table(image))
    comparison.run(seeds)
    covered = comparison.coverage()
    record_property("coverage", round(covered, 3))
    print(f"{name}: {comparison.compared} frames compared, {covered:.1%} of the instructions executed")
    assert comparison.wrong == []
    assert comparison.compared > 4000
    assert covered > share


@pytest.mark.thorough
def test_wrong_frames_of_xcpt4_come_after_calls_that_do_not_return(shared_data: Path) -> None:
    image = _image("xcpt4.exe", shared_data)
    comparison = Comparison(image, _table(image))
    comparison.run(10)
    print(f"xcpt4.exe: {comparison.compared} frames compared, {comparison.coverage():.1%} executed")
    assert comparison.coverage() > 0.6
    # Each wrong frame is of code that was reached by running on past the end of a function ...
    assert [wrong for wrong in comparison.wrong if wrong[1] is None] == []
    places = {strayed for _, strayed, _ in comparison.wrong if strayed is not None}
    assert places <= {0x42CC, 0x59C5, 0x5DE8, 0x5E42, 0x5E7A, 0x5EF4}
    assert {0x59C5, 0x5DE8, 0x5E42, 0x5E7A, 0x5EF4} <= places
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for end in places:
        # ... which the compiler ends with a call (to exit, _local_unwind, longjmp ...) and one nop, since nothing can
        # come back: only the emulator's stand-in for the import does.
        (begin,) = (begin for begin, stop, _ in image.runtime_functions() if stop == end)
        words = [mnemonic for _, _, mnemonic, _ in decoder.disasm_lite(image.data[begin:end], begin)]
        assert words[-2:] == ["call", "nop"]
        assert image.data[end - 1] == 0x90


def _stripped(image: Any) -> Any:
    """The image with its unwind information as version 1: the listed epilogues taken out, the rest unchanged."""
    data = bytearray(image.data)
    changed = set()
    for _, _, info in image.runtime_functions():
        if data[info] & 7 != 2 or info in changed:
            continue
        changed.add(info)
        count = data[info + 2]
        slots = struct.unpack_from(f"<{count}H", data, info + 4)
        epilogs = next((index for index, slot in enumerate(slots) if slot >> 8 & 15 != 6), count)
        length = 12 if data[info] & 0x20 else 4 if data[info] & 0x18 else 0
        behind = data[info + 4 + 2 * (count + count % 2) :][:length]
        left = slots[epilogs:]
        data[info] = data[info] & ~7 | 1
        data[info + 2] = len(left)
        struct.pack_into(f"<{len(left)}H", data, info + 4, *left)
        start = info + 4 + 2 * (len(left) + len(left) % 2)
        data[start : start + len(behind)] = behind
    return replace(image, data=bytes(data))


@pytest.mark.thorough
def test_listed_epilogues_agree_with_the_instructions(shared_data: Path) -> None:
    """Version 2 alone, with the code absent, and the code alone, with the lists taken out, give the same callers."""
    image = _image("WinDivert64.sys", shared_data)
    functions = image.runtime_functions()
    version_2 = [entry for entry in functions if image.data[entry[2]] & 7 == 2]
    assert (len(functions), len(version_2)) == (143, 132)
    assert sum(image.is_chained(info) for _, _, info in functions) == 58
    code = [(address, address + size) for address, size, runs, _ in image.sections if runs]

    def without_code(rva: int, size: int) -> bytes | None:
        inside = any(begin < rva + size and rva < end for begin, end in code)
        data: bytes | None = image.read_rva(rva, size)
        return None if inside else data

    listed = FunctionTable(without_code, image.directory, len(image.data))
    matched = _table(_stripped(image))
    assert all(function.info is not None and function.info.version == 1 for function in matched.functions())
    machine = shadow.ShadowStack(image, visits=4)
    wrong = []
    epilogues = set()

    def observe(state: Any, frames: Sequence[Any]) -> None:
        registers = Registers(list(state.registers), state.rip)
        rva = state.rip - image.base
        by_code = unwind(registers, matched, image.base, machine.read)
        if _difference(by_code, frames[-1]):
            wrong.append(("code", rva))
        if any(begin <= rva < end for begin, end, _ in version_2):
            by_list = unwind(registers, listed, image.base, machine.read)
            if _difference(by_list, frames[-1]):
                wrong.append(("list", rva))
            if by_list.function is not None and by_list.function.pops_left(rva) is not None:
                epilogues.add(rva)

    for begin, _, info in functions:
        if not image.is_chained(info):
            for seed in range(5):
                machine.run(begin, seed, observe, 1000)
    assert wrong == []
    assert len(epilogues) > 150


# functions written for the test ---------------------------------------------------------------------------------------

PUSH, ALLOC_LARGE, ALLOC_SMALL, SET_FPREG, SAVE, _, _, _, SAVE_XMM = range(9)


def _codes(*codes: tuple[int, ...]) -> list[int]:
    """UNWIND_CODE slots from (prologue offset, operation, info, operand slots...)."""
    return [slot for offset, operation, info, *more in codes for slot in (offset | operation << 8 | info << 12, *more)]


def _info(prolog: int, codes: list[int], frame: int = 0, parent: bytes = b"") -> bytes:
    """UNWIND_INFO of version 1; ``frame`` is its fourth byte, ``parent`` the RUNTIME_FUNCTION of a chained one."""
    padded = codes + [0] * (len(codes) % 2)
    head = struct.pack("<4B", 1 | (0x20 if parent else 0), prolog, len(codes), frame)
    return head + struct.pack(f"<{len(padded)}H", *padded) + parent


def _code(rva: int, text: str) -> bytes:
    """Bytes from hexadecimal text, where ``>1200`` is the distance to that RVA from behind its four bytes."""
    code = b""
    for word in text.split():
        code += struct.pack("<i", int(word[1:], 16) - (rva + len(code) + 4)) if word[0] == ">" else bytes.fromhex(word)
    return code


RBX, RBP, RSI, RDI, R12, R13 = 3, 5, 6, 7, 12, 13
IMPORT = 0x2F00

#: RVA to (code, prologue size, unwind codes, frame register byte, RVA of the function it is chained to).
FUNCTIONS: dict[int, tuple[str, int, list[int] | None, int, int | None]] = {
    # rbp as frame register, xmm6 saved, stack allocated in the body
    0x1000: (
        "55 4154 4883EC58 488D6C2430 0F29742420 48895C2448"  # push rbp, r12; sub; lea rbp; movaps xmm6; mov rbx
        " 31DB 4989CC 0F28F0 4883EC40 E8 >1100"  # body, with a call
        " 0F2875F0 488B5D18 488D6528 415C 5D C3",
        0x16,
        _codes(
            (0x16, SAVE, RBX, 9),
            (0x11, SAVE_XMM, 6, 2),
            (0x0C, SET_FPREG, 0),
            (7, ALLOC_SMALL, 10),
            (3, PUSH, R12),
            (1, PUSH, RBP),
        ),
        0x35,
        None,
    ),
    # r12 as frame register (its lea has a SIB byte), a tail call
    0x1100: (
        "4154 53 4881EC88000000 4C8D642420 4883EC20 BB05000000 498DA42468000000 5B 415C E9 >1200",
        0x0F,
        _codes((0x0F, SET_FPREG, 0), (0x0A, ALLOC_LARGE, 0, 0x11), (3, PUSH, RBX), (2, PUSH, R12)),
        0x2C,
        None,
    ),
    # jumps into a fragment and back
    0x1200: (
        "53 4883EC30 31DB E9 >1300 4883C430 5B F3C3",
        5,
        _codes((5, ALLOC_SMALL, 5), (1, PUSH, RBX)),
        0,
        None,
    ),
    0x1300: ("4889742448 31F6 E8 >1400 488B742448 E9 >120C", 5, _codes((5, SAVE, RSI, 9)), 0, 0x1200),
    # a register saved in the caller's home area, ret with an operand
    0x1400: (
        "48895C2408 57 4883EC20 31DB 31FF E8 >1500 488B5C2430 4883C420 5F C20000",
        0x0A,
        _codes((0x0A, SAVE, RBX, 6), (0x0A, ALLOC_SMALL, 3), (6, PUSH, RDI)),
        0,
        None,
    ),
    # an indirect tail call, marked by REX.W
    0x1500: (
        "53 50 31DB 488D05 >1600 4883C408 5B 48FFE0",
        2,
        _codes((2, ALLOC_SMALL, 0), (1, PUSH, RBX)),
        0,
        None,
    ),
    # a fragment that saves the frame register of the function it belongs to, and uses it for something else
    0x1600: (
        "55 4883EC20 488D6C2410 4883EC40 E9 >1700 488D6510 5D C3",
        0x0A,
        _codes((0x0A, SET_FPREG, 0), (5, ALLOC_SMALL, 3), (1, PUSH, RBP)),
        0x15,
        None,
    ),
    0x1700: ("48896C2428 31ED E8 >1800 488B6C2428 E9 >1613", 5, _codes((5, SAVE, RBP, 5)), 0, 0x1600),
    # a leaf function, which has no entry
    0x1800: ("31C0 C3", 0, None, 0, None),
    # tail calls through the import table, plain and as the kernel's indirect jump guard makes them
    0x1900: ("4883EC28 31C0 4883C428 FF25 >2F00", 4, _codes((4, ALLOC_SMALL, 4)), 0, None),
    0x1A00: (
        "53 4883EC20 31DB 4883C420 5B 4C8B15 >2F00 E9 >1800",
        5,
        _codes((5, ALLOC_SMALL, 3), (1, PUSH, RBX)),
        0,
        None,
    ),
    # a fragment that pushes registers of its own and pops them before it jumps back
    0x1B00: ("53 4883EC20 31DB E9 >1C00 4883C420 5B C3", 5, _codes((5, ALLOC_SMALL, 3), (1, PUSH, RBX)), 0, None),
    0x1C00: ("56 4155 31F6 4531ED 415D 5E E9 >1B0C", 3, _codes((3, PUSH, R13), (1, PUSH, RSI)), 0, 0x1B00),
    # an early exit before the registers that the codes say the prologue saves: sub, test, jne, add, ret
    0x1D00: (
        "4883EC28 85C9 7505 4883C428 C3 48895C2430 31DB 488B5C2430 4883C428 C3",
        0x12,
        _codes((0x12, SAVE, RBX, 6), (4, ALLOC_SMALL, 4)),
        0,
        None,
    ),
    # tail recursion: a jump to the start of the function itself
    0x1E00: (
        "53 4881EC00080000 31DB FFC9 780A 4881C400080000 5B EBE8 4881C400080000 5B C3",
        8,
        _codes((8, ALLOC_LARGE, 0, 0x100), (1, PUSH, RBX)),
        0,
        None,
    ),
}


def _written_image() -> Any:
    data = bytearray(0x4000)
    entries = []
    info_rva = 0x2000
    ends = {rva: rva + len(_code(rva, function[0])) for rva, function in FUNCTIONS.items()}
    infos: dict[int, int] = {}
    for rva, (text, prolog, codes, frame, parent) in FUNCTIONS.items():
        data[rva : ends[rva]] = _code(rva, text)
        if codes is None:
            continue
        chained = b"" if parent is None else struct.pack("<III", parent, ends[parent], infos[parent])
        info = _info(prolog, codes, frame, chained)
        data[info_rva : info_rva + len(info)] = info
        entries.append(struct.pack("<III", rva, ends[rva], info_rva))
        infos[rva] = info_rva
        info_rva += (len(info) + 3) // 4 * 4
    table = b"".join(entries)
    data[0x3000 : 0x3000 + len(table)] = table
    sections = ((0x1000, 0x1000, True, False), (0x2000, 0x2000, False, False))
    return shadow.Image("written", 0x180000000, bytes(data), (0x3000, len(table)), sections, (IMPORT,), ())


def test_frame_registers_vectors_and_unusual_epilogues() -> None:
    image = _written_image()
    comparison = Comparison(image, _table(image), vectors=True, visits=20)
    comparison.run(3, most=200)
    assert [(hex(rva), why) for rva, _, why in comparison.wrong] == []
    assert comparison.coverage() == 1.0
    assert comparison.compared > 500
