"""Code backwards and forwards: real x64 functions, with and without anything to start from."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.analysis.code import instructions_before, instructions_from
from volatility3_kdump.cpu import amd64_unwind
from volatility3_kdump.images.modules import Module
from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.names import Name

# One worker decodes the functions of the images.
pytestmark = pytest.mark.xdist_group("code")

BASE = 0xFFFFF80012340000


def target_of(
    code: bytes,
    symbols: Callable[[int], int | None] = lambda rva: None,
    functions: Callable[[int], int | None] = lambda rva: None,
    architecture: str = "x64",
) -> SimpleNamespace:
    """A target that holds ``code`` alone; ``symbols`` and ``functions`` give where those of an RVA begin."""

    def read(address: int, size: int) -> bytes | None:
        offset = address - BASE
        return code[offset : offset + size] if offset >= 0 and offset + size <= len(code) else None

    def lookup(address: int) -> Name | None:
        start = symbols(address - BASE)
        return None if start is None else Name("m", "f", address - BASE - start)

    def find(rva: int) -> SimpleNamespace | None:
        start = functions(rva)
        if start == "absent":
            raise amd64_unwind.TableAbsent("not there")
        return None if start is None else SimpleNamespace(begin=start)

    module = Module("m", "m.sys", None, BASE, len(code), 0, 0)
    return SimpleNamespace(
        memory=Memory(read, 8, lambda address: "absent"),
        header=SimpleNamespace(architecture=architecture),
        name_of=lambda address: None,
        names=SimpleNamespace(
            module_of=lambda address: module if 0 <= address - BASE < len(code) else None, lookup=lookup
        ),
        images=SimpleNamespace(image_of=lambda module: SimpleNamespace(read=lambda rva, size: None)),
        once=lambda make: SimpleNamespace(table_of=lambda module: SimpleNamespace(find=find)),
    )


def places(found) -> list[int]:
    return [instruction.address - BASE for instruction in found]


@pytest.fixture(scope="module")
def functions(shared_data: Path) -> list[tuple[bytes, list[int]]]:
    """(code, offsets of the instructions) of functions of real images that decode to their very end."""
    import pefile

    found = []
    for path in sorted((shared_data / "pe" / "seh" / "x64").rglob("*.exe"))[:4]:
        image = pefile.PE(str(path))
        data = image.get_memory_mapped_image()
        for entry in image.DIRECTORY_ENTRY_EXCEPTION:
            code = data[entry.struct.BeginAddress : entry.struct.EndAddress]
            starts = places(instructions_from(target_of(code), BASE, 10000))
            if len(starts) >= 12 and len(code) <= 0x400:
                found.append((code, starts))
    assert len(found) > 30
    return found[:60]


def test_backwards_from_every_instruction_of_real_functions(functions) -> None:
    for code, starts in functions:
        known = target_of(code, functions=lambda rva: 0)
        for number in range(1, len(starts), 7):
            assert places(instructions_before(known, BASE + starts[number], 8)) == starts[max(number - 8, 0) : number]


def test_backwards_with_nothing_to_start_from_meets_the_address_and_nearly_always_the_truth(functions) -> None:
    right = wrong = 0
    for code, starts in functions:
        bare = target_of(code)
        for number in range(8, len(starts), 13):
            end = BASE + starts[number]
            found = instructions_before(bare, end, 4)
            assert found[-1].address + found[-1].size == end
            for before, after in itertools.pairwise(found):
                assert before.address + before.size == after.address
            if places(found) == starts[number - 4 : number]:
                right += 1
            else:
                wrong += 1
    assert right > 100
    assert wrong <= right // 20


def test_a_symbol_serves_where_the_unwind_data_do_not() -> None:
    # From 0: mov eax,1; ret. From 1 the same bytes are add dword ptr [rax],eax; add [rax],al; ...
    code = bytes.fromhex("b801000000c3")
    for target in (
        target_of(code, symbols=lambda rva: 0),
        target_of(code, symbols=lambda rva: 0, functions=lambda rva: "absent"),
        target_of(code, functions=lambda rva: 0),
        # What the unwind data say does not meet the address; the symbol does.
        target_of(code, symbols=lambda rva: 0, functions=lambda rva: 4),
    ):
        assert places(instructions_before(target, BASE + 5, 3)) == [0]


def test_a_function_that_begins_far_away_is_not_decoded_to_its_end() -> None:
    target = target_of(b"\x90" * 0x10000, functions=lambda rva: 0)
    assert len(instructions_before(target, BASE + 0x8000, 3)) == 3


def test_forwards_stops_where_the_code_does() -> None:
    target = target_of(bytes.fromhex("9090488b"))
    assert places(instructions_from(target, BASE, 8)) == [0, 1]
    assert instructions_from(target, BASE - 1, 8) == []
    assert instructions_from(target, BASE, 0) == []
    assert instructions_before(target, BASE + 2, 0) == []


def test_backwards_takes_no_longer_for_more() -> None:
    began = time.process_time()
    target = target_of(b"\x0f\x1f\x84\x00" + bytes(0x1FFC))
    assert len(instructions_before(target, BASE + 0x2000, 100000)) > 0x800
    assert time.process_time() - began < 10


@settings(max_examples=part(60), deadline=None)
@given(
    st.binary(min_size=1, max_size=64), st.integers(0, 70), st.integers(1, 12), st.sampled_from(["x64", "x86", "arm64"])
)
def test_any_bytes_backwards(code: bytes, end: int, count: int, architecture: str) -> None:
    target = target_of(code, architecture=architecture)
    found = instructions_before(target, BASE + end, count)
    assert len(found) <= count
    if found and architecture != "x86":
        assert found[-1].address + found[-1].size == BASE + end
        for before, after in itertools.pairwise(found):
            assert before.address + before.size == after.address
