"""Types of user mode at the prompt: a DLL that clang and lld made, in a process, with its own PDB beside it."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_sample.containers import write
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.physical import PAGE
from kdump_sample.scene import UserDll
from kdump_sample.scenes import make_scene, user_stacks
from tests.symbols import linked
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.options import Options
from volatility3_kdump.symbols import isf

#: Compiling, linking and laying the machine out takes seconds.
pytestmark = pytest.mark.thorough

BASE = 0x7FF8_A000_0000
SOURCE = """
typedef unsigned short wchar;
enum Color { Red = 1, Green = 7, Blue = 0x100 };
struct Point { int x; int y; };
union Either { unsigned long long whole; unsigned char parts[8]; };
struct Gadget {
    unsigned char kind;
    unsigned int low : 3, middle : 7, high : 22;
    enum Color color;
    struct Point corners[2];
    union Either either;
    struct Gadget *next;
    wchar name[4];
    double ratio;
    int (*callback)(int);
};
struct Gadget second = { 2, 1, 2, 3, Red };
struct Gadget first = {
    0x41, 5, 100, 12345, Green, {{-1, 2}, {3, 4}}, {0x1122334455667788ULL}, &second, {'a', 'b', 'c', 0}, 0.5, 0
};
struct Gadget *chain = &first;
int entry(void) { return first.kind + chain->corners[0].x; }
"""


@dataclasses.dataclass(frozen=True)
class Made:
    """The session in the process, the DLL's PDB, and what llvm-pdbutil says of its types."""

    shown: Callable[[str], list[str]]
    told: str
    module: linked.Linked


@pytest.fixture(scope="module")
def made(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    linked.require_tools()
    if shutil.which("llvm-pdbutil") is None:
        pytest.skip("llvm-pdbutil is not installed")
    directory = tmp_path_factory.mktemp("widget")
    compiled = linked.compile_source(SOURCE, "widget.c", directory, "x86_64", "-g", "-gcodeview", "-O0")
    module = linked.link(directory, "widget.dll", [compiled], 0x4E5D1C2B, "/dll", "/entry:entry", f"/base:{BASE:#x}")
    content = module.loaded()
    pages = {at: content[at : at + PAGE] for at in range(0, len(content), PAGE)}
    dll = UserDll("widget.dll", BASE, module.size, image=pages, timestamp=module.timestamp)
    (table, *_) = sorted((shared_data / "isf" / "windows" / "ntkrnlmp.pdb").glob("*.json.xz"))
    layouts = isf.load_table_file(table)
    scene = make_scene("user-stacks", layouts)
    processes = tuple(
        dataclasses.replace(process, dlls=(*process.dlls, dll)) if process.address == user_stacks.PROCESS else process
        for process in scene.processes
    )
    path = directory / "made.dmp"
    write(path, 1, make_contents(Machine(dataclasses.replace(scene, processes=processes), layouts)))
    session = Session(Options(isf_file=table, symbol_path=str(directory)))
    session.open(str(path))
    list(execute(session, f".process /p /r {user_stacks.PROCESS:x}"))
    told = subprocess.run(
        ["llvm-pdbutil", "dump", "-types", str(module.pdb)], capture_output=True, text=True, check=True
    )
    return Made(lambda line: list(execute(session, line)), told.stdout, module)


def _members(told: str, type_name: str) -> dict[str, int]:
    """Members by name with their offsets, as llvm-pdbutil lists them."""
    structure = re.search(rf"LF_(?:STRUCTURE|UNION).*`{type_name}`(?:.|\n)*?field list: (0x\w+)", told)
    defined = [
        match for match in re.finditer(rf"`{type_name}`\n.*\n?.*field list: (0x\w+)", told) if match[1] != "<no type>"
    ]
    assert structure is not None and defined
    fields = re.search(rf"\n\s*{defined[-1][1]} \| LF_FIELDLIST(?:.|\n)*?(?=\n\s*0x\w+ \| )", told)
    assert fields is not None
    found = re.findall(r"LF_MEMBER \[name = `(\w+)`, Type = [^,]+, offset = (\d+)", fields[0])
    return {name: int(offset) for name, offset in found}


def test_fields_are_those_of_the_pdb(made: Made) -> None:
    for name in ("Gadget", "Point", "Either"):
        expected = _members(made.told, name)
        lines = made.shown(f"dt widget!{name}")
        shown = {match[2]: int(match[1], 16) for line in lines if (match := re.match(r" +\+0x(\w+) (\w+)", line))}
        assert shown == expected, name
    assert len(_members(made.told, "Gadget")) == 11
    lines = {line.split()[1]: line.split(":", 1)[1].strip() for line in made.shown("dt widget!Gadget")}
    assert lines["middle"] == "Pos 3, 7 Bits" and lines["corners"] == "[2] Point" and lines["next"] == "Ptr64 Gadget"


def test_values_are_those_of_the_source(made: Made) -> None:
    """By the variable's name, by its address, and through a pointer."""
    by_name = made.shown("dt widget!first")
    values = {line.split()[1]: line.split(":", 1)[1].strip() for line in by_name if line.startswith("   +")}
    assert values["kind"].split()[0] in ("0x41", "0n65") and values["color"].endswith("7 ( Green )")
    bits = [int(values[name].split()[0].removeprefix("0y"), 2) for name in ("low", "middle", "high")]
    assert bits == [5, 100, 12345]
    (address,) = made.shown("? widget!first")
    place = int(address.rpartition("= ")[2].replace("`", ""), 16)
    assert made.shown(f"dt widget!Gadget {place:x}") == [line for line in by_name if line.startswith("   +")]
    assert "0x11223344`55667788" in made.shown(f"dt widget!Gadget {place:x} either.whole")[-1]
    nested = made.shown(f"dt -r1 widget!Gadget {place:x}")
    assert any(line.split()[:2] == ["+0x008", "color"] and line.endswith("1 ( Red )") for line in nested)
    assert values["ratio"] == "0.5" and values["callback"].startswith("(null)")
    (second,) = made.shown("? widget!second")
    assert (
        values["next"].split()[0].replace("`", "") == f"0x{int(second.rpartition('= ')[2].replace('`', ''), 16):016x}"
    )
    assert made.shown("?? widget!first.corners[1].y") == ["int 0n4"]
    assert made.shown("?? widget!chain->color") == ["Color Green (0n7)"]


def test_types_of_the_kernel_and_of_no_module(made: Made) -> None:
    """The kernel's stay what they were; a type that the PDB lacks is said to be missing there."""
    assert any("Pcb" in line for line in made.shown("dt nt!_EPROCESS Pcb"))
    assert made.shown("dt widget!Nonsense") == [
        "Symbol widget!Nonsense not found: the module's symbols have no such type"
    ]
