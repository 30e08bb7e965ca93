"""The cache of what was extracted from containers.

It is a directory of files whose names are hashes, nothing else: ``members/KEY`` with ``members/KEY.json`` beside it
once it is complete, ``members/KEY.part`` while it is not, ``digests/`` and ``notes/``. The directory is
``$XDG_CACHE_HOME/volatility3-kdump``, or what the system has in its place, and only its owner may read it: dumps hold
secrets.

A key is made from the SHA-256 of the whole container. Size, time stamps and samples of a file do not identify it, but
hashing gigabytes for each opening would take seconds, so the hash of a file is remembered by device, inode, size,
modification time and *change* time. The change time is the system's own: no program sets it, as it may the modification
time, and every write changes it. Where it is as recent as its resolution, the hash is not remembered; nor on Windows,
which has none.

An interrupted extraction is taken up where its last whole segment ended, which its checksums vouch for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from volatility3_kdump.archives import cache_files
from volatility3_kdump.archives.cache_files import (
    CHUNK,
    CacheError,
    checksum,
    identify,
    in_use,
    is_sound,
    keep,
    let_go,
    lock,
    modified,
    open_part,
    refuse_foreign,
    remove,
    sums_of,
    take_up,
    write_atomically,
)
from volatility3_kdump.errors import CorruptContainer, KdumpError, NotACrashDump, UnsupportedContainer
from volatility3_kdump.options import parse_size

LIMIT_VARIABLE = "KDUMP_CACHE_LIMIT"
DEFAULT_LIMIT = 100 << 30
#: What is left free on the disk, in bytes.
_HEADROOM = 256 << 20
#: Seconds within which a file system may give two changes the same time: FAT and some network file systems, 2 s.
_RESOLUTION = 2.0
_MOST_NOTES = 2000
#: Seconds after which the system has written a file to the disk by itself, so that asking for it costs nothing.
_SETTLED = 60.0


Report = Callable[[int], None]


class Stream(Protocol):
    """Gives the bytes from an offset on; the second argument is what is in front of it, at most 32 KiB."""

    def __call__(self, start: int, before: bytes) -> Iterator[bytes]: ...


def default_directory() -> Path:
    """Where the cache is on this system."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen and Path(chosen).is_absolute():
        return Path(chosen) / "volatility3-kdump"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "volatility3-kdump" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "volatility3-kdump"
    return Path.home() / ".cache" / "volatility3-kdump"


def make_private(place: Path) -> None:
    """Make a directory inside the cache, and those in between, for the user alone. Raises ``OSError``.

    ``mkdir(parents=True)`` gives its mode to the last one only: others in the group could write in the cache itself.
    """
    base = default_directory()
    base.parent.mkdir(parents=True, exist_ok=True)
    for step in reversed([place, *place.parents]):
        if step.is_relative_to(base) and not step.exists():
            step.mkdir(mode=0o700, exist_ok=True)


def limit_from_environment() -> int:
    """The most bytes of members that the cache keeps. Raises :class:`CacheError` for what is no size."""
    setting = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not setting:
        return DEFAULT_LIMIT
    size = parse_size(setting)
    if size is None:
        raise CacheError(f"{LIMIT_VARIABLE} is {setting[:40]!r}, which is no size: write it like 20G or 500M")
    return size


