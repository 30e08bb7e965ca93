from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pefile
import pytest

import volatility3_kdump
from volatility3_kdump.images.image_files import FileImage, ImageRefused, ImageSet, ModuleImage, Pieces
from volatility3_kdump.images.modules import Module
from volatility3_kdump.memory import Memory
from volatility3_kdump.stores.paths import SearchPath

MakeMemory = Callable[..., "tuple[Memory, Pieces]"]
MakeModule = Callable[..., Module]
KERNEL = 0xFFFFF80412340000
STEP = 4


def image(
    module: Module, memory: tuple[Memory, Pieces], *directories: Path, problems: list[str] | None = None
) -> ModuleImage:
    return ModuleImage(module, memory[0], SearchPath(directories), problems, memory[1])


def mapped(path: Path, base: int) -> bytes:
    """The image as pefile maps and relocates it."""
    pe = pefile.PE(str(path))
    data = bytearray(pe.get_memory_mapped_image(ImageBase=base))
    data += bytes(pe.OPTIONAL_HEADER.SizeOfImage - len(data))
    return bytes(data)


def loader_written(path: Path) -> list[tuple[int, int]]:
    """What the loader writes into read-only sections, by pefile's reading of imports and load configuration."""
    pe = pefile.PE(str(path))
    base = pe.OPTIONAL_HEADER.ImageBase
    ranges = [
        (entry.address - base, entry.address - base + 8)
        for library in pe.DIRECTORY_ENTRY_IMPORT
        for entry in library.imports
    ]
    config = pe.DIRECTORY_ENTRY_LOAD_CONFIG.struct
    for field in ("SecurityCookie", "GuardCFCheckFunctionPointer", "GuardCFDispatchFunctionPointer"):
        ranges.append((getattr(config, field) - base, getattr(config, field) - base + 8))
    return ranges


def test_read_only_sections_equal_pefile_relocated(image_path: Path, memory: MakeMemory, module_of: MakeModule) -> None:
    expected = mapped(image_path, KERNEL)
    unmoved = pefile.PE(str(image_path)).get_memory_mapped_image()
    pe = pefile.PE(str(image_path))
    read_only = [
        section
        for section in pe.sections
        if not section.Characteristics & pefile.SECTION_CHARACTERISTICS["IMAGE_SCN_MEM_WRITE"]
    ]
    subject = image(module_of(image_path, KERNEL), memory(), image_path.parent)
    written = loader_written(image_path)
    absent = moved = 0
    for section in read_only:
        start = section.VirtualAddress
        for rva in range(start, start + (section.Misc_VirtualSize & -STEP), STEP):
            data = subject.read(rva, STEP)
            if any(low < rva + STEP and rva < high for low, high in written):
                assert data is None, hex(rva)
                absent += 1
                continue
            if data is None:
                absent += 1
                continue
            assert data == expected[rva : rva + STEP], hex(rva)
            moved += data != unmoved[rva : rva + STEP]
    assert moved >= 8  # every one of these images has pointers in .rdata
    # Behind the imports' table lies its terminator, and a few more pointers belong to the loader.
    assert absent * STEP <= sum(high - low for low, high in written) + 16 * 8


def test_writable_sections_are_not_taken_from_the_file(
    image_path: Path, memory: MakeMemory, module_of: MakeModule
) -> None:
    subject = image(module_of(image_path, KERNEL), memory(), image_path.parent)
    pe = pefile.PE(str(image_path))
    data = next(section for section in pe.sections if section.Name.startswith(b".data"))
    assert subject.read(data.VirtualAddress, 8) is None
    assert subject.read(data.VirtualAddress - 8, 16) is None
    assert subject.origin(data.VirtualAddress) is None
    text = next(section for section in pe.sections if section.Name.startswith(b".text"))
    assert subject.read(text.VirtualAddress, 8) is not None


def test_headers_come_from_the_file(image_path: Path, memory: MakeMemory, module_of: MakeModule) -> None:
    pe = pefile.PE(str(image_path))
    found = image(module_of(image_path, KERNEL), memory(), image_path.parent).headers()
    assert found is not None
    assert (found.machine, found.timestamp) == (pe.FILE_HEADER.Machine, pe.FILE_HEADER.TimeDateStamp)
    assert [section.address for section in found.sections] == [section.VirtualAddress for section in pe.sections]


