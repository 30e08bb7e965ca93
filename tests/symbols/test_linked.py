"""A kernel and drivers that clang and lld-link made, on a server laid out as Microsoft's, and a small dump of them."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdump_sample.scenes import make_scene
from tests.archives.cabinets import cabinet
from tests.prompt import answer, session_over
from tests.stores.server import SymbolServer, redirect, running
from tests.symbols.linked import Linked, MadeMachine, compile_source, link, require_tools, write_machine
from volatility3_kdump.layout import Layouts
from volatility3_kdump.options import Options
from volatility3_kdump.symbols import places
from volatility3_kdump.symbols.pdb.names import PdbFile
from volatility3_kdump.symbols.pdb.types import document_of
from volatility3_kdump.target import Target
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.walker import walker

pytestmark = pytest.mark.xdist_group("linked")
TOY = Path(__file__).parent / "data" / "toy.cpp"
TOY_BASE = 0xFFFFF80060E00000
STACK = [
    "nt!KeBugCheckEx",
    "nt!KiBugCheckDispatch+0x69",
    "nt!KiPageFault+0x469",
    "myfault!HighIrqlFault+0x31",
    "myfault!DoFault+0xbd",
    "myfault!DeviceControl+0x61",
    "nt!IofCallDriver+0x55",
    "nt!IopSynchronousServiceTail+0x1a8",
    "nt!IopXxxControlFile+0x5e5",
    "nt!NtDeviceIoControlFile+0x56",
    "nt!KiSystemServiceCopyEnd+0x25",
]


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    """The types and symbols of the kernel that the package ships."""
    from volatility3_kdump.tables import kernel_table_path

    document: dict[str, Any] = json.loads(lzma.open(kernel_table_path()).read())
    return document


@pytest.fixture(scope="module")
def made(table: dict[str, Any], layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> MadeMachine:
    require_tools()
    directory = tmp_path_factory.mktemp("linked")
    return write_machine(directory, table, make_scene("myfault", layouts), TOY.read_text(), TOY_BASE)


@pytest.fixture
def online(may_ask: None) -> None:
    """A cache of its own, and no word that forbids the network."""
    places.KNOWN_HOSTS.forget()


@pytest.fixture
def server(made: MadeMachine) -> Iterator[SymbolServer]:
    """Everything as Microsoft has it: files behind redirects, some compressed; most modules are not there."""
    with running() as started:
        for number, linked in enumerate((made.kernel, *made.drivers.values())):
            for url, path in ((linked.image_url, linked.image), (linked.pdb_url, linked.pdb)):
                content = path.read_bytes()
                if linked is made.drivers["myfault"]:
                    started.routes[url[:-1] + "_"] = cabinet([(path.name, content)]).pack()
                else:
                    started.routes[f"/blob/{number}{path.suffix}"] = content
                    started.routes[url] = redirect(f"/blob/{number}{path.suffix}")
        yield started


def small(made: MadeMachine, path: str) -> Target:
    return Target.open(made.dump, Options(symbol_path=path, image_path=""))


def call_sites(target: Target) -> list[str]:
    frames = walker(target).walk(crash_start(target)).frames
    return [str(frame.name) for frame in frames if frame.name is not None]


@pytest.mark.thorough  # links a kernel, for ten seconds
@pytest.mark.usefixtures("online")
def test_one_path_names_the_stack_and_asks_for_no_more(made: MadeMachine, server: SymbolServer, tmp_path: Path) -> None:
    path = f"srv*{tmp_path / 'store'}*{server.url}"
    target = small(made, path)
    kernel, fault = made.kernel, made.drivers["myfault"]
    assert target.has_names
    # The image by time stamp and size, then the PDB that its RSDS record names; each behind a redirect.
    assert server.asked == [kernel.image_url, "/blob/0.exe", kernel.pdb_url, "/blob/0.pdb"]
    assert target.kernel is not None and target.kernel.identity is not None
    assert (target.kernel.identity.guid, target.kernel.identity.age) == (kernel.guid, kernel.age)
    before = len(server.asked)
    assert call_sites(target) == STACK
    log = server.asked[before:]
    # The driver on the stack: plain, then compressed, image before PDB.
    compressed = [url[:-1] + "_" for url in (fault.image_url, fault.pdb_url)]
    own = [url for url in log if "myfault" in url]
    assert own == [fault.image_url, compressed[0], fault.pdb_url, compressed[1]]
    # Nothing twice; no module that no word of the stack points into, whether or not the server has it.
    assert len(log) == len(set(log)) and not any("toy" in url or "kernel" in url for url in log)
    assert (tmp_path / "store" / fault.image_url[1:]).read_bytes() == fault.image.read_bytes()
    # What the server lacks is not asked for again; the next run asks for nothing that the store has.
    before = len(server.asked)
    assert call_sites(target) == STACK and len(server.asked) == before
    again = small(made, path)
    assert call_sites(again) == STACK
    assert not [url for url in server.asked[before:] if "nt" in url.split("/")[1] or "myfault" in url]


@pytest.mark.thorough  # links a kernel, for ten seconds
@pytest.mark.usefixtures("online")
def test_a_module_off_the_stack_is_got_when_it_is_looked_at(
    made: MadeMachine, server: SymbolServer, tmp_path: Path
) -> None:
    session = session_over(made.dump, Options(symbol_path=f"srv*{tmp_path / 'store'}*{server.url}", image_path=""))
    states = {line.split()[2]: line for line in answer(session, "lm")[1:] if "(" in line}
    assert "(private pdb symbols)" in states["nt"]  # lld-link strips nothing
    assert "(deferred)" in states["toy"] and "(deferred)" in states["hal"]
    before = len(server.asked)
    shown = answer(session, "x toy!Driver*")
    assert [line.split(" (")[0] for line in shown] == [f"{made_address(made, 'DriverEntry')} toy!DriverEntry"]
    toy = made.drivers["toy"]
    assert server.asked[before:] == [toy.image_url, "/blob/2.sys", toy.pdb_url, "/blob/2.pdb"]
    states = {line.split()[2]: line for line in answer(session, "lm")[1:] if "(" in line}
    assert "(private pdb symbols)" in states["toy"]
    assert any("hal (no symbols)" in line for line in answer(session, ".reload /f hal"))


@pytest.mark.thorough  # links a kernel, for ten seconds
def test_source_lines_of_the_stack(made: MadeMachine) -> None:
    """The made driver's lines are 100 for a prologue, then 110, 120 and so on for what its body has."""
    session = session_over(made.dump, Options(symbol_path=str(made.dump.parent), image_path=""))
    assert not [line for line in answer(session, "k") if "made.c" in line]
    assert answer(session, ".lines") == ["Line number information will be loaded"]
    shown = answer(session, "kv")
    places = [line.split(" : ")[-1] for line in shown if "made.c" in line]
    assert places == [
        "myfault!HighIrqlFault+0x31 [C:\\src\\made.c @ 190]",
        "myfault!DoFault+0xbd [C:\\src\\made.c @ 110]",
        "myfault!DeviceControl+0x61 [C:\\src\\made.c @ 120]",
    ]
    assert not [line for line in answer(session, "kL") if "made.c" in line]
    # Code that the dump does not hold is that of the image file, and said to be.
    assert answer(session, "u nt!IofCallDriver L1") == [
        "nt!IofCallDriver:",
        "fffff800`62892810 4883ec38        sub     rsp,38h",
        f"NOTE: the dump does not hold this code; it is that of {made.kernel.image}",
    ]
    assert answer(session, "ln myfault!DoFault+1")[0].startswith("[C:\\src\\made.c @ 100] (fffff800`60da1c80) ")
    lines = [line for line in answer(session, "!analyze -v") if line.startswith("FAULTING_SOURCE")]
    assert lines == [
        "FAULTING_SOURCE_LINE:  C:\\src\\made.c",
        "FAULTING_SOURCE_FILE:  C:\\src\\made.c",
        "FAULTING_SOURCE_LINE_NUMBER:  190",
    ]
    assert (
        answer(session, ".lines -t") == answer(session, ".lines -d") == ["Line number information will not be loaded"]
    )


