"""Memory images of 32-bit Windows, with PAE and without: page tables by CR3, the kernel by its image."""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample import pe
from kdump_sample.memory_images import Image, Processor, _elf
from kdump_sample.physical import PAGE, PhysicalMemory
from tests.layers.paging import HEADS, Tables, kernel_pages, machine
from tests.prompt import session_over
from volatility3_kdump.console.commands import execute
from volatility3_kdump.errors import NotACrashDump

BASE, SIZE, ROOT = 0x81800000, 0x3000, 0x40
GUID = "0123456789ABCDEF0123456789ABCDEF"
HIGH = 0xFFFFFFFF00000000


def _memory(mode: str, root: int = ROOT) -> PhysicalMemory:
    """The pages of a tiny kernel with its image."""
    sections = [pe.Section(".text", PAGE, PAGE, pe.CODE), pe.Section(".rdata", 2 * PAGE, PAGE, pe.READ_ONLY)]
    image = pe.Image("ntkrpamp.exe", BASE, SIZE, 0x4E5D1C2B, 0, sections, narrow=True)
    image.codeview, image.debug_rva = pe.Codeview("ntkrpamp.pdb", GUID, 2), 2 * PAGE
    content = bytearray(SIZE)
    for rva, data in pe.build(image).items():
        content[rva : rva + len(data)] = data
    pages, _ = machine(mode, root)
    tables = Tables(mode, root, 0x80)
    for pfn, page in pages.items():
        if pfn not in kernel_pages(4):
            tables.memory[pfn] = bytearray(page)
    for number in range(SIZE // PAGE):
        tables.map(BASE + PAGE * number, 0x100 + number)
        pages[0x100 + number] = bytes(content[PAGE * number : PAGE * (number + 1)])
    pages |= {pfn: bytes(table) for pfn, table in tables.memory.items()}
    memory = PhysicalMemory({}, [(0, 0x110)])
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
    assert target.dump.why_no_registers == "registers of a 32-bit Windows are not taken out of memory images"
    session = session_over(tmp_path / "narrow.elf")
    assert list(execute(session, f"dd {head:x} L1")) == [f"{head:08x}  {(head & ~0xFFF) + 0x800:08x}"]
    assert list(execute(session, ".effmach")) == ["Effective machine: x86 compatible (x86)"]


def test_page_tables_of_neither_kind_are_refused(tmp_path: Path) -> None:
    """The tables of one mode are none of the other: the page that all processes see is not where it belongs."""
    path = tmp_path / "none.lime"
    memory = _memory("pae")
    memory.pages[ROOT] = bytearray(PAGE)
    processor = Processor(bytes(0x4D0), ROOT << 12, 0)
    _elf(path, Image(memory, (processor,)))
    with pytest.raises(NotACrashDump, match="no Windows kernel in it"):
        volatility3_kdump.open(path)
