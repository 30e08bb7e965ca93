"""The files of the cache: locked while they are in use, held against their checksums, never reached through a link."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from volatility3_kdump.errors import KdumpError

#: An interrupted extraction loses at most this much; the disk is looked at as often.
SEGMENT = 64 << 20
CHUNK = 1 << 20
_WINDOW = 1 << 15
#: A link in the cache is not ours, and is never followed; Windows has no such flag.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


class CacheError(KdumpError):
    """The cache cannot be written, or has no room."""


def identify(file: BinaryIO) -> str:
    """A name for the present state of an open file: changes whenever its content may have changed."""
    status = os.fstat(file.fileno())
    values = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(repr(values).encode()).hexdigest()[:40]


def key_of(*parts: str) -> str:
    """The key of a member, of its container's digest and what else it depends on."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def sums_of(part: Path) -> Path:
    return part.with_suffix(".sums")


def modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def write_atomically(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix="new-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def boot_id() -> str | None:
    """What is the same until the system is started again; ``None`` where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


def open_part(part: Path, directory: Path) -> tuple[BinaryIO, bool]:
    """A locked file to extract to: the part, and True; or one of our own where another process is at work on that."""
    if part.is_symlink():
        # Not ours: nothing here makes one.
        part.unlink()
    handle = os.open(part, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o600)
    file = os.fdopen(handle, "r+b")
    try:
        if lock(file, exclusive=True) and os.path.samestat(os.fstat(handle), part.stat()):
            return file, True
    except FileNotFoundError:
        pass
    file.close()
    handle, name = tempfile.mkstemp(prefix="own-", suffix=".part", dir=directory)
    os.close(handle)
    file = open(name, "r+b")
    lock(file, exclusive=True)
    return file, False


def take_up(file: BinaryIO, sums: Path, resume_point: Callable[[int], int]) -> tuple[int, list[int], bytes]:
    """Where an interrupted extraction goes on, the checksums up to there, and the bytes in front of it."""
    try:
        noted = [int(line) for line in sums.read_text("ascii").split()]
    except (OSError, ValueError):
        noted = []
    length = file.seek(0, os.SEEK_END)
    good = 0
    for number, expected in enumerate(noted):
        if (number + 1) * SEGMENT > length or checksum(file, number * SEGMENT, SEGMENT) != expected:
            break
        good = (number + 1) * SEGMENT
    start = resume_point(good) if good else 0
    file.seek(max(0, start - _WINDOW))
    return start, noted[: start // SEGMENT], file.read(min(start, _WINDOW))


def checksum(file: BinaryIO, start: int, length: int) -> int:
    """The CRC-32 of a range of a file."""
    value = 0
    file.seek(start)
    while length > 0:
        data = file.read(min(length, CHUNK))
        if not data:
            break
        value = zlib.crc32(data, value)
        length -= len(data)
    return value


def is_sound(path: Path, size: int, sums: list[int]) -> bool:
    """Whether a member's first segment and today's other one have the checksums that they were written with."""
    count = -(-size // SEGMENT)
    if len(sums) != count:
        return False
    chosen = {0, int(time.time() // 86400) % count} if count else set()
    with os.fdopen(os.open(path, os.O_RDONLY | NO_FOLLOW), "rb", buffering=0) as file:
        return all(
            checksum(file, number * SEGMENT, min(SEGMENT, size - number * SEGMENT)) == sums[number] for number in chosen
        )


def refuse_foreign(directory: Path) -> None:
    """Raise :class:`CacheError` for a directory into which somebody else may put what would be taken for a dump."""
    if sys.platform == "win32":
        return
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise CacheError(f"the cache {directory} is a link or a file: remove it, or set XDG_CACHE_HOME to a directory")
    if status.st_uid != os.geteuid():
        reason = f"belongs to another user (id {status.st_uid})"
    elif status.st_mode & 0o022:
        reason = f"may be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return
    raise CacheError(f"the cache {directory} {reason}: set XDG_CACHE_HOME to a directory that only you can write")


#: Members that this process uses, open and locked.
in_use: dict[Path, BinaryIO] = {}


def keep(path: Path) -> None:
    """Keep a member from eviction by any process as long as this one lives. Raises ``OSError`` where it is gone."""
    if sys.platform == "win32":
        return  # an open file cannot be removed there
    held = in_use.get(path)
    if held is not None:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(held.fileno()), path.stat()):
                return
        held.close()
    file = os.fdopen(os.open(path, os.O_RDONLY | NO_FOLLOW), "rb", buffering=0)
    lock(file, exclusive=False)
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        file.close()
        raise FileNotFoundError(path)
    in_use[path] = file


@contextlib.contextmanager
def releasing() -> Iterator[None]:
    """Let go of the members that come into use inside: for a process that opens one container after another.

    Without it, each of them takes room in the cache, whatever the limit, as long as the process lives.
    """
    before = set(in_use)
    try:
        yield
    finally:
        for path in set(in_use) - before:
            let_go(path)


def let_go(path: Path) -> None:
    held = in_use.pop(path, None)
    if held is not None:
        held.close()


def lock(file: BinaryIO, exclusive: bool) -> bool:
    """Lock an open file until it is closed, without waiting; whether that worked."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove(path: Path) -> bool:
    """Remove a member or a part that no process uses; whether that worked."""
    try:
        with path.open("rb") as file:
            if sys.platform != "win32" and not lock(file, exclusive=True):
                return False
            if path.suffix == "":
                path.with_suffix(".json").unlink(missing_ok=True)
            sums_of(path).unlink(missing_ok=True)
            if sys.platform != "win32":
                path.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
