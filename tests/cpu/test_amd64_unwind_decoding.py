"""Decoded unwind information against two other readers of it: GNU objdump and llvm-readobj."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from volatility3_kdump.cpu.amd64_unwind import (
    ALLOC_LARGE,
    ALLOC_SMALL,
    PUSH_NONVOL,
    REGISTER_NAMES,
    SAVE_NONVOL,
    FunctionTable,
    UnwindCode,
    decode_unwind_info,
)

pefile = pytest.importorskip("pefile")

PROGRAMS = ("nested_collided.exe", "xcpt4.exe", "xframe_eh_exe.exe", "xframe_eh_dll.dll")


def _path(name: str, data: Path) -> Path:
    if name != "WinDivert64.sys":
        return data / "pe" / "seh" / "x64" / name
    spec = importlib.util.find_spec("pydivert")
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(location) / "windivert_dll" / name).is_file():
            return path
    pytest.skip("no WinDivert64.sys: install pydivert>=3,<4")


def _table(path: Path) -> tuple[FunctionTable, Callable[[int, int], bytes | None], int, int]:
    pe = pefile.PE(str(path))
    mapped = bytes(pe.get_memory_mapped_image())
    size = pe.OPTIONAL_HEADER.SizeOfImage

    def read_rva(rva: int, length: int) -> bytes | None:
        data = mapped.ljust(size, b"\0")[rva : rva + length]
        return data if len(data) == length else None

    directory = pe.OPTIONAL_HEADER.DATA_DIRECTORY[3]
    table = FunctionTable(read_rva, (directory.VirtualAddress, directory.Size), size)
    return table, read_rva, size, pe.OPTIONAL_HEADER.ImageBase


def _run(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if finished.returncode:
        pytest.skip(f"{command[0]} cannot read the image: status {finished.returncode}")
    return finished.stdout


def _in_words_of_objdump(code: UnwindCode) -> str:
    where = f"pc+0x{code.offset:02x}: "
    register = REGISTER_NAMES[code.info]
    if code.operation == PUSH_NONVOL:
        return f"{where}push {register}"
    if code.operation == ALLOC_SMALL:
        return f"{where}alloc small area: rsp = rsp - {code.value:#x}"
    if code.operation == ALLOC_LARGE:
        return f"{where}alloc large area: rsp = rsp - {code.value:#x}"
    assert code.operation == SAVE_NONVOL
    return f"{where}save {register} at rsp + {code.value:#x}"


@pytest.mark.parametrize("name", [*PROGRAMS, "WinDivert64.sys"])
def test_objdump_decodes_the_same(name: str, shared_data: Path) -> None:
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    path = _path(name, shared_data)
    text = _run("objdump", "-p", str(path))
    table, read_rva, size, base = _table(path)
    block = re.compile(r"^ [0-9a-f]{16} \(rva: ([0-9a-f]{8})\): ([0-9a-f]{16}) - ([0-9a-f]{16})\n((?:\t.*\n)+)", re.M)
    blocks = block.findall(text)
    if not blocks:
        pytest.skip("this objdump does not print unwind information")
    seen = 0
    for rva, begin, end, body in blocks:
        info = decode_unwind_info(read_rva, int(rva, 16), size)
        version, flags, count, prolog = re.findall(
            r"Version: (\d), Flags: (.*)\n\tNbr codes: (\d+), Prologue size: 0x([0-9a-f]+)", body
        )[0]
        assert (info.version, info.prolog_size) == (int(version), int(prolog, 16))
        assert ("CHAININFO" in flags, "EHANDLER" in flags, "UHANDLER" in flags) == tuple(
            bool(info.flags & bit) for bit in (4, 1, 2)
        )
        lines = [line.strip() for line in body.splitlines()]
        assert [_in_words_of_objdump(code) for code in info.codes] == [line for line in lines if line[:3] == "pc+"]
        slots = len(info.epilogs) + sum(1 + (code.operation in (ALLOC_LARGE, SAVE_NONVOL)) for code in info.codes)
        assert slots == int(count)
        chain = re.search(r"Chain: start: ([0-9a-f]+), end: ([0-9a-f]+)\n\t unwind data: ([0-9a-f]+)", body)
        assert info.chained == (None if chain is None else tuple(int(value, 16) for value in chain.groups()))
        handler = re.search(r"Handler: ([0-9a-f]+)", body)
        assert info.handler == (None if handler is None else int(handler[1], 16) - base)
        function = table.find(int(begin, 16) - base)
        assert function is not None
        assert (function.begin + base, function.end + base) == (int(begin, 16), int(end, 16))
        listed = re.search(r"v2 epilog \(length: ([0-9a-f]+)\) at pc\+:(.*)", body)
        starts = {int(word, 16) for word in listed[2].split() if word != "[pad]"} if listed else set()
        assert {start - function.begin for start in function.epilogs} == starts
        assert function.epilog_size == (int(listed[1], 16) if listed else 0)
        seen += 1
    assert seen > 15
    if name == "WinDivert64.sys":
        assert sum("v2 epilog" in body for *_, body in blocks) > 50


@pytest.mark.parametrize("name", PROGRAMS)
def test_llvm_readobj_decodes_the_same(name: str, shared_data: Path) -> None:
    # Its releases before 21 read version 1 only.
    command = shutil.which("llvm-readobj")
    if command is None:
        pytest.skip("no llvm-readobj")
    path = _path(name, shared_data)
    text = _run(command, "--unwind", str(path))
    table, _, _, base = _table(path)
    functions = list(table.functions())
    blocks = text.split("RuntimeFunction {")[1:]
    assert len(blocks) == len(functions) > 15
    for function, body in zip(functions, blocks, strict=True):
        info = function.info
        assert info is not None
        start, end = (int(value, 16) for value in re.findall(r"(?:Start|End)Address: \(0x([0-9A-F]+)\)", body)[:2])
        assert (function.begin + base, function.end + base) == (start, end)
        fields = dict(re.findall(r"^ +(\w+): (\S+)$", body, re.M))
        assert (info.version, info.prolog_size) == (int(fields["Version"]), int(fields["PrologSize"]))
        words = []
        for code in info.codes:
            register = REGISTER_NAMES[code.info].upper()
            words.append(
                {
                    PUSH_NONVOL: f"0x{code.offset:02X}: PUSH_NONVOL reg={register}",
                    ALLOC_SMALL: f"0x{code.offset:02X}: ALLOC_SMALL size={code.value}",
                    ALLOC_LARGE: f"0x{code.offset:02X}: ALLOC_LARGE size={code.value}",
                    SAVE_NONVOL: f"0x{code.offset:02X}: SAVE_NONVOL reg={register}, offset=0x{code.value:X}",
                }[code.operation]
            )
        assert words == [line.strip() for line in body.splitlines() if re.match(r" +0x..: ", line)]
        handler = re.search(r"Handler: \(0x([0-9A-F]+)\)", body)
        assert info.handler == (None if handler is None else int(handler[1], 16) - base)