def test_memory_comes_before_the_file(xcpt4: Path, memory: MakeMemory, module_of: MakeModule) -> None:
    held = {KERNEL + 0x1010: b"\xcc" * 0x10, KERNEL + 0x1030: b"\xdd" * 4}
    subject = image(module_of(xcpt4, KERNEL), memory(held), xcpt4.parent)
    expected = bytearray(mapped(xcpt4, KERNEL)[0x1000:0x1040])
    expected[0x10:0x20] = b"\xcc" * 0x10
    expected[0x30:0x34] = b"\xdd" * 4
    assert subject.read(0x1000, 0x40) == bytes(expected)
    assert subject.read(0x1018, 8) == b"\xcc" * 8
    assert subject.origin(0x1010) == "memory"
    assert subject.origin(0x1020) == "image file"
    assert subject.file == xcpt4


def test_reads_stay_inside_the_image(xcpt4: Path, memory: MakeMemory, module_of: MakeModule) -> None:
    module = module_of(xcpt4, KERNEL)
    subject = image(module, memory({KERNEL - 16: bytes(0x20), KERNEL + module.size: bytes(16)}), xcpt4.parent)
    assert subject.read(-1, 2) is None
    assert subject.read(module.size, 1) is None
    assert subject.read(0, module.size + 1) is None
    assert subject.origin(module.size) is None


class Watched(SearchPath):
    def __init__(self, *directories: Path) -> None:
        super().__init__(directories)
        self.asked: list[tuple[str, str | None]] = []

    def matching(self, name: str, key: str, check: Any, problems: Any) -> Any:
        self.asked.append((name, key))
        return super().matching(name, key, check, problems)


def test_nothing_is_searched_until_memory_misses_and_then_once(
    xcpt4: Path, memory: MakeMemory, module_of: MakeModule
) -> None:
    module = module_of(xcpt4, KERNEL, "absent.sys")
    held, pieces = memory({KERNEL: xcpt4.read_bytes()[:0x1000]})
    path = Watched(xcpt4.parent)
    subject = ModuleImage(module, held, path, None, pieces)
    assert subject.headers() is not None
    assert path.asked == []
    assert subject.read(0x2000, 4) is None
    assert subject.read(0x3000, 4) is None
    # TIMESTAMPSIZE as symbol stores write it: eight upper-case digits, then the size without padding.
    assert path.asked == [("absent.sys", "62524D63e000")]


def test_files_in_stores_are_found(xcpt4: Path, memory: MakeMemory, module_of: MakeModule, tmp_path: Path) -> None:
    place = tmp_path / "DRIVER.SYS" / "62524d63E000"
    place.mkdir(parents=True)
    (place / "driver.sys").write_bytes(xcpt4.read_bytes())
    subject = image(module_of(xcpt4, KERNEL, "Driver.sys"), memory(), tmp_path)
    assert subject.read(0x1000, 16) == mapped(xcpt4, KERNEL)[0x1000:0x1010]


@pytest.mark.parametrize("name", ["dump_xcpt4.exe", "XCPT4.EXE"])
def test_other_names_of_the_same_file(name: str, xcpt4: Path, memory: MakeMemory, module_of: MakeModule) -> None:
    assert image(module_of(xcpt4, KERNEL, name), memory(), xcpt4.parent).read(0x1000, 4) is not None


def test_the_kernel_is_found_under_each_of_its_names(
    xcpt4: Path, memory: MakeMemory, module_of: MakeModule, tmp_path: Path
) -> None:
    (tmp_path / "ntkrnlmp.exe").write_bytes(xcpt4.read_bytes())
    module = module_of(xcpt4, KERNEL)
    kernel = Module("nt", "ntoskrnl.exe", None, module.base, module.size, module.timestamp, None)
    assert image(kernel, memory(), tmp_path).read(0x1000, 4) is not None


