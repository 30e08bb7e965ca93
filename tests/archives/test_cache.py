"""The cache of extracted dumps: what it takes for equal, what it keeps, and what an interruption leaves."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.archives import cabinets, packing
from volatility3_kdump.archives import cache as cache_module
from volatility3_kdump.archives import cache_files
from volatility3_kdump.archives.cache import MemberCache, default_directory, limit_from_environment
from volatility3_kdump.archives.cache_files import CacheError, key_of
from volatility3_kdump.archives.containers import open_container
from volatility3_kdump.errors import KdumpError, UnsupportedContainer

CHECKOUT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="locks and change times of POSIX")


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def cache(tmp_path: Path) -> MemberCache:
    return MemberCache(tmp_path / "cache", limit=1 << 40)


def give(data: bytes, piece: int = 1000) -> cache_module.Stream:
    def stream(start: int, before: bytes) -> Iterator[bytes]:
        assert start == 0
        for at in range(0, len(data), piece):
            yield data[at : at + piece]

    return stream


def never(start: int, before: bytes) -> Iterator[bytes]:
    raise AssertionError("extracted again")


# what a file is -------------------------------------------------------------------------------------------------------


def settle(path: Path) -> None:
    """Wait until the change time of a file is older than what file systems resolve."""
    while time.time() - path.stat().st_ctime < cache_module._RESOLUTION + 0.05:
        time.sleep(0.05)


def test_the_digest_is_the_hash_of_the_whole_file(tmp_path: Path, cache: MemberCache) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(3 << 20))
    seen: list[int] = []
    with path.open("rb") as file:
        assert cache.digest(file, seen.append) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert seen[-1] == 3 << 20 and len(seen) > 1


@posix
def test_a_file_that_did_not_change_is_read_once(tmp_path: Path, cache: MemberCache) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    settle(path)
    read: list[int] = []
    with path.open("rb") as file:
        digests = {cache.digest(file, read.append), MemberCache(cache.directory).digest(file, read.append)}
    assert digests == {hashlib.sha256(b"first").hexdigest()} and read == [5]
    # Same size, same inode, and the modification time set back: only the change time tells.
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    with path.open("rb") as file:
        assert cache.digest(file) == hashlib.sha256(b"other").hexdigest()


@posix
def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path, cache: MemberCache) -> None:
    path = tmp_path / "file"
    for number in range(20):
        # A file system may give two of these the same time.
        path.write_bytes(b"%05d" % number)
        with path.open("rb") as file:
            assert cache.digest(file) == hashlib.sha256(b"%05d" % number).hexdigest()
    assert not list((cache.directory / "digests").iterdir())


def test_keys_depend_on_every_part() -> None:
    keys = {key_of("a", "b"), key_of("ab"), key_of("a", "b", ""), key_of("b", "a"), key_of("a\udc80")}
    assert len(keys) == 5 and all(len(key) == 40 for key in keys)


# members --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_a_member_is_written_once(known: bool, cache: MemberCache) -> None:
    data = content(300_000)
    assert cache.find("k") is None
    path = cache.store("k", len(data) if known else None, give(data))
    assert path.read_bytes() == data
    assert cache.find("k") == path
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["k", "k.json"]


@posix
def test_only_the_owner_may_read_it(cache: MemberCache) -> None:
    path = cache.store("k", 5, give(b"bytes"))
    for entry in (cache.directory, path.parent, path, path.with_suffix(".json")):
        assert stat.S_IMODE(entry.stat().st_mode) & 0o077 == 0, entry


def test_a_member_that_lost_bytes_is_not_found(cache: MemberCache) -> None:
    path = cache.store("k", 5, give(b"bytes"))
    path.write_bytes(b"byte")
    assert cache.find("k") is None
    assert cache.store("k", 5, give(b"bytes")).read_bytes() == b"bytes"
    path.with_suffix(".json").write_text("[1]")
    assert cache.find("k") is None


def test_a_member_that_may_not_have_reached_the_disk_is_not_found(
    cache: MemberCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_files, "boot_id", lambda: "first")
    path = cache.store("k", 5, give(b"bytes"))
    old = cache.store("old", 5, give(b"older"))
    os.utime(old, (1, 1))
    assert cache.find("k") == path and cache.find("old") == old
    # The system was started again. What was used later than it was written was made sure of.
    monkeypatch.setattr(cache_files, "boot_id", lambda: "second")
    assert cache.find("k") is None and cache.find("old") == old
    # Where the system does not say when it was started, every member is made sure of.
    monkeypatch.setattr(cache_files, "boot_id", lambda: None)
    path = cache.store("k", 5, give(b"bytes"))
    assert cache.find("k") == path


def test_a_stream_of_another_size_is_refused(cache: MemberCache) -> None:
    for size in (4, 6):
        with pytest.raises(KdumpError, match=f"gave 5 bytes instead of {size}"):
            cache.store("k", size, give(b"bytes"))
        assert cache.find("k") is None


# interruptions --------------------------------------------------------------------------------------------------------


class Interrupted(NamedTuple):
    data: bytes
    starts: list[int]


@pytest.fixture
def interrupted(cache: MemberCache, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """A member of which the first 250,000 bytes were written, in segments of 64 KiB."""
    monkeypatch.setattr(cache_files, "SEGMENT", 1 << 16)
    data = content(400_000)

    def stream(start: int, before: bytes) -> Iterator[bytes]:
        yield data[:250_000]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.store("k", len(data), stream, lambda length: length)
    assert cache.find("k") is None
    return Interrupted(data, [])


def resume(cache: MemberCache, interrupted: Interrupted, block: int = 1) -> bytes:
    data, starts = interrupted

    def stream(start: int, before: bytes) -> Iterator[bytes]:
        starts.append(start)
        assert before == data[max(0, start - (1 << 15)) : start]
        for at in range(start, len(data), 777):
            yield data[at : at + 777]

    path = cache.store("k", len(data), stream, lambda length: length // block * block)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["k", "k.json"]
    return path.read_bytes()


@posix
@pytest.mark.parametrize("block, expected", [(1, 3 << 16), (10_000, 190_000), (1_000_000, 0)])
def test_an_interrupted_extraction_goes_on(
    block: int, expected: int, cache: MemberCache, interrupted: Interrupted
) -> None:
    assert resume(cache, interrupted, block) == interrupted.data
    assert interrupted.starts == [expected]


@posix
@pytest.mark.parametrize(
    "damage, expected", [((1 << 16) + 5, 1 << 16), (7, 0), ((3 << 16) + 9, 3 << 16)], ids=["second", "first", "rest"]
)
def test_what_was_damaged_meanwhile_is_extracted_again(
    damage: int, expected: int, cache: MemberCache, interrupted: Interrupted
) -> None:
    part = cache.directory / "members" / "k.part"
    with part.open("r+b") as file:
        file.seek(damage)
        file.write(b"?")
    assert resume(cache, interrupted) == interrupted.data
    assert interrupted.starts == [expected]


@posix
@pytest.mark.parametrize("sums", [b"", b"junk", b"1\n2\n3\n", b"9" * 99])
def test_without_sums_it_starts_anew(sums: bytes, cache: MemberCache, interrupted: Interrupted) -> None:
    (cache.directory / "members" / "k.sums").write_bytes(sums)
    assert resume(cache, interrupted) == interrupted.data
    assert interrupted.starts == [0]


@posix
@pytest.mark.parametrize("pack", [cabinets.stored, cabinets.mszip])
def test_a_cabinet_goes_on_in_the_middle(pack, tmp_path, cache, monkeypatch) -> None:
    """What was extracted is not read again, but for the block that the segment ends in."""
    monkeypatch.setattr(cache_files, "SEGMENT", 1 << 17)
    data = bytes(packing.bitmap([1, 2, 3, 9], 0x8000)) + content(30_000) * 40
    path = tmp_path / "crash.cab"
    path.write_bytes(cabinets.cabinet([("a.txt", b"hello"), ("m.dmp", data), ("z", b"z" * 99)], pack).pack())
    monkeypatch.setattr(cache_module.zlib, "crc32", stopping_crc32(20))
    with pytest.raises(KeyboardInterrupt):
        open_container(path, cache=cache)
    monkeypatch.undo()
    monkeypatch.setattr(cache_files, "SEGMENT", 1 << 17)
    (part,) = (cache.directory / "members").glob("*.part")
    assert part.stat().st_size == 4 << 17
    read: list[int] = []
    from volatility3_kdump.archives.cabinet import Cabinet

    blocks = Cabinet._blocks

    def watched(self, folder, skip=0):
        for offset, block, block_data in blocks(self, folder, skip):
            read.append(offset)
            yield offset, block, block_data

    monkeypatch.setattr(Cabinet, "_blocks", watched)
    found = open_container(path, cache=cache)
    assert found is not None and found.path.read_bytes() == data
    assert min(read) >= (4 << 17) - 0x8000


def stopping_crc32(calls: int):
    left = [calls]

    def crc32(data: bytes, value: int = 0) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(data, value)

    real = cache_module.zlib.crc32
    return crc32


_STORE = """
import sys, time
from pathlib import Path
from volatility3_kdump.archives.cache import MemberCache

