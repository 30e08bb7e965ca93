"""The one place that asks the file system and parses URLs: what cannot exist is absent, and nothing hangs.

``Path.exists()`` and its like raise for names that are too long, for NUL bytes and for directories that may not be
entered (Python 3.10 to 3.13); opening a pipe waits for somebody to write. Names come from dumps, servers, paths in the
environment and command lines, so every answer here is a value or one line.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import SplitResult, urlsplit

from volatility3_kdump.errors import KdumpError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
#: Opening a pipe for reading must not wait for a writer; Windows has neither flag nor such pipes.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
#: What of a file shows whether it is a text.
_START = 1 << 16
_BINARY = getattr(os, "O_BINARY", 0)
#: A reason of :func:`why_not_entered`.
NO_DIRECTORY = "is not a directory"


class FileFailure(KdumpError):
    """A file that cannot be opened or read, or is none; the message has the reason without the file's name."""


def mode_of(path: str | os.PathLike[str]) -> int | None:
    """The mode (``st_mode``) of what is at a path, links followed; ``None`` where nothing can be."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return None


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether an ordinary file is there and may be looked at."""
    mode = mode_of(path)
    return mode is not None and stat.S_ISREG(mode)


def is_directory(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is there and may be looked at."""
    mode = mode_of(path)
    return mode is not None and stat.S_ISDIR(mode)


def why_not_entered(path: str | os.PathLike[str]) -> str | None:
    """Why nothing in a directory can be opened; ``None`` where it can."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return "cannot be entered: Permission denied"
    except (OSError, ValueError):
        return NO_DIRECTORY
    if not stat.S_ISDIR(mode):
        return NO_DIRECTORY
    return None if os.access(path, os.X_OK) else "cannot be entered: Permission denied"


def reason(error: OSError | ValueError) -> str:
    """Why a file operation failed, in the system's words."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "no file can have this name"


def open_file(path: str | os.PathLike[str], buffering: int = -1) -> BinaryIO:
    """Open an ordinary file for reading.

    Raises :class:`FileFailure` for what cannot be opened and for what is no ordinary file: a pipe or a device may have
    no end.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _NO_WAIT | _BINARY)
    except (OSError, ValueError) as error:
        # Windows opens no directory at all.
        if is_directory(path):
            raise FileFailure("is a directory, not a file") from error
        raise FileFailure(f"cannot be opened: {reason(error)}") from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise FileFailure(
            f"is {kind}, not a file" + ("" if stat.S_ISDIR(mode) else ": write its content to a file first")
        )
    return os.fdopen(handle, "rb", buffering=buffering)


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """All of an ordinary file. Raises :class:`FileFailure`, also for more than ``most`` bytes."""
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # A file may grow while it is read.
            data = read_at_most(file, most + 1) if size <= most else b""
        except OSError as error:
            raise FileFailure(f"cannot be read: {reason(error)}") from error
    if max(size, len(data)) > most:
        raise FileFailure(f"is longer than the {most:,} bytes that such a file may have")
    return data


def read_at_most(stream: IO[bytes], most: int) -> bytes:
    """Up to ``most`` bytes of a stream, in memory for what there is: one ``read`` would take room for all of them."""
    pieces = []
    while most > 0 and (data := stream.read(min(most, 1 << 20))):
        pieces.append(data)
        most -= len(data)
    return b"".join(pieces)


def read_lines(path: str | os.PathLike[str], longest: int, most: int) -> Iterator[str]:
    """The lines of a text file in UTF-8, without their ends; bytes that are not UTF-8 become U+FFFD.

    Raises :class:`FileFailure` for a line of more than ``longest`` bytes and for a file of more than ``most``.
    """
    with open_file(path) as file:
        yield from lines_of_stream(file, longest, most)