@pytest.mark.parametrize(("timestamp", "size"), [(1, 0), (0, 0x1000), (-1, -0x1000)], ids=["timestamp", "size", "both"])
def test_a_file_of_another_build_is_refused_and_said(
    timestamp: int, size: int, xcpt4: Path, memory: MakeMemory, module_of: MakeModule
) -> None:
    own = module_of(xcpt4, KERNEL)
    assert own.timestamp is not None
    module = Module("xcpt4", "xcpt4.exe", None, KERNEL, own.size + size, own.timestamp + timestamp, None)
    problems: list[str] = []
    subject = image(module, memory(), xcpt4.parent, problems=problems)
    assert subject.read(0x1000, 4) is None
    assert subject.read(0x2000, 4) is None
    assert problems == [
        f"image of xcpt4: {xcpt4}: TimeDateStamp 62524D63 and SizeOfImage e000 are not the module's "
        f"{own.timestamp + timestamp:08X} and {own.size + size:x}; refused"
    ]


def test_a_module_whose_timestamp_is_not_known_matches_no_file(
    xcpt4: Path, memory: MakeMemory, module_of: MakeModule
) -> None:
    size = module_of(xcpt4, KERNEL).size
    problems: list[str] = []
    subject = image(Module("x", "xcpt4.exe", None, KERNEL, size, None, None), memory(), xcpt4.parent, problems=problems)
    assert subject.read(0x1000, 4) is None
    assert problems == ["x: its TimeDateStamp is not in the dump, no image file can be matched"]
    # The headers in memory have it as well.
    held = memory({KERNEL: xcpt4.read_bytes()[:0x400]})
    known = image(Module("x", "xcpt4.exe", None, KERNEL, size, None, None), held, xcpt4.parent)
    assert known.read(0x1000, 4) is not None


@pytest.mark.parametrize("name", ["../outside.sys", "..\\outside.sys", "..", "", "C:outside.sys", "\0", "nul"])
def test_names_from_the_dump_never_leave_the_path(
    name: str, xcpt4: Path, memory: MakeMemory, module_of: MakeModule, tmp_path: Path
) -> None:
    (tmp_path / "outside.sys").write_bytes(xcpt4.read_bytes())
    inside = tmp_path / "inside"
    inside.mkdir()
    path = Watched(inside)
    own = module_of(xcpt4, KERNEL)
    module = Module("x", name, name, KERNEL, own.size, own.timestamp, None)
    problems: list[str] = []
    held, pieces = memory()
    assert ModuleImage(module, held, path, problems, pieces).read(0x1000, 4) is None
    assert all(asked == "outside.sys" for asked, _ in path.asked)
    assert path.asked or problems == [f"x: {name!r} is no file name, no image is looked for"]


def patched(data: bytes, *patches: tuple[int, bytes]) -> bytes:
    changed = bytearray(data)
    for offset, new in patches:
        changed[offset : offset + len(new)] = new
    return bytes(changed)


def relocation_entries(path: Path) -> tuple[int, list[int]]:
    """File offset of the first block of relocations and of each of its entries."""
    pe = pefile.PE(str(path))
    directory = pe.OPTIONAL_HEADER.DATA_DIRECTORY[5]
    offset = pe.get_offset_from_rva(directory.VirtualAddress)
    (size,) = struct.unpack_from("<I", path.read_bytes(), offset + 4)
    return offset, [offset + position for position in range(8, size, 2)]


@pytest.mark.parametrize("kind", [1, 2, 3], ids=["HIGH", "LOW", "HIGHLOW"])
def test_every_type_of_relocation(kind: int, xcpt4: Path, tmp_path: Path) -> None:
    data = xcpt4.read_bytes()
    pe = pefile.PE(str(xcpt4))
    base = KERNEL + 0x5000  # so that the low half changes too
    delta = base - pe.OPTIONAL_HEADER.ImageBase
    block, entries = relocation_entries(xcpt4)
    (page,) = struct.unpack_from("<I", data, block)
    changes = []
    for entry in entries:
        (value,) = struct.unpack_from("<H", data, entry)
        if value:
            changes.append((entry, struct.pack("<H", kind << 12 | value & 0xFFF)))
    file = tmp_path / "x.exe"
    file.write_bytes(patched(data, *changes))
    expected = mapped(file, base)
    subject = FileImage(file, file.read_bytes(), base)
    moved = 0
    for _, packed in changes:
        rva = page + (struct.unpack("<H", packed)[0] & 0xFFF)
        found = subject.read(rva, 4)
        if found is not None:
            before = pe.get_data(rva, 4)
            if kind == 1:
                # pefile shifts the sum; "the high 16 bits of the difference" are added (PE format specification).
                word = struct.unpack_from("<H", before)[0] + (delta >> 16) & 0xFFFF
                assert found == struct.pack("<H", word) + before[2:]
            else:
                assert found == expected[rva : rva + 4]
            moved += found != before
    assert moved


