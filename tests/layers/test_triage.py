"""The virtual address space of small memory dumps."""

from __future__ import annotations

import copy
import struct
from pathlib import Path

import pytest
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import physical

import volatility3_kdump
from tests.archives import packing
from volatility3_kdump.dump import SegmentMap
from volatility3_kdump.layers.triage import KdumpTriageLayer, triage_segments

BASE = 0xFFFFF80000000000


def layer_over(path: Path) -> KdumpTriageLayer:
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["triage.base_layer"] = "file"
    layer = KdumpTriageLayer(context, "triage", "triage")
    context.add_layer(layer)
    return layer


def debugger_data(**fields: tuple[int, int, int]) -> bytes:
    """KDDEBUGGER_DATA64: (offset, size, value) of each field given."""
    block = bytearray(0x380)
    struct.pack_into("<4sI", block, 0x10, b"KDBG", 0x380)
    for offset, size, value in fields.values():
        block[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(block)


def test_reads_stitch_blocks_and_stop_at_gaps(tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    blocks = [(BASE + 0x1100, b"b" * 0x100), (BASE + 0x1000, b"a" * 0x100), (BASE + 0x1300, b"c" * 0x33)]
    path.write_bytes(packing.triage(64, blocks=blocks, stack=(BASE + 0x1333, b"s" * 0x20)))
    layer = layer_over(path)
    assert layer.read(BASE + 0x10FE, 4) == b"aabb"
    assert layer.read(BASE + 0x1000, 0x200) == b"a" * 0x100 + b"b" * 0x100
    assert layer.read(BASE + 0x1331, 4) == b"ccss"
    assert layer.is_valid(BASE + 0x1000, 0x200) and not layer.is_valid(BASE + 0x1000, 0x201)
    assert not layer.is_valid(BASE + 0xFFF) and layer.is_valid(BASE + 0x1352)
    with pytest.raises(exceptions.InvalidAddressException) as failure:
        layer.read(BASE + 0x11F0, 0x20)
    assert failure.value.invalid_address == BASE + 0x1200
    assert layer.read(BASE + 0x11FE, 0x104, pad=True) == b"bb" + bytes(0x100) + b"cc"
    assert layer.read(BASE + 0x9000, 8, pad=True) == bytes(8)
    assert list(layer.mapping(BASE + 0x2000, 8, ignore_errors=True)) == []
    mapped = [(offset, size) for offset, size, _, _, _ in layer.mapping(BASE + 0x10F0, 0x300, ignore_errors=True)]
    assert mapped == [
        (BASE + 0x10F0, 0x10),
        (BASE + 0x1100, 0x100),
        (BASE + 0x1300, 0x33),
        (BASE + 0x1333, 0x20),
    ]
    clone = copy.deepcopy(layer)
    assert clone.read(BASE + 0x10FE, 4) == b"aabb"
    assert layer.context.clone().layers["triage"].read(BASE + 0x10FE, 4) == b"aabb"


def test_32_bit_addresses_need_not_be_extended(tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(packing.triage(32, blocks=[(0x80001000, b"kernel"), (0x10000, b"user")]))
    layer = layer_over(path)
    assert layer.read(0x80001000, 6) == layer.read(0xFFFFFFFF80001000, 6) == b"kernel"
    assert layer.read(0x10000, 4) == b"user"
    target = volatility3_kdump.open(path)
    assert target.memory.read(0xFFFFFFFF80001000, 6) == b"kernel" and target.memory.read(0x80001001, 2) == b"er"


def test_copies_are_placed_where_the_processor_says(tmp_path: Path) -> None:
    prcb = bytearray(0x200)
    struct.pack_into("<Q", prcb, 8, BASE + 0x50000)
    struct.pack_into("<I", prcb, 0x24, 3)
    thread = bytearray(0x100)
    struct.pack_into("<Q", thread, 0xB8, BASE + 0x60000)
    data = debugger_data(
        kernel=(0x18, 8, BASE),
        block=(0x218, 8, BASE + 0x1000),
        apc_process=(0x2A0, 2, 0xB8),
        process_size=(0x2A8, 2, 0x80),
        prcb_size=(0x2B0, 2, 0x180),
        current=(0x2B4, 2, 8),
        number=(0x2BE, 2, 0x24),
        thread_size=(0x2C0, 2, 0x100),
    )
    path = tmp_path / "made.dmp"
    processors = b"".join(struct.pack("<Q", BASE + 0x40000 + 0x1000 * index) for index in range(4))
    path.write_bytes(
        packing.triage(
            64,
            blocks=[(BASE + 0x1000, processors), (BASE + 0x60010, b"block wins")],
            copies={"PrcbOffset": bytes(prcb), "ProcessOffset": b"p" * 0x90, "ThreadOffset": bytes(thread)},
            debugger_data=data,
            KdDebuggerDataBlock=BASE + 0x70000,
        )
    )
    layer = layer_over(path)
    placed = {name: (segment.address - BASE, segment.size) for name, segment in layer.blobs.items()}
    assert placed == {"prcb": (0x43000, 0x180), "thread": (0x50000, 0x100), "process": (0x60000, 0x80)}
    assert layer.read(BASE + 0x43024, 4) == b"\3\0\0\0"
    assert layer.read(BASE + 0x6000E, 14) == b"pp" + b"block wins" + b"pp"
    assert not layer.is_valid(BASE + 0x60080)
    assert layer.read(BASE + 0x70010, 4) == b"KDBG"


@pytest.mark.parametrize("number", [4, 2048, 0xFFFFFFFF])
def test_a_processor_number_that_the_array_does_not_have(number: int, tmp_path: Path) -> None:
    prcb = bytearray(0x200)
    struct.pack_into("<I", prcb, 0x24, number)
    data = debugger_data(
        block=(0x218, 8, BASE + 0x1000), prcb_size=(0x2B0, 2, 0x180), current=(0x2B4, 2, 8), number=(0x2BE, 2, 0x24)
    )
    path = tmp_path / "made.dmp"
    path.write_bytes(
        packing.triage(
            64,
            blocks=[(BASE + 0x1000, bytes(32))],
            copies={"PrcbOffset": bytes(prcb)},
            debugger_data=data,
            KdDebuggerDataBlock=BASE + 0x70000,
        )
    )
    assert layer_over(path).blobs == {}


@pytest.mark.parametrize(
    "name", ["triage_x64_19041", "triage_arm64_22000", "triage_x64_19041_0x1a", "triage_x64_17763", "triage_x64_9600"]
)
def test_real_dumps_agree_with_themselves_where_pieces_overlap(shared_data: Path, name: str) -> None:
    layer = layer_over(shared_data / "dumps" / f"{name}.dmp")
    source = layer.dump.source
    assert layer.dump.triage is not None
    pieces, blobs = triage_segments(layer.dump, layer.debugger_data)
    assert {"thread", "process"} <= set(blobs)
    differing = 0
    overlapping = 0
    for position, piece in enumerate(pieces[len(layer.dump.triage.blocks) :], len(layer.dump.triage.blocks)):
        earlier = SegmentMap(pieces[:position])
        for held in earlier.pieces(piece.address, piece.size):
            overlapping += held.size
            ours = source.read(held.offset, held.size)
            theirs = source.read(piece.offset + held.address - piece.address, held.size)
            differing += sum(a != b for a, b in zip(ours, theirs, strict=True))
    assert overlapping > 0x400 and differing == 0
    if name == "triage_x64_19041":
        assert blobs["thread"].address == 0xFFFFC08BDE9E1640
        assert (blobs["process"].address, blobs["process"].size) == (0xFFFFC08BDCE94180, 0xA40)
        assert len(SegmentMap(list(layer.dump.triage.blocks)).segments) == 1831
    if name == "triage_arm64_22000":
        assert blobs["thread"].address == 0xFFFFBB8EB1719180
        assert blobs["process"].address == 0xFFFFBB8EB1690080


def test_a_physical_dump_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(packing.full([(1, 1)]))
    with pytest.raises(exceptions.LayerException, match="not a small memory dump"):
        layer_over(path)