def made_address(made: MadeMachine, name: str) -> str:
    address = TOY_BASE + publics(made.drivers["toy"])[name]
    return f"{address >> 32:08x}`{address & 0xFFFFFFFF:08x}"


def publics(linked: Linked) -> dict[str, int]:
    """The public symbols by LLVM's reader: names as the linker wrote them, and RVAs."""
    import pefile

    tool = shutil.which("llvm-pdbutil")
    if tool is None:
        pytest.skip("llvm-pdbutil is not installed")
    shown = subprocess.run([tool, "dump", "-publics", linked.pdb], capture_output=True, text=True, check=True).stdout
    sections = [section.VirtualAddress for section in pefile.PE(str(linked.image), fast_load=True).sections]
    places = re.findall(r"S_PUB32 \[size = \d+\] `(.*)`\n.*addr = (\d+):(\d+)", shown)
    return {name: sections[int(segment) - 1] + int(offset) for name, segment, offset in places}


@pytest.mark.thorough  # links a kernel, for ten seconds
def test_types_of_the_linker_are_those_of_the_source(made: MadeMachine, table: dict[str, Any]) -> None:
    with PdbFile(made.kernel.pdb) as pdb:
        document = document_of(pdb, "ntkrnlmp.pdb")
    compared = 0
    for name, type_ in table["user_types"].items():
        assert document["user_types"][name]["size"] == type_["size"], name
        fields = document["user_types"][name]["fields"]
        assert {key: fields.get(key) for key in type_["fields"]} == type_["fields"], name
        compared += len(fields)
    assert compared > 5000
    for name, enum in table["enums"].items():
        assert set(document["enums"][name]["constants"].items()) <= set(enum["constants"].items()) or not enum
    assert document["enums"]["_KWAIT_REASON"]["constants"]["WrQueue"] == 15
    assert {key: value["address"] for key, value in document["symbols"].items() if key in made.table["symbols"]} == {
        key: value["address"] for key, value in made.table["symbols"].items() if key in document["symbols"]
    }
    assert len(document["symbols"]) > 30_000


