"""Memory images: every view shows of a machine what it shows of its crash dump, whatever container it is in."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from kdump_sample import memory_images
from kdump_sample.memory_images import KINDS
from kdump_sample.physical import PhysicalMemory
from tests import output
from tests.layers.paging import SHARED_DATA, Tables, kernel_pages
from tests.prompt import answer, session_over
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.errors import KdumpError, NotACrashDump
from volatility3_kdump.layers import machine
from volatility3_kdump.layout import Layouts
from volatility3_kdump.views.report import report
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import crash_process

Image = Callable[..., Path]
RunVol = Callable[..., subprocess.CompletedProcess[str]]

#: What a prompt shows of a machine: analysis, stacks, processes, memory, drivers, locks, pool.
COMMANDS = (
    "!analyze -v",
    "k",
    "r",
    "~",
    "!running -it",
    "!ready",
    "!process 0 7",
    "lmv",
    "!irpfind",
    "!locks",
    "!vm",
    "!memusage 8",
    "!poolused",
    "!pte nt!KiBugCheckData",
    "!pcr 0",
    "!errlog",
    "!session",
    ".lastevent",
)
HAS_SNAPPY = importlib.util.find_spec("cramjam") is not None
_NO_SNAPPY = pytest.mark.skip(reason="cramjam is not installed")
WITH_REGISTERS = ("elf", "kdump", "vmem")


def shown(path: Path, commands: tuple[str, ...] = COMMANDS) -> dict[str, list[str]]:
    session = session_over(path)
    told = {}
    for line in commands:
        try:
            told[line] = [text.replace(path.name, "FILE") for text in answer(session, line)]
        except KdumpError as error:
            told[line] = [str(error).replace(path.name, "FILE")]
    return told


@pytest.fixture(scope="module")
def of_dump(image: Image) -> dict[str, list[str]]:
    return shown(image("dump"))


#: AVML needs a library for snappy.
ALL = [pytest.param(kind, marks=() if kind != "avml" or HAS_SNAPPY else _NO_SNAPPY) for kind in KINDS]


@pytest.mark.parametrize("kind", ALL)
def test_every_view_of_an_image_is_that_of_the_crash_dump(
    kind: str, image: Image, of_dump: dict[str, list[str]]
) -> None:
    of_image = shown(image(kind))
    assert any("FAILURE_BUCKET_ID:  AV_myfault!unknown_function" in line for line in of_image["!analyze -v"])
    for command, lines in of_dump.items():
        assert of_image[command] == lines, command


@pytest.mark.parametrize("kind", ALL)
def test_the_report_differs_in_the_file_only(kind: str, image: Image) -> None:
    documents = []
    for path in (image("dump"), image(kind)):
        target = volatility3_kdump.open(path)
        document = report(target, analyze_crash(target))
        for name in ("dump", "symbols", "warnings"):
            document.pop(name, None)
        documents.append(document)
    ours, theirs = documents[1], documents[0]
    # The dump has tagged data besides: its SMBIOS tables, and the description of its processors.
    for key in theirs:
        if key not in ("machine", "system"):
            assert ours[key] == theirs[key], key
    del theirs["system"]["virtual_machine"], ours["system"]["virtual_machine"]
    assert ours["system"] == theirs["system"]


@pytest.mark.parametrize("kind", WITH_REGISTERS)
def test_a_running_machine_shows_the_registers_that_the_container_holds(kind: str, image: Image) -> None:
    target = volatility3_kdump.open(image(kind, running=True))
    assert target.header.crashed is False and target.header.bug_check_code is None
    contexts = {processor.number: processor.context for processor in processors(target)}
    names = {number: target.name_of(context.ip or 0) for number, context in contexts.items() if context is not None}
    assert names[0] == names[1] == "nt!HalProcessorIdle+0xf" and names[2] == "nt!KeBugCheckEx"
    told = shown(image(kind, running=True), ("k", "~2s", "k", "!analyze", ".bugcheck"))
    assert "nt!KeBugCheckEx" in told["k"][1] and "nt!KiIdleLoop+0x54" not in "".join(told["k"])
    assert any("This machine has not crashed" in line for line in told["!analyze"])
    assert not any("Probably caused" in line or "Followup" in line for line in told["!analyze"])
    assert told[".bugcheck"] == ["This machine has not crashed: nt!KiBugCheckData is zero in the memory image."]


def test_records_that_a_running_machine_saved_long_ago_are_no_registers(image: Image) -> None:
    target = volatility3_kdump.open(image("raw", running=True))
    assert all(processor.context is None for processor in processors(target))
    told = shown(image("raw", running=True), ("k", "!running -it"))
    assert told["k"] == ["No stack: a raw image holds memory only"]
    assert not any("KeBugCheckEx" in line for line in told["!running -it"])


def test_every_fact_says_where_it_is_from(image: Image) -> None:
    target = volatility3_kdump.open(image("elf"))
    header = target.header
    assert header.container == "QEMU ELF core file"
    assert header.source_of("bug_check_code") == "nt!KiBugCheckData" and header.bug_check_code == 0xD1
    assert header.source_of("system_time") == "KUSER_SHARED_DATA"
    assert header.source_of("ps_loaded_module_list") == "kernel symbols"
    assert "handler of interrupt 0" in (header.source_of("kernel_base") or "")
    process = crash_process(target)
    assert process is not None and process.name == "notmyfault64.exe"
    assert header.directory_table_base == process.directory_table_base
    reference = volatility3_kdump.open(image("dump")).header
    assert reference.source_of("bug_check_code") == "dump header" and reference.container is None
    for name in ("build_number", "system_time", "system_up_time", "product_type", "suite_mask", "number_processors"):
        assert getattr(header, name) == getattr(reference, name), name
    for name in ("ps_loaded_module_list", "ps_active_process_head", "kd_debugger_data_block", "bug_check_parameters"):
        assert getattr(header, name) == getattr(reference, name), name


def test_without_registers_and_start_block_a_search_finds_the_page_tables(image: Image, tmp_path: Path) -> None:
    def spoil(data: bytearray) -> None:
        place = data.index((0x00000001000600E9).to_bytes(8, "little"))
        data[place : place + 0x1000] = bytes(0x1000)

    target = volatility3_kdump.open(edited(image("lime"), tmp_path / "scanned.lime", spoil))
    facts = target.dump.header
    assert facts.source_of("directory_table_base") == "search for page tables that map themselves"
    assert facts.directory_table_base == 0x1AD000
    assert facts.source_of("kernel_base") == "image of the kernel's name among the mapped pages"
    assert target.header.bug_check_code == 0xD1 and target.kernel is not None
    assert target.kernel.base == 0xFFFFF80062600000


def test_without_symbols_the_index_of_kernels_and_the_shared_page_remain(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    from volatility3_kdump import target as targets

    monkeypatch.setattr(targets, "load_kernel_table", lambda *_: None)
    target = volatility3_kdump.open(image("elf"), symbol_path="")
    assert not target.has_names and target.header.build_number == 19041
    assert [module.name for module in target.modules][:1] == ["nt"] or not target.modules
    session = session_over(image("elf"))
    assert answer(session, "!analyze")


@pytest.fixture(scope="module")
def one_table(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A symbol directory with the whole table of the made machine's kernel and no other: the host indexes them all."""
    directory = tmp_path_factory.mktemp("symbols")
    name = Path("windows", "ntkrnlmp.pdb", "1B4A6F5E0766C552C90710C8ACC0295C-1.json.xz")
    (directory / name).parent.mkdir(parents=True)
    (directory / name).write_bytes((shared_data / "isf" / name).read_bytes())
    return directory


