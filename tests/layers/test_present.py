"""What a dump holds of an address space, against the host's mapping and against tables made by hand."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volatility3.framework import contexts
from volatility3.framework.layers import intel, physical

import volatility3_kdump
from tests.amounts import only, part
from tests.archives import packing
from tests.layers import paging
from tests.layers.test_translation import bits_of, host_layer, virtual_layer
from volatility3_kdump.errors import Unreadable
from volatility3_kdump.layers.present import SIGN, PresentMemory, present_memory, signed

PAGE = 0x1000
KERNEL = {"x64": 0xFFFF800000000000, "la57": 0xFF00000000000000, "pae": 0x80000000, "x86": 0x80000000}
SIGN_BITS = {"x64": 48, "la57": 57, "pae": 32, "x86": 32}


def of_host(layer: intel.Intel) -> Iterator[tuple[int, int]]:
    """The runs that the host's own layer maps, by signed address."""
    layer = host_layer(layer)
    bits = layer._maxvirtaddr
    pages = sorted(
        (start - (1 << bits) if start >> (bits - 1) else start, size)
        for start, size, *_ in layer.mapping(0, layer.maximum_address + 1, ignore_errors=True)
    )
    return joined(pages)


def joined(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, end = None, None
    for address, size in pieces:
        if address == end:
            end += size
            continue
        if start is not None:
            yield start, end - start
        start, end = address, address + size
    if start is not None:
        yield start, end - start


def checked(layer: intel.Intel) -> PresentMemory:
    """The present memory of a layer, whose bytes are those that the layer reads."""
    memory = present_memory(layer)
    assert memory is not None
    for start, size in memory.runs():
        assert memory.read(start, size) == layer.read(start & layer.address_mask, size)
    assert memory.size == sum(size for _, size in memory.runs())
    return memory


@pytest.mark.parametrize("mode", paging.MODES)
def test_as_the_host_maps_it(mode: str, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    tables = paging.Tables(mode, 0x40, 0x100)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items() if pfn >= 0x40}
    base = KERNEL[mode] + 0x40000000
    # In pieces by virtual address and by page frame, some in transition, one prototype and one absent.
    for index, pfn in enumerate((0x200, 0x201, 0x203, 0x202, 0x300, 0x999, 0x204)):
        tables.map(base + index * PAGE, pfn, flags=0x800 if pfn == 0x300 else paging.PRESENT_WRITABLE)
    tables.map(base + 0x10 * PAGE, 0x205, flags=0xC00)
    tables.map(0x10000, 0x206)
    tables.map(base + 0x800000, 0x400, large=True)
    pages = range(0x400, 0x600 if mode != "x86" else 0x800)
    whole = {
        pfn: struct.pack("<I", pfn) * (PAGE // 4) for pfn in (0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x300)
    }
    memory = {**memory, **{pfn: bytes(page) for pfn, page in tables.memory.items()}, **whole}
    memory.update({pfn: packing.page(pfn) for pfn in pages})
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, bits_of(mode))
    assert layer is not None
    present = checked(layer)
    assert list(present.runs()) == list(of_host(layer))
    first = base - (1 << SIGN_BITS[mode] if base < SIGN else 1 << 64)
    assert (first, 5 * PAGE) in list(present.runs())
    assert (first + 6 * PAGE, PAGE) in list(present.runs())
    assert (0x10000, PAGE) in list(present.runs(0))
    assert all(start < 0 for start, _ in present.runs(-SIGN, 0))
    kernel = present_memory(layer, -SIGN, 0)
    assert kernel is not None
    assert list(kernel.runs()) == list(present.runs(-SIGN, 0))
    # Part of a run, across pieces.
    assert list(present.runs(first + 0x800, first + 0x1801)) == [(first + 0x800, 0x1001)]
    assert present.read(first + 0x800, 0x1001) == layer.read(first + 0x800 & layer.address_mask, 0x1001)
    with pytest.raises(Unreadable):
        present.read(first + 4 * PAGE, 2 * PAGE)
    with pytest.raises(Unreadable):
        present.read(first - 8, 16)


def test_a_large_page_counts_as_far_as_it_is_in_the_dump(tmp_path: Path) -> None:
    memory, values = paging.machine("x64")
    tables = paging.Tables("x64", 0x40, 0x100)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items() if pfn >= 0x40}
    base = 0xFFFF800040000000
    tables.map(base, 0x400, large=True)
    memory.update({pfn: bytes(page) for pfn, page in tables.memory.items()})
    memory.update({pfn: packing.page(pfn) for pfn in (0x403, 0x404, 0x5FF)})
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 64)
    assert layer is not None
    start = signed(base)
    assert list(checked(layer).runs(start, start + (1 << 21))) == [
        (start + 3 * PAGE, 2 * PAGE),
        (start + 0x1FF * PAGE, PAGE),
    ]
    assert (start + 3 * PAGE, 2 * PAGE) not in list(of_host(layer))


