"""The file of lines, and going on with it."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batch.executors import Here
from tests.batch.results import Line, known, place
from volatility3_kdump import batch
from volatility3_kdump.batch import LineFile, task
from volatility3_kdump.errors import KdumpError


@pytest.mark.parametrize(
    "count", [pytest.param(count, marks=() if count in (3, 13) else pytest.mark.thorough) for count in range(14)]
)
def test_what_is_left_is_done(count: int, dumps: Path, lines: list[Line], unread: None) -> None:
    executor = Here()
    rest = list(batch.batch([dumps], executor=executor, jobs=1, done=known(lines[:count])))
    assert [place(line) for line in rest] == [place(line) for line in lines[count:]]
    if count == 13:
        # Archives are listed anew, to see whether every dump in them has its line.
        assert sorted(executor.files) == ["none.zip", "small.dmp.gz", "three.zip"]


def test_a_file_is_known_by_its_hash_where_it_was_moved_or_touched(grim: Callable[..., Path], unread: None) -> None:
    root = grim("moved.dmp", "touched.dmp", "changed.dmp", "stays.dmp")
    for number, path in enumerate(sorted(root.iterdir())):
        with path.open("r+b") as stream:
            stream.seek(0x300)
            stream.write(bytes([number]) * 8)
    with zipfile.ZipFile(root / "moved.zip", "w") as archive:
        archive.write(root / "stays.dmp", "in the archive")
    done = list(batch.batch([root], executor=Here(), jobs=1))
    assert len(done) == 5
    (root / "moved.dmp").rename(root / "new name.dmp")
    (root / "moved.zip").rename(root / "new name.zip")
    os.utime(root / "touched.dmp", (1, 1))
    status = (root / "changed.dmp").stat()
    with (root / "changed.dmp").open("r+b") as stream:
        stream.seek(0x400)
        stream.write(b"other")
    os.utime(root / "changed.dmp", ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    # A copy of a file that is still there is a file of its own, and so is the second copy of one that is not.
    shutil.copyfile(root / "stays.dmp", root / "copy.dmp")
    shutil.copyfile(root / "new name.dmp", root / "new name 2.dmp")
    rest = [line["file"]["name"] for line in batch.batch([root], executor=Here(), jobs=1, done=known(done))]
    assert len(rest) == 3 and {"changed.dmp", "copy.dmp"} < set(rest)
    assert set(rest) & {"new name.dmp", "new name 2.dmp"}


def write(path: Path, lines: list[Line]) -> bytes:
    out = LineFile(path, resume=False)
    for line in lines:
        out.write(line)
    out.close()
    return path.read_bytes()


def resumed(path: Path, anew: Callable[[Line], bool] = lambda line: True) -> Iterator[Line]:
    out = LineFile(path, resume=True)
    try:
        yield from out.read(anew)
        out.write({"the": "end"})
    finally:
        out.close()


def made_line(number: int, error: dict[str, Any] | None = None) -> Line:
    file = batch.File(f"/x/{number}\u2028\udc80\n.dmp", number, "then")
    verdict = dict.fromkeys(("hash", "bucket", "suspect", "image_name"))
    document = {"verdict": verdict, "bug_check": None, "system": {"time_utc": None}} if error is None else {}
    return task.line_of(file, {"sha256": f"{number:064x}"}, 0.5, error, {**document, "text": "\x1b\u202e" * number})


def test_a_line_that_was_torn_off_is_removed(tmp_path: Path) -> None:
    lines = [made_line(number) for number in range(4)]
    whole = write(tmp_path / "whole", lines)
    ends = [position + 1 for position, byte in enumerate(whole) if byte == 10]
    choose = random.Random(3)
    cuts = {0, 1, *ends, *(end + 1 for end in ends[:-1]), *(choose.randrange(len(whole)) for _ in range(40))}
    for cut in sorted(cuts):
        path = tmp_path / "cut"
        # After a loss of power a file may end in zeros.
        path.write_bytes(whole[:cut] + bytes(cut % 3 if cut not in ends else 0))
        kept = sum(end <= cut for end in ends)
        assert list(resumed(path)) == lines[:kept]
        assert path.read_bytes() == whole[: [0, *ends][kept]] + b'{"the": "end"}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"text",
        b"text\n",
        b"[1]\n",
        b"{}\n",
        b'{"batch": 1}\n',
        b"\0" * 9 + b"x",
        b'{"batch": 1, "file": 3, "error": 0}\n',
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    good = write(tmp_path / "good", [made_line(1)])
    for before in (b"", good):
        path = tmp_path / "other"
        path.write_bytes(before + content)
        with pytest.raises(KdumpError, match=r"other: line [12] is not of `kdump batch`"):
            list(resumed(path))
        assert path.read_bytes() == before + content
        with pytest.raises(KdumpError, match="is there already: --resume goes on"):
            LineFile(path, resume=False)
        assert path.read_bytes() == before + content


def test_what_failed_for_the_time_being_is_done_anew(tmp_path: Path) -> None:
    failed = {"kind": "TimeLimit", "message": "", "again": True}
    refused = {"kind": "NotACrashDump", "message": "", "again": False}
    lines = [made_line(number, failed if number in (0, 3) else refused if number == 2 else None) for number in range(6)]
    path = tmp_path / "lines"
    write(path, lines)
    assert [line["file"]["size"] for line in resumed(path)] == [1, 2, 4, 5]
    assert path.read_bytes() == write(tmp_path / "expected", [*lines[1:3], *lines[4:], {"the": "end"}])
    # Of files that this run is not about, the line stays.
    other = tmp_path / "other"
    write(other, lines)
    assert list(resumed(other, lambda line: line["file"]["size"] == 3)) == [*lines[:3], *lines[4:]]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["expected", "lines", "other"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_line_is_written_as_a_whole_or_not_at_all(failure: Any, tmp_path: Path) -> None:
    out = LineFile(tmp_path / "out", resume=False)
    out.write(made_line(1))
    before = (tmp_path / "out").read_bytes()
    real = out._file

    class Failing:
        def write(self, data: memoryview) -> int:
            if real.tell() > len(before):
                raise failure
            return real.write(data[:7])

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    out._file = Failing()
    with pytest.raises((KeyboardInterrupt, KdumpError)):
        out.write(made_line(2))
    assert (tmp_path / "out").read_bytes() == before
    out._file = real
    out.write(made_line(2))
    assert len((tmp_path / "out").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["resume-error-empty", "resume-path-1"])
def test_lines_of_another_shape_are_refused(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "hostile" / f"{name}.jsonl"
    if not source.exists():
        pytest.skip(f"no {source}")
    path = tmp_path / "lines.jsonl"
    path.write_bytes(source.read_bytes())
    lines = LineFile(path, resume=True)
    with pytest.raises(KdumpError, match=r"line 1 is not of `kdump batch` \(line\."):
        list(lines.read(lambda line: False))
    lines.close()
    assert path.read_bytes() == source.read_bytes()


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from volatility3_kdump.batch import lines as lines_module

    monkeypatch.setattr(lines_module, "_LONGEST_LINE", 100)
    path = tmp_path / "lines.jsonl"
    content = lines_module._START + "x" * 1000
    path.write_text(content)
    lines = LineFile(path, resume=True)
    with pytest.raises(KdumpError, match="line 1 is not of `kdump batch`"):
        list(lines.read(lambda line: False))
    lines.close()
    assert path.read_text() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_resumed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KdumpError, match="pipe: is no ordinary file"):
        LineFile(tmp_path / "pipe", resume=True)
