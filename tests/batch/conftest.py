"""Dumps of every kind in a directory, and the lines of their batch."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archives import cabinets
from tests.batch.executors import Here
from tests.batch.results import Line
from tests.test_bad_input import FATAL
from volatility3_kdump import batch
from volatility3_kdump.batch import task


@pytest.fixture(scope="session")
def dumps(sample: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of dumps of several scenes, whole and broken, in archives and beside other files."""
    root = tmp_path_factory.mktemp("dumps")
    (root / "Later").mkdir()
    (root / "a").mkdir()
    for name, path in {
        "kernel.dmp": sample(6),
        "small.dmp": sample(4),
        "Later/named otherwise": sample(6, None, "double-fault"),
        "a/again.DMP": sample(4),
    }.items():
        shutil.copyfile(path, root / name)
    (root / "readme.txt").write_text("no dump")
    (root / "empty.dmp").write_bytes(b"")
    (root / "a" / "zeros.dmp").write_bytes(FATAL["zero-filled"][0]())
    (root / "a" / "user.mdmp").write_bytes(FATAL["user-mode minidump"][0]())
    (root / "a" / "cut").write_bytes(FATAL["cut in the bitmap"][0]())
    with zipfile.ZipFile(root / "three.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(sample(4), "x/one.dmp")
        archive.writestr("readme", b"hello")
        archive.write(sample(6, None, "double-fault"), "two.dmp")
        archive.writestr("bad.dmp", FATAL["NumberOfRuns PAGE"][0]())
    with zipfile.ZipFile(root / "none.zip", "w") as archive:
        archive.writestr("readme", b"hello")
    (root / "small.dmp.gz").write_bytes(gzip.compress(sample(4).read_bytes()))
    (root / "cut.cab").write_bytes(cabinets.cabinet([("m.dmp", sample(4).read_bytes())]).pack()[:-500])
    return root


@pytest.fixture(scope="session")
def lines(dumps: Path) -> list[Line]:
    return list(batch.batch([dumps], executor=Here(), jobs=1))


@pytest.fixture
def grim(sample: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes a directory with a copy of a dump under each name."""

    def make(*names: str) -> Path:
        for name in names:
            shutil.copyfile(sample(4), tmp_path / name)
        return tmp_path

    return make


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Analyses that say nothing, for what does not depend on what they say."""
    monkeypatch.setattr(task, "_document", lambda *arguments: {})
