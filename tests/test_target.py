"""An opened dump as scripts see it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.archives import packing
from tests.layers import paging
from volatility3_kdump.errors import KdumpError, NotACrashDump, SymbolsNotFound
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.windows.machine import shared_data as shared_page
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.machine.version import build_lab
from volatility3_kdump.windows.processes.crashed import crash_process, crash_processor, crash_thread
from volatility3_kdump.windows.processes.threads import stack_limits

Sample = Callable[..., Path]


@pytest.mark.parametrize("dump_type", [1, 2, 4, 5, 6, 8, 9, 10])
def test_every_type_gives_the_same_values(dump_type: int, sample: Sample) -> None:
    target = volatility3_kdump.open(sample(dump_type))
    assert isinstance(target, Target) and target.warnings == []
    assert target.header.bug_check_code == 0xD1
    assert target.kernel is not None and target.kernel.identity is not None
    assert target.kernel.identity.identifier == "1B4A6F5E0766C552C90710C8ACC0295C-1"
    assert target.nt is not None and target.nt.origin in target.symbol_status
    names = [module.name for module in target.modules]
    assert names[0] == "nt" and "myfault" in names
    assert [processor.number for processor in processors(target)] == [0, 1, 2]
    assert crash_processor(target) is not None and crash_thread(target) is not None
    assert crash_process(target) is not None and (crash_process(target).name or "").startswith("notmyfault64")
    context = target.header_context
    assert context is not None and context.ip is not None and context.sp is not None
    assert (target.name_of(context.ip) or "").startswith("nt!KeBugCheckEx")
    limits = stack_limits(target, crash_thread(target).address)
    assert limits is not None and limits[0] <= context.sp < limits[1]
    assert (target.physical_layer_name is None) == (dump_type == 4)


def test_real_dumps(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp", [shared_data / "isf"])
    assert crash_process(target) is not None and crash_thread(target) is not None
    assert (crash_process(target).address, crash_process(target).image_name) == (0xFFFFC08BDCE94180, "System")
    assert (crash_process(target).pid, crash_thread(target).tid) == (4, 264)
    assert stack_limits(target, crash_thread(target).address) == (0xFFFF85042988D000, 0xFFFF850429893000)
    assert build_lab(target) == "19041.1.amd64fre.vb_release.191206-1406"
    assert len(processors(target)) == 16 and crash_processor(target) is not None
    assert crash_processor(target).context is not None
    assert crash_processor(target).context.sp == 0xFFFF850429890EE8
    assert shared_page.shared_data(target) is None
    assert target.name_of(0xFFFFF8048B58334C) == "amdppm+0x334c"
    assert (target.name_of(0xFFFFF8047BDF5A80) or "") == "nt!KeBugCheckEx"


def test_a_real_arm64_dump_without_symbols(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_arm64_22000.dmp")
    assert target.header.architecture == "arm64" and not target.has_names
    assert "ntkrnl" not in target.symbol_status
    assert len(processors(target)) == 8
    assert crash_thread(target) is not None and crash_thread(target).address == 0xFFFFBB8EB1719180
    assert crash_process(target) is not None
    assert (crash_process(target).address, crash_process(target).image_name) == (0xFFFFBB8EB1690080, "System")
    assert target.kernel is not None and target.kernel.base == 0xFFFFF803F2E00000


def test_an_identity_without_a_table_says_which_is_needed(
    sample: Sample, isf_paths: list[Path], tmp_path: Path
) -> None:
    other = next(path for path in isf_paths if path.name.startswith("5278AFF8"))
    target = volatility3_kdump.open(sample(6, other))
    assert not target.has_names
    assert "ntkrnlmp.pdb/5278AFF86C341677D7D7835C85B7B844-1.json.xz" in target.symbol_status
    # Without symbols the header, the debugger block and the list of modules still serve.
    assert target.modules[0].name == "nt" and processors(target) and crash_process(target) is not None
    assert volatility3_kdump.open(sample(6, other), [other.parents[2]]).nt is not None
    assert volatility3_kdump.open(sample(6, other), isf_file=other).nt is not None
    (tmp_path / "broken.json").write_text("{")
    broken = volatility3_kdump.open(sample(6, other), isf_file=tmp_path / "broken.json")
    assert not broken.has_names and "broken.json" in broken.symbol_status


def test_the_environment_names_a_directory_of_tables(
    sample: Sample, isf_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = next(path for path in isf_paths if path.name.startswith("5278AFF8"))
    monkeypatch.setenv("KDUMP_ISF_DIR", f"/does/not/exist:{other.parents[2]}")
    assert volatility3_kdump.open(sample(6, other)).nt is not None


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a b.dmp").write_bytes(b"MDMP" + bytes(100))
    with pytest.raises(NotACrashDump, match=r"^a b\.dmp: this is a user-mode minidump"):
        volatility3_kdump.open(tmp_path / "a b.dmp")
    with pytest.raises(KdumpError, match=r"^none\.dmp: cannot be opened: No such file or directory$"):
        volatility3_kdump.open(str(tmp_path / "none.dmp"))
    assert issubclass(SymbolsNotFound, KdumpError)


def test_relative_paths(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample(1)
    monkeypatch.chdir(path.parent)
    assert volatility3_kdump.open(path.name).name == path.name


def test_a_dump_without_a_kernel(tmp_path: Path) -> None:
    memory, values = paging.machine("x64")
    path = tmp_path / "made.dmp"
    path.write_bytes(packing.full(packing.runs_of(memory), 64, memory, **values))
    target = volatility3_kdump.open(path)
    assert target.kernel is None and target.nt is None and target.symbol_status == "no kernel was found in the dump"
    assert [problem.partition(":")[0] for problem in target.problems] == ["no kernel found"]
    assert (processors(target), crash_processor(target), crash_thread(target), crash_process(target)) == (
        [],
        None,
        None,
        None,
    )
    assert build_lab(target) is None and target.symbol("KeBugCheckEx") is None
    page = shared_page.shared_data(target)
    assert page is not None and page.major_version == 10


def test_a_dump_without_translation(tmp_path: Path) -> None:
    memory, values = paging.machine("x64")
    path = tmp_path / "made.dmp"
    path.write_bytes(packing.full(packing.runs_of(memory), 64, memory, **{**values, "DirectoryTableBase": 0x5000}))
    target = volatility3_kdump.open(path)
    assert target.layer_name is None and target.memory.read(values["PsLoadedModuleList"], 8) is None
    assert target.memory.why_unreadable(0x1000) == "no address translation"
    assert target.problems == [
        "the page table that DirectoryTableBase 0x5000 names (page frame 0x5) is not in the dump: no address can be "
        "translated"
    ]
    assert target.header.bug_check_code == 0xD1 and target.kernel is None


# memory -----------------------------------------------------------------------------------------------------------


def memory_of(data: bytes, base: int = 0x10000, width: int = 8) -> Memory:
    def read(address: int, size: int) -> bytes | None:
        offset = address - base
        return data[offset : offset + size] if offset >= 0 and offset + size <= len(data) else None

    return Memory(read, width, lambda address: "absent")


def test_numbers_and_pointers() -> None:
    data = struct.pack("<QII", 0xFFFFF80012345678, 0x80001000, 0x1000)
    memory = memory_of(data)
    assert memory.pointer(0x10000) == 0xFFFFF80012345678 and memory.unsigned(0x10008, 4) == 0x80001000
    assert memory.pointer(0x1000C) is None and memory.unsigned(0xFFFF, 2) is None
    narrow = memory_of(data, width=4)
    assert (narrow.pointer(0x10008), narrow.pointer(0x1000C)) == (0xFFFFFFFF80001000, 0x1000)


@pytest.mark.parametrize("length", [0, 1, 5, 255, 256, 300])
@pytest.mark.parametrize("held", [0, 3, 200, 0x2000])
@pytest.mark.parametrize("start", [0x10000, 0x10FF0])
def test_c_strings(length: int, held: int, start: int) -> None:
    data = bytes(start - 0x10000) + b"s" * length + b"\0" + bytes(0x2000)
    memory = memory_of(data[: start - 0x10000 + held])
    expected = "s" * length if length < held and length < 256 else None
    assert memory.c_string(start) == expected


def test_unicode_strings() -> None:
    text = "\\Device\\\u00fc"
    encoded = text.encode("utf-16-le")
    data = struct.pack("<HHIQ", len(encoded), len(encoded), 0, 0x10010) + encoded
    assert memory_of(data).unicode_string(0x10000) == text
    assert memory_of(data[:-1]).unicode_string(0x10000) is None
    assert memory_of(data[:10]).unicode_string(0x10000) is None
    assert memory_of(struct.pack("<HHIQ", 0, 0, 0, 0)).unicode_string(0x10000) == ""
    assert memory_of(struct.pack("<HHIQ", 4, 4, 0, 0)).unicode_string(0x10000) is None
    odd = struct.pack("<HHIQ", 5, 5, 0, 0x10010) + b"a\0b\0c\0"
    assert memory_of(odd).unicode_string(0x10000) == "ab"
    lone = struct.pack("<HHIQ", 4, 4, 0, 0x10010) + b"\x00\xd8a\0"
    assert memory_of(lone).unicode_string(0x10000) == "\ufffda"


def test_present_parts_of_a_range() -> None:
    held = {0x1000: b"a" * 0x1000, 0x3000: b"b" * 0x1000}

    def read(address: int, size: int) -> bytes | None:
        page = held.get(address & ~0xFFF)
        return page[:size] if page is not None and (address & 0xFFF) + size <= 0x1000 else None

    found = [(address, len(data)) for address, data in Memory(read, 8, lambda address: "").present(0xF00, 0x2400)]
    assert found == [(0x1000, 0x1000), (0x3000, 0x300)]
