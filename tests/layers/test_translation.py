"""Page tables that the header names: verified before they are trusted."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import intel, physical

import volatility3_kdump
from tests.archives import packing
from tests.layers import paging
from volatility3_kdump.layers.crash import KdumpCrash32Layer, KdumpCrash64Layer
from volatility3_kdump.layers.reading import reader_of
from volatility3_kdump.layers.translation import (
    KdumpIntel32eLayer,
    KdumpIntel57Layer,
    KdumpIntelLayer,
    KdumpIntelPAELayer,
    build_virtual_layer,
)
from volatility3_kdump.windows.machine.shared_data import shared_data

CLASSES = {
    "x64": KdumpIntel32eLayer,
    "la57": KdumpIntel57Layer,
    "pae": KdumpIntelPAELayer,
    "x86": KdumpIntelLayer,
}


class HostIntel57(intel.WindowsIntel32e):  # type: ignore[misc]
    """The host's layer for four levels, with a fifth on top: the host has none."""

    _maxvirtaddr = 57
    _structure = [("page map layer 5", 9, False), *intel.WindowsIntel32e._structure]  # noqa: RUF012


HOST_CLASSES = {
    "x64": intel.WindowsIntel32e,
    "la57": HostIntel57,
    "pae": intel.WindowsIntelPAE,
    "x86": intel.WindowsIntel,
}


def bits_of(mode: str) -> int:
    return 32 if mode in ("x86", "pae") else 64


def virtual_layer(
    path: Path, memory: dict[int, bytes], values: dict[str, int], bits: int
) -> tuple[contexts.Context, intel.Intel | None]:
    path.write_bytes(packing.full(packing.runs_of(memory), bits, memory, **values))
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    context.add_layer((KdumpCrash64Layer if bits == 64 else KdumpCrash32Layer)(context, "dump", "dump"))
    layer = build_virtual_layer(context, "dump", "virtual")
    if layer is not None:
        context.add_layer(layer)
    return context, layer


def host_layer(layer: intel.Intel) -> intel.Intel:
    """The host's own layer over the same page tables."""
    context = layer.context
    name = context.layers.free_layer_name("host")
    context.config[f"{name}.memory_layer"] = layer.config["memory_layer"]
    context.config[f"{name}.page_map_offset"] = layer.config["page_map_offset"]
    mode = {cls: mode for mode, cls in CLASSES.items()}[type(layer)]
    return HOST_CLASSES[mode](context, name, name)


@pytest.mark.parametrize("mode", CLASSES)
def test_each_paging_mode_is_recognised_and_translates(mode: str, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, bits_of(mode))
    assert type(layer) is CLASSES[mode]
    assert isinstance(layer, intel.WindowsIntel32e if mode == "la57" else HOST_CLASSES[mode])
    width = bits_of(mode) // 8
    head = paging.HEADS[width][0]
    read = reader_of(layer)
    entry = int.from_bytes(read(head, width) or b"", "little")
    assert entry == (head & ~0xFFF) + 0x800
    assert read(entry, width) == head.to_bytes(width, "little")
    assert read(paging.SHARED_DATA[width] + 0x26C, 4) == struct.pack("<I", 10)
    # Its neighbours are not mapped.
    assert read(head & ~0xFFF, 0x1000) == memory[0x30]
    assert read((head & ~0xFFF) - 8, 16) is None
    assert not layer.is_valid((head & layer.address_mask) - 0x100000)


@pytest.mark.parametrize("flag", [0, 1, ord("P"), 2])
@pytest.mark.parametrize("mode", ["pae", "x86"])
def test_the_pae_flag_of_the_header_may_lie(mode: str, flag: int, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, {**values, "PaeEnabled": flag}, 32)
    assert type(layer) is CLASSES[mode]


@pytest.mark.parametrize("mode, low", [("x64", 0x002), ("x64", 0xFFF), ("la57", 0x123), ("pae", 0x1F), ("x86", 0x18)])
def test_low_bits_of_the_root_are_no_address(mode: str, low: int, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    values["DirectoryTableBase"] |= low
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, bits_of(mode))
    assert layer is not None
    assert layer.config["page_map_offset"] == 0x40 << 12


def test_high_bits_of_the_root_are_no_address(tmp_path: Path) -> None:
    memory, values = paging.machine("x64")
    # Bit 63 of CR3 asks the processor to keep translations.
    values["DirectoryTableBase"] |= 1 << 63
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 64)
    assert layer is not None


def test_a_pae_pointer_table_need_not_begin_a_page(tmp_path: Path) -> None:
    memory, values = paging.machine("pae")
    root = bytearray(memory[0x40])
    root[0x660:0x680], root[0:0x20] = root[0:0x20], bytes(0x20)
    memory[0x40] = bytes(root)
    values["DirectoryTableBase"] = 0x40660
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 32)
    assert type(layer) is KdumpIntelPAELayer
    assert reader_of(layer)(paging.HEADS[4][0], 4) == struct.pack("<I", 0x80555800)


@pytest.mark.parametrize("mode", CLASSES)
def test_large_pages(mode: str, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    tables = paging.Tables(mode, 0x40, 0x400)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items()}
    size = 0x400 if mode == "x86" else 0x200
    address = 0x80800000 if bits_of(mode) == 32 else 0xFFFFF80400000000
    # The attribute bit of a large page stands where small pages have an address bit.
    tables.map(address, 0x800, large=True, flags=paging.PRESENT_WRITABLE | 0x1000)
    memory = {pfn: bytes(page) for pfn, page in tables.memory.items()}
    memory.update({0x800 + step: packing.page(0x800 + step) for step in (0, 1, size - 1)})
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, bits_of(mode))
    assert layer is not None
    read = reader_of(layer)
    assert read(address + 0xFF0, 0x20) == packing.page(0x800)[-16:] + packing.page(0x801)[:16]
    assert read(address + (size - 1) * 0x1000, 0x1000) == packing.page(0x800 + size - 1)
    assert read(address + 0x2000, 1) is None