@pytest.mark.thorough  # links a kernel, for ten seconds
def test_names_are_those_of_llvm(made: MadeMachine) -> None:
    for linked in (made.kernel, *made.drivers.values()):
        with PdbFile(linked.pdb) as pdb:
            assert {name: rva for rva, name in pdb.publics()} == publics(linked)


@pytest.mark.parametrize("architecture", ["i686", "aarch64"])
def test_other_machines(architecture: str, tmp_path: Path) -> None:
    require_tools()
    options = ("-g", "-gcodeview", "-O1", "-fno-rtti", "-std=c++17")
    objects = [compile_source(TOY.read_text(), "toy.cpp", tmp_path, architecture, *options)]
    entry = "/entry:DriverEntry"
    linked = link(tmp_path, "toy.sys", objects, 0x60112233, entry, *(["/safeseh:no"] if architecture == "i686" else []))
    with PdbFile(linked.pdb) as pdb:
        assert (pdb.guid, pdb.age, pdb.pointer_size) == (linked.guid, linked.age, 4 if architecture == "i686" else 8)
        assert {name: rva for rva, name in pdb.publics()} == publics(linked)
        names = {name for _, _, name in pdb.named()}
        document = document_of(pdb, "toy.pdb")
    assert {"DriverEntry", "toy::Forget", "Dispatch"} <= names
    request = document["user_types"]["toy::Request"]
    width = 4 if architecture == "i686" else 8
    assert (request["size"], request["fields"]["Next"]["offset"]) == (2 * width, width)
