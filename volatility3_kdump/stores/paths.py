"""Symbol paths and image paths in the debugger's grammar, and files found along them.

A path is a ``;``-separated list. An element is

``DIR``                     a directory, searched as the debugger does (below), and a symbol store
``srv*DIR*...*URL``         a symbol server behind local stores: asked from left to right, and what is found is copied
                            to the stores on its left; ``srv*DIR`` is a store alone; an empty place is the default store
``srv*``                    the default store, behind it Microsoft's public server
``symsrv*DLL*DIR*...*URL``  the same; the DLL is not used
``cache*DIR``               a store that takes what servers further to the right give; ``cache*`` is the default store
``URL``                     as ``srv*URL``

A server without a local store in front of it fills the default store, a directory of the user's cache. In a directory
``DIR`` the file may lie in ``DIR`` itself, in ``DIR\\sys``, ``dll`` or ``exe``, in ``DIR\\symbols\\sys`` and so on, or
in some directory below. Sources: "Symbol path for Windows debuggers", "Using a symbol server" and "Advanced SymSrv use"
of the debugger's documentation.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import NO_DIRECTORY, is_directory, parse_url, why_not_entered
from volatility3_kdump.stores import stores
from volatility3_kdump.stores.servers import MICROSOFT, Servers, is_url
from volatility3_kdump.stores.transfers import shown_url

#: The debugger's own variables for the symbol path and the image path.
SYMBOL_PATH_VARIABLE = "_NT_SYMBOL_PATH"
IMAGE_PATH_VARIABLE = "_NT_EXECUTABLE_IMAGE_PATH"

PathText = Union[str, "os.PathLike[str]"]

#: How many parts behind the first asterisk are no places.
_SERVERS = {"srv": 0, "symsrv": 1}
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
#: What Windows allows in a file name; the first and last characters are checked apart.
_FILE_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\:*?\"<>|]{1,128}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
#: Below a plain directory: the kinds of images by which symbols may be sorted.
_KINDS = ("sys", "dll", "exe")
#: How far a plain directory is searched: levels below it, and entries in all.
_DEEPEST = 8
_MOST_ENTRIES = 100_000
_MOST_ATTEMPTS = 10_000
#: Directories of these names are those of a store, which holds many builds of the file.
_STORED = re.compile(r".+\.(pdb|dbg|sys|exe|dll)", re.IGNORECASE)


def safe_file_name(text: str) -> str | None:
    """The last component of a Windows or Unix path; ``None`` when that cannot be the name of an ordinary file."""
    name = text.replace("\\", "/").rsplit("/", 1)[-1]
    if not _FILE_NAME.fullmatch(name) or name[0] in ". " or name[-1] in ". " or _DEVICES.fullmatch(name):
        return None
    return name


def expanded(path: str) -> str:
    """A path with Microsoft's server named in each element that stands for it: ``srv*``, ``srv**``, ``symsrv*DLL*``."""
    return ";".join(_expanded(part.strip().strip('"').strip()) for part in path.split(";"))


def _expanded(text: str) -> str:
    kind, star, rest = text.partition("*")
    fixed = _SERVERS.get(kind.lower()) if star else None
    if fixed is None:
        return text
    parts = [part.strip() for part in rest.split("*")]
    return text if any(parts[fixed:]) else "*".join([kind, *parts[:fixed], MICROSOFT])


