"""Lists of modules, made by hand for both widths."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest

import volatility3_kdump
from volatility3_kdump.images.modules import (
    debugger_name,
    find_module,
    loaded_modules,
    modules_of_triage,
    unloaded_modules,
)
from volatility3_kdump.memory import Memory

HEAD = {8: 0xFFFFF80047C2A390, 4: 0xFFFFFFFF8055D720}
POOL = {8: 0xFFFFB10000000000, 4: 0xFFFFFFFF86000000}
IMAGE = {8: 0xFFFFF80047000000, 4: 0xFFFFFFFF804D7000}


class Space:
    """A sparse memory of bytes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.bytes: dict[int, int] = {}

    def put(self, address: int, data: bytes) -> None:
        self.bytes.update({address + index: value for index, value in enumerate(data)})

    def pointer(self, address: int, value: int) -> None:
        self.put(address, (value & (1 << 8 * self.width) - 1).to_bytes(self.width, "little"))

    def string(self, address: int, text: str, buffer: int) -> None:
        encoded = text.encode("utf-16-le")
        self.put(address, struct.pack("<HH", len(encoded), len(encoded) + 2))
        self.pointer(address + self.width, buffer)
        self.put(buffer, encoded)

    def read(self, address: int, size: int) -> bytes | None:
        found = [self.bytes.get(address + index) for index in range(size)]
        return None if None in found else bytes(found)  # type: ignore[arg-type]

    def memory(self) -> Memory:
        return Memory(self.read, self.width, lambda address: "not there")


#: KLDR_DATA_TABLE_ENTRY: DllBase, SizeOfImage, FullDllName, BaseDllName, CheckSum, size.
ENTRY = {8: (0x30, 0x40, 0x48, 0x58, 0x78, 0xA0), 4: (0x18, 0x20, 0x24, 0x2C, 0x3C, 0x50)}


def made(width: int, names: list[str]) -> tuple[Space, list[int]]:
    space = Space(width)
    base_at, size_at, full_at, short_at, checksum_at, size = ENTRY[width]
    entries = [POOL[width] + 0x1000 * index for index in range(1, len(names) + 1)]
    for index, (entry, name) in enumerate(zip(entries, names, strict=True)):
        space.put(entry, bytes(size))
        space.pointer(entry + base_at, IMAGE[width] + 0x100000 * index)
        space.put(entry + size_at, struct.pack("<I", 0x10000 + index))
        space.put(entry + checksum_at, struct.pack("<I", 0x5000 + index))
        space.string(entry + full_at, f"\\SystemRoot\\system32\\{name}", entry + 0x400)
        space.string(entry + short_at, name, entry + 0x800)
    chain = [HEAD[width], *entries, HEAD[width]]
    for here, there in itertools.pairwise(chain):
        space.pointer(here, there)
        space.pointer(there + width, here)
    return space, entries


@pytest.mark.parametrize("width", [8, 4])
def test_a_list_without_symbols(width: int) -> None:
    names = ["ntkrnlpa.exe", "hal.dll", "My-Driver 2.sys"]
    space, _ = made(width, names)
    modules, problems = loaded_modules(space.memory(), HEAD[width], None)
    assert problems == []
    assert [module.image_name for module in modules] == names
    assert [module.name for module in modules] == ["nt", "hal", "My_Driver_2"]
    assert [module.base for module in modules] == [IMAGE[width] + 0x100000 * index for index in range(3)]
    assert [(module.size, module.checksum) for module in modules] == [(0x10000 + i, 0x5000 + i) for i in range(3)]
    assert modules[1].path == "\\SystemRoot\\system32\\hal.dll"
    # Neither the image's headers nor a table of symbols gives it.
    assert {module.timestamp for module in modules} == {None}
    assert find_module(modules, IMAGE[width] + 0x100005) == modules[1]
    assert find_module(modules, modules[1].end) is None


@pytest.mark.parametrize("width", [8, 4])
def test_a_list_that_is_torn(width: int) -> None:
    names = [f"m{index}.sys" for index in range(6)]
    space, entries = made(width, names)
    # The fourth entry leads back to the second; from the other end the last two are reached nevertheless.
    space.pointer(entries[3], entries[1])
    modules, problems = loaded_modules(space.memory(), HEAD[width], None)
    assert [module.image_name for module in modules] == names
    assert len(problems) == 1 and "cyclic" in problems[0] and f"{entries[3]:#x}" in problems[0]
    # The fourth is not in the dump.
    space.bytes = {address: value for address, value in space.bytes.items() if not 0 <= address - entries[3] < 0x100}
    modules, problems = loaded_modules(space.memory(), HEAD[width], None)
    assert [module.image_name for module in modules] == [*names[:3], *names[4:]]
    assert [f"{entries[3]:#x}" in problem for problem in problems] == [True, True, True]
    assert "not there" in problems[2]


@pytest.mark.parametrize("width", [8, 4])
def test_no_module_is_taken_for_the_kernel_where_the_head_leads_nowhere(width: int) -> None:
    space, _ = made(width, ["ntoskrnl.exe", "hal.dll"])
    space.pointer(HEAD[width], 0x1000)
    modules, problems = loaded_modules(space.memory(), HEAD[width], None)
    assert modules == [] and "PsLoadedModuleList" in problems[0]