def stream(start, before):
    yield b"a" * 100
    Path(sys.argv[2]).touch()
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
    yield b"b" * 100

print(MemberCache(Path(sys.argv[1])).store("k", 200, stream).stat().st_size)
"""


@posix
def test_two_processes_extract_the_same(tmp_path: Path, cache: MemberCache) -> None:
    started, go_on = tmp_path / "started", tmp_path / "go on"
    other = subprocess.Popen(
        [sys.executable, "-c", _STORE, cache.directory, started, go_on],
        env={"PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not started.exists():
        assert other.poll() is None
        time.sleep(0.01)
    data = b"a" * 100 + b"b" * 100
    path = cache.store("k", 200, give(data))
    assert path.read_bytes() == data
    assert cache.find("k") == path
    go_on.touch()
    assert other.communicate(timeout=60)[0] == "200\n"
    assert path.read_bytes() == data and cache.find("k") == path
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["k", "k.json"]


# room -----------------------------------------------------------------------------------------------------------------


def fill(cache: MemberCache, sizes: dict[str, int]) -> None:
    """Members that no process uses, the first named not used for the longest time."""
    for age, (name, size) in enumerate(sizes.items()):
        path = cache.store(name, size, give(bytes(size)))
        held = cache_files.in_use.pop(path, None)
        if held is not None:
            held.close()
        os.utime(path.with_suffix(".json"), (1000 + age, 1000 + age))


def kept(cache: MemberCache) -> set[str]:
    return {entry.name for entry in (cache.directory / "members").iterdir() if not entry.suffix}


def test_what_was_not_used_for_longest_goes_first(cache: MemberCache) -> None:
    fill(cache, {"a": 1000, "b": 1000, "c": 1000})
    assert cache.find("a") is not None
    cache_files.in_use.pop(cache.directory / "members" / "a").close()
    cache.limit = 3500
    cache.store("d", 1400, give(bytes(1400)))
    assert kept(cache) == {"a", "c", "d"}
    assert {entry.name for entry in (cache.directory / "members").glob("b*")} == set()


def test_what_outgrows_the_limit_on_the_way_makes_room(cache: MemberCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "SEGMENT", 1000)
    fill(cache, {"a": 1000, "b": 1000})
    cache.limit = 5000
    cache.store("d", None, give(bytes(3500)))
    assert kept(cache) == {"b", "d"}
    with pytest.raises(UnsupportedContainer, match="cache is limited to 5,000"):
        cache.store("e", None, give(bytes(9000)))
    assert "e" not in kept(cache)


@posix
def test_what_is_in_use_stays(cache: MemberCache) -> None:
    fill(cache, {"a": 1000, "b": 1000})
    assert cache.find("a") is not None
    os.utime(cache.directory / "members" / "a.json", (1, 1))
    cache.limit = 2500
    cache.store("d", 1000, give(bytes(1000)))
    assert kept(cache) == {"a", "d"}


def test_what_was_left_half_done_goes_as_well(cache: MemberCache) -> None:
    part = cache.directory / "members" / "own-x.part"
    part.write_bytes(bytes(5000))
    os.utime(part, (1, 1))
    cache.limit = 3000
    cache.store("d", 1000, give(bytes(1000)))
    assert not part.exists()


def test_a_member_beyond_the_limit_is_refused_before_anything_goes(cache: MemberCache) -> None:
    fill(cache, {"a": 1000})
    cache.limit = 3000
    with pytest.raises(
        UnsupportedContainer, match=r"takes 5,000 bytes, but the cache is limited to 3,000: set KDUMP_C"
    ):
        cache.store("d", 5000, never)
    assert kept(cache) == {"a"}


def test_a_full_disk_is_seen_before(cache: MemberCache, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, {"a": 1000})
    usage = shutil.disk_usage(cache.directory)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=300 << 20))
    assert cache.store("d", 1000, give(bytes(1000))).exists()
    with pytest.raises(CacheError, match=r"takes 99,999,999,999 bytes, but the disk .* has 314,572,800 free"):
        cache.store("e", 99_999_999_999, never)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(CacheError, match=r"takes an unknown number of bytes, but the disk .* has 1,048,576 free"):
        cache.store("f", None, never)


@pytest.mark.parametrize(
    "text, expected", [("", 100 << 30), ("0", 0), ("500", 500), ("2k", 2048), (" 20G ", 20 << 30), ("1 TiB", 1 << 40)]
)
def test_the_limit_is_a_size(text: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDUMP_CACHE_LIMIT", text)
    assert limit_from_environment() == expected


@pytest.mark.parametrize("text", ["much", "-1", "1.5G", "9" * 40, "1x"])
def test_a_limit_that_is_no_size(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDUMP_CACHE_LIMIT", text)
    with pytest.raises(CacheError, match=r"KDUMP_CACHE_LIMIT is .*, which is no size: write it like 20G"):
        MemberCache(tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheError) as failure:
        MemberCache(tmp_path / "file" / "cache")
    assert "set XDG_CACHE_HOME" in str(failure.value) and str(failure.value).isprintable()
    cache = MemberCache(tmp_path / "cache")

    def full(*arguments: object, **options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.os, "replace", full)
    with pytest.raises(CacheError, match="No space left on device"):
        cache.store("k", 5, give(b"bytes"))
    assert cache.find("k") is None


def test_the_directory_is_the_one_for_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "volatility3-kdump"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_directory().is_absolute() and "volatility3-kdump" in default_directory().parts


def test_notes_are_few(cache: MemberCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_MOST_NOTES", 10)
    for number in range(25):
        cache.note(f"n{number}", str(number))
    assert cache.recall("n24") == "24" and cache.recall("none") is None
    assert len(list((cache.directory / "notes").iterdir())) <= 10


def test_records_are_plain(cache: MemberCache) -> None:
    path = cache.store("k", 5, give(b"bytes"))
    assert json.loads(path.with_suffix(".json").read_text())["size"] == 5


@posix
def test_members_are_let_go_of(cache: MemberCache) -> None:
    held = cache.store("held", 5, give(b"bytes"))
    with cache_files.releasing():
        let_go = cache.store("k", 5, give(b"bytes"))
        assert cache.find("held") == held
        assert {held, let_go} <= set(cache_files.in_use)
    assert held in cache_files.in_use and let_go not in cache_files.in_use
    cache.limit = 12
    cache.store("d", 5, give(b"bytes"))
    assert kept(cache) == {"held", "d"}


# neighbours on the machine --------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("name", ["part", "sums"])
def test_links_are_never_followed(name: str, cache: MemberCache, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    key = key_of("x")
    (cache.directory / "members" / f"{key}.{name}").symlink_to(victim)
    data = content(200_000)
    assert cache.store(key, len(data), give(data)).read_bytes() == data
    assert victim.read_bytes() == b"precious"


@posix
def test_a_link_is_not_taken_for_a_member(cache: MemberCache, tmp_path: Path) -> None:
    key = key_of("x")
    data = content(5000)
    path = cache.store(key, len(data), give(data))
    other = tmp_path / "other"
    other.write_bytes(data)
    path.unlink()
    path.symlink_to(other)
    cache_files.in_use.clear()
    assert cache.find(key) is None


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("which", ["", "members", "notes"])
def test_a_directory_that_others_may_write_is_refused(mode: int, which: str, cache: MemberCache) -> None:
    (cache.directory / which).chmod(mode)
    with pytest.raises(CacheError, match=rf"may be written by others \(mode {mode:04o}\): set XDG_CACHE_HOME"):
        MemberCache(cache.directory)


@posix
def test_a_directory_of_another_user_is_refused(cache: MemberCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: cache.directory.stat().st_uid + 1)
    with pytest.raises(CacheError, match="belongs to another user"):
        MemberCache(cache.directory)


@posix
def test_a_directory_that_is_a_link_is_refused(cache: MemberCache, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(cache.directory)
    with pytest.raises(CacheError, match="is a link or a file"):
        MemberCache(link)


@posix
@pytest.mark.parametrize("at", [0, 700_000])
def test_a_member_that_rotted_is_extracted_again(at: int, cache: MemberCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "SEGMENT", 400_000)
    # The day decides which other segment is looked at: this one is the second.
    monkeypatch.setattr(time, "time", lambda: 86400.0 * 3 + 1)
    key = key_of("x")
    data = content(750_000)
    path = cache.store(key, len(data), give(data))
    assert cache.find(key) == path
    with path.open("rb+") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    cache_files.let_go(path)
    assert cache.find(key) is None and not path.exists()
    assert cache.store(key, len(data), give(data)).read_bytes() == data


def test_what_is_refused_for_good_leaves_nothing(cache: MemberCache) -> None:
    def bomb(start: int, before: bytes) -> Iterator[bytes]:
        yield content(100_000)
        raise UnsupportedContainer("it looks like a decompression bomb")

    with pytest.raises(UnsupportedContainer, match="bomb"):
        cache.store(key_of("x"), None, bomb)
    assert not list((cache.directory / "members").iterdir())
