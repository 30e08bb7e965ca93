"""Readers of memory images beside the host's own layers, and what they say of damaged files."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import contexts
from volatility3.framework.layers import elf, lime, physical, vmware, xen

from volatility3_kdump.captures import Capture, open_capture, open_raw
from volatility3_kdump.captures.blocks import BlockSource
from volatility3_kdump.dump import BytesSource, FileSource, extents
from volatility3_kdump.errors import KdumpError

Image = Callable[..., Path]


def opened(path: Path) -> Capture:
    source = FileSource(path)
    capture = open_capture(source, path) or open_raw(source)
    assert capture is not None
    return capture


def pages(capture: Capture) -> dict[int, bytes]:
    held = {}
    for stretch in extents(capture.pages, 0, (capture.pages.highest or 0) + 1):
        assert stretch.offset is not None
        data = capture.source.read(stretch.offset, stretch.count << 12)
        for index in range(stretch.count):
            held[stretch.pfn + index] = data[index << 12 : index + 1 << 12]
    return held


def hosts(path: Path, layer_class: Any) -> Any:
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["image.base_layer"] = "file"
    if layer_class is vmware.VmwareLayer:
        context.config["state.location"] = path.with_suffix(".vmss").as_uri()
        context.add_layer(physical.FileLayer(context, "state", "state"))
        context.config["image.meta_layer"] = "state"
    return layer_class(context, "image", "image")


@pytest.mark.parametrize(
    "kind, layer_class", [("elf", elf.Elf64Layer), ("lime", lime.LimeLayer), ("vmem", vmware.VmwareLayer)]
)
def test_every_page_is_that_of_the_hosts_layer(kind: str, layer_class: Any, image: Image) -> None:
    path = image(kind)
    capture, layer = opened(path), hosts(path, layer_class)
    held = pages(capture)
    assert len(held) == capture.pages.present > 300
    for pfn, data in held.items():
        assert layer.read(pfn << 12, 0x1000) == data
    # And nothing else is there.
    assert sum(length for _, _, length, _ in layer._segments) == len(held) << 12


@pytest.mark.parametrize("kind", ["kdump", "avml", "vmem", "lime"])
def test_all_containers_hold_the_same_pages(kind: str, image: Image) -> None:
    if kind == "avml":
        pytest.importorskip("cramjam")
    assert pages(opened(image(kind))) == pages(opened(image("elf")))
    # From the middle of one block into another.
    capture = opened(image(kind))
    assert capture.source.read(0x1F80, 0x2100) == capture.source.read(0, 0x5000)[0x1F80:0x4080]


def test_snappy_reads_the_made_streams(image: Image) -> None:
    cramjam = pytest.importorskip("cramjam")
    data = image("avml").read_bytes()
    _, _, first, end, _ = struct.unpack_from("<4sIQQQ", data)
    position = 32
    while data[position : position + 4] != b"AVML" and position < len(data):
        size = int.from_bytes(data[position + 1 : position + 4], "little")
        following = position + 4 + size
        # The stream ends where its length follows.
        if int.from_bytes(data[following : following + 8], "little") == following - 32:
            assert len(bytes(cramjam.snappy.decompress(data[32:following]))) == end - first
            return
        position = following
    pytest.fail("no stream")


def test_registers_are_those_of_the_made_machine(image: Image) -> None:
    reference = opened(image("elf")).processors
    assert [state.number for state in reference] == [0, 1, 2]
    for kind in ("kdump", "vmem"):
        for ours, theirs in zip(opened(image(kind)).processors, reference, strict=True):
            assert ours.idt_base == theirs.idt_base and ours.page_tables == theirs.page_tables
            for name, value in ours.registers.items():
                assert theirs.registers[name] == value, (kind, name)


def test_a_memory_file_without_its_state_says_so(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "alone.vmem"
    path.write_bytes(image("vmem").read_bytes())
    capture = opened(path)
    assert capture.processors == () and "no state file (alone.vmss or alone.vmsn)" in capture.pages.warnings[0]
    state = tmp_path / "only.vmss"
    state.write_bytes(image("vmem").with_suffix(".vmss").read_bytes())
    with pytest.raises(KdumpError, match=r"state file without memory, and only\.vmem beside it cannot be opened"):
        opened(state)
    assert opened(image("vmem").with_suffix(".vmss")).pages.present == opened(image("vmem")).pages.present


def xen_core(frames: list[tuple[int, int]], p2m: bool) -> bytes:
    """A core of Xen: pages in the order of their page frames, each filled with a byte of its own."""
    names = b"\0.shstrtab\0.xen_pages\0" + (b".xen_p2m\0" if p2m else b".xen_pfn\0")
    table = b"".join(struct.pack("<QQ" if p2m else "<Q", *((pfn, pfn) if p2m else (pfn,))) for pfn, _ in frames)
    body = b"".join(bytes((fill,)) * 0x1000 for _, fill in frames)
    places = [0x40 + 4 * 0x40]
    places += [places[-1] + len(names)]
    places += [places[-1] + len(table)]
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 0x40, 0, 0x40, 0, 0, 0x40, 4, 1)
    sections = [struct.pack("<IIQQQQIIQQ", *(0,) * 10)]
    for name, place, size, entry in (
        (names.index(b".shstrtab"), places[0], len(names), 0),
        (names.index(b".xen_p"), places[2], len(body), 0x1000),
        (names.index(b".xen_p2m" if p2m else b".xen_pfn"), places[1], len(table), 16 if p2m else 8),
    ):
        sections.append(struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, place, size, 0, 0, 8, entry))
    return header + b"".join(sections) + names + table + body


@pytest.mark.parametrize("p2m", [True, False])
def test_xen_cores_are_read_as_the_host_reads_them(p2m: bool, tmp_path: Path) -> None:
    frames = [(1, 1), (2, 2), (5, 3), (0xFFFFFFFF, 4), (7, 5), (0x100000, 6)]
    path = tmp_path / "xen.core"
    path.write_bytes(xen_core(frames, p2m))
    capture = opened(path)
    held = pages(capture)
    assert {pfn: data[0] for pfn, data in held.items()} == {1: 1, 2: 2, 5: 3, 7: 5, 0x100000: 6}
    assert capture.container == "Xen core file"
    if not p2m:
        # The host does not get at the page frames of the other form.
        layer = hosts(path, xen.XenCoreDumpLayer)
        for pfn, data in held.items():
            assert layer.read(pfn << 12, 0x1000) == data


def test_the_older_machine_has_no_kernel_gs_base(image: Image, tmp_path: Path) -> None:
    """QEMU before 2.9 writes its note without KERNEL_GS_BASE."""
    data = image("elf").read_bytes()
    place = data.index(b"QEMU\0") + 8
    version, size = struct.unpack_from("<II", data, place)
    assert (version, size) == (1, 440)
    capture = open_capture(BytesSource(data[: place + 4] + struct.pack("<I", 432) + data[place + 8 :]))
    assert capture is not None and capture.processors[0].kernel_gs_base is None
    assert capture.processors[0].gs_base == 0xFFFFF8005E6A7000


@pytest.mark.parametrize("kind", ["elf", "lime", "kdump", "vmem", "avml"])
def test_damaged_images_are_told_in_one_line(kind: str, image: Image, tmp_path: Path) -> None:
    """Any byte may be anything: nothing but our own errors, within bounds."""
    if kind == "avml":
        pytest.importorskip("cramjam")
    whole = image("vmem").with_suffix(".vmss").read_bytes() if kind == "vmem" else image(kind).read_bytes()
    chance = random.Random(7)
    memory = tmp_path / "x.vmem"
    if kind == "vmem":
        memory.write_bytes(image("vmem").read_bytes()[:0x10000])
    for _ in range(60):
        data = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        for _ in range(chance.randrange(12)):
            if data:
                data[chance.randrange(min(len(data), 0x3000))] = chance.randrange(256)
        try:
            if kind == "vmem":
                (tmp_path / "x.vmss").write_bytes(data)
                capture = opened(memory)
            else:
                found = open_capture(BytesSource(bytes(data)))
                if found is None:
                    continue
                capture = found
            for stretch in extents(capture.pages, 0, min((capture.pages.highest or 0) + 1, 0x2000)):
                assert stretch.offset is not None
                capture.source.read(stretch.offset, 0x1000)
        except KdumpError as error:
            assert "\n" not in str(error) and str(error)


def test_blocks_are_bounded() -> None:
    import zlib

    bomb = zlib.compress(bytes(64 << 20))
    source = BlockSource(BytesSource(bomb))
    source.add(0, len(bomb), 0x1000, "zlib")
    with pytest.raises(KdumpError, match="unpacks to 4,097 bytes, not 4,096"):
        source.read(0, 10)
    source = BlockSource(BytesSource(bomb))
    source.add(0, len(bomb), 64 << 20, "zlib")
    with pytest.raises(KdumpError, match="claims to unpack to"):
        source.read(0, 10)


# files that end too early ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, message",
    [
        (0x1100, "the file ends at 0x1100, inside the kdump header: the copy is truncated"),
        (0x5000, "lie behind its end at 0x5000: the copy is truncated, or the header is damaged"),
    ],
)
def test_a_kdump_file_that_ends_in_front_of_its_pages(size: int, message: str, image: Image, tmp_path: Path) -> None:
    path = tmp_path / "cut.kdump"
    path.write_bytes(image("kdump").read_bytes()[:size])
    with pytest.raises(KdumpError, match=message):
        opened(path)


def test_a_block_of_a_flattened_file_that_its_end_cuts(image: Image, tmp_path: Path) -> None:
    """What is there of it is read, and the rest is said to be missing."""
    path = tmp_path / "cut.kdump"
    data = image("kdump").read_bytes()
    path.write_bytes(data[:-0x2000])
    capture = opened(path)
    assert "ends at" in capture.pages.warnings[0] and "it is truncated" in capture.pages.warnings[0]
    whole = opened(image("kdump"))
    assert capture.source.read(0, 0x8000) == whole.source.read(0, 0x8000)


@pytest.mark.parametrize("part, group, count", [(0.5, "cpu", 0), (0.98, "cpu", 2)])
def test_a_state_file_that_ends_too_early(part: float, group: str, count: int, image: Image, tmp_path: Path) -> None:
    path = tmp_path / "cut.vmem"
    path.write_bytes(image("vmem").read_bytes())
    state = image("vmem").with_suffix(".vmss").read_bytes()
    path.with_suffix(".vmss").write_bytes(state[: int(len(state) * part)])
    capture = opened(path)
    assert f"inside its group {group}: it is truncated" in capture.pages.warnings[0]
    assert len(capture.processors) >= count and capture.pages.present == opened(image("vmem")).pages.present


def test_a_note_that_claims_more_than_there_is(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "notes.elf"
    data = bytearray(image("elf").read_bytes())
    place = data.index(b"QEMU\0") - 12
    struct.pack_into("<I", data, place + 4, 0xFFFFFFF0)
    path.write_bytes(data)
    assert any("are left: what follows is not read" in line for line in opened(path).pages.warnings)
