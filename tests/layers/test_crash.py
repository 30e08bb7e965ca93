"""The physical layer, beside the host's own for the types that both read."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import crash, physical, scanners

from tests.archives import packing
from volatility3_kdump.layers.crash import KdumpCrash32Layer, KdumpCrash64Layer, LayerSource, source_of

PFNS = [1, 2, 3, 9, 0x10, 0x11, 0x3F, 0x40, 0x41, 0x60, 0x1FE, 0x1FF, 0x200]
SIZE = 0x220
RUNS = packing.runs_of(PFNS)
HOST = {64: crash.WindowsCrashDump64Layer, 32: crash.WindowsCrashDump32Layer}
OURS = {64: KdumpCrash64Layer, 32: KdumpCrash32Layer}
MADE: dict[str, Callable[[int], bytearray]] = {
    "runs": lambda bits: packing.full(RUNS, bits),
    "bitmap": lambda bits: packing.bitmap(PFNS, SIZE, 5, bits),
}


def layer_over(path: Path, layer_class: type) -> crash.WindowsCrashDump32Layer:
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    layer = layer_class(context, "dump", "dump")
    context.add_layer(layer)
    return layer


@pytest.fixture(params=[(kind, bits) for kind in MADE for bits in (64, 32)], ids=lambda param: f"{param[0]}{param[1]}")
def both(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[crash.WindowsCrashDump32Layer, crash.WindowsCrashDump32Layer]:
    """Our layer and the host's over one dump."""
    kind, bits = request.param
    path = tmp_path / "made.dmp"
    path.write_bytes(MADE[kind](bits))
    return layer_over(path, OURS[bits]), layer_over(path, HOST[bits])


def answer(call: Callable[[], object]) -> object:
    try:
        return call()
    except exceptions.InvalidAddressException:
        return "invalid"


def spans() -> list[tuple[int, int]]:
    """(offset, length) of reads that start and end inside, at and across the edges of runs."""
    generator = random.Random(7)
    edges = sorted({pfn + step << 12 for pfn in PFNS for step in (-1, 0, 1, 2)} | {0, SIZE << 12, 0x10000000})
    chosen = [(edge + near, length) for edge in edges for near in (-8, -1, 0, 1) for length in (1, 8, 0x1000, 0x2000)]
    chosen += [(generator.randrange(SIZE << 12), generator.randrange(1, 0x5000)) for _ in range(300)]
    return [(offset, length) for offset, length in chosen if offset >= 0]


def test_reads_are_those_of_the_host(
    both: tuple[crash.WindowsCrashDump32Layer, crash.WindowsCrashDump32Layer],
) -> None:
    ours, host = both
    for offset, length in spans():
        expected = answer(lambda offset=offset, length=length: host.read(offset, length))
        assert answer(lambda offset=offset, length=length: ours.read(offset, length)) == expected
        assert ours.read(offset, length, pad=True) == host.read(offset, length, pad=True)


def test_validity_is_that_of_the_host(
    both: tuple[crash.WindowsCrashDump32Layer, crash.WindowsCrashDump32Layer],
) -> None:
    ours, host = both
    for offset, length in spans():
        assert ours.is_valid(offset, length) == host.is_valid(offset, length)
        assert ours.is_valid(offset) == host.is_valid(offset)


@pytest.mark.parametrize("ignore_errors", [False, True])
def test_mappings_are_those_of_the_host(
    both: tuple[crash.WindowsCrashDump32Layer, crash.WindowsCrashDump32Layer], ignore_errors: bool
) -> None:
    def mapped(layer: crash.WindowsCrashDump32Layer, offset: int, length: int) -> list[tuple[int, ...]]:
        # Where a run begins right behind the range, the host names it with no bytes.
        return [row for row in layer.mapping(offset, length, ignore_errors) if row[1]]

    ours, host = both
    for offset, length in spans():
        assert answer(lambda offset=offset, length=length: mapped(ours, offset, length)) == answer(
            lambda offset=offset, length=length: mapped(host, offset, length)
        )


def test_limits_metadata_and_header_are_those_of_the_host(
    both: tuple[crash.WindowsCrashDump32Layer, crash.WindowsCrashDump32Layer],
) -> None:
    ours, host = both
    assert isinstance(ours, type(host))
    assert (ours.minimum_address, ours.maximum_address) == (host.minimum_address, host.maximum_address)
    assert (ours.dtb, ours.dump_type, ours.dependencies) == (host.dtb, host.dump_type, host.dependencies)
    assert int(ours.get_header().BugCheckCode) == 0xD1
    assert ours.metadata["os"] == "Windows"


def test_scans_find_what_the_host_finds(
    both: tuple[crash.WindowsCrashDump32Layer, crash.WindowsCrashDump32Layer],
) -> None:
    ours, host = both
    for pfn in (3, 9, 0x60):
        needle = packing.page(pfn)[:16]
        found = [
            sorted(layer.scan(layer.context, scanners.BytesScanner(needle)))  # type: ignore[no-untyped-call]
            for layer in (ours, host)
        ]
        assert found[0] == found[1] == [(pfn << 12) + step for step in range(0, 0x1000, 16)]


