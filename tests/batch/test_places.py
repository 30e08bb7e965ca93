"""Dumps at URLs and dumps that are sent along, which are copied for as long as they are analysed."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.batch.executors import Here
from volatility3_kdump import batch
from volatility3_kdump.batch import places
from volatility3_kdump.batch.files import File
from volatility3_kdump.errors import KdumpError

fsspec = pytest.importorskip("fsspec")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    pytest.importorskip("aiohttp")
    directory = tmp_path / "served"
    directory.mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield directory, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's file system in memory, in place of one of a cloud."""
    monkeypatch.setattr(places, "SCHEMES", (*places.SCHEMES, "memory"))
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/x.dmp", True),
        ("s3://bucket/x/", True),
        ("/srv/dumps", False),
        ("file:///etc/passwd", False),
        ("simplecache::https://host/x", False),
        ("https://host/x::file:///etc/passwd", False),
        ("http://[", False),
        ("C:\\dumps", False),
    ],
)
def test_what_is_a_url(text: str, expected: bool) -> None:
    assert places.is_url(text) is expected


def test_a_dump_over_http(served: tuple[Path, str], sample: Any) -> None:
    directory, url = served
    (directory / "MEMORY.DMP").write_bytes(sample(4).read_bytes())
    (line,) = batch.batch([f"{url}/MEMORY.DMP"], executor=Here(), jobs=1)
    (own,) = batch.batch([sample(4)], executor=Here(), jobs=1)
    assert line["file"]["path"] == f"{url}/MEMORY.DMP" and line["file"]["name"] == "MEMORY.DMP"
    assert line["file"]["sha256"] == own["file"]["sha256"] and line["file"]["size"] == sample(4).stat().st_size
    assert line["verdict"] == own["verdict"] and line["dump"]["file"] == "MEMORY.DMP"


def test_what_cannot_be_fetched_is_a_line(served: tuple[Path, str]) -> None:
    _, url = served
    (absent, nobody) = batch.batch([f"{url}/none.dmp", "http://127.0.0.1:9/x.dmp"], executor=Here(), jobs=1)
    for line in (absent, nobody):
        assert line["error"]["kind"] == "KdumpError" and "\n" not in line["error"]["message"]
        assert "cannot be reached" in line["error"]["message"] and line["file"]["sha256"] is None


def test_what_lies_below_a_url(memory: Any, sample: Any) -> None:
    memory.pipe("/crashes/a/one.dmp", sample(4).read_bytes())
    memory.pipe("/crashes/b/two.dmp", bytes(0x3000))
    memory.pipe("/crashes/b/readme.txt", b"text")
    found = {line["file"]["path"]: line for line in batch.batch(["memory://crashes"], executor=Here(), jobs=1)}
    assert {path.rpartition("/")[2] for path in found} == {"one.dmp", "two.dmp"}
    assert [line["error"] is None for _, line in sorted(found.items())] == [True, False]


def test_copies_do_not_stay(memory: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    memory.pipe("/x/../one.dmp", b"abc")
    file = File("memory://x/one.dmp", 3)
    memory.pipe("/x/one.dmp", b"abc")
    with places.at_hand(file) as here:
        assert Path(here.path).read_bytes() == b"abc" and Path(here.path).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), places.at_hand(file):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/srv/../..", "/srv/a\x1bb.dmp", "/srv/con", "/srv/" + "x" * 300])
def test_names_of_sent_files_stay_in_the_directory(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with places.at_hand(replace(File(name), content=b"abc")) as here:
        path = Path(here.path)
        assert path.read_bytes() == b"abc" and path.resolve().is_relative_to(tmp_path.resolve())
    assert list(tmp_path.iterdir()) == []


def test_no_room(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/big.dmp", b"abc")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2}))
    with pytest.raises(KdumpError, match="more than there is room for"), places.at_hand(File("memory://big.dmp", 3)):
        pass
