"""Symbol stores: directories in which a file lies in ``NAME/KEY/NAME``, as ``symstore`` lays them out.

KEY is GUID and age of a PDB, TimeDateStamp and SizeOfImage of an image. A store whose root holds ``index2.txt`` has one
more level, the first two letters of the name. Instead of the file itself there may be a CAB archive, whose name has an
underscore for its last letter (``name.pd_``), or ``file.ptr``, a line that starts with ``PATH:`` and names the file or
with ``MSG:`` and says why there is none. Source: "Using SymStore" of the debugger's documentation.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from volatility3_kdump.archives.cabinet import MAGIC, Cabinet
from volatility3_kdump.archives.cache import default_directory, make_private
from volatility3_kdump.errors import CorruptContainer, KdumpError, UnsupportedContainer
from volatility3_kdump.files import FileFailure, is_file, mode_of, open_file

#: Present in the root of a store with one more directory level, the first two letters of the name.
TWO_TIER = "index2.txt"
POINTER = "file.ptr"
#: Bytes of the largest file that is taken from a server or unpacked: the largest size of a PDB with blocks of 4 KiB.
LARGEST = 4 << 30
_LONGEST_POINTER = 4096
_KEY = re.compile(r"[0-9A-Za-z]{1,64}")
_INCOMING = "incoming-"
#: Seconds without a change after which nobody is writing an incoming file any more.
_ABANDONED = 86_400.0


class StoreError(KdumpError):
    """A symbol store that cannot be used as it is, or cannot be written."""


def default_store() -> Path:
    """The store that takes what is downloaded where the symbol path names none."""
    return default_directory() / "symbols"


def compressed_name(name: str) -> str:
    """The name of a file's CAB archive: ``ntoskrnl.pdb`` becomes ``ntoskrnl.pd_``."""
    return f"{name[:-1]}_"


