"""Checks that every bug check gets: code against the image file, the memory manager's counters, flipped bits."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample import write_sample
from kdump_sample.containers import write
from kdump_sample.contents import make_contents
from kdump_sample.machine import Machine
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import KernelStructure, Variable
from volatility3_kdump.analysis import consistency
from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import Case
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.target import Target

BASE, SIZE, FAULT = 0xFFFFF80060DA0000, 0x9000, 0x1981
SECTION_HEADER = 40


def image_file(target: Target, path: Path, changes: Mapping[int, int]) -> None:
    """What the linker would have written: the image in memory as a file whose sections lie at their RVAs, with bytes
    changed by an exclusive or."""
    image = bytearray(SIZE)
    for address, data in target.memory.present(BASE, SIZE):
        image[address - BASE : address - BASE + len(data)] = data
    start = struct.unpack_from("<I", image, 0x3C)[0]
    count, optional = struct.unpack_from("<H12xH", image, start + 6)
    for index in range(count):
        entry = start + 0x18 + optional + SECTION_HEADER * index
        size, address = struct.unpack_from("<II", image, entry + 8)
        struct.pack_into("<II", image, entry + 16, size, address)
    for rva, bits in changes.items():
        image[rva] ^= bits
    path.write_bytes(image)


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "MEMORY.DMP"
    write_sample(path)
    return path


@pytest.fixture
def with_image(dump: Path, tmp_path: Path) -> Callable[[Mapping[int, int]], Case]:
    def make(changes: Mapping[int, int]) -> Case:
        image_file(volatility3_kdump.open(dump), tmp_path / "myfault.sys", changes)
        return case_of(volatility3_kdump.open(dump, image_path=tmp_path))

    return make


def case_of(target: Target) -> Case:
    bug_check = header_bug_check(target)
    assert bug_check is not None
    return Case(target, bug_check, find_failure(target, bug_check))


def test_code_that_equals_its_file(with_image: Callable[[Mapping[int, int]], Case]) -> None:
    found = consistency.check(with_image({}))
    finding = found.finding("CODE_CHECK")
    assert finding is not None
    assert (finding.value, finding.note) == ("the code at the fault equals myfault.sys", "0x1000 bytes compared")
    assert (found.notes, found.prefix, found.culprit) == ((), None, None)


def test_one_flipped_bit_in_the_code_is_the_memory_and_not_the_driver(
    with_image: Callable[[Mapping[int, int]], Case],
) -> None:
    found = reason(with_image({FAULT + 1: 0x20}))
    finding = found.finding("CODE_CHECK")
    assert finding is not None and finding.address == BASE + FAULT + 1
    assert finding.note == "one bit of the code at myfault+0x1982 differs from the file: 03 in memory, 23 in the file"
    assert found.prefix == "MEMORY_CORRUPTION_ONE_BIT"
    assert found.culprit is not None and found.culprit.image_name == "memory_corruption"
    assert any("possible bit flip" in note for note in found.notes)
    # what the rule found is still there
    assert found.finding("READ_ADDRESS") is not None


@pytest.mark.parametrize("changes", [{FAULT: 3}, {FAULT: 1, FAULT + 9: 1}])
def test_more_changed_bits_prove_nothing(
    with_image: Callable[[Mapping[int, int]], Case], changes: dict[int, int]
) -> None:
    found = reason(with_image(changes))
    finding = found.finding("CODE_CHECK")
    assert finding is not None and finding.value == f"{len(changes)} bytes differ from myfault.sys"
    assert (found.prefix, found.culprit) == ("AV", None)
    assert any("this alone proves nothing" in note for note in found.notes)


def test_changes_in_other_pages_are_not_looked_for(with_image: Callable[[Mapping[int, int]], Case]) -> None:
    finding = consistency.check(with_image({0x2F00: 1})).finding("CODE_CHECK")
    assert finding is not None and finding.value == "the code at the fault equals myfault.sys"


def test_without_a_file_nothing_is_said(dump: Path) -> None:
    assert consistency.check(case_of(volatility3_kdump.open(dump))).findings == ()


def with_counters(
    path: Path, isf: Path, structures: tuple[KernelStructure, ...], variables: tuple[Variable, ...]
) -> Case:
    layouts = load_table_file(isf)
    scene = dataclasses.replace(high_irql_fault(), structures=structures, variables=variables)
    write(path, 6, make_contents(Machine(scene, layouts)))
    return case_of(volatility3_kdump.open(path, isf_file=isf))


def test_counters_of_every_kernel(isf_path: Path, tmp_path: Path) -> None:
    """New kernels keep them in MiState, old ones in variables of their own; both are filled here with other values."""
    layouts = load_table_file(isf_path)
    structures: tuple[KernelStructure, ...] = ()
    state = layouts.symbol("MiState")
    new = layouts.has("_MI_SYSTEM_INFORMATION", "Errors.BadPagesDetected")
    if new and state is not None:
        fields = {"Errors.BadPagesDetected": 3, "Errors.ZeroedPageSingleBitErrorsDetected": 7}
        base = high_irql_fault().kernel_base
        structures = (KernelStructure("_MI_SYSTEM_INFORMATION", base + state, dict(fields)),)
    variables = (Variable("MmBadPagesDetected", 4, 4), Variable("MmZeroedPageSingleBitErrorsDetected", 8, 4))
    found = reason(with_counters(tmp_path / "x.dmp", isf_path, structures, variables))
    counted = {finding.tag: finding.value for finding in found.findings}
    assert counted["BAD_PAGES_DETECTED"] == ("3" if new else "4")
    assert counted["SINGLE_BIT_ERROR"] == ("7" if new else "8")
    assert "The memory manager has counted bad pages: " + counted["BAD_PAGES_DETECTED"] in " ".join(found.sentences)


def test_counters_at_zero_are_not_mentioned(dump: Path) -> None:
    assert consistency.memory_errors(volatility3_kdump.open(dump)).findings == ()
