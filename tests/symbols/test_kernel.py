"""Which kernel a dump comes from."""

from __future__ import annotations

import json
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.archives import packing
from volatility3_kdump import tables
from volatility3_kdump.dump import BytesSource, CrashDump, open_dump
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.symbols.kdbg import DebuggerData
from volatility3_kdump.symbols.kernel import find_kernel

BASE = 0xFFFFF80361000000
MACHINE = 0x8664


def debugger(base: int = BASE, **rvas: int) -> DebuggerData:
    """KDDEBUGGER_DATA64 of a kernel at a base, with variables at distances from it."""
    offsets = {
        "PsLoadedModuleList": 0x48,
        "PsActiveProcessHead": 0x50,
        "MmPfnDatabase": 0xC0,
        "KiProcessorBlock": 0x218,
        "MmUnloadedDrivers": 0x220,
    }
    block = bytearray(0x380)
    struct.pack_into("<4sI", block, 0x10, b"KDBG", 0x380)
    struct.pack_into("<Q", block, 0x18, base)
    for name, rva in rvas.items():
        if name in offsets:
            struct.pack_into("<Q", block, offsets[name], base + rva)
    return DebuggerData(base + 0x100000, 0x380, bytes(block))


def dump(**values: int | bytes) -> CrashDump:
    return open_dump(BytesSource(bytes(packing.full([(1, 1)], **values))))


def nothing(address: int, size: int) -> bytes | None:
    return None


def index_of(shared_data: Path) -> dict[str, dict[str, int]]:
    known = json.loads((shared_data / "isf" / "nt_rvas.json").read_text())
    return {name: facts["s"] for name, facts in known.items()}


def test_the_index_holds_every_kernel_that_is_known(shared_data: Path) -> None:
    known = json.loads((shared_data / "isf" / "nt_rvas.json").read_text())
    index = {f"{record['guid']}-{record['age']}": record for record in tables.json_lines("kernels.jsonl")}
    assert index.keys() == known.keys() and len(index) == 213
    for name, facts in known.items():
        assert index[name]["rva"] == facts["s"]
        assert (index[name]["machine"], index[name]["pdb"]) == (
            facts["m"]["pdb"]["machine_type"],
            facts["m"]["pdb"]["database"],
        )


def test_each_table_at_hand_is_identified_by_its_own_variables(isf_path: Path) -> None:
    layouts = load_table_file(isf_path)
    names = ("PsLoadedModuleList", "PsActiveProcessHead", "MmPfnDatabase", "KiProcessorBlock", "MmUnloadedDrivers")
    rvas = {name: layouts.symbol(name) for name in names}
    block = layouts.symbol("KdDebuggerDataBlock")
    assert block is not None
    found = find_kernel(
        dump(KdDebuggerDataBlock=BASE + block),
        nothing,
        debugger(**{name: rva for name, rva in rvas.items() if rva is not None}),
    )
    assert found is not None and found.base == BASE and found.base_known_by == "KDDEBUGGER_DATA64.KernBase"
    expected = isf_path.name.split(".")[0]
    if found.identity is not None:
        assert (found.identity.identifier, found.candidates) == (expected, ())
        assert found.identity.isf_name == f"ntkrnlmp.pdb/{expected}"
    else:
        assert f"ntkrnlmp.pdb/{expected}" in found.candidates and len(found.candidates) > 1


def test_every_kernel_of_the_index_is_found_or_among_the_candidates(shared_data: Path) -> None:
    unique = 0
    known = index_of(shared_data)
    for name, rvas in known.items():
        block = BASE + rvas["KdDebuggerDataBlock"]
        # The kernel puts a breakpoint at KeBugCheckEx into the header.
        record = struct.pack("<IIQQ", 0x80000003, 1, 0, BASE + rvas["KeBugCheckEx"])
        found = find_kernel(dump(KdDebuggerDataBlock=block, Exception=record), nothing, debugger(**rvas))
        assert found is not None
        if found.identity is not None:
            assert found.identity.identifier == name
            unique += 1
        else:
            assert any(candidate.endswith(name) for candidate in found.candidates)
            # They cannot be told apart: all have the same distances.
            for candidate in found.candidates:
                other = known[candidate.rsplit("/", 1)[1]]
                assert {key: other[key] for key in other if key in debugger_keys()} == {
                    key: rvas[key] for key in rvas if key in debugger_keys()
                }
    assert unique == 163


def debugger_keys() -> set[str]:
    return {
        "KeBugCheckEx",
        "PsLoadedModuleList",
        "PsActiveProcessHead",
        "MmPfnDatabase",
        "KiProcessorBlock",
        "MmUnloadedDrivers",
        "KdDebuggerDataBlock",
    }


def test_one_differing_variable_is_another_kernel(shared_data: Path) -> None:
    rvas = index_of(shared_data)["1B4A6F5E0766C552C90710C8ACC0295C-1"]
    found = find_kernel(dump(), nothing, debugger(**{**rvas, "MmPfnDatabase": rvas["MmPfnDatabase"] + 8}))
    assert found is not None and found.identity is None and found.candidates == ()


@pytest.mark.parametrize("record", [b"PAGE" * 38, bytes(152), struct.pack("<IIQQ", 0x80000003, 1, 0, 0x1234)])
def test_a_header_without_the_routine_changes_nothing(record: bytes, shared_data: Path) -> None:
    rvas = index_of(shared_data)["1B4A6F5E0766C552C90710C8ACC0295C-1"]
    found = find_kernel(dump(Exception=record), nothing, debugger(**rvas))
    expected = find_kernel(dump(), nothing, debugger(**rvas))
    assert found is not None and expected is not None
    assert (found.identity, found.candidates) == (expected.identity, expected.candidates)


