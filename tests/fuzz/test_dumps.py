"""Damaged dumps of every kind, opened and shown in full: only errors of ours come out, and soon."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import volatility3_kdump
from tests.archives import packing
from tests.fuzz.mutation import mutate
from tests.fuzz.running import Runner
from tests.layers import paging
from volatility3_kdump.dump import BytesSource, extents, open_dump
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views.analyze import analyze_grid
from volatility3_kdump.views.bugcheck import bug_check_grid
from volatility3_kdump.views.info import info_grid

#: Sizes of the front part of a dump, where headers and tables lie.
HEADERS = (0x100, 0x1100, 0x2100, 0x2200, 0x4000)


def machine(mode: str, kind: str) -> bytes:
    """A tiny kernel as a dump of a type."""
    memory, values = paging.machine(mode)
    bits = 32 if mode in ("x86", "pae") else 64
    pfns = sorted(memory)
    blob = (packing.tagged([(packing.uuid.UUID(int=5), b"data", 0, 4)]),)
    make: dict[str, Callable[[], bytearray]] = {
        "runs": lambda: packing.full(packing.runs_of(pfns), bits, memory, **values),
        "bitmap": lambda: packing.bitmap(pfns, 0x50, 6, bits, memory=memory, **values),
        "summary": lambda: packing.summary(pfns, 0x50, bits, memory=memory, **values),
        "ranges": lambda: packing.ranges(packing.runs_of(pfns), 8, memory=memory, **values),
    }
    return bytes(make[kind]()) + blob[0]


def small_dump(bits: int) -> bytes:
    base = 0x80000000 if bits == 32 else 0xFFFFF80000000000
    return bytes(
        packing.triage(
            bits,
            drivers=[("\\SystemRoot\\ntoskrnl.exe", base, 0x100000, 1, 2), ("x.sys", base + 0x200000, 0x1000, 3, 4)],
            unloaded=[("gone.sys", base + 0x300000, base + 0x301000)],
            stack=(base + 0x400F00, bytes(range(256))),
            debugger_data=b"\0" * 0x10 + b"KDBG" + struct.pack("<I", 0x380) + struct.pack("<Q", base) + bytes(0x360),
            copies={"PrcbOffset": bytes(0x100), "ProcessOffset": bytes(0x100), "ThreadOffset": bytes(0x100)},
            blocks=[(base + 0x1000 * index, bytes([index]) * 64) for index in range(8)],
            KdDebuggerDataBlock=base + 0x10000,
            blobs=packing.tagged([(packing.uuid.UUID(int=7), b"tag", 1, 1)]),
        )
    )


def exercise_file(data: bytes) -> None:
    """The file by itself: header, pages or blocks, tagged data."""
    dump = open_dump(BytesSource(data))
    pages = dump.pages
    if pages is not None:
        assert pages.present >= 0
        for number, found in enumerate(extents(pages, 0, 1 << 64)):
            assert found.offset is not None and found.offset + (found.count << 12) <= len(data)
            if number > 200:
                break
        for pfn in (0, 1, 0x30, 0x1AD, 1 << 36, (1 << 52) - 1, 1 << 60):
            offset = pages.offset_of(pfn)
            assert offset is None or offset + 0x1000 <= len(data)
            pages.next_present(pfn)
    if dump.triage is not None:
        for block in dump.triage.blocks:
            assert block.offset + block.size <= len(data) and block.address + block.size <= 1 << 64
        assert all("\0" not in (driver.path or "") for driver in dump.triage.drivers)
    for blob in dump.tagged:
        assert blob.offset + blob.size <= len(data)
    assert all("\n" not in warning for warning in dump.warnings) and len(dump.warnings) < 40


def exercise_target(path: Path) -> None:
    """Everything that the plugins show."""
    target = Target.open(path)
    for make in (info_grid, bug_check_grid, analyze_grid):
        try:
            grid = make(target)
        except KdumpError:
            continue
        rows: list[object] = []
        grid.populate(lambda node, accumulator, rows=rows: rows.append(node.values))  # type: ignore[misc]
        assert rows
        for line in grid.kd_lines():
            assert "\n" not in line
    assert len(target.warnings) < 60


def originals(shared_data: Path | None, sample: Callable[..., Path]) -> Iterator[tuple[str, bytes]]:
    for mode in ("x64", "la57", "pae", "x86"):
        for kind in ("runs", "bitmap", "summary", "ranges"):
            if kind != "ranges" or mode in ("x64", "la57"):
                yield f"{mode}-{kind}", machine(mode, kind)
    yield "triage64", small_dump(64)
    yield "triage32", small_dump(32)
    for dump_type in (1, 4, 6, 10):
        yield f"sample{dump_type}", sample(dump_type).read_bytes()
    if shared_data is not None:
        for name in ("triage_x64_9600", "triage_x64_17763", "triage_arm64_22000", "triage_x64_19041"):
            yield name, (shared_data / "dumps" / f"{name}.dmp").read_bytes()


@pytest.fixture(scope="module")
def corpus(request: pytest.FixtureRequest, sample: Callable[..., Path]) -> list[tuple[str, bytes]]:
    try:
        shared_data: Path | None = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        shared_data = None
    return list(originals(shared_data, sample))


def damage(data: bytes, generator: random.Random) -> bytes:
    return mutate(data, generator, HEADERS)


def test_files(corpus: list[tuple[str, bytes]], fuzz: Runner) -> None:
    fuzz.run("files", [data for _, data in corpus], damage, exercise_file, 120)


@pytest.mark.parametrize("number", range(3))
def test_targets_and_views(number: int, corpus: list[tuple[str, bytes]], fuzz: Runner, tmp_path: Path) -> None:
    path = tmp_path / "damaged.dmp"

    def exercise(data: bytes) -> None:
        path.write_bytes(data)
        exercise_target(path)

    fuzz.run(f"targets {number}", [data for _, data in corpus], damage, exercise, 50)


def test_the_undamaged_originals_are_shown_in_full(corpus: list[tuple[str, bytes]], tmp_path: Path) -> None:
    for name, data in corpus:
        exercise_file(data)
        path = tmp_path / f"{name}.dmp"
        path.write_bytes(data)
        exercise_target(path)
        assert volatility3_kdump.open(path).header.bug_check_code is not None