@pytest.mark.thorough
@pytest.mark.newest_host
@pytest.mark.parametrize("kind", ["lime", "elf", "vmem"])
def test_the_hosts_plugins_say_the_same_of_images_and_of_the_dump(
    kind: str, image: Image, run_vol: RunVol, one_table: Path
) -> None:
    """Images are the host's own to stack: `vol -f IMAGE windows.*` goes by its layers and its scans."""
    for plugin in ("windows.pslist", "windows.modules", "windows.threads"):
        told = []
        for path in (image(kind), image("dump")):
            finished = run_vol("-q", "-s", one_table, "-r", "json", "-f", path, plugin)
            assert finished.returncode == 0, finished.stderr
            told.append(output.rows(finished))
        assert told[0] == told[1] and told[0], plugin


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["elf", "vmem"])
def test_plugins_run_on_images_from_the_command_line(kind: str, image: Image, run_vol: RunVol) -> None:
    finished = run_vol("-q", "-r", "json", "-f", image(kind), "kdump.info")
    rows = {(row["Topic"], row["Field"]): row for row in output.rows(finished)}
    assert rows["Fact", "BugCheckCode"]["Notes"] == "nt!KiBugCheckData"
    assert rows["Fact", "Crashed"]["Text"] == "yes"


def test_a_batch_takes_images_that_are_named(image: Image, tmp_path: Path) -> None:
    from volatility3_kdump.batch.files import collect, look_at
    from volatility3_kdump.batch.task import Options, analyze_file

    file = look_at(str(image("elf", running=True)), explicit=True)
    assert file is not None
    line = analyze_file(file, None, Options(offline=True))
    assert line["error"] is None and line["bug_check"] is None and line["dump"]["crashed"] is False
    assert line["dump"]["container"] == "QEMU ELF core file"
    for name in ("one.vmem", "two.lime", "three.txt"):
        (tmp_path / name).write_bytes(b"EMiL" + bytes(100) if name == "two.lime" else bytes(100))
    found, left_out = collect([tmp_path])
    assert [Path(entry.path).name for entry in found] == ["one.vmem", "two.lime"] and left_out == 1