def test_another_machine_is_another_kernel(shared_data: Path) -> None:
    rvas = index_of(shared_data)["1B4A6F5E0766C552C90710C8ACC0295C-1"]
    found = find_kernel(dump(MachineImageType=0xAA64), nothing, debugger(**rvas))
    assert found is not None and found.identity is None


def test_header_pointers_serve_where_there_is_no_debugger_block(shared_data: Path) -> None:
    rvas = index_of(shared_data)["1B4A6F5E0766C552C90710C8ACC0295C-1"]
    head, entry = BASE + rvas["PsLoadedModuleList"], 0xFFFFB10000001000
    memory = {head: struct.pack("<Q", entry), entry + 0x30: struct.pack("<Q", BASE)}
    image = image_of(None)

    def read(address: int, size: int) -> bytes | None:
        if BASE <= address < BASE + len(image):
            return image[address - BASE : address - BASE + size]
        data = memory.get(address)
        return data if data is not None and len(data) == size else None

    made = dump(PsLoadedModuleList=head, PsActiveProcessHead=BASE + rvas["PsActiveProcessHead"])
    found = find_kernel(made, read, None)
    assert found is not None and found.base_known_by == "first loaded module" and found.base == BASE
    assert found.identity is not None and found.identity.guid == "1B4A6F5E0766C552C90710C8ACC0295C"
    # An entry whose base is no image names no kernel; the distances between the header's variables still do.
    memory[entry + 0x30] = struct.pack("<Q", BASE + 0x800000)
    found = find_kernel(made, read, None)
    assert found is not None and found.base == BASE and found.base_known_by.startswith("distances between")


def image_of(record: tuple[uuid.UUID, int, str] | None) -> bytes:
    """The headers of a PE32+ image with an RSDS record, packed by hand."""
    image = bytearray(0x1000)
    struct.pack_into("<2s58xI", image, 0, b"MZ", 0x80)
    struct.pack_into("<4sHHIIIHH", image, 0x80, b"PE\0\0", MACHINE, 1, 0x11223344, 0, 0, 0xF0, 0x22)
    struct.pack_into("<H", image, 0x98, 0x20B)
    struct.pack_into("<II", image, 0x98 + 0x38, 0x1046000, 0x400)
    struct.pack_into("<I", image, 0x98 + 0x6C, 16)
    if record:
        guid, age, path = record
        struct.pack_into("<II", image, 0x98 + 0x70 + 8 * 6, 0x400, 28)
        data = b"RSDS" + guid.bytes_le + struct.pack("<I", age) + path.encode() + b"\0"
        struct.pack_into("<IIII", image, 0x400 + 12, 2, len(data), 0x500, 0x500)
        image[0x500 : 0x500 + len(data)] = data
    return bytes(image)


@pytest.mark.parametrize("path", ["ntkrnlmp.pdb", "d:\\build\\ntkrnlmp.pdb", "/src/ntkrnlmp.pdb"])
def test_the_images_own_record_comes_first(path: str, shared_data: Path) -> None:
    guid = uuid.uuid4()
    image = image_of((guid, 7, path))

    def read(address: int, size: int) -> bytes | None:
        data = image[address - BASE : address - BASE + size] if BASE <= address < BASE + len(image) else b""
        return data if len(data) == size else None

    rvas = index_of(shared_data)["1B4A6F5E0766C552C90710C8ACC0295C-1"]
    found = find_kernel(dump(), read, debugger(**rvas))
    assert found is not None and found.image is not None and found.image.timestamp == 0x11223344
    assert found.identity is not None
    assert (found.identity.pdb_name, found.identity.identifier) == ("ntkrnlmp.pdb", f"{guid.hex.upper()}-7")
    assert "RSDS" in found.identity.known_by


@pytest.mark.parametrize(
    "name, expected",
    [
        ("triage_x64_19041", "5278AFF86C341677D7D7835C85B7B844-1"),
        ("triage_x64_19041_0x1a", "79BE8C368BEC7DD9677EA9B355ACE784-1"),
    ],
)
def test_real_dumps_whose_table_is_at_hand(shared_data: Path, name: str, expected: str) -> None:
    import volatility3_kdump

    target = volatility3_kdump.open(shared_data / "dumps" / f"{name}.dmp", [shared_data / "isf"])
    kernel = target.kernel
    assert kernel is not None and kernel.identity is not None
    assert kernel.identity.identifier == expected
    assert target.nt is not None and target.nt.origin.endswith(f"{expected}.json.xz")


def test_a_dump_without_any_trace_of_a_kernel() -> None:
    assert find_kernel(dump(), nothing, None) is None


def test_generations_are_those_of_the_tables(isf_path: Path) -> None:
    layouts = load_table_file(isf_path)
    size, thread = layouts.size_of("_EPROCESS"), layouts.size_of("_ETHREAD")
    fitting = [
        record
        for record in tables.json_lines("generations.jsonl")
        if size in record["eprocess"] and record["ethread"] == thread
    ]
    assert len(fitting) <= 1
    if not fitting:
        pytest.skip(f"no generation with _EPROCESS of {size:#x} and _ETHREAD of {thread:#x}")
    paths: dict[str, Any] = {"Cid": ("_ETHREAD", "Cid"), "ThreadListEntry": ("_ETHREAD", "ThreadListEntry")}
    paths["StartAddress"] = ("_ETHREAD", "StartAddress")
    paths["Win32StartAddress"] = ("_ETHREAD", "Win32StartAddress")
    for name, offset in fitting[0]["offsets"].items():
        type_name, path = paths.get(name, ("_EPROCESS", name))
        assert layouts.offset(type_name, path) == offset, name