def test_a_table_of_equal_entries_maps_nothing(tmp_path: Path) -> None:
    memory, values = paging.machine("x64")
    tables = paging.Tables("x64", 0x40, 0x100)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items() if pfn >= 0x40}
    base = 0xFFFF800040000000
    for index in range(512):
        tables.map(base + index * PAGE, 0x200)
    memory.update({pfn: bytes(page) for pfn, page in tables.memory.items()})
    memory[0x200] = packing.page(0x200)
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 64)
    assert layer is not None
    present = checked(layer)
    assert list(present.runs()) == list(of_host(layer))
    assert not list(present.runs(signed(base), signed(base) + (1 << 21)))


def test_tables_that_lead_back_to_themselves_end(tmp_path: Path) -> None:
    """Every entry of the top table, and of the tables below it, leads to one of them: 2**36 pages of a few."""
    memory, values = paging.machine("x64")
    frames = sorted(pfn for pfn in memory if pfn >= 0x40)
    root = bytearray(memory[0x40])
    for index in range(256, 512):
        if not root[8 * index] & 1:
            struct.pack_into("<Q", root, 8 * index, frames[index % len(frames)] << 12 | 0x63)
    memory[0x40] = bytes(root)
    for pfn in frames[1:]:
        page = bytearray(memory[pfn])
        for index in range(512):
            if not page[8 * index] & 1:
                struct.pack_into("<Q", page, 8 * index, frames[index % len(frames)] << 12 | 0x63)
        memory[pfn] = bytes(page)
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 64)
    assert layer is not None
    present = present_memory(layer)
    assert present is not None
    (note,) = present.notes
    assert "the page tables lead to more" in note
    assert present.size


@given(data=st.data())
@settings(max_examples=part(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_entries(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever an entry of the last table or the one above holds, it maps what the host says."""
    memory, values = paging.machine("x64")
    tables = paging.Tables("x64", 0x40, 0x100)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items() if pfn >= 0x40}
    base = 0xFFFF800040000000
    tables.map(base, 0x200)
    pfns = [0x30, 0x31, 0x200, 0x201, 0x99]
    last = max(tables.memory)
    flags = st.integers(0, 0xFFF).map(lambda value: value & ~0x80)
    high = st.sampled_from([0, 1 << 63, 0x7FF << 52])
    entries = data.draw(st.lists(st.tuples(st.sampled_from(pfns), flags, high), min_size=1, max_size=12))
    for index, (pfn, low, upper) in enumerate(entries):
        struct.pack_into("<Q", tables.memory[last], 8 * index, pfn << 12 | low | upper)
    memory.update({pfn: bytes(page) for pfn, page in tables.memory.items()})
    memory.update({pfn: packing.page(pfn) for pfn in (0x200, 0x201)})
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 64)
    assert layer is not None
    assert list(checked(layer).runs()) == list(of_host(layer))


@pytest.mark.parametrize("dump_type", only((6,), (1, 2, 5, 6, 8, 9, 10)))
def test_every_type_of_dump(sample: Callable[..., Path], dump_type: int) -> None:
    target = volatility3_kdump.open(sample(dump_type))
    layer = target.context.layers[target.layer_name]
    memory = checked(layer)
    large = signed(0xFFFF918952600000)
    theirs = list(of_host(layer))
    # The host leaves out a large page of which a kernel dump holds one page of 512.
    more = [run for run in memory.runs() if run not in theirs]
    assert all(large <= start < large + (1 << 21) for start, _ in more)
    assert set(theirs) <= set(memory.runs())


def test_small_memory_dumps(shared_data: Path) -> None:
    for path in sorted((shared_data / "dumps").glob("triage_*.dmp")):
        target = volatility3_kdump.open(path)
        layer = target.context.layers[target.layer_name]
        memory = checked(layer)
        pieces = sorted((signed(segment.address), segment.size) for segment in layer.segments)
        assert list(memory.runs()) == list(joined(pieces))
        larger = [piece for piece in pieces if piece[1] > 1]
        middle = larger[len(larger) // 2]
        assert list(memory.runs(middle[0] + 1, middle[0] + 2)) == [(middle[0] + 1, 1)]


def test_other_layers_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(bytes(PAGE))
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    assert present_memory(physical.FileLayer(context, "file", "file")) is None


def test_signed_addresses_sort_as_the_walk_does() -> None:
    ordered = [0xFFFF800000000000, 0xFFFFFFFFFFFFF000, 0, 0x7FFFFFFFF000]
    assert [signed(address) for address in ordered] == sorted(signed(address) for address in ordered)
    assert all(signed(address) % (1 << 64) == address for address in ordered)
    assert all(later > earlier for earlier, later in itertools.pairwise(map(signed, ordered)))
