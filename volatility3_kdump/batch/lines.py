"""The lines of a batch in a file, and what those of an earlier run are about."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from volatility3_kdump.batch.files import File, Key, is_as_it_was
from volatility3_kdump.batch.task import SCHEMA, Line
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import mode_of
from volatility3_kdump.shapes import Maybe, Range, ShapeError, Without, check

#: How every line begins: a file of lines is known by it.
_START = f'{{"batch": {SCHEMA}, "file": {{'
_CHUNK = 1 << 20
_LONGEST_LINE = 64 << 20
_SIZE = Range(0, 1 << 63)
_TEXT = Maybe(str)
#: What is read of a line again: ``docs/batch-schema.md``.
_LINE = {
    "file": {
        "path": str,
        "size": Maybe(_SIZE),
        "modified": _TEXT,
        "sha256": _TEXT,
        "member": Maybe(Without({"number": _SIZE}, {"name": _TEXT})),
    },
    "error": Maybe({"kind": str, "again": bool}),
}
_ANALYSED = {
    "verdict": {"hash": _TEXT, "bucket": _TEXT, "suspect": _TEXT, "image_name": _TEXT},
    "bug_check": Maybe(Without({}, {"name": _TEXT, "code": _TEXT})),
    "system": {"time_utc": _TEXT},
}


def check_line(line: object) -> None:
    """Raise :class:`~volatility3_kdump.shapes.ShapeError` for what is no line of a batch."""
    check(line, _LINE, "line")
    if isinstance(line, dict) and line["error"] is None:
        check(line, _ANALYSED, "line")


class Done:
    """What the lines of an earlier run are about.

    A file has its line when one has its path, size and time stamp; or, of a file that was moved or touched since, its
    size and hash. Each line stands for one file: a copy of a file that is still in its place is another file.
    """

    def __init__(self) -> None:
        self._members: dict[Key, set[int | None]] = {}
        self._hashes: dict[Key, str] = {}
        #: Lines whose file is no longer as it was, by size and hash.
        self._free: dict[tuple[int | None, str], list[Key]] = {}
        self._moved: dict[Key, Key] = {}

    def add(self, line: Line) -> None:
        """Take note of a line."""
        file = line["file"]
        key = (file["path"], file["size"], file["modified"])
        member = file["member"]
        self._members.setdefault(key, set()).add(None if member is None else member["number"])
        if file["sha256"] is not None:
            self._hashes[key] = file["sha256"]

    def prepare(self, files: Iterable[File]) -> None:
        """Learn which lines have their file where it was; the others may be about files that were moved."""
        present = {file.key for file in files}
        self._moved.clear()
        self._free.clear()
        for key, digest in self._hashes.items():
            if key not in present and not is_as_it_was(key):
                self._free.setdefault((key[1], digest), []).append(key)

    def hashes(self, file: File) -> tuple[str, ...]:
        """The hashes of lines that may be about a file."""
        if file.key in self._members:
            return ()
        return tuple(sorted(digest for size, digest in self._free if size == file.size))

    def claim(self, file: File, digest: str) -> bool:
        """Whether a line of that hash has no file yet; it is about this one from now on."""
        keys = self._free.get((file.size, digest))
        if not keys:
            return False
        self._moved[file.key] = keys.pop()
        return True

    def has(self, file: File, member: int | None) -> bool:
        """Whether there is a line of a file, or of a member of an archive."""
        return member in self._members.get(self._moved.get(file.key, file.key), ())


class LineFile:
    """A file of lines that grows. Every line is written as a whole, or not at all."""

    def __init__(self, path: Path, resume: bool) -> None:
        """Open or make the file. Raises :class:`KdumpError`, also for a file that is there, unless it is resumed."""
        self.path = path
        mode = mode_of(path)
        if resume and mode is not None and not stat.S_ISREG(mode):
            raise KdumpError(f"{path}: is no ordinary file: name the file that is to be resumed")
        try:
            self._file = path.open("r+b" if resume and path.exists() else "xb", buffering=0)
        except FileExistsError as error:
            raise KdumpError(f"{path}: is there already: --resume goes on with it, or name another file") from error
        except OSError as error:
            raise KdumpError(f"{path}: cannot be written: {error.strerror or error}") from error
        self._end = 0

    def read(self, anew: Callable[[Line], bool]) -> Iterator[Line]:
        """The lines that are there. A last one that was torn off is removed, and those that are to be done anew.

        Raises :class:`KdumpError` for a file that holds something else, and leaves it as it is.
        """
        kept: list[tuple[int, int]] = []
        position = 0
        with self.path.open("rb") as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), b""), 1):
                torn = not raw.endswith(b"\n") and len(raw) < _LONGEST_LINE
                content = raw.rstrip(b"\0\n")
                if torn and (content.startswith(_START.encode()) or _START.encode().startswith(content)):
                    break
                try:
                    line = json.loads(raw)
                    check_line(line)
                except (ValueError, RecursionError) as error:
                    reason = f" ({printable(str(error))})" if isinstance(error, ShapeError) else ""
                    raise KdumpError(
                        f"{self.path}: line {number} is not of `kdump batch`{reason}: "
                        "name the file that is to be resumed"
                    ) from error
                again = line["error"] is not None and line["error"]["again"] and anew(line)
                if not again:
                    yield line
                    if kept and kept[-1][1] == position:
                        kept[-1] = (kept[-1][0], position + len(raw))
                    else:
                        kept.append((position, position + len(raw)))
                position += len(raw)
        with self._writing():
            if kept and kept[0][0] == 0 and len(kept) == 1:
                self._end = kept[0][1]
            elif kept:
                self._rewrite(kept)
            self._file.truncate(self._end)
            self._file.seek(self._end)

    def _rewrite(self, kept: list[tuple[int, int]]) -> None:
        """Keep these ranges of the file only: in a new file that then takes its place."""
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name[:80]}-", dir=self.path.parent)
        try:
            with os.fdopen(handle, "wb") as out, self.path.open("rb") as stream:
                for start, end in kept:
                    stream.seek(start)
                    while start < end and (data := stream.read(min(_CHUNK, end - start))):
                        out.write(data)
                        start += len(data)
                self._end = out.tell()
                out.flush()
                os.fsync(out.fileno())
            self._file.close()
            shutil.copymode(self.path, name)
            os.replace(name, self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._file = self.path.open("r+b", buffering=0)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise KdumpError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def write(self, line: Line) -> None:
        """Append a line. Raises :class:`KdumpError` where the disk does not take it."""
        data = memoryview(json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n")
        with self._writing():
            try:
                written = 0
                while written < len(data):
                    written += self._file.write(data[written:]) or 0
                self._end += written
            except BaseException:
                # Interrupted or out of room in the middle: what is there must not look like a line.
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end)
                    self._file.seek(self._end)
                raise

    def close(self) -> None:
        self._file.close()