class MemberCache:
    """The files of one cache directory. Several processes may use it at a time."""

    def __init__(self, directory: Path | None = None, limit: int | None = None) -> None:
        """Make the directory if need be. Raises :class:`CacheError`."""
        self.directory = default_directory() if directory is None else directory
        self.limit = limit_from_environment() if limit is None else limit
        self._members = self.directory / "members"
        with self._writing():
            for path in (self.directory, self._members, self.directory / "digests", self.directory / "notes"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                refuse_foreign(path)

    @property
    def scratch(self) -> Path:
        """A directory on the cache's file system for files of the moment."""
        return self.directory

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CacheError:
        return CacheError(
            f"the cache {self.directory} cannot be written: {error.strerror or error}: "
            "set XDG_CACHE_HOME to a directory with room"
        )

    # what a file is -------------------------------------------------------------------------------------------------

    def digest(self, file: BinaryIO, report: Report | None = None) -> str:
        """The SHA-256 of a file, from memory where the file is known not to have changed.

        ``report`` is told how many bytes were read. Raises :class:`KdumpError` for a file that changes meanwhile.
        """
        now = time.time()
        identity = identify(file)
        note = self.directory / "digests" / identity
        changed = os.fstat(file.fileno()).st_ctime
        trusted = sys.platform != "win32" and now - changed > _RESOLUTION
        if trusted:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                digest = note.read_text("ascii")
                if re.fullmatch("[0-9a-f]{64}", digest):
                    return digest
        state = hashlib.sha256()
        buffer = bytearray(CHUNK)
        done = 0
        file.seek(0)
        while length := file.readinto(buffer):  # type: ignore[attr-defined]
            state.update(memoryview(buffer)[:length])
            done += length
            if report is not None:
                report(done)
        if identify(file) != identity:
            raise KdumpError("the file changes while it is read: copy it first")
        digest = state.hexdigest()
        if trusted:
            self._note(note, digest)
        return digest

    # notes ----------------------------------------------------------------------------------------------------------

    def recall(self, key: str) -> str | None:
        """What :meth:`note` was given for a key, ``None`` for nothing."""
        try:
            return (self.directory / "notes" / key).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def note(self, key: str, text: str) -> None:
        """Remember a short text."""
        self._note(self.directory / "notes" / key, text)

    def _note(self, path: Path, text: str) -> None:
        with self._writing():
            write_atomically(path, text)
            notes = list(path.parent.iterdir())
            if len(notes) > _MOST_NOTES:
                notes.sort(key=modified)
                for old in notes[: len(notes) // 2]:
                    old.unlink(missing_ok=True)

    # members --------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Path | None:
        """The complete member of a key, marked as just used and kept from eviction while this process lives.

        Its first segment and another one, a different one each day, are held against their checksums the first time
        that a process finds it; one that does not fit is removed.
        """
        path = self._members / key
        record = path.with_suffix(".json")
        try:
            entry = json.loads(record.read_text("ascii"))
            if path.lstat().st_size != entry["size"]:
                return None
            if entry["boot"] != cache_files.boot_id() and not entry["synced"]:
                # Written before the system was started, and perhaps never to the disk.
                return None
            first_time = path not in in_use
            keep(path)
            if first_time and not is_sound(path, entry["size"], entry["sums"]):
                let_go(path)
                remove(path)
                return None
            with contextlib.suppress(OSError):
                if not entry["synced"] and time.time() - path.stat().st_mtime > _SETTLED:
                    with path.open("rb+") as file:
                        os.fsync(file.fileno())
                    write_atomically(record, json.dumps({**entry, "synced": True}))
                os.utime(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return path

    def store(
        self, key: str, size: int | None, stream: Stream, resume_point: Callable[[int], int] = lambda length: 0
    ) -> Path:
        """Write a member and give its path.

        ``size`` is how many bytes it has, if that is known; ``resume_point`` the largest offset up to a length from
        which ``stream`` can go on. What ``stream`` raises passes through, and leaves what was written for the next
        time, unless it refuses the member for good. Raises :class:`CacheError` where there is no room.
        """
        path = self._members / key
        part = self._members / f"{key}.part"
        with self._writing():
            file, shared = open_part(part, self._members)
            written = part if shared else Path(file.name)
        try:
            with file:
                with self._writing():
                    done, sums, before = take_up(file, sums_of(part), resume_point) if shared else (0, [], b"")
                    self._make_room(size, done, written)
                    if file.seek(0, os.SEEK_END) != done:
                        file.truncate(done)
                total = self._fill(file, written, done, sums, size, stream(done, before))
                if size is not None and total != size:
                    raise CorruptContainer(f"extracting gave {total:,} bytes instead of {size:,}")
                with self._writing():
                    boot = cache_files.boot_id()
                    if boot is None:
                        os.fsync(file.fileno())
                    # The record is what makes the member count: the old one goes first, the new one comes last.
                    path.with_suffix(".json").unlink(missing_ok=True)
                    if sys.platform == "win32":
                        file.close()
                    os.replace(written, path)
                    record = {"size": total, "boot": boot, "synced": boot is None, "sums": sums}
                    write_atomically(path.with_suffix(".json"), json.dumps(record))
                    sums_of(written).unlink(missing_ok=True)
                    lock(file, exclusive=False)  # as an exclusive one, it would be in the way of our own
                    keep(path)
        except (NotACrashDump, UnsupportedContainer):
            written.unlink(missing_ok=True)
            sums_of(written).unlink(missing_ok=True)
            raise
        finally:
            if not shared:
                written.unlink(missing_ok=True)
                sums_of(written).unlink(missing_ok=True)
        self._evict(self.limit, path)
        return path

    def _fill(
        self, file: BinaryIO, part: Path, done: int, sums: list[int], size: int | None, pieces: Iterator[bytes]
    ) -> int:
        """Append to a part, with the checksum of each whole segment noted; gives the length."""
        with self._writing():
            # What belongs to no whole segment was verified, and is summed anew.
            segment = checksum(file, len(sums) * cache_files.SEGMENT, done - len(sums) * cache_files.SEGMENT)
            file.seek(done)
        for data in pieces:
            view = memoryview(data)
            while view:
                piece = view[: cache_files.SEGMENT - done % cache_files.SEGMENT]
                view = view[len(piece) :]
                segment = zlib.crc32(piece, segment)
                try:
                    file.write(piece)
                except OSError as error:
                    raise self._unwritable(error) from error
                done += len(piece)
                if done % cache_files.SEGMENT == 0:
                    sums.append(segment)
                    segment = 0
                    with self._writing():
                        file.flush()
                        write_atomically(sums_of(part), "\n".join(map(str, sums)))
                    if size is None:
                        self._make_room(None, done, part)
        with self._writing():
            file.flush()
        if done % cache_files.SEGMENT:
            sums.append(segment)
        return done

    # room -----------------------------------------------------------------------------------------------------------

    def _make_room(self, size: int | None, have: int, keep: Path) -> None:
        """See that a member of a size, ``have`` of it written, fits the limit and the disk; else another segment."""
        needed = have + cache_files.SEGMENT if size is None else size
        if size is not None:
            takes = f"{size:,} bytes"
        else:
            takes = f"more than {have:,} bytes" if have else "an unknown number of bytes"
        if needed > self.limit:
            raise UnsupportedContainer(
                f"the dump inside takes {takes}, but the cache is limited to {self.limit:,}: "
                f"set {LIMIT_VARIABLE} to more, or extract the dump yourself"
            )
        self._evict(self.limit - needed + have, keep)
        missing = needed - have
        free = shutil.disk_usage(self._members).free
        if missing + _HEADROOM > free:
            # Whatever was not used for the longest time goes, even where the limit would allow it.
            held = sum(size for _, size, _ in self._entries())
            self._evict(max(0, held - (missing + _HEADROOM - free)), keep)
            free = shutil.disk_usage(self._members).free
        if missing + _HEADROOM > free:
            raise CacheError(
                f"the dump inside takes {takes}, but the disk of the cache {self.directory} has {free:,} "
                "free: set XDG_CACHE_HOME to a directory with room"
            )

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, size, path) of every member and part, the one that was not used for the longest time first."""
        entries = []
        for path in self._members.iterdir():
            if path.suffix in (".json", ".sums"):
                continue
            try:
                status = path.stat()
                record = path.with_suffix(".json")
                used = record.stat().st_mtime if path.suffix == "" and record.exists() else status.st_mtime
                entries.append((used, status.st_size, path))
            except OSError:
                continue
        return sorted(entries)

    def _evict(self, limit: int, keep: Path) -> None:
        """Remove members until the rest takes at most ``limit`` bytes; those in use stay."""
        entries = self._entries()
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= limit:
                return
            if path.stem != keep.stem and remove(path):
                total -= size