# bad input ------------------------------------------------------------------------------------------------------------


def edited(source: Path, path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(source.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(KdumpError) as caught:
        volatility3_kdump.open(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(path.name)
    return text


def test_an_image_of_nothing_is_refused_in_one_line(tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.raw"
    with zeros.open("wb") as stream:
        stream.truncate(64 << 20)
    assert "holds only zeros" in refusal(zeros)
    small = tmp_path / "small.raw"
    small.write_bytes(b"\xf3" * 5000)
    with pytest.raises(NotACrashDump, match="no raw memory image either"):
        volatility3_kdump.open(small)


def noise(path: Path) -> Path:
    path.write_bytes(b"\xf3" * (17 << 20))
    return path


@pytest.mark.thorough
def test_an_image_of_noise_is_refused_after_the_hosts_scan(tmp_path: Path) -> None:
    assert "no Windows kernel in it: no page tables of Windows" in refusal(noise(tmp_path / "noise.raw"))


def test_an_image_without_page_tables_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The host's scan takes a quarter of a minute.
    monkeypatch.setattr("volatility3_kdump.layers.machine._scanned_roots", lambda *_: iter(()))
    assert "no Windows kernel in it: no page tables of Windows" in refusal(noise(tmp_path / "noise.raw"))


def test_a_truncated_image_is_opened_as_far_as_it_goes(image: Image, tmp_path: Path) -> None:
    whole = image("lime")
    path = tmp_path / "cut.lime"
    path.write_bytes(whole.read_bytes()[:-0x3800])
    target = volatility3_kdump.open(path)
    assert any(re.match(r"the file is truncated: \d+ of [\d,]+ pages", line) for line in target.warnings)
    assert target.header.bug_check_code == 0xD1


def test_a_refusal_says_what_is_missing(image: Image, tmp_path: Path) -> None:
    """An image that lacks half of its pages, and one without the page tables that its processors name."""
    data = image("elf").read_bytes()
    path = tmp_path / "half.elf"
    path.write_bytes(data[: len(data) // 2])
    assert "; the file is truncated: " in refusal(path)
    path.write_bytes(data[: len(data) // 100 - 0x1000])
    assert "are not in it, and a scan led to no others: pages are missing" in refusal(path)


def _states(data: bytearray) -> list[int]:
    """Where the QEMU notes' contents begin."""
    return [match.end() + 3 for match in re.finditer(rb"QEMU\0", bytes(data))]


CR3_AT = 8 + 18 * 8 + 10 * 24 + 3 * 8
IDT_AT = 8 + 18 * 8 + 9 * 24 + 16


def test_notes_of_fewer_processors_than_windows_has_are_told(image: Image, tmp_path: Path) -> None:
    def spoil(data: bytearray) -> None:
        # The last note is no longer QEMU's.
        place = data.rindex(b"QEMU\0")
        data[place : place + 4] = b"NONE"

    target = volatility3_kdump.open(edited(image("elf", running=True), tmp_path / "two.elf", spoil))
    assert any("the registers of 2 processors, and Windows has 3" in line for line in target.warnings)
    assert any("contradict each other: 3 of the kind CORE, 2" in line for line in target.warnings)
    assert [processor.context is None for processor in processors(target)] == [False, False, True]


def test_registers_of_another_machine_are_told_and_left_out(image: Image, tmp_path: Path) -> None:
    def spoil(data: bytearray) -> None:
        for place in _states(data):
            struct.pack_into("<Q", data, place + CR3_AT, 0x7FFFF000)
            struct.pack_into("<Q", data, place + IDT_AT, 0xFFFFF90012340000)
            struct.pack_into("<Q", data, place + 8 + 16 * 8, 0xFFFFF90012345678)

    target = volatility3_kdump.open(edited(image("elf", running=True), tmp_path / "other.elf", spoil))
    assert any("of another machine or moment than its memory" in line for line in target.warnings)
    assert all(processor.context is None for processor in processors(target))
    assert target.kernel is not None and target.kernel.base == 0xFFFFF80062600000


def test_a_processor_in_the_kernel_of_a_guest_is_told(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page tables of processor 1 lead to a kernel elsewhere, as those of a nested guest do."""
    tables = 0x1D822D000

    def spoil(data: bytearray) -> None:
        place = _states(data)[1]
        struct.pack_into("<Q", data, place + CR3_AT, tables)
        struct.pack_into("<Q", data, place + IDT_AT, 0xFFFFF90012340000)

    real = machine._windows_of

    def elsewhere(physical: Any, path: str, root: Any) -> Any:
        windows = real(physical, path, root)
        return windows._replace(base=0xFFFFF80400000000) if windows and root.address == tables else windows

    monkeypatch.setattr(machine, "_windows_of", elsewhere)
    target = volatility3_kdump.open(edited(image("elf", running=True), tmp_path / "nested.elf", spoil))
    assert any("processor 1 ran another Windows kernel, at 0xfffff80400000000" in line for line in target.warnings)
    assert [processor.context is None for processor in processors(target)] == [False, True, False]


def test_the_state_file_of_another_machine(image: Image, tmp_path: Path) -> None:
    data = bytearray(image("vmem", running=True).with_suffix(".vmss").read_bytes())
    for match in list(re.finditer(rb"\x04CR64", bytes(data))):
        index = int.from_bytes(data[match.end() + 4 : match.end() + 8], "little")
        if index == 3:
            struct.pack_into("<Q", data, match.end() + 8, 0x3FFFF000)
    for match in re.finditer(rb"\x04IDTR|\x03rip", bytes(data)):
        skip = 4 if match[0].endswith(b"rip") else 8
        struct.pack_into("<I", data, match.end() + skip, 0x12345000)
    path = tmp_path / "other.vmem"
    path.write_bytes(image("vmem", running=True).read_bytes())
    path.with_suffix(".vmss").write_bytes(data)
    target = volatility3_kdump.open(path)
    assert any("of another machine or moment than its memory" in line for line in target.warnings)
    assert all(processor.context is None for processor in processors(target)) and target.modules


def test_a_guest_that_was_stopped_before_windows_ran(image: Image, tmp_path: Path) -> None:
    def spoil(data: bytearray) -> None:
        for place in _states(data):
            struct.pack_into("<Q", data, place + CR3_AT - 24, 0x10)
        # Nothing of Windows is in memory yet.
        begin = data.index(b"MZ")
        data[begin:] = bytes(len(data) - begin)

    assert "no processor had paging on" in refusal(edited(image("elf"), tmp_path / "boot.elf", spoil))


def test_elf_files_that_are_no_cores_are_refused(image: Image, tmp_path: Path) -> None:
    def executable(data: bytearray) -> None:
        data[16] = 2

    def arm(data: bytearray) -> None:
        struct.pack_into("<H", data, 18, 40)

    def many(data: bytearray) -> None:
        struct.pack_into("<H", data, 0x38, 0xFFFE)

    assert "no core file" in refusal(edited(image("elf"), tmp_path / "executable", executable))
    assert "e_machine 0x28" in refusal(edited(image("elf"), tmp_path / "arm.elf", arm))
    edited(image("elf"), tmp_path / "many.elf", many)
    (tmp_path / "cut.elf").write_bytes(image("elf").read_bytes()[:0x50])
    assert "program headers" in refusal(tmp_path / "cut.elf")


def test_every_door_says_the_same_of_an_image(image: Image) -> None:
    """Scripts, pipelines and programs see the user half of the current process, whatever page tables were found."""
    from volatility3_kdump.options import Options
    from volatility3_kdump.pipelines.analysed import analyse
    from volatility3_kdump.serving.answers import Answers

    path = image("lime")
    target = volatility3_kdump.open(path, offline=True)
    expected = report(target, analyze_crash(target))
    assert target.header.source_of("directory_table_base") == "KPROCESS of the current process"
    (analysed,) = analyse([str(path)], Options(offline=True), None, ())
    assert analysed.document == expected
    answers = Answers(str(path), Options(offline=True), None, ())
    assert answers.target.header == target.header
    assert answers.hang({})


Change = Callable[[memory_images.Image], memory_images.Image]


def _changed(layouts: Layouts, path: Path, kind: str, change: Change) -> Path:
    made = memory_images.image_of(memory_images.image_machine("myfault", layouts, True))
    KINDS[kind](path, change(made))
    return path


def test_notes_of_more_processors_than_windows_has_are_told(layouts: Layouts, tmp_path: Path) -> None:
    def twice(made: memory_images.Image) -> memory_images.Image:
        return dataclasses.replace(made, processors=made.processors * 2)

    target = volatility3_kdump.open(_changed(layouts, tmp_path / "six.elf", "elf", twice))
    assert any("the registers of 6 processors, and Windows has 3" in line for line in target.warnings)
    assert [processor.context is None for processor in processors(target)] == [False, False, False]


def test_a_hole_in_an_image_is_absent_and_never_zero(layouts: Layouts, tmp_path: Path) -> None:
    whole = volatility3_kdump.open(_changed(layouts, tmp_path / "whole.lime", "lime", lambda made: made))
    process = crash_process(whole)
    assert process is not None
    physical, _ = whole.context.layers[whole.layer_name].translate(process.address & 0xFFFFFFFFFFFF)

    def hole(made: memory_images.Image) -> memory_images.Image:
        del made.physical.pages[physical >> 12]
        return made

    target = volatility3_kdump.open(_changed(layouts, tmp_path / "hole.lime", "lime", hole))
    assert whole.memory.read(process.address, 8) is not None
    assert target.memory.read(process.address, 8) is None
    assert "not in the dump" in target.memory.why_unreadable(process.address)


@pytest.mark.parametrize("early", [False, True])
def test_another_operating_system_or_windows_that_only_starts(early: bool, tmp_path: Path) -> None:
    """Page tables lead to no shared data page: Linux. Or to that page, and to no kernel yet: an early start."""
    tables = Tables("x64", 0x40, 0x41)
    tables.map(0xFFFFFFFF81000000, 0x30)
    pages = {0x30: b"Linux version 6.1.0-13-amd64".ljust(4096, b"\0")}
    if early:
        tables.map(SHARED_DATA[8], 0x32)
        pages[0x32] = kernel_pages(8)[0x32]
    memory = PhysicalMemory({}, [(0, 0x50)])
    memory.pages = {pfn: bytearray(page) for pfn, page in {**pages, **tables.memory}.items()}
    processor = memory_images.Processor(bytes(0x4D0), 0x40000, 0)
    KINDS["elf"](tmp_path / "other.elf", memory_images.Image(memory, (processor,)))
    told = refusal(tmp_path / "other.elf")
    assert "neither the page tables of its processors (CR3 0x40000) nor a scan for others led to one" in told
    assert "another operating system, or Windows early in its start" in told
