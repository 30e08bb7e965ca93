"""The files that a batch is about."""

from __future__ import annotations

import datetime
import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from volatility3_kdump.files import reason

#: Names by which a file in a directory is taken for a dump whatever it holds.
DUMP_SUFFIXES = (".dmp", ".mdmp", ".hdmp", ".kdmp", ".vmem", ".lime", ".avml")
HEAD_SIZE = 18
#: How crash dumps begin, and memory images of kinds that nothing else begins like.
_DUMP_MAGICS = (b"PAGEDU64", b"PAGEDUMP", b"EMiL", b"AVML", b"KDUMP   ", b"makedumpfile\0")
#: ELF files are mostly programs: e_type is 4 for core files.
_ELF, _CORE = b"\x7fELF", b"\x04\x00"

#: Path, size and time stamp: what tells that a file is the one that a line is about.
Key = tuple[str, int | None, str | None]


@dataclass(frozen=True)
class File:
    """A file as it was found. ``modified`` is its time stamp in UTC with nanoseconds.

    ``path`` is absolute; ``size`` and ``modified`` are ``None`` where the file cannot be looked at. ``explicit`` is
    whether the caller named it, rather than a directory that it is in. ``problem`` says why it cannot be opened.
    """

    path: str
    size: int | None = None
    modified: str | None = None
    explicit: bool = True
    problem: str | None = None
    archive: bool = False
    #: The bytes, for whoever does not see the path.
    content: bytes | None = field(default=None, repr=False)

    @property
    def shown_path(self) -> str:
        """The path as lines have it: bytes that are no text in the file system's encoding as escapes."""
        return self.path.encode("utf-8", "backslashreplace").decode("utf-8")

    @property
    def key(self) -> Key:
        """What is looked for in the lines of an earlier run."""
        return self.shown_path, self.size, self.modified


def collect(paths: Iterable[str | os.PathLike[str]], patterns: Sequence[str] = ()) -> tuple[list[File], int]:
    """The files that a batch is about, in its order, and how many others were left out.

    A path of a file is taken as it is. A directory is searched to any depth, without following links to directories,
    for files that begin as a crash dump, a memory image or an archive does or have the name of one; ``patterns``
    (``*.dmp``, letter case does not matter) narrow that to the names that match one of them. The order is that of the
    arguments; of a directory, its files come in the order of their names, then its directories. A file that is met
    twice counts once.
    """
    files: dict[str, File] = {}
    left_out = 0
    for given in paths:
        path = os.path.abspath(os.fspath(given))
        if not os.path.isdir(path):
            file = look_at(path, explicit=True)
            if file is not None and (path not in files or not files[path].explicit):
                files[path] = file
            continue
        for inner, problem in _walk(path):
            if inner in files:
                continue
            if problem is not None:
                files[inner] = File(inner, explicit=False, problem=problem)
                continue
            name = os.path.basename(inner).lower()
            if patterns and not any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in patterns):
                continue
            file = look_at(inner, explicit=False)
            if file is None:
                left_out += 1
            else:
                files[inner] = file
    return list(files.values()), left_out


def _walk(directory: str) -> Iterator[tuple[str, str | None]]:
    """The files below a directory, and the directories that cannot be read with the reason."""
    problems: list[tuple[str, str]] = []

    def note(error: OSError) -> None:
        problems.append((os.fspath(error.filename), f"cannot be searched: {error.strerror or error}"))

    for parent, directories, names in os.walk(directory, onerror=note):
        directories.sort()
        for name in sorted(names):
            yield os.path.join(parent, name), None
        yield from problems
        problems.clear()
    yield from problems


def begins_as_dump(head: bytes) -> bool:
    """Whether a file that begins like this is a crash dump, or a memory image of a kind that can be told."""
    return head.startswith(_DUMP_MAGICS) or (head.startswith(_ELF) and head[16:18] == _CORE)


def look_at(path: str, explicit: bool) -> File | None:
    """What a file is; ``None`` for one of a directory that is neither a dump nor an archive."""
    from volatility3_kdump.archives.containers import recognise

    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            # Not opened: reading a pipe or a device may never end.
            return File(path, problem="is not an ordinary file") if explicit else None
        with open(path, "rb") as stream:
            head = stream.read(HEAD_SIZE)
    except (OSError, ValueError) as error:
        if not explicit and os.path.islink(path) and not os.path.exists(path):
            return None
        return File(path, explicit=explicit, problem=f"cannot be opened: {reason(error)}")
    archive = recognise(head) is not None
    if not explicit and not archive and not begins_as_dump(head) and not path.lower().endswith(DUMP_SUFFIXES):
        return None
    return File(path, status.st_size, moment(status.st_mtime_ns), explicit, archive=archive)


def moment(nanoseconds: int) -> str:
    """A time stamp in UTC; nanoseconds are kept, since the text serves to compare."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{rest:09} s"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def is_as_it_was(key: Key) -> bool:
    file = look_at(key[0], explicit=True)
    return file is not None and file.key == key