@dataclass(frozen=True)
class Element:
    """One element of a path: its places from the first to be asked to the last, directories and URLs.

    ``plain`` says that the only place is a directory that is searched in all ways; ``caches`` are the stores that take
    what a server of the element gives.
    """

    places: tuple[Path | str, ...]
    plain: bool = False
    caches: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One place that was asked for a file: its name, its directory in a symbol store, the place, what came of it.

    ``found`` says whether the file is used; ``outcome`` is a few words, or the line that says why it was refused.
    """

    name: str
    key: str
    place: str
    found: bool
    outcome: str


class SearchPath:
    """The places of a path. ``complaints`` holds one line for each element that cannot be used.

    ``directories`` are the local ones that the path names and that exist. ``attempts`` lists the places that were
    asked, the latest last; paths that are made of others share it.
    """

    def __init__(
        self,
        directories: Sequence[Path] = (),
        complaints: Sequence[str] = (),
        elements: Sequence[Element] | None = None,
        servers: Servers | None = None,
        attempts: list[Attempt] | None = None,
    ) -> None:
        """A path of plain directories, or of ``elements``; ``servers`` does the downloading."""
        self.directories = tuple(directories)
        self.complaints = tuple(complaints)
        if elements is None:
            elements = [Element((directory,), plain=True) for directory in directories]
        self.elements = tuple(elements)
        self._servers = servers or Servers()
        self.attempts: list[Attempt] = [] if attempts is None else attempts
        self._listings = stores.Listings()
        self._nested: dict[Path, dict[str, list[Path]]] = {}

    def __bool__(self) -> bool:
        """Whether there is any place to look in."""
        return bool(self.elements)

    @classmethod
    def parse(cls, path: PathText | Sequence[PathText] | None, name: str, servers: Servers | None = None) -> SearchPath:
        """Read a path, or several that follow each other. ``name`` (``symbol path``) starts the complaints."""
        parts: list[PathText] = [path] if isinstance(path, (str, os.PathLike)) else list(path or ())
        reader = _Reader(name)
        for part in parts:
            for piece in os.fspath(part).split(";"):
                reader.read(piece.strip().strip('"').strip())
        return cls(reader.directories, reader.complaints, reader.elements, servers)

    @property
    def asks_servers(self) -> bool:
        """Whether the path leads to a server that may be asked."""
        named = any(isinstance(place, str) for element in self.elements for place in element.places)
        return named and not self._servers.offline

    @property
    def servers(self) -> Servers:
        """What does the downloading."""
        return self._servers

    def quiet(self) -> SearchPath:
        """The same path without complaints."""
        return SearchPath(self.directories, (), self.elements, self._servers, self.attempts)

    def followed_by(self, other: SearchPath) -> SearchPath:
        """This path, and behind it the places of another one that it does not have; complaints are this one's."""
        elements = [*self.elements, *(element for element in other.elements if element not in self.elements)]
        directories = [*self.directories, *(place for place in other.directories if place not in self.directories)]
        return SearchPath(directories, self.complaints, elements, self._servers, other.attempts)

    def copy(self) -> SearchPath:
        """The same path for another thread: what was seen of its directories is of one thread only."""
        return SearchPath(self.directories, self.complaints, self.elements, self._servers, self.attempts)

    def forget(self) -> None:
        """List directories anew: files were added by others."""
        self._listings.forget()

    def files(self, name: str, key: str | None) -> Iterator[Path]:
        """Local files of that name, in the order of the path, unverified; letter case does not matter.

        ``name`` must come from :func:`safe_file_name`. ``key`` is the directory of the file in a symbol store.
        """
        seen: set[Path] = set()
        for element in self.elements:
            for place in element.places:
                for file in self._local(place, element.plain, name, key) if isinstance(place, Path) else ():
                    if file.name.casefold() == name.casefold() and file not in seen:
                        seen.add(file)
                        yield file

    def matching(self, name: str, key: str, check: Callable[[Path], None], problems: list[str]) -> Iterator[Path]:
        """Files that ``check`` accepts, in the order of the path, downloaded where the path says so.

        ``check`` raises a :class:`KdumpError` for a file that is not the one. The parameters are otherwise those of
        :meth:`files`. A line about each file that was refused and each place that could not be asked is appended to
        ``problems``, unless it is there already.
        """

        told: list[str] = []

        def say(line: str) -> None:
            told.append(line)
            if line not in problems:
                problems.append(line)

        def note(place: Path | str, usable: Path | None) -> None:
            outcome = "found" if usable is not None else told[-1] if told else "not found"
            if isinstance(place, str):
                place = shown_url(place)
                if usable is None and not told and self._servers.offline:
                    outcome = "not asked: offline"
            if len(self.attempts) < _MOST_ATTEMPTS:
                self.attempts.append(Attempt(name, key, str(place), usable is not None, outcome))
            told.clear()

        seen: set[Path] = set()  # looked at
        given: set[Path] = set()  # accepted; a file that was no good may be replaced by one that is
        for element in self.elements:
            stores_before: list[Path] = []
            for place in element.places:
                if isinstance(place, Path):
                    noted = False
                    for file in self._local(place, element.plain, name, key):
                        if file in seen:
                            continue
                        seen.add(file)
                        why = None if element.plain else _unsafe(file, place)
                        if why is not None:
                            say(why)
                            usable = None
                        else:
                            usable = self._usable(file, place, name, key, check, stores_before, say)
                        noted = True
                        note(place, usable)
                        if usable is not None and usable not in given:
                            given.add(usable)
                            yield usable
                    if not noted:
                        note(place, None)
                    stores_before.append(place)
                else:
                    usable = self._downloaded(place, name, key, check, element.caches, say)
                    note(place, usable)
                    if usable is not None and usable not in given:
                        given.add(usable)
                        yield usable

    # places ---------------------------------------------------------------------------------------------------------

    def _local(self, place: Path, plain: bool, name: str, key: str | None) -> Iterator[Path]:
        listings = self._listings
        kinds = [(kind,) for kind in _KINDS] + [("symbols", kind) for kind in _KINDS] if plain else []
        for steps in ((), *kinds):
            file = listings.file(place, *steps, name)
            if file is not None:
                yield file
        if key:
            yield from stores.stored(place, name, key, listings)
        if plain:
            for entry in self._nested_in(place).get(name.casefold(), ()):
                if entry.is_file():
                    yield entry
                elif key:
                    for last in (name, stores.compressed_name(name), stores.POINTER):
                        file = listings.file(entry, key, last)
                        if file is not None:
                            yield file

    def _nested_in(self, root: Path) -> dict[str, list[Path]]:
        """What lies below a directory, by case-folded name: files, and directories that are those of a store."""
        if root not in self._nested:
            directories: dict[str, list[Path]] = {}
            level = [root]
            left = _MOST_ENTRIES
            for depth in range(_DEEPEST):
                below: list[Path] = []
                for directory in level:
                    try:
                        with os.scandir(directory) as entries:
                            for entry in entries:
                                left -= 1
                                if left < 0:
                                    break
                                # The first level was searched already. Links may lead in circles.
                                nested = entry.is_dir(follow_symlinks=False)
                                if depth and (not nested or _STORED.fullmatch(entry.name)):
                                    directories.setdefault(entry.name.casefold(), []).append(Path(entry.path))
                                if nested and not _STORED.fullmatch(entry.name):
                                    below.append(Path(entry.path))
                    except OSError:
                        continue
                level = sorted(below)
                if not level or left < 0:
                    break
            self._nested[root] = {name: sorted(paths) for name, paths in directories.items()}
        return self._nested[root]

    def _usable(
        self,
        file: Path,
        place: Path,
        name: str,
        key: str,
        check: Callable[[Path], None],
        before: Sequence[Path],
        say: Callable[[str], None],
    ) -> Path | None:
        """A file that was found, unpacked and copied to the stores before it, if it is the one."""
        temporary: Path | None = None
        target = before[0] if before else place
        try:
            if file.name.casefold() == stores.POINTER != name.casefold():
                file = stores.follow_pointer(file)
            if file.name.casefold() != name.casefold() and stores.is_compressed(file):
                # A store that is on its own is left as it is.
                target = before[0] if before else stores.default_store()
                temporary = stores.expand(file, name, target)
            check(temporary or file)
        except KdumpError as refusal:
            say(str(refusal).replace(str(temporary), str(file)))
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            return None
        usable = file
        try:
            if temporary is not None:
                usable = stores.add(target, name, key, temporary, move=True)
            for store in reversed(before):
                if usable.is_relative_to(store):
                    continue
                usable = stores.add(store, name, key, usable)
        except stores.StoreError as error:
            say(str(error))
            if temporary is not None and not usable.exists():
                return None
        if usable != file:
            self._listings.forget()
        return usable

    def _downloaded(
        self,
        url: str,
        name: str,
        key: str,
        check: Callable[[Path], None],
        caches: Sequence[Path],
        say: Callable[[str], None],
    ) -> Path | None:
        """A file from a server, in the store nearest to the left, and copied to those before it."""
        usable = self._servers.get(url, name, key, check, caches[-1], say)
        if usable is None:
            return None
        try:
            for store in reversed(caches[:-1]):
                usable = stores.add(store, name, key, usable)
        except stores.StoreError as error:
            say(str(error))
        self._listings.forget()
        return usable