def test_entries_without_sense_are_skipped_and_named() -> None:
    space, entries = made(8, ["a.sys", "b.sys", "c.sys"])
    space.put(entries[1] + 0x40, struct.pack("<I", 0xFFFFFFFF))
    modules, problems = loaded_modules(space.memory(), HEAD[8], None)
    assert [module.image_name for module in modules] == ["a.sys", "c.sys"]
    assert len(problems) == 1 and f"{entries[1]:#x}" in problems[0]


def test_names_that_are_not_in_the_dump() -> None:
    space, entries = made(8, ["a.sys", "b.sys"])
    gone = {entries[1] + 0x800 + index for index in range(10)}
    space.bytes = {address: value for address, value in space.bytes.items() if address not in gone}
    modules, _ = loaded_modules(space.memory(), HEAD[8], None)
    assert modules[1].image_name == "b.sys" and modules[1].path is not None
    gone = {entries[1] + 0x400 + index for index in range(0x100)}
    space.bytes = {address: value for address, value in space.bytes.items() if address not in gone}
    modules, _ = loaded_modules(space.memory(), HEAD[8], None)
    assert (modules[1].image_name, modules[1].path) == (f"{modules[1].base:x}", None)


def test_names_that_are_longer_than_any_are_none() -> None:
    """Each may claim 64 KB: four thousand entries of a damaged list took half a gigabyte."""
    space, entries = made(8, ["a.sys", "b.sys", "c.sys"])
    space.string(entries[1] + 0x58, "b" * 255, POOL[8] + 0x100000)
    space.string(entries[2] + 0x58, "c" * 256, POOL[8] + 0x200000)
    space.string(entries[2] + 0x48, "\\c" * 0x3000, POOL[8] + 0x300000)
    modules, _ = loaded_modules(space.memory(), HEAD[8], None)
    assert [module.image_name for module in modules] == ["a.sys", "b" * 255, f"{modules[2].base:x}"]
    assert modules[2].path is None


def test_no_list() -> None:
    assert loaded_modules(Space(8).memory(), None, None)[0] == []
    modules, problems = loaded_modules(Space(8).memory(), HEAD[8], None)
    assert modules == [] and problems


@pytest.mark.parametrize(
    "image_name, first, expected",
    [
        ("ntoskrnl.exe", False, "nt"),
        ("NTKRNLMP.EXE", False, "nt"),
        ("strange.exe", True, "nt"),
        ("myfault.sys", False, "myfault"),
        ("a.b.sys", False, "a.b"),
        ("noextension", False, "noextension"),
        ("dump_stor-port.sys", False, "dump_stor_port"),
    ],
)
def test_the_debuggers_names(image_name: str, first: bool, expected: str) -> None:
    assert debugger_name(image_name, first) == expected


#: UNLOADED_DRIVERS: name at 0; start, end, time, size of an entry.
UNLOADED = {8: (0x10, 0x18, 0x20, 0x28), 4: (0x8, 0xC, 0x10, 0x18)}


@pytest.mark.parametrize("width", [8, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 50, 53, 120])
def test_unloaded_modules_come_from_a_ring_of_fifty(width: int, count: int) -> None:
    space = Space(width)
    array, variable, last = POOL[width] + 0x100000, HEAD[width] + 0x1000, HEAD[width] + 0x2000
    start, end, time, stride = UNLOADED[width]
    space.pointer(variable, array)
    space.put(last, struct.pack("<I", count))
    space.put(array, bytes(stride * 50))
    for number in range(count):
        entry = array + number % 50 * stride
        space.string(entry, f"d{number}.sys", POOL[width] + 0x200000 + 0x40 * number)
        space.pointer(entry + start, IMAGE[width] + 0x1000 * number)
        space.pointer(entry + end, IMAGE[width] + 0x1000 * number + 0x800)
        space.put(entry + time, struct.pack("<Q", 132584062000000000 + number))
    found = unloaded_modules(space.memory(), variable, last)
    expected = list(range(count - 1, max(-1, count - 51), -1))
    assert [module.name for module in found] == [f"d{number}.sys" for number in expected]
    assert [module.start for module in found] == [IMAGE[width] + 0x1000 * number for number in expected]
    assert all(module.end == module.start + 0x800 for module in found)
    assert [module.time for module in found] == [132584062000000000 + number for number in expected]


def test_unloaded_modules_that_are_not_there() -> None:
    space = Space(8)
    assert unloaded_modules(space.memory(), None, None) == []
    assert unloaded_modules(space.memory(), HEAD[8], HEAD[8] + 8) == []
    space.pointer(HEAD[8], POOL[8])
    space.put(HEAD[8] + 8, struct.pack("<I", 0xFFFFFFFF))
    assert unloaded_modules(space.memory(), HEAD[8], HEAD[8] + 8) == []


def test_modules_of_a_small_memory_dump(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp")
    modules = target.modules
    assert len(modules) == 151 and modules == modules_of_triage(target.dump.triage)  # type: ignore[arg-type]
    assert (modules[0].name, modules[0].image_name, modules[0].timestamp) == ("nt", "ntoskrnl.exe", 0x0D8333E6)
    # The bug check's second argument lies in amdppm.
    found = find_module(modules, 0xFFFFF8048B58334C)
    assert found is not None and (found.name, 0xFFFFF8048B58334C - found.base) == ("amdppm", 0x334C)
    assert [module.name for module in target.unloaded_modules] == [
        "dam.sys",
        "WdBoot.sys",
        "hwpolicy.sys",
        "mcupdate.dll",
    ]
