from __future__ import annotations

import io
import os
import random
import re
import shutil
import struct
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.symbols.pdb.made_pdb import MAGIC, msf
from volatility3_kdump.symbols.pdb import msf as msf_module
from volatility3_kdump.symbols.pdb.msf import CorruptPdb, MsfFile


def opened(data: bytes) -> MsfFile:
    return MsfFile(io.BytesIO(data))


@given(
    st.lists(st.one_of(st.none(), st.binary(max_size=3000)), min_size=1, max_size=8),
    st.sampled_from([0x200, 0x400, 0x1000]),
)
@settings(max_examples=part(40), deadline=None)
def test_streams_come_back_as_they_were_written(streams: list[bytes | None], block_size: int) -> None:
    subject = opened(msf(streams, block_size))
    assert [subject.read(number) for number in range(subject.stream_count)] == streams
    assert [subject.size(number) for number in range(len(streams))] == [None if s is None else len(s) for s in streams]
    assert [subject.read(number, 7) for number in range(len(streams))] == [s if s is None else s[:7] for s in streams]
    assert subject.read(len(streams)) is None and subject.size(-1) is None


def test_a_directory_that_fills_many_blocks() -> None:
    """The list of the directory's blocks is itself longer than a block."""
    streams: list[bytes | None] = [bytes([number % 251]) * (number % 5) for number in range(40_000)]
    subject = opened(msf(streams, 0x200))
    assert subject.stream_count == 40_000
    assert all(subject.read(number) == streams[number] for number in range(0, 40_000, 997))


def test_sizes_equal_llvm(image_path: Path) -> None:
    tool = shutil.which("llvm-pdbutil")
    if tool is None:
        pytest.skip("llvm-pdbutil is not installed")
    path = image_path.with_suffix(".pdb")
    shown = subprocess.run([tool, "dump", "-streams", path], capture_output=True, text=True, check=True).stdout
    sizes = [int(size) for size in re.findall(r"Stream +\d+ \( *(\d+) bytes\)", shown)]
    with path.open("rb") as file:
        subject = MsfFile(file)
        found = [subject.size(number) for number in range(subject.stream_count)]
        assert [0xFFFFFFFF if size is None else size for size in found] == sizes
        assert len(sizes) > 20


GOOD = msf([b"", b"one" * 500, b"two" * 900], 0x200)


def changed(*edits: tuple[int, bytes]) -> bytes:
    data = bytearray(GOOD)
    for offset, value in edits:
        data[offset : offset + len(value)] = value
    return bytes(data)


def number_at(offset: int) -> int:
    return int(struct.unpack_from("<I", GOOD, offset)[0])


DIRECTORY = number_at(number_at(len(MAGIC) + 20) * 0x200) * 0x200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not start as a PDB"),
        (MAGIC, "does not start as a PDB"),
        (b"Microsoft C/C++ program database 2.00\r\n\x1aJG\0\0" + bytes(100), "does not start as a PDB"),
        (changed((32, struct.pack("<I", 0))), "blocks would have 0x0 bytes"),
        (changed((32, struct.pack("<I", 0x201))), "blocks would have 0x201 bytes"),
        (changed((32, struct.pack("<I", 1 << 31))), "blocks would have 0x80000000 bytes"),
        (GOOD[:-1], "truncated"),
        (changed((40, struct.pack("<I", 0xFFFFFFFF))), "truncated"),
        (changed((44, struct.pack("<I", 0xFFFFFFF0))), "directory would have 0xfffffff0 bytes"),
        (changed((44, struct.pack("<I", 3))), "directory is empty"),
        (changed((52, struct.pack("<I", 0xFFFFFF))), "refers to block 0xffffff"),
        (changed((DIRECTORY, struct.pack("<I", 0xFFFFFFFF))), "cannot list 4294967295 streams"),
        (changed((DIRECTORY, struct.pack("<I", 99))), "cannot list 99 streams"),
        (changed((DIRECTORY + 8, struct.pack("<I", len(GOOD) + 1))), "stream 1 would have"),
        (changed((DIRECTORY + 12, struct.pack("<I", len(GOOD) - 1))), "stream 2 would have"),
    ],
)
def test_damage_is_named(data: bytes, message: str) -> None:
    with pytest.raises(CorruptPdb, match=message):
        opened(data)


def test_a_stream_behind_the_end_of_the_file_is_damage() -> None:
    data = changed((DIRECTORY + 16, struct.pack("<I", 0x123456)))
    with pytest.raises(CorruptPdb, match="refers to block"):
        opened(data).read(1)


def test_a_directory_that_its_blocks_do_not_need_is_not_read(tmp_path: Path) -> None:
    """A hole in a file costs its author nothing, and would be read as the directory, twice."""
    path = tmp_path / "hole.pdb"
    claimed, block = 64 << 20, 0x1000
    path.write_bytes(MAGIC + struct.pack("<6I", block, 1, 20_000, claimed, 0, 2))
    os.truncate(path, 20_000 * block)
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(CorruptPdb, match="more than its 0x4e20 blocks need"):
            MsfFile(file)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_streams_beyond_the_limit_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msf_module, "_LONGEST_STREAM", 1500)
    subject = opened(GOOD)
    assert subject.read(1) == b"one" * 500
    with pytest.raises(CorruptPdb, match="stream 2 has 0xa8c bytes: more than 0x5dc are not read"):
        subject.read(2)
    assert subject.read(2, 3) == b"two"


def test_any_change_gives_streams_of_bounded_size_or_one_error() -> None:
    source = random.Random(11)
    for _ in range(400):
        data = bytearray(GOOD)
        for _ in range(source.randrange(1, 6)):
            offset = source.choice(
                [source.randrange(len(data)), source.randrange(32, 60), DIRECTORY + source.randrange(40)]
            )
            data[offset] = source.randrange(256)
        try:
            subject = opened(bytes(data[: source.choice([len(data), source.randrange(len(data))])]))
            for number in range(min(subject.stream_count, 100)):
                assert len(subject.read(number) or b"") <= len(data)
        except CorruptPdb:
            pass