@pytest.mark.parametrize("mode", CLASSES)
def test_a_root_that_is_not_in_the_dump_gives_no_layer(mode: str, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    for root in (0x999000, 0, (1 << 32) - 0x1000):
        _, layer = virtual_layer(tmp_path / "made.dmp", memory, {**values, "DirectoryTableBase": root}, bits_of(mode))
        assert layer is None
    _, layer = virtual_layer(tmp_path / "made.dmp", paging.without(memory, 0x40), values, bits_of(mode))
    assert layer is None


@pytest.mark.parametrize("mode", CLASSES)
def test_one_kernel_list_or_the_shared_data_page_verifies(mode: str, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    for kept in (0x30, 0x31, 0x32):
        left = paging.without(memory, *({0x30, 0x31, 0x32} - {kept}))
        _, layer = virtual_layer(tmp_path / "made.dmp", left, values, bits_of(mode))
        assert layer is not None, hex(kept)
    _, layer = virtual_layer(tmp_path / "made.dmp", paging.without(memory, 0x30, 0x31, 0x32), values, bits_of(mode))
    assert layer is None


def test_a_root_that_was_never_set_or_other_machines_have_no_tables(tmp_path: Path) -> None:
    memory, values = paging.machine("x64")
    for change in (
        {"DirectoryTableBase": 0x4547415045474150},
        {"MachineImageType": 0x1C4},
        {"MachineImageType": 0x200},
    ):
        _, layer = virtual_layer(tmp_path / "made.dmp", memory, {**values, **change}, 64)
        assert layer is None


def test_what_a_table_that_is_missing_means(tmp_path: Path) -> None:
    memory, values = paging.machine("x64")
    tables = paging.Tables("x64", 0x40, 0x400)
    tables.memory = {pfn: bytearray(page) for pfn, page in memory.items()}
    tables.map(0xFFFFF88000000000, 0x33)
    tables.map(0xFFFFF88000001000, 0x34)
    memory = {pfn: bytes(page) for pfn, page in tables.memory.items()}
    memory[0x33] = packing.page(0x33)
    path = tmp_path / "made.dmp"
    _, layer = virtual_layer(path, memory, values, 64)
    assert layer is not None
    read = reader_of(layer)
    assert read(0xFFFFF88000000000, 0x1000) == packing.page(0x33)
    # The page of the second translation is not in the dump, nor is a third mapped.
    for address, length in ((0xFFFFF88000001000, 1), (0xFFFFF88000000FFF, 2), (0xFFFFF88000002000, 1)):
        assert read(address, length) is None
    target = volatility3_kdump.open(path)
    assert target.memory.why_unreadable(0xFFFFF88000001000) == "page 34 is not in the dump file"
    assert target.memory.why_unreadable(0xFFFFF88000002000).startswith("not mapped")
    # A page table that is not in the dump leaves what it maps unreadable, and raises where the host reads.
    table = max(tables.memory)
    _, layer = virtual_layer(tmp_path / "made2.dmp", paging.without(memory, table), values, 64)
    assert layer is not None
    assert reader_of(layer)(0xFFFFF88000000000, 1) is None
    with pytest.raises(exceptions.InvalidAddressException):
        layer.read(0xF88000000000, 1)
    assert layer.read(0xF88000000000, 4, pad=True) == bytes(4)


@pytest.mark.parametrize("mode", ["x64", "la57"])
def test_addresses_that_are_not_canonical_are_unreadable(mode: str, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 64)
    assert layer is not None
    read = reader_of(layer)
    head = paging.HEADS[8][0]
    assert read(head, 8) is not None
    for address in (head & 0xFFFFFFFFFFFF, head & ~(1 << 63), head ^ 1 << 60, head & ~(0xFF << 56), head | 1 << 64, -8):
        assert read(address, 8) is None, hex(address)
    # The last page of the lower half and the first of the upper half are no neighbours.
    assert read(0xFFFFFFFFFFFFFFF8, 16) is None
    assert read(0x00007FFFFFFFFFF8, 16) is None


@pytest.mark.parametrize("mode", ["x86", "pae"])
def test_32_bit_addresses_may_be_sign_extended_or_not(mode: str, tmp_path: Path) -> None:
    memory, values = paging.machine(mode)
    _, layer = virtual_layer(tmp_path / "made.dmp", memory, values, 32)
    assert layer is not None
    read = reader_of(layer)
    head = paging.HEADS[4][0]
    assert read(head, 4) == read(head | 0xFFFFFFFF00000000, 4) == struct.pack("<I", (head & ~0xFFF) + 0x800)
    assert read(head | 0x1234_00000000, 4) is None


def test_32_bit_dump_as_a_target(tmp_path: Path) -> None:
    for mode in ("x86", "pae"):
        memory, values = paging.machine(mode)
        path = tmp_path / f"{mode}.dmp"
        path.write_bytes(packing.full(packing.runs_of(memory), 32, memory, PaeEnabled=ord("P"), **values))
        target = volatility3_kdump.open(path)
        assert (target.header.bits, target.memory.pointer_size) == (32, 4)
        assert target.header.ps_loaded_module_list == 0xFFFFFFFF80555100
        assert target.memory.pointer(0xFFFFFFFF80555100) == 0xFFFFFFFF80555800
        assert shared_data(target) is not None and shared_data(target).build_number == 19041
