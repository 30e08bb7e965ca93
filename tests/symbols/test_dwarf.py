"""Functions and lines in the DWARF of drivers that gcc, clang and Rust's compiler made, against LLVM's readers."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.symbols.linked import link
from volatility3_kdump.images.coff import CoffFile
from volatility3_kdump.images.image_files import FileImage
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.coff_names import lines_of, names_of
from volatility3_kdump.symbols.dwarf import dwarf_functions, dwarf_lines
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.lines import LineTable, SourceLine
from volatility3_kdump.symbols.pdb.lines import PdbLines
from volatility3_kdump.symbols.pdb.names import PdbFile, load_pdb

pytest.importorskip("elftools")
GCC, RUST = "x86_64-w64-mingw32-gcc", "rustc"
LARGER = "driver::queue::larger<usize>"
RUST_SOURCE = Path(__file__).parent / "data" / "driver.rs"
HEADER = """static inline __attribute__((always_inline)) int times(int x)
{
    return x * 7;
}
"""
SOURCE = """#include "inc/helper.h"
static __attribute__((noinline)) int helper(int x) { return times(x) + 3; }
int named(int x)
{
    int y = helper(x);
    if (y > 3)
        y -= helper(y);
    return y + 1;
}
int DriverEntry(void *object, void *path)
{
    return named((int)(long long)object) + (path != 0);
}
"""


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run(directory: Path, *command: str, **environment: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, env={**os.environ, **environment})


def built(directory: Path, compiler: str, version: int) -> Path:
    """A driver of two source files with DWARF."""
    (directory / "inc").mkdir()
    (directory / "inc" / "helper.h").write_text(HEADER)
    (directory / "drv.c").write_text(SOURCE)
    image = directory / "drv.sys"
    if compiler == "gcc":
        need(GCC)
        options = ("-nostdlib", "-Wl,--subsystem,native", "-Wl,-e,DriverEntry", "-shared")
        run(directory, GCC, f"-gdwarf-{version}", "-O1", *options, "drv.c", "-o", image.name)
    else:
        need("clang", "lld-link")
        target = "--target=x86_64-w64-mingw32"
        run(directory, "clang", target, f"-gdwarf-{version}", "-O1", "-c", "drv.c", "-o", "drv.o")
        options = ("/driver", "/subsystem:native", "/nodefaultlib", "/debug:dwarf", "/entry:DriverEntry")
        run(directory, "lld-link", *options, f"/out:{image.name}", "drv.o")
    return image


def hold(image: Path, least: int) -> set[str]:
    """Every place has the line that LLVM gives it; gives the names of the files."""
    need("llvm-addr2line")
    file = FileImage(image, image.read_bytes(), None)
    lines = lines_of(file, image)
    assert lines is not None
    base = file.headers.preferred_base
    starts = [rva for rva, _ in dwarf_lines(CoffFile(file.data), base)]
    places = sorted({rva + beyond for rva in starts for beyond in (0, 1)})
    assert len(places) >= least
    command = ["llvm-addr2line", "-e", str(image), *(f"{base + rva:#x}" for rva in places)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    files = set()
    for rva, told in zip(places, shown, strict=True):
        line = lines.line_of(rva)
        # LLVM has line 0, and question marks, for code of no line.
        name, _, number = re.sub(r" \(discriminator \d+\)", "", told).rpartition(":")
        assert line == (SourceLine(name, int(number)) if number.isdigit() and int(number) else None), hex(rva)
        files |= {line.file} if line is not None else set()
    return files


@pytest.mark.parametrize(("compiler", "version"), [("gcc", 4), ("gcc", 5), ("clang", 4)])
def test_lines_of_c(compiler: str, version: int, tmp_path: Path) -> None:
    image = built(tmp_path, compiler, version)
    # Code that was written in the header belongs to the header.
    files = hold(image, 20)
    assert {Path(file).resolve() for file in files} == {tmp_path / "drv.c", tmp_path / "inc" / "helper.h"}


def test_lines_of_clang_with_dwarf_5(tmp_path: Path) -> None:
    """LLVM's own readers do not find the names of files that clang 14 writes, but they say which file has which."""
    image = built(tmp_path, "clang", 5)
    need("llvm-dwarfdump")
    file = FileImage(image, image.read_bytes(), None)
    lines, base = lines_of(file, image), file.headers.preferred_base
    assert lines is not None
    shown = subprocess.run(["llvm-dwarfdump", "--debug-line", image], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^0x([0-9a-f]{16}) +(\d+) +\d+ +(\d+) .*?(end_sequence)?$", shown, re.M)
    told = {int(address, 16) - base: (number, int(line), end) for address, line, number, end in rows}
    assert len(told) >= 20
    for rva, (number, line_number, end) in told.items():
        line = lines.line_of(rva)
        if end:
            assert line is None, hex(rva)
            continue
        assert line is not None and line.line == line_number, hex(rva)
        assert Path(line.file).resolve() == tmp_path / ("drv.c", "inc/helper.h")[int(number)]


@pytest.mark.parametrize(("compiler", "version"), [("gcc", 5), ("clang", 4), ("clang", 5)])
def test_functions_are_those_of_llvm(compiler: str, version: int, tmp_path: Path) -> None:
    """Some are instances of what is named elsewhere."""
    image = built(tmp_path, compiler, version)
    need("llvm-dwarfdump")
    file = FileImage(image, image.read_bytes(), None)
    base = file.headers.preferred_base
    shown = subprocess.run(["llvm-dwarfdump", "--debug-info", image], capture_output=True, text=True, check=True).stdout
    told = {}
    for entry in shown.split("\n\n"):
        address = re.search(r"DW_AT_low_pc\t\(0x([0-9a-f]+)\)", entry)
        if "DW_TAG_subprogram" in entry and address is not None:
            name = re.search(r'DW_AT_(?:name|abstract_origin)\t\(.*"(\w+)"\)', entry)
            told[int(address[1], 16) - base] = name and name[1]
    assert dict(dwarf_functions(CoffFile(file.data), base)) == told
    assert set(told.values()) == {"helper", "named", "DriverEntry"}


def test_lines_of_a_split_file(tmp_path: Path) -> None:
    image = built(tmp_path, "gcc", 5)
    need("x86_64-w64-mingw32-objcopy")
    debug = tmp_path / "drv.sys.debug"
    run(tmp_path, "x86_64-w64-mingw32-objcopy", "--only-keep-debug", image.name, debug.name)
    run(tmp_path, "x86_64-w64-mingw32-strip", image.name, "-o", "bare.sys")
    bare = FileImage(tmp_path / "bare.sys", (tmp_path / "bare.sys").read_bytes(), None)
    assert lines_of(bare, bare.path) is None
    split, whole = lines_of(bare, debug), lines_of(FileImage(image, image.read_bytes(), None), image)
    assert split is not None and whole is not None
    assert [split.line_of(rva) for rva in range(0x1000, 0x1100)] == [
        whole.line_of(rva) for rva in range(0x1000, 0x1100)
    ]


@pytest.mark.parametrize("scheme", ["legacy", "v0"])
def test_rust(scheme: str, tmp_path: Path) -> None:
    """A driver of Rust's own compiler for the GNU tools: DWARF, and symbols of both schemes."""
    pytest.importorskip("rust_demangler")
    need(RUST, GCC)
    shutil.copy(RUST_SOURCE, tmp_path / "driver.rs")
    command = [RUST, "-Zunstable-options", "--target", "x86_64-pc-windows-gnu", "-Cpanic=abort", "-Copt-level=1", "-g"]
    command += [f"-Csymbol-mangling-version={scheme}", "--emit=obj", "-o", "driver.o", "driver.rs"]
    try:
        run(tmp_path, *command, RUSTC_BOOTSTRAP="1")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this compiler does not take the source: {error.stderr.decode()[-200:]}")
    options = ("-nostdlib", "-Wl,--subsystem,native", "-Wl,-e,DriverEntry", "-shared")
    run(tmp_path, GCC, *options, "driver.o", "-o", "driver.sys")
    image = FileImage(tmp_path / "driver.sys", (tmp_path / "driver.sys").read_bytes(), None)
    found = names_of(image, SearchPath(), [])
    assert found is not None
    names = {name for _, name in found[1]}
    # The older scheme has no types in its names.
    legacy = {"driver::queue::Ring::push", "driver::queue::larger"}
    wanted = legacy if scheme == "legacy" else {"<driver::queue::Ring>::push", "driver::queue::larger::<usize>"}
    assert {"DriverEntry", *wanted} <= names
    assert {Path(file).name for file in hold(image.path, 6)} == {"driver.rs"}


def test_rust_with_a_pdb(tmp_path: Path) -> None:
    """The same for Microsoft's tools: the PDB has the names as they were written, and linker names beside them."""
    pytest.importorskip("rust_demangler")
    need(RUST, "lld-link")
    shutil.copy(RUST_SOURCE, tmp_path / "driver.rs")
    command = [RUST, "--target", "x86_64-pc-windows-msvc", "-Cpanic=abort", "-Copt-level=1", "-g"]
    command += ["-Csymbol-mangling-version=v0", "--emit=obj", "-o", "driver.o", "driver.rs"]
    try:
        run(tmp_path, *command, RUSTC_BOOTSTRAP="1")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this compiler does not take the source: {error.stderr.decode()[-200:]}")
    linked = link(tmp_path, "driver.sys", ["driver.o"], 0x60112233, "/entry:DriverEntry")
    identity = PdbIdentity("driver.pdb", linked.guid, linked.age, "test")
    names = [name for _, name in load_pdb(tmp_path / "driver.pdb", identity).symbols]
    # One of Rust's linker names stands beside each of the last two.
    assert sorted(names) == ["DriverEntry", "driver::DriverEntry", "driver::queue::Ring::push", LARGER]
    with PdbFile(tmp_path / "driver.pdb") as pdb:
        lines = PdbLines(pdb)
    by_name = {name: rva for rva, name in load_pdb(tmp_path / "driver.pdb", identity).symbols}
    line = lines.line_of(by_name["driver::queue::Ring::push"])
    assert line is not None and line.file.endswith("driver.rs")
    assert RUST_SOURCE.read_text().splitlines()[line.line - 1].strip().startswith(("pub fn push", "larger(self.head"))


def test_damaged_dwarf_gives_lines_or_none(tmp_path: Path) -> None:
    image = built(tmp_path, "gcc", 5)
    data = image.read_bytes()
    sections = [section for section in CoffFile(data).sections if section.name.startswith(".debug_")]
    source = random.Random(3)
    for _ in range(30):
        changed = bytearray(data)
        for _ in range(8):
            section = source.choice(sections)
            changed[section.offset + source.randrange(section.size)] = source.randrange(256)
        table = LineTable(dwarf_lines(CoffFile(bytes(changed)), 0x180000000))
        for rva in range(0x1000, 0x1100, 16):
            line = table.line_of(rva)
            assert line is None or line.file.isprintable()