def _unsafe(file: Path, store: Path) -> str | None:
    """Why a file is not taken from a symbol store: a link leads out of it, or everybody may write there."""
    try:
        if not file.resolve().is_relative_to(store.resolve()):
            return f"{file}: a link that leads out of the symbol store {store}; refused"
        for directory in file.parents if os.name != "nt" else ():
            mode = directory.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                return f"{file}: everybody may write to {directory}, a directory of the symbol store; refused"
            if directory == store:
                break
    except OSError as error:
        return f"{file}: {error.strerror or error}; refused"
    return None


class _Reader:
    """Reads the elements of a path one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.elements: list[Element] = []
        self.directories: list[Path] = []
        self.complaints: list[str] = []
        #: Stores of ``cache*`` elements so far.
        self._caches: list[Path] = []

    def read(self, text: str) -> None:
        kind, star, rest = text.partition("*")
        parts = [part.strip() for part in rest.split("*")]
        if not text:
            return
        if star and kind.lower() == "cache":
            self._cache(parts)
        elif star and kind.lower() in _SERVERS:
            self._chain(parts[_SERVERS[kind.lower()] :])
        elif is_url(text):
            self._chain([text])
        else:
            directory = self._existing(text)
            if directory is not None:
                self._add(Element((directory,), plain=True))

    def _cache(self, parts: Sequence[str]) -> None:
        for part in parts if any(parts) else ("",):
            store = self._store(part)
            if store is not None and store not in self._caches:
                self._caches.append(store)
                self._add(Element((store,)))

    def _chain(self, parts: Sequence[str]) -> None:
        if not any(parts):
            parts = ["", MICROSOFT]
        places: list[Path | str] = []
        for index, part in enumerate(parts):
            place: Path | str | None
            if is_url(part):
                place = self._server(part)
            elif index + 1 < len(parts) or not part:
                place = self._store(part)
            else:
                place = self._existing(part)
            if place is not None and place not in places:
                places.append(place)
        urls = [index for index, place in enumerate(places) if isinstance(place, str)]
        caches = list(self._caches)
        if urls:
            caches += [place for place in places[: urls[0]] if isinstance(place, Path) and place not in caches]
            if not caches:
                caches = [stores.default_store()]
                places.insert(0, caches[0])
        if places:
            self._add(Element(tuple(places), caches=tuple(caches)))

    def _add(self, element: Element) -> None:
        if element in self.elements:
            return
        self.elements.append(element)
        for place in element.places:
            if isinstance(place, Path) and place not in self.directories and is_directory(place):
                self.directories.append(place)

    def _server(self, url: str) -> str | None:
        if not url.lower().startswith(("http://", "https://")):
            self._complain(shown_url(url), "is neither http nor https")
            return None
        if parse_url(url) is None or not url.isprintable():
            self._complain(shown_url(url), "is no URL")
            return None
        return url

    def _store(self, text: str) -> Path | None:
        """A store that is made when something is put into it."""
        if not text:
            return stores.default_store()
        if os.name != "nt" and _WINDOWS_PATH.match(text) and not is_directory(text):
            self._complain(text, "is a path of Windows")
            return None
        if (why := why_not_entered(text)) not in (None, NO_DIRECTORY):
            self._complain(text, why or "")
            return None
        return Path(text)

    def _existing(self, text: str) -> Path | None:
        if (why := why_not_entered(text)) is not None:
            self._complain(text, why)
            return None
        return Path(text)

    def _complain(self, what: str, why: str) -> None:
        self.complaints.append(printable(f"{self._name}: {what} {why}, ignored"))