def test_segments_as_the_host_asks_for_them(
    both: tuple[crash.WindowsCrashDump32Layer, crash.WindowsCrashDump32Layer],
) -> None:
    ours, host = both
    for offset in (0, 0x1000, 0x2345, 0x3FFF, 0x4000, 0x9000, 0x9FFF, 0x1FF000, 0x201000):
        expected = answer(lambda offset=offset: host._find_segment(offset))
        found = answer(lambda offset=offset: ours._find_segment(offset))
        # Ours begins at the page that was asked for.
        if isinstance(expected, tuple) and isinstance(found, tuple):
            assert found[0] == offset & ~0xFFF and found[0] + found[2] == expected[0] + expected[2]
            assert found[1] - found[0] == expected[1] - expected[0]
        else:
            assert found == expected
    following = ours._find_segment(0x4000, next=True)
    assert following == host._find_segment(0x4000, next=True)


def test_a_read_across_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(packing.bitmap(PFNS, SIZE, 6))
    layer = layer_over(path, KdumpCrash64Layer)
    assert layer.read(0x1FF0, 0x1020) == packing.page(1)[-16:] + packing.page(2) + packing.page(3)[:16]
    with pytest.raises(exceptions.InvalidAddressException) as failure:
        layer.read(0x3FF0, 0x20)
    assert failure.value.invalid_address == 0x4000
    assert layer.read(0x3FF0, 0x20, pad=True) == packing.page(3)[-16:] + bytes(16)
    assert layer.read(0x8FF0, 0x20, pad=True) == bytes(16) + packing.page(9)[:16]
    assert layer.read(0x50000, 0x20, pad=True) == bytes(32)
    assert layer.read(0x1000, 0) == b""


TYPES: dict[int, Callable[[], bytearray]] = {
    1: lambda: packing.full(RUNS),
    2: lambda: packing.summary(PFNS, SIZE),
    5: lambda: packing.bitmap(PFNS, SIZE, 5, first=0x2345),
    6: lambda: packing.bitmap(PFNS, SIZE, 6, magic=b"SDMP"),
    8: lambda: packing.ranges(RUNS, 8),
    9: lambda: packing.ranges(RUNS, 9),
    0xA: lambda: packing.ranges(RUNS, 0xA),
}


@pytest.mark.parametrize("dump_type", TYPES)
def test_every_physical_type_reads_the_same(dump_type: int, tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(TYPES[dump_type]())
    layer = layer_over(path, KdumpCrash64Layer)
    for pfn in range(SIZE + 4):
        assert layer.is_valid(pfn << 12) == (pfn in PFNS)
        if pfn in PFNS:
            assert layer.read(pfn << 12, 0x1000) == packing.page(pfn)
    assert layer.maximum_address == 0x200FFF


@pytest.mark.parametrize("dump_type", TYPES)
def test_layers_can_be_cloned_and_pickled(dump_type: int, tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(TYPES[dump_type]())
    layer = layer_over(path, KdumpCrash64Layer)
    for clone in (
        layer.context.clone().layers["dump"],
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
    ):
        assert clone is not layer
        assert clone.read(0x3F000, 0x3000) == b"".join(packing.page(pfn) for pfn in (0x3F, 0x40, 0x41))
        assert not clone.is_valid(0x42000)


def test_a_dump_that_is_compressed_is_read_through_the_host(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "made.dmp.gz"
    path.write_bytes(gzip.compress(packing.bitmap(PFNS, SIZE, 6)))
    layer = layer_over(path, KdumpCrash64Layer)
    assert isinstance(source_of(layer.context.layers["file"]), LayerSource)
    assert layer.read(0x9000, 0x1000) == packing.page(9)


def test_a_layer_as_a_source_is_cut_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(packing.full([(1, 1)]))
    layer = layer_over(path, KdumpCrash64Layer)
    source = LayerSource(layer.context.layers["file"])
    assert (source.size, source.read(0x2FFF, 10)) == (0x3000, packing.page(1)[-1:])
    assert (source.read(0x3000, 1), source.read(-1, 1), source.read(0, 0)) == (b"", b"", b"")


@pytest.mark.parametrize(
    "make", [packing.triage, lambda: packing.header(64, 3), lambda: packing.bitmap([1], 64)[:0x2010]]
)
def test_what_is_no_physical_dump_is_a_format_error_of_the_host(make: Callable[[], bytearray], tmp_path: Path) -> None:
    path = tmp_path / "made.dmp"
    path.write_bytes(make())
    with pytest.raises(crash.WindowsCrashDumpFormatException):
        layer_over(path, KdumpCrash64Layer)