def lines_of_stream(stream: IO[bytes], longest: int, most: int) -> Iterator[str]:
    """The lines of a stream, as :func:`read_lines` gives those of a file."""
    left = most
    number = 0
    while True:
        try:
            line = stream.readline(min(longest, left) + 1)
        except OSError as error:
            raise FileFailure(f"cannot be read: {reason(error)}") from error
        if not line:
            return
        number += 1
        left -= len(line)
        if left < 0:
            raise FileFailure(f"is longer than the {most:,} bytes that such a file may have")
        if len(line) > longest:
            raise FileFailure(f"line {number} is longer than {longest:,} bytes")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").rstrip("\r\n")


def open_output(
    path: str | os.PathLike[str],
    append: bool = False,
    newline: str | None = None,
    check: Callable[[bytes], None] | None = None,
) -> IO[str]:
    """Open a file for a text in UTF-8 that takes its place, or goes behind it.

    ``check`` is given the start of the file that is there, the very one that was opened: what was looked at by name
    may have become a link to another. Where it raises, the file is as it was. Raises :class:`OSError` and
    :class:`ValueError` as :func:`open` does, and for a pipe that nobody reads: opening one would wait.
    """
    flags = os.O_WRONLY | os.O_CREAT | _NO_WAIT | _BINARY | (os.O_APPEND if append else 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "it is a pipe that nobody reads, or a socket", os.fspath(path)) from error
        raise
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            if check is not None:
                check(_start(path, handle))
            if not append:
                os.ftruncate(handle, 0)
        if _NO_WAIT:
            os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline=newline)


def _start(path: str | os.PathLike[str], opened: int) -> bytes:
    """How an ordinary file begins that is open for writing only; nothing of one that may not be read."""
    try:
        with open_file(path) as file:
            if os.path.samestat(os.fstat(file.fileno()), os.fstat(opened)):
                return file.read(_START)
    except (FileFailure, OSError):
        return b""
    raise FileFailure("became another file while it was opened")


def refuse_binary(path: str | os.PathLike[str]) -> None:
    """Raise :class:`FileFailure` for a file that is there and is no text: nobody's output takes evidence's place."""
    try:
        with open_file(path) as file:
            start = file.read(_START)
    except (FileFailure, OSError):
        return  # a file that is not there, or that writing will complain of
    refuse_no_text(start)


def refuse_no_text(start: bytes) -> None:
    """Raise :class:`FileFailure` for the start of a file that is no text."""
    if not start:
        return
    try:
        # The last character may be cut.
        decoded = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:
        raise FileFailure("is there already, and is no text: name another file")


def write_text(option: str, path: Path, text: str) -> None:
    """Write a text as a file in UTF-8, in the place of another text at most.

    Raises :class:`KdumpError`, which begins with the option and the file's name.
    """
    named = f"{option} {path}".lstrip()
    try:
        with open_output(path, check=refuse_no_text) as file:
            file.write(text)
    except FileFailure as error:
        raise KdumpError(f"{named}: {error}") from error
    except (OSError, ValueError) as error:
        raise KdumpError(f"{named}: cannot be written: {reason(error)}") from error


def parse_url(text: str) -> SplitResult | None:
    """The parts of a URL; ``None`` for what is none (``http://[``)."""
    try:
        parts = urlsplit(text)
        # The port is parsed when it is asked for.
        _ = parts.port, parts.hostname
    except ValueError:
        return None
    return parts


def path_of(location: str) -> Path | None:
    """The path that a ``file:`` URL names; ``None`` for other URLs and for what is none.

    Names that are not UTF-8 are percent-encoded bytes, as :meth:`pathlib.Path.as_uri` writes them.
    """
    parts = parse_url(location)
    if parts is None or parts.scheme != "file":
        return None
    from urllib.request import url2pathname

    if os.name == "nt":
        return Path(url2pathname(parts.path))
    from urllib.parse import unquote_to_bytes

    return Path(os.fsdecode(unquote_to_bytes(parts.path)))
