"""Damaged dumps of every kind, opened and shown in full: only errors of ours come out, and soon.

Deterministic: a case is its seed and its number. ``KDUMP_FUZZ_SECONDS`` makes each seed run longer.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import volatility3_kdump
from tests.archives import packing
from tests.layers import paging
from volatility3_kdump.dump import BytesSource, extents, open_dump
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views.analyze import analyze_grid
from volatility3_kdump.views.bugcheck import bug_check_grid
from volatility3_kdump.views.info import info_grid

SECONDS = float(os.environ.get("KDUMP_FUZZ_SECONDS", "1.1"))
#: No damaged file takes longer than this to open and show, in seconds of processor time.
LONGEST = 4.0

INTERESTING = (0, 1, 0x45474150, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFF000, 0x1000, 0x2000)


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


def mutate(data: bytes, generator: random.Random) -> bytes:
    """One to six changes, most of them where headers and tables lie."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 6)):
        if not changed:
            break
        near = min(len(changed), generator.choice((0x100, 0x1100, 0x2100, 0x2200, 0x4000, len(changed))))
        offset = generator.randrange(near)
        kind = generator.randrange(8)
        if kind == 0:
            changed[offset] ^= 1 << generator.randrange(8)
        elif kind in (1, 2):
            # Fields are aligned.
            offset &= ~3
            changed[offset : offset + 4] = struct.pack("<I", generator.choice(INTERESTING))
        elif kind == 3:
            offset &= ~7
            value = generator.choice(
                (0, 1 << 40, (1 << 64) - 1, 0x4547415045474150, 1 << 63, generator.getrandbits(64))
            )
            changed[offset : offset + 8] = struct.pack("<Q", value)
        elif kind == 4:
            offset &= ~3
            current = int.from_bytes(changed[offset : offset + 4].ljust(4, b"\0"), "little")
            step = generator.choice((-0x1000, -8, -1, 1, 4, 0x10, 0x1000))
            changed[offset : offset + 4] = struct.pack("<I", current + step & 0xFFFFFFFF)
        elif kind == 5:
            size = generator.randrange(1, 0x300)
            pattern = generator.choice((b"\0", b"\xff", b"PAGE", b"\x55"))
            changed[offset : offset + size] = (pattern * size)[:size]
        elif kind == 6:
            size = generator.randrange(1, 0x200)
            source = generator.randrange(len(changed))
            changed[offset : offset + size] = changed[source : source + size]
        else:
            del changed[generator.randrange(len(changed)) :]
    return bytes(changed[: len(data) + 0x1000])


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


def run(
    corpus: list[tuple[str, bytes]], seed: int, exercise: Callable[[bytes], None], tmp_path: Path, at_least: int
) -> None:
    deadline = time.monotonic() + SECONDS
    number = 0
    while number < at_least or time.monotonic() < deadline:
        generator = random.Random(seed * 1_000_000 + number)
        name, data = corpus[number % len(corpus)]
        damaged = mutate(data, generator)
        started = time.process_time()
        try:
            exercise(damaged)
        except KdumpError as error:
            assert "\n" not in str(error) and str(error)
        except BaseException:
            kept = tmp_path / f"{name}-{seed}-{number}.dmp"
            kept.write_bytes(damaged)
            print(f"seed {seed}, case {number}, made from {name}: {kept}")
            raise
        taken = time.process_time() - started
        assert taken < LONGEST, f"seed {seed}, case {number}, made from {name}: {taken:.1f} s"
        number += 1


@pytest.mark.parametrize("seed", range(2))
def test_files(seed: int, corpus: list[tuple[str, bytes]], tmp_path: Path) -> None:
    run(corpus, seed, exercise_file, tmp_path, 60)


@pytest.mark.parametrize("seed", range(10, 16))
def test_targets_and_views(seed: int, corpus: list[tuple[str, bytes]], tmp_path: Path) -> None:
    path = tmp_path / "damaged.dmp"

    def exercise(data: bytes) -> None:
        path.write_bytes(data)
        exercise_target(path)

    run(corpus, seed, exercise, tmp_path, 25)


def test_the_undamaged_originals_are_shown_in_full(corpus: list[tuple[str, bytes]], tmp_path: Path) -> None:
    for name, data in corpus:
        exercise_file(data)
        path = tmp_path / f"{name}.dmp"
        path.write_bytes(data)
        exercise_target(path)
        assert volatility3_kdump.open(path).header.bug_check_code is not None