def test_a_relocation_across_pages_equals_pefile(xcpt4: Path, tmp_path: Path) -> None:
    data = xcpt4.read_bytes()
    block, entries = relocation_entries(xcpt4)
    base = 0x7FF612340000  # pefile does not wrap a sum around
    site = 0x1FFC  # in .text, four bytes before its second page
    file = tmp_path / "x.exe"
    file.write_bytes(
        patched(
            data,
            (block, struct.pack("<I", 0x1000)),
            (entries[0], bytes(2 * len(entries))),
            (entries[0], struct.pack("<H", 0xA000 | site & 0xFFF)),
        )
    )
    expected = mapped(file, base)[0x1FF0:0x2010]
    assert expected != mapped(xcpt4, base)[0x1FF0:0x2010]
    whole = FileImage(file, file.read_bytes(), base)
    assert whole.read(0x1FF0, 0x20) == expected
    alone = FileImage(file, file.read_bytes(), base)
    assert alone.read(0x2000, 0x10) == expected[0x10:]


def test_files_that_cannot_be_moved_are_refused(xcpt4: Path, tmp_path: Path) -> None:
    data = xcpt4.read_bytes()
    header = struct.unpack_from("<I", data, 0x3C)[0]
    stripped = patched(data, (header + 0x16, struct.pack("<H", 0x23)), (header + 0x18 + 0x70 + 5 * 8, bytes(8)))
    with pytest.raises(ImageRefused, match="no relocations"):
        FileImage(tmp_path / "x", stripped, KERNEL)
    preferred = pefile.PE(str(xcpt4)).OPTIONAL_HEADER.ImageBase
    assert FileImage(tmp_path / "x", stripped, preferred).read(0x1000, 4) is not None
    _, entries = relocation_entries(xcpt4)
    with pytest.raises(ImageRefused, match="unknown type 9"):
        FileImage(tmp_path / "x", patched(data, (entries[0], b"\x00\x90")), KERNEL)


def test_damaged_files_are_refused_or_short_but_never_raise_otherwise(xcpt4: Path, tmp_path: Path) -> None:
    data = xcpt4.read_bytes()
    source = random.Random(3)
    used = 0
    for _ in range(400):
        changed = bytearray(data[: source.choice([len(data), len(data), source.randrange(0x200, len(data))])])
        for _ in range(source.randrange(1, 12)):
            offset = source.choice([source.randrange(0x400), source.randrange(len(changed))])
            if offset < len(changed):
                changed[offset] = source.choice([0, 0xFF, source.randrange(256)])
        try:
            subject = FileImage(tmp_path / "x", bytes(changed), KERNEL)
        except ImageRefused:
            continue
        used += 1
        for rva, size in ((0, 64), (0x1000, 0x3000), (0x7F00, 0x200), (0xD000, 0x1000), (0xFFFFF000, 0x2000)):
            found = subject.read(rva, size)
            assert found is None or len(found) == size
    assert used > 100


def test_files_that_are_no_images_are_refused(tmp_path: Path, memory: MakeMemory) -> None:
    (tmp_path / "x.sys").write_bytes(b"MZ" + bytes(100))
    problems: list[str] = []
    module = Module("x", "x.sys", None, KERNEL, 0x8000, 7, None)
    assert image(module, memory(), tmp_path, problems=problems).read(0, 4) is None
    assert problems == [f"image of x: {tmp_path / 'x.sys'}: not a PE image; refused"]


def test_one_image_for_each_module(xcpt4: Path, memory: MakeMemory, module_of: MakeModule) -> None:
    held, pieces = memory()
    images = ImageSet(held, SearchPath([xcpt4.parent]), None, pieces)
    module = module_of(xcpt4, KERNEL)
    assert images.image_of(module) is images.image_of(module)
    other = module_of(xcpt4, KERNEL + 0x100000)
    assert images.image_of(other) is not images.image_of(module)


