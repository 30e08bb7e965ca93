"""Code in memory against image files: every kind of change, made in one of the two.

The file is what the sample maker builds of myfault.sys, whose sections have equal offsets in file and memory.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import volatility3_kdump
from kdump_sample import pe
from kdump_sample.machine import Machine
from kdump_sample.myfault import high_irql_fault
from volatility3_kdump.findings.image_check import ImageCheck, check_image
from volatility3_kdump.images.image_files import ImageSet
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import parse_headers
from volatility3_kdump.images.version_resource import image_version
from volatility3_kdump.memory import Memory
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.target import Target

BASE = 0xFFFFF80060DA0000
#: HighIrqlFault and DeviceControl, and a place without code between functions.
FAULT, CONTROL, ELSEWHERE = 0x1950, 0x1E40, 0x1B00
SIZE = 0x9000


@pytest.fixture(scope="session")
def image_file() -> Callable[[str], bytes]:
    """``image_file("myfault")``: the image file of a driver."""
    machine = Machine(high_irql_fault(), load_table_file(kernel_table_path()))

    def make(stem: str) -> bytes:
        image = machine.images.module(stem).image
        file = bytearray(image.size)
        for rva, data in pe.build(image).items():
            file[rva : rva + len(data)] = data
        return bytes(file)

    return make


@pytest.fixture(scope="session")
def myfault(image_file: Callable[[str], bytes]) -> bytes:
    return image_file("myfault")


def place(target: Target, rva: int) -> int:
    """The offset in the dump file of a byte of myfault.sys."""
    layer = target.context.layers[target.layer_name or ""]
    physical = next(iter(layer.mapping(BASE + rva & layer.address_mask, 1)))[2]
    assert target.dump.pages is not None
    offset = target.dump.pages.offset_of(physical >> 12)
    assert offset is not None
    return offset + physical % 0x1000


@pytest.fixture
def checked(sample: Callable[..., Path], tmp_path: Path) -> Callable[[bytes, Mapping[int, bytes]], ImageCheck]:
    """``checked(file, changes)``: the check of myfault.sys against a file, with bytes changed in the dump by RVA."""

    def run(file: bytes, changes: Mapping[int, bytes]) -> ImageCheck:
        (tmp_path / "myfault.sys").write_bytes(file)
        original = volatility3_kdump.open(sample())
        data = bytearray(sample().read_bytes())
        for rva, held in changes.items():
            start = place(original, rva)
            data[start : start + len(held)] = held
        (tmp_path / "changed.dmp").write_bytes(data)
        target = volatility3_kdump.open(tmp_path / "changed.dmp", image_path=tmp_path)
        module = next(module for module in target.modules if module.name == "myfault")
        return check_image(target, module)

    return run


def kinds(check: ImageCheck) -> list[tuple[int, str, int]]:
    return [(item.address - BASE, item.kind, item.size) for item in check.differences]


def test_equal_code_has_no_differences(checked, myfault: bytes) -> None:
    check = checked(myfault, {})
    assert (check.reason, check.differences) == (None, ())
    # One of the two pages of .text is in the dump; INIT is discarded, and not code that is compared.
    assert (check.compared, check.size) == (0x1000, 0x2000)
    assert check.file is not None and check.file.endswith("myfault.sys")


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_named(checked, myfault: bytes, bit: int) -> None:
    held = myfault[0x1981]
    check = checked(myfault, {0x1981: bytes([held ^ 1 << bit])})
    (found,) = check.differences
    assert (found.address, found.kind, found.bit) == (BASE + 0x1981, "single bit", bit)
    assert (found.file, found.memory) == (bytes([held]), bytes([held ^ 1 << bit]))
    assert found.symbol == "myfault+0x1981"
    assert found.section == ".text"
    assert check.errors == [found]


def test_several_bits_and_bytes_are_not_a_single_bit(checked, myfault: bytes) -> None:
    changed = bytes(value ^ 0x11 for value in myfault[0x1981:0x1984])
    check = checked(myfault, {0x1981: changed, 0x1990: bytes([myfault[0x1990] ^ 3])})
    assert kinds(check) == [(0x1981, "bytes", 3), (0x1990, "bytes", 1)]
    assert [item.note for item in check.differences] == ["6 bits", "2 bits"]


def test_a_flipped_bit_in_the_file_is_the_same(checked, myfault: bytes) -> None:
    file = bytearray(myfault)
    file[0x1981] ^= 0x40
    assert kinds(checked(bytes(file), {})) == [(0x1981, "single bit", 1)]


def test_a_change_in_data_is_not_compared(checked, myfault: bytes) -> None:
    file = bytearray(myfault)
    file[0x3800] ^= 0xFF
    assert checked(bytes(file), {}).differences == ()


# hot patches --------------------------------------------------------------------------------------------------------


def test_hot_patch_of_a_function(checked, myfault: bytes) -> None:
    assert not any(myfault[CONTROL - 5 : CONTROL])
    jump = b"\xe9" + struct.pack("<i", FAULT - CONTROL)
    check = checked(myfault, {CONTROL - 5: jump, CONTROL: b"\xeb\xf9"})
    assert check.errors == []
    assert {item.kind for item in check.differences} == {"hot patch"}
    assert "jump to myfault+0x1950" in check.differences[0].note


def test_a_jump_over_code_is_no_hot_patch(checked, myfault: bytes) -> None:
    jump = b"\xe9" + struct.pack("<i", 0x100)
    check = checked(myfault, {CONTROL: jump})
    assert check.errors == list(check.differences) != []
    # Nor is a short jump that does not lead to a patch.
    assert checked(myfault, {CONTROL: b"\xeb\xf9"}).errors != []


# sites that the file lists ------------------------------------------------------------------------------------------

CONFIG, TABLE = 0x6800, 0x6A00
_XDATA = 5


def with_sites(file: bytes, symbol: int, entries: bytes, version: int = 1, length: int | None = None) -> bytes:
    """The file with a load configuration and a dynamic value relocation table of one block for the page 0x1000."""
    changed = bytearray(file)
    header = struct.unpack_from("<I", file, 0x3C)[0]
    struct.pack_into("<II", changed, header + 0x18 + 0x70 + 8 * 10, CONFIG, 0x140)
    struct.pack_into("<I", changed, CONFIG, 0x140)
    struct.pack_into("<IH", changed, CONFIG + 0xE0, TABLE - 0x6000, _XDATA)
    block = struct.pack("<II", 0x1000, 8 + len(entries)) + entries
    body = struct.pack("<QI", symbol, len(block)) + block
    struct.pack_into("<II", changed, TABLE, version, len(body) if length is None else length)
    changed[TABLE + 8 : TABLE + 8 + len(body)] = body
    return bytes(changed)


def import_call(file: bytes, rva: int) -> bytes:
    changed = bytearray(file)
    changed[rva : rva + 12] = bytes.fromhex("48ff1500200000 0f1f440000")
    return bytes(changed)


RETPOLINE = bytes.fromhex("4c8b1500200000 e811223344")
OPTIMISED = bytes.fromhex("e811223344 0f1f8000000000")


@pytest.mark.parametrize("written", [RETPOLINE, OPTIMISED])
def test_import_calls_that_the_kernel_rewrites(checked, myfault: bytes, written: bytes) -> None:
    plain = import_call(myfault, ELSEWHERE)
    file = with_sites(plain, 3, struct.pack("<I", ELSEWHERE & 0xFFF | 1 << 12))
    check = checked(file, {ELSEWHERE: written})
    assert check.errors == []
    assert {item.kind for item in check.differences} == {"rewritten call"}
    # The same bytes where the file lists no site, and other bytes where it does, are errors.
    assert checked(plain, {ELSEWHERE: written}).errors != []
    assert checked(file, {ELSEWHERE: b"\xcc" * 12}).errors != []
    assert checked(file, {ELSEWHERE: written, ELSEWHERE + 12: b"\x90"}).errors != []


@pytest.mark.parametrize(
    ("symbol", "plain", "written"), [(4, "ffd00f1f00", "e844332211"), (5, "ffe0cccccc", "e944332211")]
)
def test_indirect_calls_and_switch_jumps(checked, myfault: bytes, symbol: int, plain: str, written: str) -> None:
    file = bytearray(myfault)
    file[ELSEWHERE : ELSEWHERE + 5] = bytes.fromhex(plain)
    listed = with_sites(bytes(file), symbol, struct.pack("<HH", ELSEWHERE & 0xFFF, 0))
    check = checked(listed, {ELSEWHERE: bytes.fromhex(written)})
    assert check.errors == []
    assert [item.kind for item in check.differences] == ["rewritten call"]


def test_constants_of_the_address_space(checked, myfault: bytes) -> None:
    file = with_sites(myfault, 0xFFFFF68000000000, struct.pack("<HH", 0xA000 | ELSEWHERE & 0xFFF, 0))
    check = checked(file, {ELSEWHERE: struct.pack("<Q", 0xFFFFBD0000000000)})
    assert check.errors == []
    assert {item.kind for item in check.differences} == {"address constant"}


@pytest.mark.parametrize(
    ("version", "length"), [(2, None), (1, 0), (1, 0xFFFFFFFF), (1, 11)], ids=["version", "empty", "huge", "short"]
)
def test_a_table_that_makes_no_sense_explains_nothing(
    checked, myfault: bytes, version: int, length: int | None
) -> None:
    file = with_sites(import_call(myfault, ELSEWHERE), 3, struct.pack("<I", ELSEWHERE & 0xFFF), version, length)
    check = checked(file, {ELSEWHERE: RETPOLINE})
    assert check.errors != []


def test_a_block_that_does_not_fit_its_table(checked, myfault: bytes) -> None:
    file = bytearray(with_sites(import_call(myfault, ELSEWHERE), 3, struct.pack("<I", ELSEWHERE & 0xFFF)))
    struct.pack_into("<I", file, TABLE + 8 + 12 + 4, 0xFFFFFFF0)
    assert checked(bytes(file), {ELSEWHERE: RETPOLINE}).errors != []


# what cannot be compared --------------------------------------------------------------------------------------------


def test_another_build_of_the_file_is_refused(checked, myfault: bytes) -> None:
    other = bytearray(myfault)
    struct.pack_into("<I", other, struct.unpack_from("<I", other, 0x3C)[0] + 8, 0x11111111)
    check = checked(bytes(other), {})
    assert check.file is None
    assert check.compared == 0
    assert "are not the module's" in (check.reason or "")


def test_no_file_and_no_code(sample: Callable[..., Path], image_file: Callable[[str], bytes], tmp_path: Path) -> None:
    (tmp_path / "intelppm.sys").write_bytes(image_file("intelppm"))
    target = volatility3_kdump.open(sample(), image_path=tmp_path)
    modules = {module.name: module for module in target.modules}
    assert check_image(target, modules["ndis"]).reason == "no file for ndis.sys on the image path"
    check = check_image(target, modules["intelppm"])
    assert (check.compared, check.reason) == (0, "the dump holds none of its code")
    assert check.file is not None


def test_the_code_of_a_small_memory_dump(
    sample: Callable[..., Path], image_file: Callable[[str], bytes], tmp_path: Path
) -> None:
    """It holds the page of the fault, and no other code of the driver."""
    file = bytearray(image_file("myfault"))
    file[0x1981] ^= 2
    (tmp_path / "myfault.sys").write_bytes(file)
    target = volatility3_kdump.open(sample(4), image_path=tmp_path)
    module = next(module for module in target.modules if module.name == "myfault")
    check = check_image(target, module)
    assert check.compared == 0x1000
    assert kinds(check) == [(0x1981, "single bit", 1)]


def test_headers_of_the_file_that_lie_about_sections(checked, myfault: bytes) -> None:
    """Sections that reach beyond the image, or overlap: what is compared stays within the image."""
    file = bytearray(myfault)
    header = struct.unpack_from("<I", file, 0x3C)[0]
    table = header + 0x18 + struct.unpack_from("<H", file, header + 0x14)[0]
    struct.pack_into("<I", file, table + 8, 0xFFFFFF00)
    struct.pack_into("<I", file, table + 40 + 12, 0x1800)
    check = checked(bytes(file), {})
    assert check.size <= SIZE
    assert check.compared <= SIZE


# a real driver --------------------------------------------------------------------------------------------------------

LOADED = 0xFFFFF80312340000


@pytest.fixture(scope="module")
def windivert() -> Path:
    """The driver that the package pydivert carries; the package itself cannot be imported outside of Windows."""
    spec = importlib.util.find_spec("pydivert")
    for directory in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(directory).rglob("WinDivert64.sys"):
            return found
    pytest.skip("no WinDivert64.sys: install pydivert>=3,<4")


def loaded(path: Path) -> tuple[bytearray, Any]:
    """The image as pefile maps and relocates it, with addresses in its import table."""
    pefile = pytest.importorskip("pefile")
    parsed = pefile.PE(str(path))
    parsed.relocate_image(LOADED)
    image = bytearray(parsed.get_memory_mapped_image())
    image += bytes(parsed.OPTIONAL_HEADER.SizeOfImage - len(image))
    for library in parsed.DIRECTORY_ENTRY_IMPORT:
        for item in library.imports:
            rva = item.address - parsed.OPTIONAL_HEADER.ImageBase
            struct.pack_into("<Q", image, rva, 0xFFFFF80062600000 + rva)
    return image, parsed


def check_loaded(path: Path, image: bytearray, parsed: Any) -> ImageCheck:
    def read(address: int, size: int) -> bytes | None:
        start = address - LOADED
        return bytes(image[start : start + size]) if start >= 0 and start + size <= len(image) else None

    memory = Memory(read, 8, lambda address: "not there")
    header = parsed.FILE_HEADER.TimeDateStamp, parsed.OPTIONAL_HEADER.CheckSum
    module = Module("WinDivert64", "WinDivert64.sys", None, LOADED, parsed.OPTIONAL_HEADER.SizeOfImage, *header)
    problems: list[str] = []
    images = ImageSet(memory, SearchPath([path.parent]), problems)
    target: Any = SimpleNamespace(images=images, memory=memory, problems=problems, name_of=lambda address: None)
    return check_image(target, module)


def test_a_relocated_driver_has_no_differences(windivert: Path) -> None:
    image, parsed = loaded(windivert)
    check = check_loaded(windivert, image, parsed)
    assert check.differences == ()
    code = [
        section
        for section in parsed.sections
        if section.IMAGE_SCN_MEM_EXECUTE and not section.IMAGE_SCN_MEM_WRITE and not section.IMAGE_SCN_MEM_DISCARDABLE
    ]
    assert check.compared == check.size == sum(section.Misc_VirtualSize for section in code) > 0x4000


def test_one_bit_of_a_relocated_driver(windivert: Path) -> None:
    image, parsed = loaded(windivert)
    place = parsed.sections[0].VirtualAddress + 0x777
    image[place] ^= 0x20
    check = check_loaded(windivert, image, parsed)
    assert [(item.address, item.kind, item.bit) for item in check.differences] == [(LOADED + place, "single bit", 5)]


def test_version_resource_of_a_real_driver(windivert: Path) -> None:
    image, parsed = loaded(windivert)

    def read(rva: int, size: int) -> bytes | None:
        return bytes(image[rva : rva + size]) if rva + size <= len(image) else None

    headers = parse_headers(read)
    assert headers is not None
    found = image_version(read, headers)
    assert found is not None
    fixed = parsed.VS_FIXEDFILEINFO[0]
    assert (found.flags_mask, found.flags, found.system) == (fixed.FileFlagsMask, fixed.FileFlags, fixed.FileOS)
    assert (found.file_type, found.subtype) == (fixed.FileType, fixed.FileSubtype)
    (table,) = (part for part in parsed.FileInfo[0] if part.Key == b"StringFileInfo")
    assert found.strings == {key.decode(): value.decode() for key, value in table.StringTable[0].entries.items()}
    (variables,) = (part for part in parsed.FileInfo[0] if part.Key == b"VarFileInfo")
    language, code_page = next(iter(variables.Var[0].entry.values())).split()
    assert found.translation == f"{int(language, 16):04x}.{int(code_page, 16):04x}"
