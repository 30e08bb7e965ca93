"""Files and URLs that nobody vouches for: a value or one line, and no waiting."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump import files
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import (
    FileFailure,
    is_directory,
    is_file,
    open_file,
    open_output,
    parse_url,
    path_of,
    read_bytes,
    read_lines,
    refuse_binary,
    why_not_entered,
    write_text,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX")
IMPOSSIBLE = ["a" * 300, "nul\0inside", "surrogate\ud800", "\u4e2d" * 100]


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_what_cannot_exist_is_absent(name: str, tmp_path: Path) -> None:
    assert not is_file(tmp_path / name)
    assert not is_directory(tmp_path / name)
    with pytest.raises(FileFailure, match="cannot be opened"):
        open_file(tmp_path / name)


@given(st.text(max_size=20))
def test_no_name_raises(name: str) -> None:
    is_file(name), is_directory(name)
    try:
        open_file(f"/does/not/exist/{name}").close()
    except FileFailure as failure:
        assert "\n" not in str(failure)


@posix
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileFailure, match="is a pipe, not a file: write its content to a file first"):
        open_file(pipe)
    with pytest.raises(FileFailure, match="is a device, not a file"):
        open_file("/dev/zero")
    with pytest.raises(FileFailure, match=r"is a directory, not a file$"):
        open_file(tmp_path)


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_bytes(path, 10) == b"0123456789"
    with pytest.raises(FileFailure, match="longer than the 9 bytes"):
        read_bytes(path, 9)


def test_lines_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbffirst\r\nsec\xffond\n\nlast")
    assert list(read_lines(path, 10, 100)) == ["first", "sec\ufffdond", "", "last"]
    with pytest.raises(FileFailure, match="line 1 is longer than 5 bytes"):
        list(read_lines(path, 5, 100))
    with pytest.raises(FileFailure, match="longer than the 12 bytes"):
        list(read_lines(path, 11, 12))


def test_a_line_without_end_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(FileFailure, match="line 1 is longer than 65,536 bytes"):
        list(read_lines(path, 1 << 16, 1 << 40))


@pytest.mark.parametrize("text", ["http://[", "ftp://[", "http://[::1", "http://h:port/", "http://h:99999/"])
def test_what_is_no_url(text: str) -> None:
    assert parse_url(text) is None


@given(st.text(max_size=30))
def test_no_url_raises(text: str) -> None:
    parse_url(text), path_of(text), path_of(f"file:{text}")


def test_file_urls(tmp_path: Path) -> None:
    path = tmp_path / "a b#c%41?.dmp"
    assert path_of(path.as_uri()) == path
    assert path_of("http://host/x") is None


@posix
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.dmp"))
    assert path_of(path.as_uri()) == path


@pytest.mark.parametrize(
    "kept", [b"PAGEDU64" + bytes(100), b"\x7fELF\x02\0", b"PK\x03\x04\xff", "log\n".encode("utf-16")]
)
def test_what_is_no_text_is_not_replaced_by_one(kept: bytes, tmp_path: Path) -> None:
    """A name typed twice must not cost the evidence."""
    path = tmp_path / "out"
    path.write_bytes(kept)
    with pytest.raises(KdumpError, match=r"^-o .*out: is there already, and is no text: name another file$"):
        write_text("-o", path, "new")
    assert path.read_bytes() == kept


@posix
@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("moment", ["before it is opened", "before it is looked at"])
def test_a_link_that_takes_the_place_of_an_output(
    append: bool, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write in the directory of an output swaps a link to the evidence in, or out again."""
    evidence, place = tmp_path / "evidence.dmp", tmp_path / "out"
    evidence.write_bytes(b"PAGEDU64" + bytes(100))
    place.symlink_to(evidence)
    if moment == "before it is looked at":
        looked_at = files.open_file

        def swapping(path: Path) -> BinaryIO:
            place.unlink()
            place.write_text("a text")
            return looked_at(path)

        monkeypatch.setattr(files, "open_file", swapping)
    with pytest.raises(KdumpError, match=r"is no text: name another|became another file while it was opened"):
        open_output(place, append, check=files.refuse_no_text)
    assert evidence.read_bytes() == b"PAGEDU64" + bytes(100)


def test_texts_are_replaced_by_texts(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for text in ("", "{}\n", "\u4e2d" * 30_000, "a" + "\u4e2d" * 30_000, "x"):
        write_text("-o", path, text)
        assert path.read_text("utf-8") == text
        refuse_binary(path)
    with pytest.raises(KdumpError, match=r"-o .*: cannot be written: "):
        write_text("-o", tmp_path, "x")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse.yar"
    with path.open("wb") as stream:
        stream.truncate(1 << 33)
    monkeypatch.setattr(files, "read_at_most", lambda *_: pytest.fail("it was read"))
    with pytest.raises(files.FileFailure, match="is longer than the 1,024 bytes"):
        files.read_bytes(path, 1024)


@posix
def test_a_pipe_is_written_where_somebody_reads_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(KdumpError, match=r"^-o .*pipe: cannot be written: it is a pipe that nobody reads"):
        write_text("-o", pipe, "lost")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text("-o", pipe, "told")
    assert os.read(reader, 10) == b"told"
    os.close(reader)


def test_texts_go_behind_others(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for append in (False, True, True):
        with open_output(path, append, newline="") as file:
            assert os.get_blocking(file.fileno())
            file.write("line\r\n")
    assert path.read_bytes() == b"line\r\n" * 3


def test_why_a_directory_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert why_not_entered(tmp_path) is None
    for name in ("file", "absent", "x" * 300, "\0"):
        assert why_not_entered(tmp_path / name) == "is not a directory"
    # root may enter every directory.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert why_not_entered(tmp_path) == "cannot be entered: Permission denied"
