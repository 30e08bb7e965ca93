"""Symbol paths and image paths in the debugger's grammar, and files found along them.

A path is a ``;``-separated list. An element is a directory, or a symbol server as ``.sympath`` writes it:
``srv*STORE*...``, ``symsrv*DLL*STORE*...``, ``cache*STORE``, of which the local directories are used. A directory may
hold a file itself or be a symbol store, where the file lies in ``NAME/KEY/NAME``. Nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Union

PathText = Union[str, "os.PathLike[str]"]

_SERVERS = {"srv": 0, "cache": 0, "symsrv": 1}
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
#: What Windows allows in a file name; the first and last characters are checked apart.
_FILE_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\:*?\"<>|]{1,128}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
#: Present in the root of a store with one more directory level, the first two letters of the name.
_TWO_TIER = "index2.txt"


def safe_file_name(text: str) -> str | None:
    """The last component of a Windows or Unix path; ``None`` when that cannot be the name of an ordinary file."""
    name = text.replace("\\", "/").rsplit("/", 1)[-1]
    if not _FILE_NAME.fullmatch(name) or name[0] in ". " or name[-1] in ". " or _DEVICES.fullmatch(name):
        return None
    return name


class SearchPath:
    """The directories of a path. ``complaints`` holds one line for each element that cannot be used."""

    def __init__(self, directories: Sequence[Path] = (), complaints: Sequence[str] = ()) -> None:
        self.directories = tuple(directories)
        self.complaints = tuple(complaints)
        self._listings: dict[Path, dict[str, str]] = {}

    @classmethod
    def parse(cls, path: PathText | Sequence[PathText] | None, name: str) -> SearchPath:
        """Read a path, or several that follow each other. ``name`` (``symbol path``) starts the complaints."""
        if path is None:
            return cls()
        parts: list[PathText] = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        directories: list[Path] = []
        complaints: list[str] = []
        for element in (piece.strip().strip('"') for part in parts for piece in os.fspath(part).split(";")):
            for text in _places(element):
                if _URL.match(text):
                    complaints.append(f"{name}: nothing is downloaded, {text} is ignored")
                elif not Path(text).is_dir():
                    complaints.append(f"{name}: {text} is not a directory, ignored")
                elif Path(text) not in directories:
                    directories.append(Path(text))
        return cls(directories, complaints)

    def files(self, name: str, key: str | None) -> Iterator[Path]:
        """Files of that name, in the order of the path; letter case does not matter.

        ``name`` must come from :func:`safe_file_name`. ``key`` is the directory of the file in a symbol store.
        """
        for directory in self.directories:
            plain = self._entry(directory, name)
            if plain is not None and plain.is_file():
                yield plain
            store: Path | None = directory
            if (directory / _TWO_TIER).is_file():
                store = self._entry(directory, name[:2])
            for step in (name, key, name):
                store = self._entry(store, step) if store is not None and step else None
            if store is not None and store.is_file():
                yield store

    def _entry(self, directory: Path, name: str) -> Path | None:
        """The entry of a directory by that name, else the one that differs in case only."""
        exact = directory / name
        if exact.exists():
            return exact
        if directory not in self._listings:
            try:
                entries = sorted(os.listdir(directory), reverse=True)
            except OSError:
                entries = []
            self._listings[directory] = {entry.casefold(): entry for entry in entries}
        found = self._listings[directory].get(name.casefold())
        return None if found is None else directory / found


def _places(element: str) -> list[str]:
    """The directories and URLs that an element of a path names."""
    kind, star, rest = element.partition("*")
    if not star:
        return [element] if element else []
    skipped = _SERVERS.get(kind.lower())
    if skipped is None:
        return [element]
    return [part for part in rest.split("*")[skipped:] if part]