class Listings:
    """Looks names up in directories without regard to letter case; each directory is listed once."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, str]] = {}

    def entry(self, directory: Path, name: str) -> Path | None:
        """The entry of a directory by that name, else the one that differs in case only."""
        exact = directory / name
        if mode_of(exact) is not None:
            return exact
        if directory not in self._listings:
            try:
                entries = sorted(os.listdir(directory), reverse=True)
            except (OSError, ValueError):
                entries = []
            self._listings[directory] = {entry.casefold(): entry for entry in entries}
        listed = self._listings[directory].get(name.casefold())
        return None if listed is None else directory / listed

    def forget(self) -> None:
        """List directories anew from now on: files were added."""
        self._listings.clear()

    def file(self, directory: Path | None, *steps: str) -> Path | None:
        """The ordinary file at the end of some steps down from a directory."""
        for step in steps:
            directory = self.entry(directory, step) if directory is not None else None
        return directory if directory is not None and is_file(directory) else None


def stored(root: Path, name: str, key: str, listings: Listings) -> Iterator[Path]:
    """What a store has of a file: the file itself, its CAB archive (``name.pd_``), its ``file.ptr``, in this order."""
    top: Path | None = root
    if is_file(root / TWO_TIER):
        top = listings.entry(root, name[:2])
    for last in (name, compressed_name(name), POINTER):
        file = listings.file(top, name, key, last)
        if file is not None:
            yield file


def add(root: Path, name: str, key: str, source: Path, move: bool = False) -> Path:
    """Put a file into a store, so that others see all of it or nothing; an old one is replaced. Gives its path.

    ``name`` must come from :func:`~volatility3_kdump.stores.paths.safe_file_name`; ``move`` takes the source away.
    Raises :class:`StoreError`.
    """
    if not _KEY.fullmatch(key):
        raise StoreError(f"{key!r} cannot be the directory of a file in a symbol store")
    try:
        prepare(root)
        place = root / name[:2] / name / key if is_file(root / TWO_TIER) else root / name / key
        place.mkdir(parents=True, exist_ok=True)
        if move:
            new = source
        else:
            new = incoming(root)
            try:
                shutil.copyfile(source, new)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
        os.replace(new, place / name)
    except OSError as error:
        raise StoreError(f"the symbol store {root} cannot be written: {error.strerror or error}") from error
    return place / name


def prepare(root: Path) -> None:
    """Make the directory of a store where there is none. Raises ``OSError``."""
    if root == default_store():
        make_private(root)
    else:
        root.mkdir(parents=True, exist_ok=True)


def incoming(root: Path) -> Path:
    """A new empty file in a store for what is to become one of its files. Raises ``OSError``."""
    path = root / f"{_INCOMING}{secrets.token_hex(8)}"
    # Others may share the store: what they may read is for the owner's umask to say.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return path


def prove_writable(root: Path) -> None:
    """Raise :class:`StoreError` unless files can be put into a store; its directory is made where there is none."""
    try:
        prepare(root)
        incoming(root).unlink()
    except OSError as error:
        raise StoreError(f"the symbol store {root} cannot be written: {error.strerror or error}") from error


def clean(root: Path) -> None:
    """Remove what processes that were killed left behind long ago."""
    with contextlib.suppress(OSError):
        for path in root.glob(f"{_INCOMING}*"):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)


def is_compressed(path: Path) -> bool:
    """Whether a file is a CAB archive."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def expand(archive: Path, name: str, root: Path, limit: int = LARGEST) -> Path:
    """Unpack the file of that name from its CAB archive into an :func:`incoming` file of a store.

    Raises :class:`KdumpError` with the reason why that is not possible.
    """
    try:
        prepare(root)
        path = incoming(root)
    except OSError as error:
        raise StoreError(f"the symbol store {root} cannot be written: {error.strerror or error}") from error
    try:
        with archive.open("rb") as file, path.open("wb") as out:
            cabinet = Cabinet(file, root)
            named = [member for member in cabinet.members if _last(member.name) == name.casefold()]
            chosen = named or list(cabinet.members)
            if len(chosen) != 1:
                raise CorruptContainer(f"holds {len(cabinet.members)} files, none of which must be {name}")
            size = chosen[0].size or 0
            if size > limit:
                raise UnsupportedContainer(f"unpacks to {size:,} bytes, more than the {limit:,} that are allowed")
            for data in cabinet.stream(chosen[0]):
                out.write(data)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, KdumpError):
            raise type(error)(f"{archive}: {error}; refused") from error
        if isinstance(error, OSError):
            raise StoreError(f"{archive}: cannot be unpacked: {error.strerror or error}") from error
        raise
    return path


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].casefold()


def read_pointer(text: bytes) -> tuple[str, str]:
    """What a ``file.ptr`` says: (``PATH`` or ``MSG``, the rest). Raises :class:`StoreError`."""
    line = text[:_LONGEST_POINTER].decode("utf-8", "replace").lstrip("\ufeff").strip().splitlines()
    kind, colon, rest = (line[0] if line else "").partition(":")
    if not colon or kind.upper() not in ("PATH", "MSG"):
        raise StoreError("it says neither PATH: nor MSG:")
    return kind.upper(), rest.strip()


def shown_reference(rest: str) -> str:
    """What a ``file.ptr`` says, for a message: short, and with nothing that a terminal would obey."""
    return rest[:200] if rest.isprintable() else ascii(rest[:200])


def follow_pointer(pointer: Path) -> Path:
    """The file that a ``file.ptr`` of a local store names. Raises :class:`StoreError` where there is none."""
    try:
        with open_file(pointer) as file:
            kind, rest = read_pointer(file.read(_LONGEST_POINTER))
    except OSError as error:
        raise StoreError(f"{pointer}: {error.strerror or error}") from error
    except FileFailure as failure:
        raise StoreError(f"{pointer}: it {failure}") from failure
    except StoreError as error:
        raise StoreError(f"{pointer}: {error}") from error
    shown = shown_reference(rest)
    if kind == "MSG":
        raise StoreError(f"{pointer}: the store has no such file: {shown}")
    target = Path(rest)
    # Devices and pipes are no files; what the file is gets verified as if it lay in the store.
    if target.is_absolute() and is_file(target):
        return target
    raise StoreError(f"{pointer}: refers to {shown}, which is no file that can be reached from here")
