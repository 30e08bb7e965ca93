"""Source lines in PDB files of Microsoft's linker and of lld's, against LLVM's reader."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pefile
import pytest

from tests.symbols.linked import compile_source, link, require_tools
from tests.symbols.pdb.made_pdb import msf
from volatility3_kdump.symbols.lines import SourceLine
from volatility3_kdump.symbols.pdb.lines import PdbLines
from volatility3_kdump.symbols.pdb.msf import CorruptPdb
from volatility3_kdump.symbols.pdb.names import PdbFile

TOY = Path(__file__).parents[1] / "data" / "toy.cpp"


@dataclass
class Block:
    """A stretch of code of one file by LLVM's reader: RVAs from ``start`` to ``end``, and those where lines begin."""

    start: int
    end: int
    entries: list[tuple[int, SourceLine | None]]

    def line_of(self, rva: int) -> SourceLine | None:
        return [line for at, line in self.entries if at <= rva][-1]


def by_llvm(pdb: Path, image: Path) -> list[Block]:
    tool = shutil.which("llvm-pdbutil")
    if tool is None:
        pytest.skip("llvm-pdbutil is not installed")
    sections = [section.VirtualAddress for section in pefile.PE(str(image), fast_load=True).sections]
    shown = subprocess.run([tool, "dump", "-l", str(pdb)], capture_output=True, text=True, check=True).stdout
    blocks: list[Block] = []
    file, base = None, 0
    for line in shown.splitlines():
        if named := re.match(r"(\S.*) \((?:MD5|SHA|no checksum)", line):
            file = named[1]
        elif line.startswith(("(unknown", "Mod ")):
            file = None
        elif file is not None and (place := re.match(r"  ([0-9A-F]{4}):([0-9A-F]{8})-([0-9A-F]{8})", line)):
            base = sections[int(place[1], 16) - 1]
            blocks.append(Block(base + int(place[2], 16), base + int(place[3], 16), []))
        elif file is not None:
            for number, offset in re.findall(r"(\d+|NSI|ASI) ([0-9A-F]{8})", line):
                # NSI and ASI, never step into and always step over: code of no line.
                told = SourceLine(file, int(number)) if number.isdigit() else None
                blocks[-1].entries.append((base + int(offset, 16), told))
    return blocks


def hold(pdb: Path, image: Path, least: int) -> None:
    """Every place has the line that LLVM gives it, or one of them: folded code belongs to several functions."""
    blocks = by_llvm(pdb, image)
    with PdbFile(pdb) as opened:
        lines = PdbLines(opened)
    assert lines
    places = {at + beyond for block in blocks for at, _ in block.entries for beyond in (0, 1)}
    for rva in places:
        around = [block for block in blocks if block.start <= rva < block.end and block.entries[0][0] <= rva]
        if around:
            assert lines.line_of(rva) in {block.line_of(rva) for block in around}, hex(rva)
    assert len(places) >= least
    assert lines.line_of(0) is None and lines.line_of(1 << 31) is None


def test_of_microsofts_linker(image_path: Path) -> None:
    hold(image_path.with_suffix(".pdb"), image_path, 200)


@pytest.mark.parametrize("architecture", ["x86_64", "i686", "aarch64"])
def test_of_lld(architecture: str, tmp_path: Path) -> None:
    require_tools()
    options = ("-g", "-gcodeview", "-O1", "-fno-rtti", "-std=c++17")
    objects = [compile_source(TOY.read_text(), "toy.cpp", tmp_path, architecture, *options)]
    narrow = ["/safeseh:no"] if architecture == "i686" else []
    linked = link(tmp_path, "toy.sys", objects, 0x60112233, "/entry:DriverEntry", *narrow)
    hold(linked.pdb, linked.image, 15)


def test_damaged_files_give_lines_or_none(xcpt4: Path, tmp_path: Path) -> None:
    data = xcpt4.with_suffix(".pdb").read_bytes()
    source = random.Random(7)
    read = 0
    for number in range(6):
        changed = bytearray(data)
        for _ in range(60):
            offset = source.randrange(0x1000, len(changed))
            changed[offset : offset + 4] = source.randbytes(4)[: len(changed) - offset]
        path = tmp_path / f"{number}.pdb"
        path.write_bytes(changed)
        try:
            with PdbFile(path) as opened:
                lines = PdbLines(opened)
        except CorruptPdb:
            continue
        read += 1
        for rva in range(0x1000, 0x6000, 256):
            line = lines.line_of(rva)
            assert line is None or (line.file.isprintable() and 0 < line.line < 1 << 24)
    assert read


@pytest.mark.parametrize("names", [b"", b"\xff" * 8, struct.pack("<IIII", 1 << 31, 1 << 31, 1 << 31, 1 << 31)])
def test_damaged_lists_of_streams(names: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    debug = struct.pack("<iII6H8iHH4x", -1, 19990903, 1, 0xFFFF, 0, 0xFFFF, 0, 0xFFFF, 0, *([0] * 8), 0, 0x8664)
    path.write_bytes(msf([b"", bytes(28) + names, b"", debug]))
    with PdbFile(path) as opened:
        assert opened.name_table() == b""
        assert list(opened.line_information()) == []
