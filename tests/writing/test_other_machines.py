"""Crash dumps of ARM64 and 32-bit machines: every view is that of the image, and other readers see the same pages."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import contexts
from volatility3.framework.layers import crash, physical

import volatility3_kdump
from kdump_sample.memory_images import _elf
from tests import arm64_machine as made
from tests import narrow_machine as narrow
from volatility3_kdump.cli import main
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.dump import extents
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.options import Options
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.writing import TYPES, plan, write

#: What a prompt shows of a machine: analysis, stacks, processes, memory, drivers, locks, pool.
COMMANDS = (
    *("k", "r", "~", "~1s;r;k", "!running -it", "!ready", "!process 0 7", "lmv", "!locks", "!vm", "!irpfind"),
    *("!poolused", "!pte nt!KiBugCheckData", "!pcr 0", "!pcr 1", "!errlog", "!session", "dq nt!KiBugCheckData L2"),
)
Machine = tuple[Path, Path]


#: What a processor of ARM64 has takes seconds to show.
MACHINES = ["pae", "x86", pytest.param("arm64", marks=pytest.mark.thorough)]


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """An image of a machine that goes on, and the directory of its symbols."""
    directory = tmp_path_factory.mktemp("images")
    path, isf = directory / f"{request.param}.elf", directory / "isf"
    if request.param == "arm64":
        machine = made.arm64_machine(shared_data)
        states = made.regions(machine)
        made.runs_on(machine)
        # Memory lies in few runs, as the header of a complete dump has room for; unwind data stays absent.
        held = sorted(frame for frame in machine.memory.pages if frame < 0x80400 + 0xE00)
        for frame in set(range(held[0], held[-1])) - set(held):
            machine.memory.claim(frame)
        made.elf(machine, path, states.values())
        return path, made.symbols(machine, shared_data, isf)
    _elf(path, narrow.NarrowMachine(request.param).image())
    return path, narrow.symbols(isf)


@pytest.fixture(
    params=[number if number == 5 else pytest.param(number, marks=pytest.mark.thorough) for number in TYPES]
)
def written(request: pytest.FixtureRequest, running: Machine, tmp_path: Path) -> Path:
    path = tmp_path / "out.dmp"
    planned = plan(volatility3_kdump.open(running[0], isf_directories=[running[1]]), request.param)
    assert any("the registers of" in note and "are written" in note for note in planned.notes)
    write(planned, path)
    return path


def shown(path: Path, isf: Path) -> dict[str, list[str]]:
    session = Session(Options(isf_directories=(isf,)))
    session.open(str(path))
    told = {}
    for line in COMMANDS:
        try:
            told[line] = [text.replace(path.name, "FILE") for text in execute(session, line)]
        except KdumpError as error:
            told[line] = [str(error).replace(path.name, "FILE")]
    return told


@pytest.mark.parametrize("running", MACHINES, indirect=True)
def test_every_view_is_that_of_the_image(running: Machine, written: Path) -> None:
    of_image, of_dump = shown(*running), shown(written, running[1])
    for command in COMMANDS:
        assert of_dump[command] == of_image[command], command
    assert len(of_image["k"]) > 3 and len(of_image["!process 0 7"]) > 10


@pytest.mark.parametrize("running", ["pae", "x86", "arm64"], indirect=True)
def test_header_and_registers(running: Machine, written: Path) -> None:
    dump, image = (volatility3_kdump.open(path, isf_directories=[running[1]]) for path in (written, running[0]))
    for name in ("bits", "architecture", "machine_type", "directory_table_base", "pae_enabled", "number_processors"):
        assert getattr(dump.header, name) == getattr(image.header, name), name
    for name in ("ps_loaded_module_list", "ps_active_process_head", "kd_debugger_data_block", "system_time"):
        assert getattr(dump.header, name) == getattr(image.header, name), name
    assert dump.header.bug_check_code == 0x161 and dump.header.comment is not None and dump.problems == []
    assert dump.header.required_dump_space == written.stat().st_size
    shown_processors = list(zip(processors(dump), processors(image), strict=True))
    assert len(shown_processors) >= 2
    for ours, theirs in shown_processors:
        assert ours.context is not None and theirs.context is not None
        assert {name: ours.context.get(name) for name in theirs.context.registers} == theirs.context.registers
    code, _, *address = struct.unpack_from("<IIQQ" if dump.header.bits == 64 else "<IIII", dump.header.exception_record)
    first = shown_processors[0][1].context
    assert first is not None and (code, address[1]) == (0x80000003, first.ip)


@pytest.mark.parametrize("running", MACHINES, indirect=True)
def test_other_readers_see_the_same_pages(running: Machine, written: Path) -> None:
    image = volatility3_kdump.open(running[0], isf_directories=[running[1]])
    dump = volatility3_kdump.open(written, isf_directories=[running[1]])
    pages = dump.dump.pages
    assert pages is not None
    frames = [
        stretch.pfn + index for stretch in extents(pages, 0, (pages.highest or 0) + 1) for index in range(stretch.count)
    ]
    readers: list[Any] = [lambda address: dump.physical_memory.read(address, 0x1000)]
    if dump.header.dump_type != 6:
        readers.append(_hosts(written, image.header.bits))
        assert image.dump.pages is not None and len(frames) == image.dump.pages.present
    if image.header.bits == 64:
        kdmp_parser = pytest.importorskip("kdmp_parser")
        parsed = kdmp_parser.KernelDumpParser(str(written))
        assert len(parsed.pages) == len(frames) and parsed.directory_table_base == image.header.directory_table_base
        readers.append(lambda address: bytes(parsed.read_physical_page(address)))
    # What a debugger finds instead of what a running kernel has, in one page for each processor at most.
    differing = set()
    for frame in frames[:: 1 if len(frames) < 2000 else 7]:
        seen = [read(frame << 12) for read in readers]
        assert all(data == seen[0] for data in seen), hex(frame)
        if seen[0] != image.physical_memory.read(frame << 12, 0x1000):
            differing.add(frame)
    assert len(differing) <= 2 * len(processors(image))


def _hosts(path: Path, bits: int) -> Any:
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    layer_class = crash.WindowsCrashDump64Layer if bits == 64 else crash.WindowsCrashDump32Layer
    layer = layer_class(context, "dump", "dump")
    return lambda address: layer.read(address, 0x1000)


@pytest.mark.parametrize("running", MACHINES, indirect=True)
def test_a_dump_of_the_dump(running: Machine, written: Path, tmp_path: Path) -> None:
    """Its own header, in another type."""
    again = tmp_path / "again.dmp"
    source = volatility3_kdump.open(written, isf_directories=[running[1]])
    write(plan(source, 1), again)
    ours, theirs = volatility3_kdump.open(again, isf_directories=[running[1]]), source
    assert ours.header.dump_type == 1 and ours.header.number_of_pages == (
        theirs.dump.pages and theirs.dump.pages.present
    )
    assert ours.header.context_record == theirs.header.context_record
    session = [shown(path, running[1])["k"] for path in (again, written)]
    assert session[0] == session[1]


@pytest.mark.parametrize("running", ["pae", "x86"], indirect=True)
def test_a_slice_of_a_32_bit_machine(running: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, isf = tmp_path / "slice.dmp", ["--isf-dir", str(running[1]), "--offline"]
    assert main(["slice", str(running[0]), "-o", str(path), "-c", "k;r;lm", *isf]) == 0
    assert volatility3_kdump.open(path, isf_directories=[running[1]]).header.bits == 32
    of_image, of_slice = shown(*running), shown(path, running[1])
    assert [of_slice[command] for command in ("k", "r")] == [of_image[command] for command in ("k", "r")]
