"""Random access to files."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from pathlib import Path

import pytest

from volatility3_kdump.dump import BytesSource, FileSource, Source
from volatility3_kdump.errors import KdumpError

DATA = bytes(range(256)) * 5


@pytest.fixture(params=["file", "bytes", "file without pread"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    if request.param == "bytes":
        return BytesSource(DATA)
    if request.param == "file without pread":
        monkeypatch.delattr(os, "pread", raising=False)
    path = tmp_path / "dump"
    path.write_bytes(DATA)
    return FileSource(path)


@pytest.mark.parametrize(
    "offset, length",
    [
        (0, 1),
        (0, 1280),
        (0, 5000),
        (1279, 1),
        (1279, 10),
        (1280, 1),
        (1 << 70, 1),
        (-1, 4),
        (5, 0),
        (5, -3),
        (7, 1 << 62),
    ],
)
def test_reads_are_cut_at_the_end(source: Source, offset: int, length: int) -> None:
    expected = DATA[offset : offset + length] if offset >= 0 and length > 0 else b""
    assert source.size == len(DATA)
    assert source.read(offset, length) == expected


def test_short_reads_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_bytes(DATA)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, offset: real(file, min(length, 100), offset))
    assert FileSource(path).read(3, 1000) == DATA[3:1003]


def test_a_failing_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_bytes(DATA)

    def fail(file: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(KdumpError, match=r"^reading 0x10 bytes at offset 0x20 failed: Input/output error$"):
        FileSource(path).read(0x20, 0x10)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda source: pickle.loads(pickle.dumps(source))])
def test_a_file_can_be_copied(tmp_path: Path, clone: object) -> None:
    path = tmp_path / "dump"
    path.write_bytes(DATA)
    original = FileSource(path)
    copied = clone(original)  # type: ignore[operator]
    original.close()
    assert (copied.name, copied.size, copied.read(256, 4)) == (str(path), len(DATA), b"\0\1\2\3")


def test_threads_can_share_a_file(source: Source) -> None:
    wrong: list[int] = []

    def read_all(start: int) -> None:
        for offset in range(start, 1200, 7):
            if source.read(offset, 64) != DATA[offset : offset + 64]:
                wrong.append(offset)

    threads = [threading.Thread(target=read_all, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