@pytest.fixture
def driver_file(xcpt4: Path, shared_data: Path, tmp_path: Path) -> tuple[Path, Module]:
    """A made-up image file that carries the identity of a driver of a real dump, and that driver."""
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    if not dump.is_file():
        pytest.skip(f"no {dump}")
    target = volatility3_kdump.open(dump, image_path="")
    module = next(module for module in target.modules if module.image_name.lower() == "disk.sys")
    assert module.timestamp is not None and module.size >= 0xE000
    assert all(target.memory.read(module.base + rva, 1) is None for rva in range(0, module.size, 16))
    data = xcpt4.read_bytes()
    start = struct.unpack_from("<I", data, 0x3C)[0]
    changed = patched(
        data, (start + 8, struct.pack("<I", module.timestamp)), (start + 0x18 + 0x38, struct.pack("<I", module.size))
    )
    place = tmp_path / "images"
    place.mkdir()
    path = place / "disk.sys"
    path.write_bytes(changed)
    return path, module


def test_a_real_dump_is_completed_from_the_image_path(
    driver_file: tuple[Path, Module], shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, module = driver_file
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    bare = volatility3_kdump.open(dump, image_path="")
    assert bare.images.image_of(module).read(0x1000, 0x20) is None
    assert bare.images.headers_of(module) is None
    expected = mapped(path, module.base)
    target = volatility3_kdump.open(dump, image_path=f"srv*{path.parent}")
    subject = target.images.image_of(module)
    assert subject.read(0x1000, 0x2000) == expected[0x1000:0x3000]
    assert subject.origin(0x1000) == "image file"
    headers = target.images.headers_of(module)
    assert headers is not None and headers.timestamp == module.timestamp
    assert target.names.may_be_code(module, module.base + 0x1000)
    assert not target.names.may_be_code(module, module.base + 0x8000)
    monkeypatch.setenv("_NT_EXECUTABLE_IMAGE_PATH", str(path.parent))
    assert volatility3_kdump.open(dump).images.image_of(module).read(0x1000, 4) == expected[0x1000:0x1004]


def test_a_file_of_another_build_is_refused_for_a_real_dump(
    driver_file: tuple[Path, Module], shared_data: Path
) -> None:
    path, module = driver_file
    data = path.read_bytes()
    start = struct.unpack_from("<I", data, 0x3C)[0]
    path.write_bytes(patched(data, (start + 8, b"\1\2\3\4")))
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp", image_path=[path.parent])
    assert target.images.image_of(module).read(0x1000, 4) is None
    assert [line for line in target.warnings if "refused" in line] == [
        f"image of disk: {path}: TimeDateStamp 04030201 and SizeOfImage {module.size:x} are not the module's "
        f"{module.timestamp:08X} and {module.size:x}; refused"
    ]


def test_memory_of_a_real_dump_comes_before_the_file(shared_data: Path, xcpt4: Path, tmp_path: Path) -> None:
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    if not dump.is_file():
        pytest.skip(f"no {dump}")
    bare = volatility3_kdump.open(dump, image_path="")
    module = next(module for module in bare.modules if module.name == "amdppm")
    fault = 0x334C  # the crash is at amdppm+0x334c, whose page the dump holds
    held = bare.memory.read(module.base + 0x3000, 0x1000)
    assert held is not None
    data = xcpt4.read_bytes()
    start = struct.unpack_from("<I", data, 0x3C)[0]
    assert module.timestamp is not None
    (tmp_path / "AMDPPM.SYS").write_bytes(
        patched(
            data,
            (start + 8, struct.pack("<I", module.timestamp)),
            (start + 0x18 + 0x38, struct.pack("<I", module.size)),
        )
    )
    expected = mapped(tmp_path / "AMDPPM.SYS", module.base)
    subject = volatility3_kdump.open(dump, image_path=tmp_path).images.image_of(module)
    assert subject.origin(fault) == "memory"
    assert subject.origin(0x1000) == "image file"
    pieces = {
        start: bare.memory.read(module.base + start, 16)
        for start in range(0x1000, 0x6000, 16)
        if bare.memory.read(module.base + start, 16) is not None
    }
    assert pieces
    found = subject.read(0x1000, 0x5000)
    assert found is not None
    for rva in range(0x1000, 0x6000, 16):
        piece = found[rva - 0x1000 : rva - 0x1000 + 16]
        if rva in pieces:
            assert piece == pieces[rva], hex(rva)
        elif all(bare.memory.read(module.base + rva + byte, 1) is None for byte in range(16)):
            assert piece == expected[rva : rva + 16], hex(rva)
