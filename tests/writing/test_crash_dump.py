"""Crash dumps that are written: other readers open them, and every view of them is that of what they are made of."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import contexts
from volatility3.framework.layers import crash, physical

import volatility3_kdump
from tests.prompt import answer, session_over
from volatility3_kdump.cli import main
from volatility3_kdump.dump import extents
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.writing import TYPES, crash_dump, plan, write

Image = Callable[..., Path]
Sample = Callable[..., Path]

COMMANDS = ("!analyze -v", "k", "r", "~", "!running -it", "!process 0 7", "lmv", "!locks", "!vm", "!poolused")


#: Quick tests take one type.
SOME = [number if number == 6 else pytest.param(number, marks=pytest.mark.thorough) for number in TYPES]


def shown(path: Path) -> dict[str, list[str]]:
    session = session_over(path)
    return {line: [text.replace(path.name, "FILE") for text in answer(session, line)] for line in COMMANDS}


def written(source: Path, path: Path, dump_type: int, **options: Any) -> crash_dump.Plan:
    planned = plan(volatility3_kdump.open(source), dump_type)
    write(planned, path, **options)
    return planned


@pytest.mark.parametrize("dump_type", SOME)
def test_every_view_of_the_dump_is_that_of_the_image(dump_type: int, image: Image, tmp_path: Path) -> None:
    path = tmp_path / "out.dmp"
    written(image("elf"), path, dump_type)
    of_image, of_dump = shown(image("elf")), shown(path)
    if dump_type == 6:
        # The parameters of processes are in user memory.
        for told in (of_image, of_dump):
            told["!process 0 7"] = [line for line in told["!process 0 7"] if "CommandLine" not in line]
    for lines in (*of_image.values(), *of_dump.values()):
        lines[:] = [line for line in lines if "DUMP_FILE_ATTRIBUTES" not in line and "Dump.Attributes" not in line]
    for command in COMMANDS:
        assert _without_attributes(of_dump[command]) == _without_attributes(of_image[command]), command


def _without_attributes(lines: list[str]) -> list[str]:
    """What a header says besides: that of an image has no attributes."""
    joined = "\n".join(lines).replace("    Value: 0x0\n\n", "").replace("\n\n\n", "\n\n")
    return [line for line in joined.split("\n") if line]


@pytest.mark.parametrize("dump_type", SOME)
def test_kdmp_parser_reads_the_same_pages(dump_type: int, image: Image, tmp_path: Path) -> None:
    kdmp_parser = pytest.importorskip("kdmp_parser")
    path = tmp_path / "out.dmp"
    planned = written(image("elf"), path, dump_type)
    parsed = kdmp_parser.KernelDumpParser(str(path))
    target = volatility3_kdump.open(image("elf"))
    pages, source = target.dump.pages, target.dump.source
    assert pages is not None and parsed.type == dump_type and len(parsed.pages) == planned.pages
    assert parsed.directory_table_base == target.header.directory_table_base
    same = 0
    for stretch in extents(pages, 0, (pages.highest or 0) + 1):
        for pfn in range(stretch.pfn, stretch.pfn + stretch.count):
            assert stretch.offset is not None
            data = source.read(stretch.offset + (pfn - stretch.pfn << 12), 0x1000)
            read = parsed.read_physical_page(pfn << 12)
            same += read is not None and bytes(read) == data
    # Nothing was changed: the machine had crashed, and its kernel had decoded KDDEBUGGER_DATA64.
    assert same == planned.pages and (dump_type != 6 or planned.pages < pages.present)


@pytest.mark.parametrize("dump_type", [1, 5])
def test_the_hosts_own_layer_reads_the_dump(dump_type: int, image: Image, tmp_path: Path) -> None:
    path = tmp_path / "out.dmp"
    written(image("lime"), path, dump_type)
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    layer = crash.WindowsCrashDump64Layer(context, "dump", "dump")
    ours = volatility3_kdump.open(image("lime")).physical_memory
    pages = volatility3_kdump.open(image("lime")).dump.pages
    assert pages is not None
    for stretch in extents(pages, 0, (pages.highest or 0) + 1):
        address = stretch.pfn << 12
        assert layer.read(address, 0x1000) == ours.read(address, 0x1000)


def test_a_running_machine_is_written_with_its_registers_as_a_live_dump(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "out.dmp"
    planned = written(image("elf", running=True), path, 5)
    assert planned.bug_check == 0x161
    assert any("the machine had not crashed" in note for note in planned.notes)
    assert any("the registers of 3 processors are written" in note for note in planned.notes)
    dump, source = volatility3_kdump.open(path), volatility3_kdump.open(image("elf", running=True))
    assert dump.header.bug_check_code == 0x161
    for ours, theirs in zip(processors(dump), processors(source), strict=True):
        assert ours.context is not None and theirs.context is not None
        for name, value in theirs.context.registers.items():
            assert ours.context.get(name) == value, name


def test_a_processor_in_user_mode_is_written(image: Image, tmp_path: Path) -> None:
    """GS leads to the TEB there, and KERNEL_GS_BASE to the KPCR."""
    data = bytearray(image("elf", running=True).read_bytes())
    note = [match.end() + 3 for match in re.finditer(rb"QEMU\0", bytes(data))][2]
    registers, segments = note + 8, note + 8 + 18 * 8
    gs_base = segments + 4 * 24 + 16
    data[segments + 10 * 24 + 40 : segments + 10 * 24 + 48] = data[gs_base : gs_base + 8]
    struct.pack_into("<Q", data, gs_base, 0x7AE6A11000)
    struct.pack_into("<Q", data, registers + 16 * 8, 0x7FF8F16ECE54)
    struct.pack_into("<Q", data, registers + 6 * 8, 0x7AE6BDE8D8)
    struct.pack_into("<I", data, segments, 0x33)
    source, path = tmp_path / "user.elf", tmp_path / "user.dmp"
    source.write_bytes(data)
    written(source, path, 1)
    for place in (source, path):
        context = processors(volatility3_kdump.open(place))[2].context
        assert context is not None and (context.ip, context.sp) == (0x7FF8F16ECE54, 0x7AE6BDE8D8)


def encoded(plain: bytes, never: int, always: int, flag: int) -> bytes:
    """The encoding of KDDEBUGGER_DATA64, each quadword by itself: the reverse of what a debugger does."""
    turn = never & 0x3F
    words = []
    for (word,) in struct.iter_unpack("<Q", plain):
        value = int.from_bytes((word ^ always).to_bytes(8, "big"), "little") ^ flag
        value = (value >> turn | value << 64 - turn) & 0xFFFFFFFFFFFFFFFF
        words.append(value ^ never)
    return struct.pack(f"<{len(words)}Q", *words)


def test_data_that_the_kernel_keeps_encoded_is_written_decoded(image: Image, tmp_path: Path) -> None:
    source = volatility3_kdump.open(image("elf", running=True))
    address = source.header.kd_debugger_data_block
    assert address is not None
    plain = source.memory.read(address, 0x380)
    assert plain is not None

    never, always, flag = (source.symbol(name) for name in ("KiWaitNever", "KiWaitAlways", "KdpDataBlockEncoded"))
    assert never is not None and always is not None and flag is not None
    keys = 0x1122334455667788, 0x99AABBCCDDEEFF01
    patches = {
        address: encoded(plain, *keys, flag),
        never: keys[0].to_bytes(8, "little"),
        always: keys[1].to_bytes(8, "little"),
    }
    data = bytearray(image("elf", running=True).read_bytes())
    for place, new in patches.items():
        assert source.layer_name is not None and source.dump.pages is not None
        layer = source.context.layers[source.layer_name]
        for position in range(len(new)):
            physical_address, _, _ = layer._translate(place + position & layer.address_mask)
            offset = source.dump.pages.offset_of(physical_address >> 12)
            assert offset is not None
            data[offset + (physical_address & 0xFFF)] = new[position]
    encoded_image = tmp_path / "encoded.elf"
    encoded_image.write_bytes(data)
    path = tmp_path / "out.dmp"
    planned = written(encoded_image, path, 1)
    assert any("written decoded" in note for note in planned.notes)
    assert volatility3_kdump.open(path).memory.read(address, 0x380) == plain


def test_a_dump_of_a_dump_keeps_its_header_and_tagged_data(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "out.dmp"
    written(sample(6), path, 1)
    ours, theirs = volatility3_kdump.open(path), volatility3_kdump.open(sample(6))
    assert [blob.tag for blob in ours.dump.tagged] == [blob.tag for blob in theirs.dump.tagged]
    assert ours.header.dump_type == 1 and ours.header.bug_check_parameters == theirs.header.bug_check_parameters
    assert ours.header.context_record == theirs.header.context_record
    assert shown(path)["k"] == shown(sample(6))["k"]


# what cannot be written -----------------------------------------------------------------------------------------------


def test_files_that_are_there_are_kept_unless_told_otherwise(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "out.dmp"
    path.write_text("precious")
    with pytest.raises(KdumpError, match="is there already: --force replaces it"):
        written(image("elf"), path, 5)
    assert path.read_text() == "precious"
    written(image("elf"), path, 5, replace=True)
    assert path.read_bytes()[:8] == b"PAGEDU64" and [entry.name for entry in tmp_path.iterdir()] == ["out.dmp"]
    copy = tmp_path / "copy.elf"
    copy.write_bytes(image("elf").read_bytes())
    with pytest.raises(KdumpError, match="is what the dump is made of"):
        written(copy, copy, 5, replace=True)


def test_a_full_disk_leaves_nothing_behind(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(crash_dump, "_stream", full)
    with pytest.raises(KdumpError, match=r"out.dmp: the disk is full: the dump needs [\d,]+ bytes"):
        written(image("elf"), tmp_path / "out.dmp", 5)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(crash_dump.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(KdumpError, match=r"the disk has 1,000 bytes left, and the dump needs"):
        written(image("elf"), tmp_path / "out.dmp", 5)


def test_a_small_memory_dump_has_no_pages(sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="holds no physical memory"):
        written(sample(4), tmp_path / "out.dmp", 5)


def test_more_runs_than_a_header_holds_are_refused(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_dump, "most_runs", lambda _: 3)
    with pytest.raises(KdumpError, match="has room for 3: --type 5"):
        plan(volatility3_kdump.open(image("elf")), 1)


def test_the_command_line(image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.dmp"
    assert main(["dump", str(image("elf", running=True)), str(path), "--offline"]) == 0
    printed = capsys.readouterr().out
    assert "NOTE: bug check 161 (LIVE_SYSTEM_DUMP) is written" in printed and "dump type 5, " in printed
    assert main(["dump", str(image("elf")), str(path), "--offline"]) == 1
    assert "--force replaces it" in capsys.readouterr().err
