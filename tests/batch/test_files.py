"""The files that a batch is about."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.batch.executors import Here, posix
from volatility3_kdump import batch
from volatility3_kdump.batch import Done, LineFile, Summary, collect


def test_what_a_directory_holds(dumps: Path) -> None:
    files, left_out = collect([dumps])
    names = [Path(file.path).name for file in files]
    assert "none.zip" in names and "readme.txt" not in names and left_out == 1
    assert not any(file.explicit for file in files)
    assert collect([dumps, dumps / "a"]) == (files, left_out)
    narrowed, left_out = collect([dumps], ["*.dmp", "THREE*"])
    assert {Path(file.path).name for file in narrowed} == {
        *("empty.dmp", "kernel.dmp", "small.dmp", "three.zip", "again.DMP", "zeros.dmp")
    }
    assert left_out == 0


def test_what_is_named_has_a_line_whatever_it_is(dumps: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    paths = [dumps / "readme.txt", tmp_path / "gone.dmp", dumps / "none.zip"]
    words = ["no crash dump header", r"^gone\.dmp: cannot be opened: No such file", "without a crash dump|inside: no"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)
        paths.append(pipe)
        words.append(r"^pipe: is not an ordinary file$")
    # What was named stays so where it is met in a directory as well.
    for given in (paths, [dumps / "a", *paths], [*paths, dumps / "a"]):
        found = {Path(line["file"]["path"]): line for line in batch.batch(given, executor=Here(), jobs=1)}
        for path, expected in zip(paths, words, strict=True):
            assert re.search(expected, found[path]["error"]["message"])
    assert found[paths[1]]["file"]["size"] is None and found[paths[1]]["file"]["sha256"] is None


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="everything is readable for the superuser")
def test_what_cannot_be_read_has_a_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    (line,) = batch.batch([tmp_path], executor=Here(), jobs=1)
    assert line["file"]["name"] == "closed" and "cannot be searched: Permission denied" in line["error"]["message"]


@posix
def test_links_lead_to_files_and_not_round_in_circles(dumps: Path, tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "broken.dmp").symlink_to("nowhere")
    (tmp_path / "link.dmp").symlink_to(dumps / "small.dmp")
    (line,) = batch.batch([tmp_path], executor=Here(), jobs=1)
    assert line["file"]["name"] == "link.dmp" and line["error"] is None


@posix
def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = b"evil\x1b[2J\xff\n\xe2\x80\xae.dmp"
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    out = LineFile(tmp_path / "out", resume=False)
    summary = Summary()
    for line in batch.batch([tmp_path], executor=Here(), jobs=1):
        out.write(line)
        summary.add(line)
    assert all(text.isprintable() for text in summary.text())
    done = Done()
    (line,) = out.read(lambda line: True)
    done.add(line)
    assert line["error"]["message"].isprintable() and line["file"]["path"].encode()
    assert list(batch.batch([tmp_path], executor=Here(), jobs=1, done=done)) == []
