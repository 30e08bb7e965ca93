"""Names of images that MinGW's gcc made, against nm; split debug files; DWARF without a symbol table; Rust's names."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.images.coff import CoffFile
from volatility3_kdump.images.image_files import FileImage
from volatility3_kdump.options import Options
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.coff_names import demangled, names_of
from volatility3_kdump.symbols.dwarf import dwarf_functions
from volatility3_kdump.target import Target

GCC, NM, OBJCOPY, STRIP = (f"x86_64-w64-mingw32-{tool}" for tool in ("gcc", "nm", "objcopy", "strip"))
SOURCE = """
static int helper(int x) { return x * 7; }
int a_function_with_a_name_longer_than_eight(int x) { return helper(x) + 1; }
int DriverEntry(void *object, void *path) { return a_function_with_a_name_longer_than_eight((int)(long long)object); }
int shared_data[4] = {1, 2, 3, 4};
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver of MinGW's gcc with symbols and DWARF."""
    if shutil.which(GCC) is None:
        pytest.skip(f"{GCC} is not installed")
    directory = tmp_path_factory.mktemp("gcc")
    (directory / "drv.c").write_text(SOURCE)
    command = [GCC, "-g", "-O0", "-nostdlib", "-Wl,--subsystem,native", "-Wl,-e,DriverEntry", "-shared", "drv.c"]
    subprocess.run([*command, "-o", "drv.sys"], cwd=directory, check=True)
    return directory / "drv.sys"


def loaded(path: Path) -> FileImage:
    return FileImage(path, path.read_bytes(), None)


def symbols_of(path: Path, base: int) -> dict[str, int]:
    """What nm says of the image's text and data."""
    listed = subprocess.run([NM, str(path)], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {row[2]: int(row[0], 16) - base for row in rows if len(row) == 3 and row[1] in "tTdD"}


def test_names_are_those_of_nm(driver: Path) -> None:
    image = loaded(driver)
    problems: list[str] = []
    found = names_of(image, SearchPath(), problems)
    assert found is not None and found[0] == str(driver) and problems == []
    ours = {name: rva for rva, name in found[1]}
    theirs = symbols_of(driver, image.headers.preferred_base)
    wanted = {"helper", "a_function_with_a_name_longer_than_eight", "DriverEntry", "shared_data"}
    assert wanted <= set(ours)
    assert {name: ours[name] for name in wanted} == {name: theirs[name] for name in wanted}
    assert all(theirs[name] == rva for name, rva in ours.items() if name in theirs)


def test_split_debug_files_are_found_by_their_checksum(driver: Path, tmp_path: Path) -> None:
    whole, stripped, debug = driver, tmp_path / "drv.sys", tmp_path / "drv.sys.debug"
    subprocess.run([OBJCOPY, "--only-keep-debug", str(whole), str(debug)], check=True)
    subprocess.run([STRIP, "-o", str(stripped), str(whole)], check=True)
    subprocess.run([OBJCOPY, f"--add-gnu-debuglink={debug}", str(stripped)], check=True)
    image = loaded(stripped)
    problems: list[str] = []
    assert names_of(image, SearchPath(), problems) is None
    found = names_of(image, SearchPath([tmp_path]), problems)
    assert found is not None and found[0] == str(debug) and problems == []
    expected = names_of(loaded(whole), SearchPath(), [])
    assert expected is not None
    ours = {name: rva for rva, name in found[1]}
    assert ours["helper"] == {name: rva for rva, name in expected[1]}["helper"]
    debug.write_bytes(debug.read_bytes() + b"\0")
    assert names_of(image, SearchPath([tmp_path]), problems) is None
    assert problems == [f"{debug}: is not the debug file of drv.sys: its CRC is another; refused"]


def test_functions_of_dwarf_are_those_of_nm(driver: Path) -> None:
    pytest.importorskip("elftools")
    image = loaded(driver)
    functions = dwarf_functions(CoffFile(image.data), image.headers.preferred_base)
    found = {name: rva for rva, name in functions}
    theirs = symbols_of(driver, image.headers.preferred_base)
    wanted = {"helper", "a_function_with_a_name_longer_than_eight", "DriverEntry"}
    assert {name: found.get(name) for name in wanted} == {name: theirs[name] for name in wanted}


def test_a_driver_of_gcc_in_a_dump(driver: Path, shared_data: Path, tmp_path: Path) -> None:
    """A module of a real small dump, whose image file is given: the file with that module's identity."""
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    bare = Target.open(dump, Options(symbol_path="", image_path=""))
    module = next(module for module in bare.modules if module.name == "disk")
    data = bytearray(driver.read_bytes())
    start = struct.unpack_from("<I", data, 0x3C)[0]
    struct.pack_into("<I", data, start + 8, module.timestamp or 0)
    struct.pack_into("<I", data, start + 0x18 + 0x38, module.size)
    (tmp_path / "disk.sys").write_bytes(data)
    target = Target.open(dump, Options(symbol_path=str(tmp_path), image_path=""))
    rva = symbols_of(driver, loaded(driver).headers.preferred_base)["helper"]
    assert str(target.names.lookup(module.base + rva + 2)) == "disk!helper+0x2"
    assert target.names.status_of(module) == "coff symbols"
    assert target.names.reason_of(module) == str(tmp_path / "disk.sys")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
        ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
        ("_R", "_R"),
        ("_ZN3foo3barEv", "_ZN3foo3barEv"),  # C++ of gcc: left as it is
        ("DriverEntry", "DriverEntry"),
    ],
)
def test_rust_names(name: str, shown: str) -> None:
    pytest.importorskip("rust_demangler")
    assert demangled(name, 8) == shown


def test_names_of_32_bit_images_lose_what_the_convention_added() -> None:
    assert demangled("_DriverEntry@8", 4) == "DriverEntry"


@given(st.binary(max_size=400), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_damaged_tables_are_read_within_the_file(rest: bytes, pointer: int, count: int) -> None:
    data = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0"
    data += struct.pack("<HHIIIHH", 0x8664, 3, 0, pointer, count, 0, 0) + rest
    file = CoffFile(data)
    assert len(list(file.symbols())) <= len(data) // 18
    assert file.debug_link() is None or isinstance(file.debug_link(), tuple)
