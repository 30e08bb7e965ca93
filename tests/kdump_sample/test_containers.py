"""The dump files themselves: deterministic, small, and laid out as other readers and real files have it."""

from __future__ import annotations

import itertools
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdump_sample import DUMP_TYPES, write_sample
from volatility3_kdump.errors import KdumpError, UnsupportedDump

PAGE = 0x1000
HEADER = 0x2000
PHYSICAL = (1, 2, 5, 6, 8, 9, 10)
KDMP_PARSER = (1, 5, 6, 8, 9, 10)
WITH_USER_PAGES = (1, 5, 9, 10)
WITH_TAGGED_DATA = (1, 4, 5, 6)
REAL_TRIAGE = ("triage_x64_19041.dmp", "triage_x64_19041_0x1a.dmp", "triage_arm64_22000.dmp")

NOTEPAD_DIRECTORY = 0x1D822D000
NOTEPAD_PEB = 0xBB6F2AC000
PTE_BASE = 0xFFFFBD0000000000


def u32(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<I", data, offset)[0]
    return value


def u64(data: bytes, offset: int) -> int:
    value: int = struct.unpack_from("<Q", data, offset)[0]
    return value


@pytest.mark.parametrize("dump_type", DUMP_TYPES)
def test_two_runs_write_the_same_file(dump_type: int, sample: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "again.dmp"
    write_sample(path, dump_type)
    assert path.read_bytes() == sample(dump_type).read_bytes()


@pytest.mark.parametrize("dump_type", DUMP_TYPES)
def test_header(dump_type: int, sample: Callable[..., Path]) -> None:
    data = sample(dump_type).read_bytes()
    assert len(data) < 4 << 20
    assert data[:8] == b"PAGEDU64"
    assert u32(data, 0xF98) == dump_type
    described = dump_type in (1, 2)
    assert (data[0x88:0x98] == b"PAGE" * 4) is not described
    if dump_type != 4:
        assert u64(data, 0xFA0) == len(data)


def test_shipped_table_and_full_table_give_the_same_file(session_kernel: Path, sample: Callable[..., Path]) -> None:
    assert sample(6).read_bytes() == sample(6, session_kernel).read_bytes()


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDump, match="3"):
        write_sample(tmp_path / "out.dmp", 3)
    assert not (tmp_path / "out.dmp").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"base_types": {}, "user_types": {}}'])
