"""Files that are damaged, cut short or something else: one line that names what is wrong and where.

A fatal fault ends with that line on stderr, a status that is not 0, and nothing else. One that can be survived is a
warning in the output, which says how many pages are missing.
"""

from __future__ import annotations

import importlib
import json
import random
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import contexts

from tests import output
from tests.archives import packing
from tests.cpu_times import processor_time
from tests.layers import paging
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.lists import walk_list
from volatility3_kdump.plugin import PluginFailure

CHECKOUT = Path(__file__).resolve().parents[1]
PLUGINS = ["analyze", "info", "bugcheck"]

Make = Callable[[], bytes]
Sample = Callable[..., Path]
RunVol = Callable[..., subprocess.CompletedProcess[str]]


def put(data: bytes | bytearray, offset: int, code: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<" + code, changed, offset, *values)
    return bytes(changed)


def bitmap(**more: Any) -> bytes:
    return bytes(packing.bitmap([1, 2, 3, 9], 0x8000, **more))


def ranges() -> bytes:
    return bytes(packing.ranges([(1, 2), (5, 3)]))


def runs() -> bytes:
    return bytes(packing.full([(1, 2), (5, 3)]))


def huge_first_run() -> bytes:
    return put(put(runs(), 0x88, "I", 1), 0xA0, "Q", (1 << 64) - 1)


def pseudo_random(size: int) -> bytes:
    return random.Random(1).randbytes(size)


#: What is fatal: how the file is made, and the words of its one line.
FATAL: dict[str, tuple[Make, str]] = {
    "empty": (lambda: b"", r"the file is empty \(0 bytes\)"),
    "one byte": (lambda: b"P", r"no crash dump header at offset 0x0"),
    "zero-filled": (lambda: bytes(0x40000), r"only zeros \(262,144 bytes\)"),
    "user-mode minidump": (lambda: b"MDMP\x93\xa7" + bytes(5000), r"user-mode minidump"),
    "raw image": (lambda: pseudo_random(1 << 20), r"no crash dump header at offset 0x0.*raw memory image"),
    "text": (lambda: b"not a dump\n" * 100, r"no crash dump header at offset 0x0"),
    "control characters": (lambda: b"\x1b[31m\x07" * 100, r"no crash dump header at offset 0x0"),
    "paging file": (lambda: put(runs(), 4, "I", 0), r"ValidDump at offset 0x4 is 0x00000000"),
    "unknown type": (lambda: put(runs(), 0xF98, "I", 0x4B), r"DumpType at offset 0xf98 is 0x4b"),
    "type 7": (lambda: put(runs(), 0xF98, "I", 7), r"DumpType at offset 0xf98 is 0x7"),
    "type never set": (lambda: put(runs(), 0xF98, "I", 0x45474150), r"DumpType at offset 0xf98 was never set"),
    "header only": (
        lambda: bytes(packing.header(64, 3)),
        r"DumpType at offset 0xf98 is 3: the file holds a header only",
    ),
    "header only, 32-bit": (lambda: bytes(packing.header(32, 3)), r"DumpType at offset 0xf88 is 3"),
    "encrypted": (lambda: put(bitmap(), 0x1050, "I", 0x100), r"encrypted \(Attributes at offset 0x1050 is 0x100"),
    "encrypted small dump": (lambda: bytes(packing.triage(Attributes=0x102)), r"encrypted .*0x102"),
    "cut at 4 KiB": (lambda: bitmap()[:0x1000], r"ends at offset 0x1000, inside the 0x2000-byte dump header"),
    "cut after the magic": (lambda: bitmap()[:8], r"ends at offset 0x8, inside"),
    "cut in the 32-bit header": (lambda: bytes(packing.full([(1, 1)], 32))[:0xFFF], r"ends at offset 0xfff, inside"),
    "cut behind the header": (lambda: bitmap()[:0x2000], r"inside the bitmap header at 0x2000"),
    "cut in the bitmap header": (
        lambda: bitmap()[:0x2020],
        r"ends at offset 0x2020, inside the bitmap header at 0x2000",
    ),
    "cut in the bitmap": (
        lambda: bitmap()[:0x2800],
        r"BitmapSize .*0x2000.*end at 0x3038, but the file ends at 0x2800",
    ),
    "cut in the summary header": (lambda: bytes(packing.summary([1], 64))[:0x2010], r"summary header at 0x2000"),
    "cut in the range header": (lambda: ranges()[:0x2010], r"inside the range header at 0x2000"),
    "cut in the range table": (lambda: ranges()[:0x2038], r"FirstPageOffset at offset 0x2018 is 0x2050"),
    "cut in the triage header": (lambda: bytes(packing.triage())[:0x2040], r"inside the triage header at 0x2000"),
    "NumberOfRuns PAGE": (lambda: put(runs(), 0x88, "I", 0x45474150), r"NumberOfRuns never set"),
    "NumberOfPages PAGE": (lambda: put(runs(), 0x90, "Q", 0x4547415045474150), r"physical memory descriptor"),
    "NumberOfRuns 43": (lambda: put(runs(), 0x88, "I", 43), r"NumberOfRuns at offset 0x88 is 43.*at most 42"),
    "NumberOfRuns 2^32-1": (lambda: put(runs(), 0x88, "I", 0xFFFFFFFF), r"NumberOfRuns at offset 0x88 is 4294967295"),
    "NumberOfRuns 0": (lambda: put(runs(), 0x88, "I", 0), r"NumberOfRuns 0 at offset 0x88"),
    "BitmapSize PAGE": (lambda: put(bitmap(), 0x2030, "Q", 0x4547415045474150), r"BitmapSize .* is 0x4547415045474150"),
    "BitmapSize 2^64-1": (lambda: put(bitmap(), 0x2030, "Q", (1 << 64) - 1), r"BitmapSize .* is 0xffffffffffffffff"),
    "BitmapSize 2^40": (lambda: put(bitmap(), 0x2030, "Q", 1 << 40), r"BitmapSize .* is 0x10000000000"),
    "BitmapSize 0": (lambda: put(bitmap(), 0x2030, "Q", 0), r"BitmapSize .* is 0x0"),
    "no bitmap magic": (lambda: put(bitmap(), 0x2000, "I", 0), r"no bitmap header .* at offset 0x2000"),
    "no range magic": (lambda: put(ranges(), 0x2004, "I", 0), r"no range header .* at offset 0x2004"),
    "FirstPageOffset 2^64-1": (lambda: put(ranges(), 0x2018, "Q", (1 << 64) - 1), r"FirstPageOffset at offset 0x2018"),
}


def machine(**more: int) -> tuple[dict[int, bytes], dict[str, int]]:
    memory, values = paging.machine("x64")
    return memory, {**values, **more}


def small_kernel(**more: int) -> bytes:
    memory, values = machine(**more)
    return bytes(packing.full(packing.runs_of(memory), 64, memory, **values))


def overlapping_runs() -> bytes:
    memory, values = machine()
    table = packing.runs_of(memory)
    table.append((table[0][0], 2))
    return bytes(packing.full(table, 64, memory, **values))


def overflowing_run(base: int, count: int) -> bytes:
    memory, values = machine()
    table = packing.runs_of(memory)
    data = packing.full(table, 64, memory, **values)
    struct.pack_into("<II", data, 0x88, len(table) + 1, 0)
    struct.pack_into("<QQ", data, 0x98 + 16 * len(table), base, count)
    return bytes(data)


def small_dump(**changes: int) -> bytes:
    base = 0xFFFFF80000000000
    data = packing.triage(
        drivers=[("\\SystemRoot\\ntoskrnl.exe", base, 0x100000, 1, 2), ("x.sys", base + 0x200000, 0x1000, 3, 4)],
        unloaded=[("gone.sys", base + 0x300000, base + 0x301000)],
        stack=(base + 0x400F00, bytes(range(256))),
        blocks=[(base + 0x1000 * index, bytes([index]) * 64) for index in range(8)],
    )
    for name, value in changes.items():
        packing.put_triage(data, 64, name, value)
    return bytes(data)


#: What can be survived: how the file is made, and the words that say so.
SURVIVED: dict[str, tuple[Make, str]] = {
    "cut in the pages": (lambda: small_kernel()[:0x4800], r"truncated: 8 of 10 pages lie behind its end at 0x4800"),
    "no page at all": (lambda: small_kernel()[:0x2000], r"truncated: 10 of 10 pages lie behind its end at 0x2000"),
    "bitmap without pages": (lambda: bitmap()[:0x4000], r"truncated: 4 of 4 pages lie behind its end"),
    "HeaderSize behind the end": (
        lambda: put(bitmap(), 0x2020, "Q", 1 << 50),
        r"HeaderSize in the bitmap header at offset 0x2000 is 0x4000000000000, behind the end of the file",
    ),
    "HeaderSize 0": (
        lambda: put(bitmap(), 0x2020, "Q", 0),
        r"HeaderSize in the bitmap header at offset 0x2000 is 0x0, inside the bitmap",
    ),
    "Pages PAGE": (lambda: put(bitmap(), 0x2028, "Q", 0x4547415045474150), r"4 set bits but its header says"),
    "Pages 2^64-1": (lambda: put(bitmap(), 0x2028, "Q", (1 << 64) - 1), r"4 set bits but its header says"),
    "PageCount 2^64-1": (huge_first_run, r"1 of 1 runs pass the end of physical memory"),
    "BasePage overflows": (lambda: overflowing_run((1 << 64) - 1, 1), r"end of physical memory"),
    "BasePage times page size overflows": (lambda: overflowing_run(1 << 53, 1), r"end of physical memory"),
    "PageCount of all memory": (lambda: overflowing_run(0x1000, 1 << 40), r"truncated: 1,099,511,627,776 of"),
    "overlapping runs": (overlapping_runs, r"2 pages are claimed by more than one run; the first run wins"),
    "runs that do not add up": (lambda: put(small_kernel(), 0x90, "Q", 77), r"NumberOfPages is 0x4d but the runs"),
    "ranges that do not add up": (lambda: put(ranges(), 0x2028, "Q", 77), r"TotalNumberOfPages is 0x4d"),
    "metadata size": (lambda: put(ranges(), 0x2010, "Q", 0x28), r"MetadataSize 0x28 and FirstPageOffset 0x2050"),
    "no root in the dump": (
        lambda: small_kernel(DirectoryTableBase=0x7777000),
        r"0x7777000 names .* is not in the dump",
    ),
    "root never set": (
        lambda: put(small_kernel(), 0x10, "Q", 0x4547415045474150),
        r"DirectoryTableBase in the dump header was never set",
    ),
    "root that leads nowhere": (
        lambda: small_kernel(DirectoryTableBase=0x32000),
        r"page tables at DirectoryTableBase 0x32000 lead neither",
    ),
    "no kernel": (small_kernel, r"no kernel"),
    "machine without translation": (lambda: small_kernel(MachineImageType=0x200), r"no address translation for ia64"),
    "no end marker": (lambda: small_dump()[:-4] + b"GRTD", r"end marker 'TRGD' is not at offset"),
    "cut in the block table": (
        lambda: small_dump()[: packing.get_triage(small_dump(), 64, "DataBlocksOffset") + 40],
        r"DataBlocksCount is 8, but only 2 entries fit",
    ),
    "cut in the blocks": (lambda: small_dump()[:-300], r"\d of 8 data blocks lie partly or wholly"),
    "DataBlocksCount 2^32-1": (lambda: small_dump(DataBlocksCount=0xFFFFFFFF), r"DataBlocksCount is 4,294,967,295"),
    "DriverCount PAGE": (lambda: small_dump(DriverCount=0x45474150), r"DriverCount is 1,162,297,680"),
    "StringPoolOffset in the header": (lambda: small_dump(StringPoolSize=0), r"2 drivers have names outside"),
    "stack behind the end": (lambda: small_dump(CallStackOffset=0x7FFFFFFF), r"CallStackOffset is 0x7fffffff, outside"),
    "copy in the header": (lambda: small_dump(PrcbOffset=0x10), r"PrcbOffset is 0x10, inside the dump header"),
    "tagged data cut": (
        lambda: small_kernel() + packing.tagged([(packing.uuid.UUID(int=3), b"x" * 64, 0, 0)])[:-5],
        r"tagged data: blob at offset .* behind the end of the file",
    ),
}


def plugin_class(name: str) -> Any:
    module = importlib.import_module(f"volatility3.plugins.kdump.{name}")
    return getattr(module, name.capitalize())


def run_plugin(name: str, path: Path) -> Any:
    """The plugin's grid, its rows made and its KD text as well."""
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = path.absolute().as_uri()
    grid = plugin_class(name)(context, f"plugins.{name.capitalize()}").run()
    rows: list[list[Any]] = []
    grid.populate(lambda node, accumulator: rows.append([output.number(cell) for cell in node.values]))
    return rows, list(grid.kd_lines())


def check_line(text: str, name: str, words: str) -> None:
    assert "\n" not in text
    assert text.startswith(f"kdump: {name}: "), text
    assert re.search(words, text), text
    assert text.isprintable()


@pytest.mark.parametrize("case", FATAL)
def test_a_fatal_fault_is_one_line_from_every_plugin(case: str, tmp_path: Path) -> None:
    make, words = FATAL[case]
    path = tmp_path / "bad input.dmp"
    path.write_bytes(make())
    for name in PLUGINS:
        started = time.process_time()
        with pytest.raises(PluginFailure) as failure:
            run_plugin(name, path)
        check_line(str(failure.value), "bad input.dmp", words)
        # The host's command line ends with the message on stderr and status 1 for such an exit.
        assert isinstance(failure.value, SystemExit) and failure.value.code == str(failure.value)
        assert time.process_time() - started < 2


@pytest.mark.parametrize("case", SURVIVED)
def test_a_fault_that_can_be_survived_is_a_warning(case: str, tmp_path: Path) -> None:
    make, words = SURVIVED[case]
    path = tmp_path / "damaged.dmp"
    path.write_bytes(make())
    started = time.process_time()
    for name in ("analyze", "info"):
        rows, lines = run_plugin(name, path)
        warnings = [str(row[2]) for row in rows if row[0] == "Warning"]
        warnings += [str(row[4]) for row in rows if row[0] == "Warning"]
        assert any(re.search(words, warning) for warning in warnings), warnings
        assert lines
        if name == "info":
            assert any(re.search(words, line) for line in lines if line.startswith("WARNING: "))
            shown = {row[1]: int(row[3]) for row in rows if row[0] == "Pages"}
            assert not shown or shown["Declared"] - shown["Present"] == shown["Missing"]
            truncated = next(
                (re.search(r"truncated: ([\d,]+) of ([\d,]+)", text) for text in warnings if "trunc" in text), None
            )
            if truncated:
                counts = [int(part.replace(",", "")) for part in truncated.groups()]
                assert [shown["Missing"], shown["Declared"]] == counts
    rows, lines = run_plugin("bugcheck", path)
    assert rows[0][:2] == ["Code", 0xD1] and rows[0][2] == "DRIVER_IRQL_NOT_LESS_OR_EQUAL" and lines
    assert time.process_time() - started < 5


@pytest.mark.parametrize("case", ["no root in the dump", "no kernel"])
def test_without_a_kernel_the_header_is_still_shown(case: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.dmp"
    path.write_bytes(SURVIVED[case][0]())
    rows, _ = run_plugin("info", path)
    shown = {row[1]: row[2] for row in rows}
    assert shown["Type"].startswith("Kernel Complete Dump File")
    rows, lines = run_plugin("analyze", path)
    assert ["Bug check", "Code", "DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1)"] in [row[:3] for row in rows]
    assert any(line.startswith("DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1)") for line in lines)
    missing = {row[1]: row[4] for row in rows if row[0] == "Crash"}
    assert missing["Process"] == "not in the dump"


@pytest.mark.parametrize("bits, offset", [(64, 0x38), (32, 0x28)])
def test_a_bug_check_that_was_never_written(bits: int, offset: int, tmp_path: Path) -> None:
    path = tmp_path / "unset.dmp"
    path.write_bytes(put(packing.full([(1, 2)], bits), offset, "I", 0x45474150))
    with pytest.raises(PluginFailure) as failure:
        run_plugin("bugcheck", path)
    check_line(
        str(failure.value), "unset.dmp", f"bug check code at offset {offset:#x} of the dump header was never set"
    )
    rows, lines = run_plugin("analyze", path)
    assert any("never set" in str(row[4]) for row in rows) and any("never set" in line for line in lines)
    run_plugin("info", path)


def test_a_sample_that_is_cut_short_keeps_what_is_there(sample: Sample, tmp_path: Path) -> None:
    whole = sample(6).read_bytes()
    path = tmp_path / "cut.dmp"
    path.write_bytes(whole[: len(whole) - 40 * 0x1000])
    rows, _ = run_plugin("info", path)
    shown = {row[1]: int(row[3]) for row in rows if row[0] == "Pages"}
    assert 35 <= shown["Missing"] <= 45 and shown["Missing"] == shown["Declared"] - shown["Present"]
    rows, _ = run_plugin("analyze", path)
    assert ["Bug check", "Code", "DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1)"] in [row[:3] for row in rows]
    assert any(row[0] == "Warning" and f"{shown['Missing']} of {shown['Declared']} pages" in row[2] for row in rows)


def test_list_entries_that_lead_in_circles(sample: Sample, tmp_path: Path) -> None:
    import volatility3_kdump

    whole = bytearray(sample(1).read_bytes())
    target = volatility3_kdump.open(sample(1))
    head = target.header.ps_loaded_module_list
    assert head is not None and target.physical_layer_name is not None and target.dump.pages is not None
    expected = [module.name for module in target.modules]
    entries = walk_list(target.memory, head, 1000, "PsLoadedModuleList").entries
    layer = target.context.layers[target.layer_name or ""]
    physical = layer.translate(entries[4] & layer.address_mask)[0]
    located = target.dump.pages.offset_of(physical >> 12)
    assert located is not None
    for link in (entries[2], entries[4], 0x1234, 0xFFFFFFFFFFFFFFF8):
        struct.pack_into("<Q", whole, located + (physical & 0xFFF), link)
        path = tmp_path / "circle.dmp"
        path.write_bytes(whole)
        damaged = volatility3_kdump.open(path)
        # What is behind the damage is reached from the end of the list.
        assert [module.name for module in damaged.modules] == expected
        assert any("PsLoadedModuleList" in problem for problem in damaged.problems)
        run_plugin("analyze", path)


@pytest.mark.parametrize("count", [0, 0xFFFFFFFF, 0x45474150, 2049])
def test_numbers_of_processors_that_no_machine_has(count: int, sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "processors.dmp"
    path.write_bytes(put(sample(6).read_bytes(), 0x34, "I", count))
    rows, lines = run_plugin("analyze", path)
    assert lines and len([row for row in rows if tuple(row[:2]) == ("Crash", "Processor")]) == 1


def test_a_comment_with_control_characters_is_escaped(tmp_path: Path) -> None:
    memory, values = machine()
    path = tmp_path / "comment.dmp"
    comment = b"\x1b[2J\x07evil\r\n".ljust(128, b"x")
    path.write_bytes(packing.full(packing.runs_of(memory), 64, memory, Comment=comment, **values))
    rows, lines = run_plugin("info", path)
    text = [str(value) for row in rows for value in row] + lines
    assert any("evil" in part for part in text)
    assert not any(character in part for part in text for character in "\x1b\x07\r\n")


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "is a directory"), (tmp_path / "gone.dmp", "cannot be opened: No such file")):
        with pytest.raises(PluginFailure) as failure:
            run_plugin("info", path)
        check_line(str(failure.value), path.name, words)


@pytest.mark.thorough
def test_a_sparse_raw_image_of_64_mb(tmp_path: Path) -> None:
    """The host's scan for page tables, of 90 MB at most, is the last thing that is tried."""
    path = tmp_path / "raw.img"
    with path.open("wb") as stream:
        stream.truncate(64 << 20)
        for offset in range(0, 64 << 20, 5 << 20):
            stream.seek(offset + 100)
            stream.write(b"some data")
    started = time.process_time()
    with pytest.raises(PluginFailure) as failure:
        run_plugin("info", path)
    check_line(str(failure.value), "raw.img", "raw memory image: no Windows kernel in it: no page tables")
    assert time.process_time() - started < 60


def test_the_library_raises_its_own_errors(tmp_path: Path) -> None:
    import volatility3_kdump

    for number, (make, words) in enumerate(FATAL.values()):
        path = tmp_path / f"{number}.dmp"
        path.write_bytes(make())
        with pytest.raises(KdumpError, match=words) as failure:
            volatility3_kdump.open(path)
        assert str(failure.value).startswith(f"{number}.dmp: ")


# the real command line --------------------------------------------------------------------------------------------

#: Most seconds of processor time that a command may take: bare start, and the 2 s that a bad file may add.
LONGEST = 6.0

COMMAND_LINE = [
    ("empty", "kdump.analyze", ()),
    ("zero-filled", "kdump.info", ()),
    ("user-mode minidump", "kdump.analyze", ()),
    ("raw image", "kdump.analyze", ("-r", "json")),
    ("unknown type", "kdump.bugcheck", ()),
    ("encrypted", "kdump.analyze", ("-r", "json")),
    ("cut at 4 KiB", "kdump.analyze", ()),
    ("NumberOfRuns PAGE", "kdump.info", ()),
    ("BitmapSize 2^64-1", "kdump.analyze", ("-r", "windbg")),
]


def check_failure(finished: subprocess.CompletedProcess[str], words: str) -> None:
    assert finished.returncode not in (0, None)
    # The host prints its banner to stderr where the output is for other programs.
    banner = r"Volatility 3 Framework [\d.]+\n+"
    assert re.fullmatch(f"({banner})?", finished.stdout), finished.stdout
    lines = re.sub(f"^{banner}", "", finished.stderr).strip("\n").split("\n")
    assert len(lines) == 1 and re.search(words, lines[0]), finished.stderr
    for text in ("Traceback", "Unsatisfied requirement", "Unable to validate"):
        assert text not in finished.stdout + finished.stderr


@pytest.mark.parametrize("case, plugin, options", COMMAND_LINE)
def test_the_command_ends_with_one_line(
    case: str, plugin: str, options: tuple[str, ...], run_vol: RunVol, tmp_path: Path
) -> None:
    make, words = FATAL[case]
    path = tmp_path / "bad.dmp"
    path.write_bytes(make())
    started = processor_time()
    finished = run_vol("-q", *options, "-f", path, plugin)
    assert processor_time() - started < LONGEST
    check_failure(finished, rf"^kdump: bad\.dmp: .*{words}")
    assert finished.returncode == 1


def test_the_command_without_a_file(run_vol: RunVol) -> None:
    check_failure(run_vol("-q", "kdump.analyze"), r"^kdump: no dump given: use -f FILE$")


def test_the_command_with_a_directory(run_vol: RunVol, tmp_path: Path) -> None:
    check_failure(run_vol("-q", "-f", tmp_path, "kdump.analyze"), r"^kdump: .*: is a directory, not a dump file$")


def test_the_command_with_a_missing_file(run_vol: RunVol, tmp_path: Path) -> None:
    # The host itself looks whether the file is there.
    finished = run_vol("-q", "-f", tmp_path / "gone.dmp", "kdump.analyze")
    assert finished.returncode != 0
    assert "gone.dmp" in finished.stderr.strip().split("\n")[-1] and "Traceback" not in finished.stderr


@pytest.mark.parametrize("case, plugin", [("cut in the pages", "kdump.info"), ("no root in the dump", "kdump.analyze")])
def test_the_command_survives(case: str, plugin: str, run_vol: RunVol, tmp_path: Path) -> None:
    make, words = SURVIVED[case]
    path = tmp_path / "damaged.dmp"
    path.write_bytes(make())
    finished = run_vol("-q", "-r", "json", "-f", path, plugin)
    assert finished.returncode == 0, finished.stderr
    assert re.fullmatch(r"Volatility 3 Framework [\d.]+\n+", finished.stderr)
    rows = json.loads(finished.stdout)
    assert any(re.search(words, str(row["Text"])) for row in rows if row["Topic"] == "Warning")


def test_progress_of_the_host_does_not_hide_the_line(run_vol: RunVol, tmp_path: Path) -> None:
    path = tmp_path / "bad.dmp"
    path.write_bytes(bytes(4096))
    finished = run_vol("-f", path, "kdump.analyze")
    assert finished.returncode == 1
    # Progress ends with a carriage return, which reads as a line end here: the message has a line of its own.
    assert finished.stderr.split("\n")[-2].startswith("kdump: bad.dmp: the file holds only zeros ")
    assert finished.stderr.endswith("nothing can be recovered\n")


_BOUNDED = """
import resource, sys
import volatility3_kdump
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.views.analyze import analyze_grid
from volatility3_kdump.views.info import info_grid
volatility3_kdump.open(sys.argv[1])
with open("/proc/self/statm") as stream:
    used = int(stream.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (192 << 20),) * 2)
for path in sys.argv[2:]:
    try:
        target = volatility3_kdump.open(path)
        for grid in (info_grid(target), analyze_grid(target)):
            grid.populate(lambda node, accumulator: None)
            list(grid.kd_lines())
    except KdumpError as error:
        pass
print("bounded")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to learn what is used already")
def test_huge_counts_never_allocate_what_they_say(tmp_path: Path, sample: Sample) -> None:
    made = {
        **{name: make for name, (make, _) in FATAL.items() if "2^" in name or "PAGE" in name},
        **{name: make for name, (make, _) in SURVIVED.items() if "2^" in name or "PAGE" in name or "Page" in name},
    }
    for name, offset in (("kernel base", 0x20), ("process list", 0x28), ("debugger data", 0x80), ("root", 0x10)):
        made[name] = lambda offset=offset: put(sample(6).read_bytes(), offset, "Q", 0xFFFFFFFFFFFFFFFF)  # type: ignore[misc]
    paths = [tmp_path / f"{number}.dmp" for number in range(len(made))]
    for path, make in zip(paths, made.values(), strict=True):
        path.write_bytes(make())
    finished = subprocess.run(
        [sys.executable, "-c", _BOUNDED, str(sample(6)), *map(str, paths)],
        env={"PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stdout == "bounded\n", finished.stderr
