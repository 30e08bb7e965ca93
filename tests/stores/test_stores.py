"""Local symbol stores: layouts, archives, pointers, and chains of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.stores import stores
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.stores.stores import StoreError, add, compressed_name, default_store, read_pointer

CONTENT = b"the very file"


def make(root: Path, name: str, data: bytes = CONTENT) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def check(found: Path) -> None:
    if found.read_bytes() != CONTENT:
        raise KdumpError(f"{found}: another file; refused")


def search(text: str, name: str = "x.sys", key: str = "AB1") -> tuple[list[Path], list[str]]:
    problems: list[str] = []
    return [*SearchPath.parse(text, "path").matching(name, key, check, problems)], problems


@pytest.fixture
def cab(tmp_path: Path) -> Callable[..., bytes]:
    """``cab(name, ...)``: a CAB archive of files of ``CONTENT``, by gcab."""

    def archive(*names: str) -> bytes:
        directory = tmp_path / "to pack"
        for name in names:
            make(directory, name)
        try:
            subprocess.run(["gcab", "-c", "-z", "-n", "x.cab", *names], cwd=directory, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("gcab is not installed")
        return (directory / "x.cab").read_bytes()

    return archive


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


def test_another_file_is_refused_once_and_the_search_goes_on(tmp_path: Path) -> None:
    make(tmp_path, "one/x.sys", b"other")
    good = make(tmp_path, "two/x.sys/AB1/x.sys")
    found, problems = search(f"{tmp_path / 'one'};srv*{tmp_path / 'two'};{tmp_path / 'one'};{tmp_path / 'two'}")
    assert found == [good]
    assert problems == [f"{tmp_path / 'one' / 'x.sys'}: another file; refused"]


def test_what_a_store_has_is_copied_to_those_before_it(tmp_path: Path) -> None:
    make(tmp_path, "up/x.sys/AB1/x.sys")
    chain = f"srv*{tmp_path / 'c1'}*{tmp_path / 'c2'}*{tmp_path / 'up'}"
    assert search(chain) == ([tmp_path / "c1/x.sys/AB1/x.sys"], [])
    assert (tmp_path / "c2/x.sys/AB1/x.sys").read_bytes() == CONTENT
    shutil.rmtree(tmp_path / "up")
    shutil.rmtree(tmp_path / "c1")
    found, problems = search(f"srv*{tmp_path / 'c1'}*{tmp_path / 'c2'}")
    assert found == [tmp_path / "c1/x.sys/AB1/x.sys"] and problems == []


def test_a_store_that_cannot_be_written_does_not_keep_the_file_from_use(tmp_path: Path) -> None:
    good = make(tmp_path, "up/x.sys/AB1/x.sys")
    make(tmp_path, "c1")
    found, problems = search(f"srv*{tmp_path / 'c1'}*{tmp_path / 'up'}")
    assert found == [good]
    assert problems == [f"the symbol store {tmp_path / 'c1'} cannot be written: {os.strerror(17)}"]


def test_a_copy_of_another_build_in_front_is_replaced(tmp_path: Path) -> None:
    make(tmp_path, "c1/x.sys/AB1/x.sys", b"damaged")
    make(tmp_path, "up/x.sys/AB1/x.sys")
    found, problems = search(f"srv*{tmp_path / 'c1'}*{tmp_path / 'up'}")
    assert found == [tmp_path / "c1/x.sys/AB1/x.sys"] and found[0].read_bytes() == CONTENT
    assert problems == [f"{found[0]}: another file; refused"]


def test_archives_of_a_store(tmp_path: Path, cab: Callable[..., bytes]) -> None:
    packed = make(tmp_path, "up/x.sys/AB1/x.sy_", cab("X.SYS"))
    # A store on its own stays as it is: the default store takes the file.
    found, problems = search(f"srv*{tmp_path / 'up'}")
    assert found == [default_store() / "x.sys/AB1/x.sys"] and problems == []
    assert [*packed.parent.iterdir()] == [packed]
    found, _ = search(f"srv*{tmp_path / 'c1'}*{tmp_path / 'up'}")
    assert found == [tmp_path / "c1/x.sys/AB1/x.sys"]
    # Plain directories are stores too.
    found, _ = search(str(tmp_path / "up"))
    assert found == [default_store() / "x.sys/AB1/x.sys"]
    assert [path.name for path in default_store().iterdir()] == ["x.sys"]


def test_archives_that_are_no_good(tmp_path: Path, cab: Callable[..., bytes]) -> None:
    two = make(tmp_path, "up/x.sys/AB1/x.sy_", cab("a.sys", "b.sys"))
    assert search(f"srv*{tmp_path / 'up'}") == ([], [f"{two}: holds 2 files, none of which must be x.sys; refused"])
    two.write_bytes(two.read_bytes()[:60])
    found, problems = search(f"srv*{tmp_path / 'up'}")
    assert found == [] and len(problems) == 1 and problems[0].startswith(f"{two}: ")
    two.write_bytes(b"SZDD" + bytes(40))
    assert search(f"srv*{tmp_path / 'up'}") == ([], [f"{two}: another file; refused"])
    assert [*default_store().iterdir()] == []


def test_the_right_file_of_an_archive_of_several(tmp_path: Path, cab: Callable[..., bytes]) -> None:
    make(tmp_path, "up/x.sys/AB1/x.sy_", cab("readme.txt", "x.sys"))
    found, problems = search(f"srv*{tmp_path / 'up'}")
    assert [path.read_bytes() for path in found] == [CONTENT] and problems == []


def test_pointers_of_a_store(tmp_path: Path) -> None:
    real = make(tmp_path, "share/builds/x_1.sys")
    pointer = make(tmp_path, "up/x.sys/AB1/file.ptr", f"PATH:{real}\r\n".encode())
    assert search(f"srv*{tmp_path / 'up'}") == ([real], [])
    assert search(f"srv*{tmp_path / 'c1'}*{tmp_path / 'up'}") == ([tmp_path / "c1/x.sys/AB1/x.sys"], [])

    def problem(text: str) -> str:
        pointer.write_bytes(text.encode())
        found, problems = search(f"srv*{tmp_path / 'up'}")
        assert found == [] and len(problems) == 1
        return problems[0].removeprefix(f"{pointer}: ")

    assert problem("MSG: removed in 2019") == "the store has no such file: removed in 2019"
    assert problem("nonsense") == "it says neither PATH: nor MSG:"
    assert problem("") == "it says neither PATH: nor MSG:"
    for target in (
        r"\\server\share\x.sys",
        "x.sys",
        "../../../share/builds/x_1.sys",
        str(tmp_path),
        "/dev/zero",
        "a\0b",
    ):
        assert problem(f"PATH:{target}").endswith("which is no file that can be reached from here")
    assert "\x1b" not in problem("PATH:\x1b[2J")
    other = make(tmp_path, "share/other", b"other")
    pointer.write_bytes(f"PATH:{other}".encode())
    assert search(f"srv*{tmp_path / 'up'}") == ([], [f"{other}: another file; refused"])


def test_a_file_that_is_itself_called_file_ptr(tmp_path: Path) -> None:
    make(tmp_path, "up/file.ptr/AB1/file.ptr")
    found, problems = search(f"srv*{tmp_path / 'up'}", "file.ptr")
    assert found == [tmp_path / "up/file.ptr/AB1/file.ptr"] and problems == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"PATH:c:\\x", ("PATH", "c:\\x")),
        (b"path: /x \r\nPATH:/y", ("PATH", "/x")),
        (b"\xef\xbb\xbfPATH:/x", ("PATH", "/x")),
        (b"MSG:", ("MSG", "")),
    ],
)
def test_what_pointers_say(text: bytes, expected: tuple[str, str]) -> None:
    assert read_pointer(text) == expected


def test_a_store_of_two_tiers_is_filled_as_it_is_read(tmp_path: Path) -> None:
    make(tmp_path, "c1/index2.txt", b".")
    source = make(tmp_path, "x.sys")
    assert add(tmp_path / "c1", "x.sys", "AB1", source) == tmp_path / "c1/x./x.sys/AB1/x.sys"
    assert search(f"srv*{tmp_path / 'c1'}") == ([tmp_path / "c1/x./x.sys/AB1/x.sys"], [])


@pytest.mark.parametrize("key", ["..", "", "a/b", "a\\b", "AB1 ", "ä", "a" * 65])
def test_a_key_is_never_a_path(key: str, tmp_path: Path) -> None:
    source = make(tmp_path, "x.sys")
    with pytest.raises(StoreError, match="cannot be the directory"):
        add(tmp_path / "store", "x.sys", key, source)
    assert not (tmp_path / "store").exists()


def test_others_see_all_of_a_file_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, "x.sys")
    copied = threading.Event()
    seen: list[object] = []
    copy = shutil.copyfile

    def slowly(old: Path, new: Path) -> None:
        copy(old, new)
        seen.extend([*(tmp_path / "store").rglob("x.sys/AB1/x.sys")])
        copied.set()

    monkeypatch.setattr(stores.shutil, "copyfile", slowly)
    add(tmp_path / "store", "x.sys", "AB1", source)
    assert copied.is_set() and seen == []

    def failing(old: Path, new: Path) -> None:
        Path(new).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores.shutil, "copyfile", failing)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        add(tmp_path / "store", "y.sys", "AB1", source)
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == ["x.sys"]


def test_names_of_archives() -> None:
    assert [compressed_name(name) for name in ("a.pdb", "b.sys", "x")] == ["a.pd_", "b.sy_", "_"]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = stores.incoming(tmp_path), stores.incoming(tmp_path)
    kept = make(tmp_path, "x.sys/AB1/x.sys")
    os.utime(old, (0, 0))
    os.utime(kept, (0, 0))
    stores.clean(tmp_path)
    assert not old.exists() and new.exists() and kept.exists()
    stores.clean(tmp_path / "absent")
