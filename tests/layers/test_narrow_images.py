"""Memory images of 32-bit Windows, with PAE and without: page tables by CR3, the kernel by its image, registers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.memory_images import KINDS, Image, Processor, _elf, _lime
from kdump_sample.physical import PAGE, PhysicalMemory
from tests.layers.paging import HEADS, Tables, kernel_pages, machine
from tests.narrow_machine import GUID, SIZE, TEBS, THREADS, NarrowMachine, kernel_content, symbols
from tests.prompt import session_over
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import NotACrashDump
from volatility3_kdump.options import Options
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.opening import open_target

BASE, ROOT = 0x81800000, 0x40
HIGH = 0xFFFFFFFF00000000


def _memory(mode: str, root: int = ROOT) -> PhysicalMemory:
    """The pages of a tiny kernel with its image."""
    content = kernel_content(BASE)
    pages, _ = machine(mode, root)
    tables = Tables(mode, root, 0x80)
    for pfn, page in pages.items():
        if pfn not in kernel_pages(4):
            tables.memory[pfn] = bytearray(page)
    for number in range(SIZE // PAGE):
        tables.map(BASE + PAGE * number, 0x100 + number)
        pages[0x100 + number] = bytes(content[PAGE * number : PAGE * (number + 1)])
    pages |= {pfn: bytes(table) for pfn, table in tables.memory.items()}
    memory = PhysicalMemory({}, [(0, 0x200)])
    memory.pages = {pfn: bytearray(page) for pfn, page in pages.items()}
    return memory


def _written(path: Path, mode: str, low: int = 0) -> Path:
    processor = Processor(bytes(0x4D0), (ROOT << 12) | low, 0)
    _elf(path, Image(_memory(mode), (processor,)))
    return path


@pytest.mark.parametrize("mode", ["pae", "x86"])
def test_a_32_bit_windows_is_opened_by_its_cr3(mode: str, tmp_path: Path) -> None:
    target = volatility3_kdump.open(_written(tmp_path / "narrow.elf", mode))
    header = target.header
    assert (header.architecture, header.bits, header.build_number) == ("x86", 32, 0x4A61)
    assert header.pae_enabled is (mode == "pae")
    assert header.source_of("directory_table_base") == "CR3 of the QEMU note of processor 0"
    assert target.kernel is not None and target.kernel.base == HIGH | BASE
    assert target.kernel.identity is not None
    assert (target.kernel.identity.pdb_name, target.kernel.identity.guid) == ("ntkrpamp.pdb", GUID)
    head = HEADS[4][0]
    assert target.memory.pointer(HIGH | head) == HIGH | (head & ~0xFFF) + 0x800
    # A processor of which nothing leads to Windows: no interrupt table, and FS leads to no KPCR.
    assert target.dump.processors == () and "are of another machine or moment" in target.dump.why_no_registers
    session = session_over(tmp_path / "narrow.elf")
    assert list(execute(session, f"dd {head:x} L1")) == [f"{head:08x}  {(head & ~0xFFF) + 0x800:08x}"]
    assert list(execute(session, ".effmach")) == ["Effective machine: x86 compatible (x86)"]


def _with_self_map(memory: PhysicalMemory, mode: str, root: int) -> PhysicalMemory:
    """The tables as Windows lays them: mapped by themselves at C0000000, with PAE in a row."""
    pages = memory.pages
    pages[root] = pages.pop(ROOT)
    if mode == "x86":
        # The entry behind it has the working set list.
        struct.pack_into("<II", pages[root], 4 * 0x300, root << 12 | 3, 0x80 << 12 | 3)
    else:
        for index in range(4):
            (entry,) = struct.unpack_from("<Q", pages[root], 8 * index)
            pages[root + 1 + index] = pages[entry >> 12] if entry & 1 else bytearray(PAGE)
            struct.pack_into("<Q", pages[root], 8 * index, (root + 1 + index) << 12 | 1)
        for index in range(4):
            struct.pack_into("<Q", pages[root + 4], 8 * index, (root + 1 + index) << 12 | 3)
    return memory


@pytest.mark.parametrize("mode", ["pae", "x86"])
def test_without_registers_the_hosts_scan_finds_the_page_tables(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "narrow.lime"
    _lime(path, Image(_with_self_map(_memory(mode), mode, 0x185), ()))
    told: list[float] = []
    target = open_target(path, Options(progress=lambda percent, _: told.append(percent)))
    header = target.header
    assert header.source_of("directory_table_base") == "host's scan for page tables"
    assert (header.architecture, header.pae_enabled, told != []) == ("x86", mode == "pae", True)
    assert target.kernel is not None and target.kernel.base == HIGH | BASE


def test_page_tables_of_neither_kind_are_refused(tmp_path: Path) -> None:
    """The tables of one mode are none of the other: the page that all processes see is not where it belongs."""
    path = tmp_path / "none.lime"
    memory = _memory("pae")
    memory.pages[ROOT] = bytearray(PAGE)
    processor = Processor(bytes(0x4D0), ROOT << 12, 0)
    _elf(path, Image(memory, (processor,)))
    with pytest.raises(NotACrashDump, match="no Windows kernel in it"):
        volatility3_kdump.open(path)


# registers ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def isf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return symbols(tmp_path_factory.mktemp("isf"))


@pytest.mark.parametrize("mode, kind", [("pae", "elf"), ("x86", "elf"), ("pae", "kdump"), ("x86", "vmem")])
def test_registers_of_every_processor(mode: str, kind: str, isf: Path, tmp_path: Path) -> None:
    """By FS where the container has its base, else by the interrupt table that each processor has for itself."""
    machine, path = NarrowMachine(mode), tmp_path / f"vm.{kind}"
    KINDS[kind](path, machine.image())
    target = volatility3_kdump.open(path, isf_directories=[isf])
    assert target.problems == [] and target.header.crashed is False
    shown = processors(target)
    assert [processor.current_thread for processor in shown] == [HIGH | thread for thread in THREADS]
    for processor in shown:
        assert processor.context is not None and processor.context.architecture == "x86"
        expected = machine.expected[processor.number]
        known = processor.context.registers
        assert known == {name: expected[name] for name in known} and len(known) == (10 if kind == "vmem" else 16)
    session = Session(Options(isf_directories=(isf,)))
    session.open(str(path))
    assert [line.split() for line in execute(session, "k")][1:4] == [
        ["00", "8b342e00", "80401015", "nt+0x1005"],
        ["01", "8b342e40", "80401045", "nt+0x1015"],
        ["02", "8b342e80", "00000000", "nt+0x1045"],
    ]
    (first, *_) = execute(session, "~1s;r")
    assert first == "eax=11110001 ebx=44440001 ecx=22220001 edx=33330001 esi=e0000001 edi=d0000001"
    assert [line for line in execute(session, "!running -it") if "nt+0x1005" in line] != []


def test_a_processor_in_user_mode(isf: Path, tmp_path: Path) -> None:
    """FS leads to the TEB there, and is that of one thread only."""
    machine, path = NarrowMachine("pae"), tmp_path / "vm.elf"
    machine.in_user_mode(1)
    # The interrupt table is still in the kernel.
    image = machine.image()
    _elf(path, image)
    data = path.read_bytes().replace(struct.pack("<Q", TEBS[1] + 0x10000), struct.pack("<Q", 0x807D8000))
    path.write_bytes(data)
    target = volatility3_kdump.open(path, isf_directories=[isf])
    context = processors(target)[1].context
    assert context is not None and (context.ip, context.sp) == (0x401000, 0x12FF00)
    assert target.problems == []


def test_registers_of_another_machine(isf: Path, tmp_path: Path) -> None:
    machine, path = NarrowMachine("x86"), tmp_path / "vm.elf"
    machine.another(0x83000000, 0x83001000)
    _elf(path, machine.image())
    target = volatility3_kdump.open(path, isf_directories=[isf])
    assert target.dump.processors == () and len(target.problems) == 1
    assert "are of another machine or moment than its memory" in target.problems[0]
