"""The kernel of dumps that hold neither KDDEBUGGER_DATA64 nor the list of modules."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.archives import packing
from tests.edited import edited
from volatility3_kdump import tables
from volatility3_kdump.dump import BytesSource, CrashDump, open_dump
from volatility3_kdump.symbols.kernel import find_kernel
from volatility3_kdump.target import Target

BASE = 0xFFFFF80361000000
RECORDS = list(tables.json_lines("kernels.jsonl"))


def nothing(address: int, size: int) -> bytes | None:
    return None


def dump(record: dict, base: int = BASE, block: bool = True, stopped: bool = True) -> CrashDump:
    """A header as a kernel of the index writes it, with no memory."""
    rvas = record["rva"]
    values: dict[str, int | bytes] = {
        "PsLoadedModuleList": base + rvas["PsLoadedModuleList"],
        "PsActiveProcessHead": base + rvas["PsActiveProcessHead"],
    }
    if block:
        values["KdDebuggerDataBlock"] = base + rvas["KdDebuggerDataBlock"]
    if stopped:
        values["Exception"] = struct.pack("<IIQQ", 0x80000003, 1, 0, base + rvas["KeBugCheckEx"]).ljust(152, b"\0")
    return open_dump(BytesSource(bytes(packing.full([(1, 1)], **values))))


def test_the_distances_between_the_header_s_variables_tell_base_and_kernel() -> None:
    named = 0
    for record in RECORDS:
        kernel = find_kernel(dump(record), nothing, None)
        assert kernel is not None and kernel.base == BASE
        assert kernel.base_known_by.startswith("distances between the variables")
        if kernel.identity is not None:
            assert kernel.identity.guid == record["guid"]
            named += 1
        else:
            assert f"{record['pdb']}/{record['guid']}-{record['age']}" in kernel.candidates
    # Of the others, two to six each have all these variables at the same places.
    assert (len(RECORDS), named) == (213, 163)


def test_distances_that_fit_several_kernels_or_none_give_no_base() -> None:
    first = RECORDS[0]
    assert find_kernel(dump(first, BASE + 0x10), nothing, None) is None
    moved = {**first, "rva": {**first["rva"], "PsActiveProcessHead": first["rva"]["PsActiveProcessHead"] + 8}}
    assert find_kernel(dump(moved), nothing, None) is None
    # What is in the dump at the base is no image.
    assert (
        find_kernel(dump(first), lambda address, size: b"\0" * size if address >> 12 == BASE >> 12 else None, None)
        is None
    )


@pytest.fixture(scope="module")
def without_lists(sample: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The demonstration without the pages of KDDEBUGGER_DATA64 and of the list heads."""
    plain = volatility3_kdump.open(sample())
    path = tmp_path_factory.mktemp("torn") / "torn.dmp"
    header = plain.header
    assert header.kd_debugger_data_block and header.ps_loaded_module_list
    return edited(plain, sample(), path, absent=[header.kd_debugger_data_block, header.ps_loaded_module_list])


def test_a_dump_without_those_pages(without_lists: Target, sample: Callable[..., Path]) -> None:
    plain = volatility3_kdump.open(sample())
    assert plain.kernel is not None and without_lists.kernel is not None
    assert without_lists.memory.read(plain.header.ps_loaded_module_list, 8) is None
    assert without_lists.debugger is None
    assert (without_lists.kernel.base, without_lists.kernel.identity) == (plain.kernel.base, plain.kernel.identity)
    assert without_lists.symbol("KeBugCheckEx") == plain.symbol("KeBugCheckEx")


def test_a_kernel_that_the_index_lacks_is_looked_for_below_its_variables(
    without_lists: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from volatility3_kdump.symbols import kernel as module

    monkeypatch.setattr(module, "_index", dict)
    found = find_kernel(without_lists.dump, without_lists.memory.read, None)
    assert found is not None and without_lists.kernel is not None
    assert found.base_known_by.startswith("the image that holds the variables that the header names")
    assert (found.base, found.identity) == (without_lists.kernel.base, without_lists.kernel.identity)