def test_what_is_no_kernel_table_is_refused(content: str, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(content)
    with pytest.raises(KdumpError, match=r"table\.json"):
        write_sample(tmp_path / "out.dmp", 6, table)
    assert not (tmp_path / "out.dmp").exists()


# page data ----------------------------------------------------------------------------------------------------------


def summary_pages(data: bytes) -> dict[int, bytes]:
    """The pages of a type 2 file, read from the description of the format: PFN to content."""
    assert data[HEADER : HEADER + 8] == b"SDMPDUMP"
    first, bits, count, again = struct.unpack_from("<4I", data, HEADER + 0xC)
    assert bits == again
    assert first % PAGE == 0
    bitmap = data[HEADER + 0x28 : HEADER + 0x28 + (bits + 7) // 8]
    pfns = [8 * index + bit for index, byte in enumerate(bitmap) if byte for bit in range(8) if byte >> bit & 1]
    assert len(pfns) == count
    assert first + count * PAGE == len(data)
    return {pfn: data[first + index * PAGE : first + (index + 1) * PAGE] for index, pfn in enumerate(pfns)}


@pytest.fixture(scope="module")
def pages(sample: Callable[..., Path], open_dump: Callable[[Path], Any]) -> Callable[[int], dict[int, bytes]]:
    """``pages(dump_type)``: content by PFN."""
    made: dict[int, dict[int, bytes]] = {}

    def read(dump_type: int) -> dict[int, bytes]:
        if dump_type not in made:
            if dump_type == 2:
                made[2] = summary_pages(sample(2).read_bytes())
            else:
                found = open_dump(sample(dump_type)).pages.items()
                made[dump_type] = {address // PAGE: bytes(content) for address, content in found}
        return made[dump_type]

    return read


@pytest.mark.parametrize("dump_type", PHYSICAL)
def test_pages_are_the_same_in_every_type(dump_type: int, pages: Callable[[int], dict[int, bytes]]) -> None:
    found, reference = pages(dump_type), pages(6)
    extra = found.keys() - reference.keys()
    assert {pfn: found[pfn] for pfn in reference} == reference
    assert bool(extra) == (dump_type in WITH_USER_PAGES)
    assert extra == (pages(5).keys() - reference.keys() if extra else set())


def test_runs_of_a_full_dump(sample: Callable[..., Path], pages: Callable[[int], dict[int, bytes]]) -> None:
    data = sample(1).read_bytes()
    count, total = u32(data, 0x88), u64(data, 0x90)
    assert count <= 42
    runs = [struct.unpack_from("<QQ", data, 0x98 + 16 * index) for index in range(count)]
    pfns = [first + index for first, length in runs for index in range(length)]
    assert len(pfns) == total
    assert pfns == sorted(pages(5))
    assert all(data[HEADER + PAGE * index :][:PAGE] == pages(5)[pfn] for index, pfn in enumerate(pfns))


@pytest.mark.parametrize("dump_type", [5, 6])
def test_bitmap_header(dump_type: int, sample: Callable[..., Path], pages: Callable[[int], dict[int, bytes]]) -> None:
    data = sample(dump_type).read_bytes()
    assert data[HEADER : HEADER + 8] == (b"FDMPDUMP" if dump_type == 5 else b"SDMPDUMP")
    first, count, bits = struct.unpack_from("<QQQ", data, HEADER + 0x20)
    bitmap = data[HEADER + 0x38 : HEADER + 0x38 + (bits + 7) // 8]
    assert sum(byte.bit_count() for byte in bitmap) == count == len(pages(dump_type))
    assert first % PAGE == 0
    assert HEADER + 0x38 + len(bitmap) <= first
    assert data[HEADER + 0xC : HEADER + 0x20] == b"PAGE" * 5


@pytest.mark.parametrize("dump_type", [8, 9, 10])
def test_ranges(dump_type: int, sample: Callable[..., Path], pages: Callable[[int], dict[int, bytes]]) -> None:
    data = sample(dump_type).read_bytes()
    marker, magic, metadata, first = struct.unpack_from("<I8s4xQQ", data, HEADER)
    assert (marker, magic, first) == (0x40, b"RDMPDUMP", HEADER + 0x20 + metadata)
    ranges = [struct.unpack_from("<QQ", data, offset) for offset in range(HEADER + 0x30, first, 16)]
    assert (u32(data, HEADER + 0x20), u64(data, HEADER + 0x28)) == (len(ranges), len(pages(dump_type)))
    assert first + PAGE * sum(count for _, count in ranges) == len(data)
    assert [start + index for start, count in ranges for index in range(count)] == sorted(pages(dump_type))


@pytest.mark.parametrize("dump_type", KDMP_PARSER)
def test_translation(dump_type: int, sample: Callable[..., Path], open_dump: Callable[[Path], Any]) -> None:
    """Large page, 4 KiB page, self-map of two processes, and an address that is paged out."""
    dump = open_dump(sample(dump_type))
    assert dump.translate_virtual(0xFFFF9189527E9080) == 0x1C23E9080
    assert dump.read_virtual_page(0xFFFFF80062600000)[:2] == b"MZ"
    index = PTE_BASE >> 39 & 0x1FF
    own_root = 0xFFFF << 48 | index << 39 | index << 30 | index << 21 | index << 12
    assert dump.translate_virtual(own_root) == dump.directory_table_base
    assert dump.translate_virtual(own_root, NOTEPAD_DIRECTORY) == NOTEPAD_DIRECTORY
    assert dump.translate_virtual(0xFFFFD8024AAA8010) is None
    entry = PTE_BASE + ((0xFFFFD8024AAA8010 & 0xFFFFFFFFFFFF) >> 12) * 8
    offset = entry % PAGE
    assert u64(bytes(dump.read_virtual_page(entry & ~(PAGE - 1))), offset) & 1 == 0


@pytest.mark.parametrize("dump_type", KDMP_PARSER)
def test_user_memory(dump_type: int, sample: Callable[..., Path], open_dump: Callable[[Path], Any]) -> None:
    """PEB -> process parameters -> command line, at the offsets that 64-bit Windows has had since Windows 7."""
    dump = open_dump(sample(dump_type))
    peb = dump.read_virtual_page(NOTEPAD_PEB, NOTEPAD_DIRECTORY)
    if dump_type not in WITH_USER_PAGES:
        assert peb is None
        return
    parameters = u64(bytes(peb), 0x20)
    block = bytes(dump.read_virtual_page(parameters, NOTEPAD_DIRECTORY))
    length, buffer = struct.unpack_from("<H6xQ", block, 0x70)
    text = block[buffer - parameters :][:length].decode("utf-16-le")
    assert text == '"C:\\Windows\\system32\\notepad.exe" C:\\Users\\user\\Desktop\\note.txt'
    shared = dump.read_virtual_page(0x7FFE0000, NOTEPAD_DIRECTORY)
    assert shared == dump.read_virtual_page(0xFFFFF78000000000)


# triage and tagged data ---------------------------------------------------------------------------------------------


def tagged_data(data: bytes, offset: int) -> list[tuple[uuid.UUID, bytes]]:
    """Blobs from the ``DumpBlob`` header at an offset to the end of the file, which the last one must reach."""
    assert data[offset : offset + 8] == b"DumpBlob"
    position = offset + u32(data, offset + 8)
    blobs = []
    while position < len(data):
        size, tag, length, before, after = struct.unpack_from("<I16sIII", data, position)
        assert size == 0x20
        start = position + size + before
        blobs.append((uuid.UUID(bytes_le=tag), data[start : start + length]))
        position = start + length + after
    assert position == len(data)
    return blobs


def start_of_tagged_data(data: bytes) -> int:
    kind = u32(data, 0xF98)
    if kind == 4:
        return u32(data, HEADER + 4)
    if kind == 1:
        return HEADER + PAGE * u64(data, 0x90)
    return u64(data, HEADER + 0x20) + PAGE * u64(data, HEADER + 0x28)


@pytest.mark.parametrize("dump_type", WITH_TAGGED_DATA)
def test_tagged_data(dump_type: int, sample: Callable[..., Path]) -> None:
    data = sample(dump_type).read_bytes()
    start = start_of_tagged_data(data)
    assert u32(data, start + 12) == 0xF0000000 | 19041
    tags = [str(tag) for tag, _ in tagged_data(data, start)]
    assert "2b4ae195-a64d-4f04-8ede-7e4f981bd42a" in tags
    assert b"" in [content for _, content in tagged_data(data, start)]


def check_triage(data: bytes) -> None:
    """What holds in kernel-written triage files of Windows 10 and later, and so must hold in a made one."""
    field = {name: u32(data, HEADER + offset) for name, offset in TRIAGE_FIELDS.items()}
    order = ("mm", "unloaded", "prcb", "process", "thread", "stack", "kdbg", "drivers", "strings", "blocks", "marker")
    assert [field[name] for name in order] == sorted(field[name] for name in order)
    assert data[field["marker"] : field["size"]] == b"TRGD"
    kdbg = data[field["kdbg"] : field["kdbg"] + field["kdbg_size"]]
    assert kdbg[0x10:0x14] == b"KDBG"
    assert u32(kdbg, 0x14) == field["kdbg_size"]
    sizes = {name: struct.unpack_from("<H", kdbg, offset)[0] for name, offset in KDBG_SIZES.items()}
    assert field["process"] - field["prcb"] == sizes["prcb"]
    assert field["thread"] - field["process"] == sizes["process"]
    assert field["stack"] - field["thread"] == sizes["thread"]
    assert 0 <= field["kdbg"] - field["stack"] - field["stack_size"] < 8
    # blocks are contiguous, in the order of their table, behind it
    rows = [struct.unpack_from("<QII", data, field["blocks"] + 16 * index) for index in range(field["block_count"])]
    assert rows[0][1] == field["blocks"] + 16 * len(rows)
    assert all(first[1] + first[2] == second[1] for first, second in itertools.pairwise(rows))
    assert rows[-1][1] + rows[-1][2] <= field["marker"]
    names = []
    for index in range(field["driver_count"]):
        offset = u32(data, field["drivers"] + 0x90 * index)
        length = u32(data, offset)
        assert field["strings"] <= offset
        assert offset + 4 + 2 * length + 2 <= field["strings"] + field["strings_size"]
        text = data[offset + 4 : offset + 4 + 2 * length].decode("utf-16-le")
        assert data[offset + 4 + 2 * length :][:2] == b"\0\0"
        names.append(text.split("\\")[-1].lower())
    assert names[:2] == ["ntoskrnl.exe", "hal.dll"]
    count = u64(data, field["unloaded"])
    assert -(-(8 + 0x38 * count) // 8) * 8 == field["prcb"] - field["unloaded"]
    # where a block and the stack cover the same addresses, they hold the same bytes
    top = u64(data, HEADER + 0x48)
    stack = data[field["stack"] : field["stack"] + field["stack_size"]]
    assert top % 8 == 0
    covered = 0
    for address, offset, size in rows:
        low, high = max(address, top), min(address + size, top + len(stack))
        if low < high:
            covered += high - low
            assert data[offset + low - address : offset + high - address] == stack[low - top : high - top]
    assert covered > len(stack) // 2
    tagged_data(data, field["size"])


TRIAGE_FIELDS = {
    "size": 0x04,
    "marker": 0x08,
    "mm": 0x14,
    "unloaded": 0x18,
    "prcb": 0x1C,
    "process": 0x20,
    "thread": 0x24,
    "stack": 0x28,
    "stack_size": 0x2C,
    "drivers": 0x30,
    "driver_count": 0x34,
    "strings": 0x38,
    "strings_size": 0x3C,
    "kdbg": 0x70,
    "kdbg_size": 0x74,
    "blocks": 0x78,
    "block_count": 0x7C,
}
KDBG_SIZES = {"process": 0x2A8, "prcb": 0x2B0, "thread": 0x2C0}


@pytest.mark.parametrize("name", REAL_TRIAGE)
def test_real_triage_files(name: str, shared_data: Path) -> None:
    """The check itself holds for real files."""
    check_triage((shared_data / "dumps" / name).read_bytes())


def test_triage_file(sample: Callable[..., Path]) -> None:
    data = sample(4).read_bytes()
    check_triage(data)
    assert u32(data, 0x1038) == 0xCFF
    assert u32(data, HEADER + 0x44) == 0xFFFFFFFF
    assert u64(data, HEADER + 0x48) == 0xFFFFD48F77AF9698
    assert u32(data, HEADER + 0x2C) == 0xA000 - 0x9698


def test_triage_blocks(sample: Callable[..., Path]) -> None:
    """Code at the fault, build lab and the kernel's header page are there; the page with the RSDS record is not."""
    data = sample(4).read_bytes()
    table, count = u32(data, HEADER + 0x78), u32(data, HEADER + 0x7C)
    rows = [struct.unpack_from("<QII", data, table + 16 * index) for index in range(count)]
    content = {address: data[offset : offset + size] for address, offset, size in rows}
    assert content[0xFFFFF80060DA1000][0x981:0x983] == b"\x8b\x03"
    assert content[0xFFFFF80062600000][:2] == b"MZ"
    assert any(block.startswith(b"19041.1.amd64fre.vb_release") for block in content.values())
    assert not any(b"RSDS" in block for block in content.values())


# the debugger data block --------------------------------------------------------------------------------------------


def test_debugger_data_names_what_a_real_block_names(
    shared_data: Path, isf_paths: list[Path], sample: Callable[..., Path]
) -> None:
    """A made block for the kernel of a real triage file equals the real one, but for what belongs to that machine."""
    table = next(path for path in isf_paths if path.name.startswith("5278AFF8"))
    blocks = []
    for path in (shared_data / "dumps" / "triage_x64_19041.dmp", sample(4, table)):
        data = path.read_bytes()
        offset, size = u32(data, HEADER + 0x70), u32(data, HEADER + 0x74)
        blocks.append(data[offset : offset + size])
    real, made = blocks
    base = u64(real, 0x18), u64(made, 0x18)
    # of one machine: KernBase, PteBase; not in public symbols: MmPagedPoolCommit, sizes of the retpoline stubs
    different = {0x18, 0x360, 0x170, 0x370, 0x378}
    for offset in range(0, 0x380, 8):
        if offset not in different:
            expected, found = u64(real, offset), u64(made, offset)
            if base[0] <= expected < base[0] + 0x1046000:
                expected, found = expected - base[0], found - base[1]
            assert found == expected, hex(offset)
