"""Which PDB and image files a dump needs: ``kdump symbols --manifest`` lists them, ``--fetch`` gets them.

The list is made where the dump is, which may be a machine without a network, and carried to one with internet, which
fills a symbol store for the first one. A manifest is JSON Lines, described in ``docs/symbols-manifest.md``. What it
says is not trusted: names and identities are checked before any of them becomes part of a path or a URL.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.image_files import FileImage, ImageRefused, ImageSet, check_image, image_key, image_names
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import code_view
from volatility3_kdump.shapes import Array, Form, Maybe, Range, ShapeError, Without, check
from volatility3_kdump.stores import stores
from volatility3_kdump.stores.paths import Element, SearchPath, safe_file_name
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.names import find_pdb_file, store_key

FORMAT = "volatility3-kdump symbols"
VERSION = 1

_GUID = re.compile(r"[0-9A-F]{32}")
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{1,8}")
#: In bytes, of a line and of a manifest.
LONGEST_LINE = 1 << 16
LARGEST = 256 << 20
_MOST_LINES = 20_000
_MOST_NAMES = 16
#: Files that are fetched at a time: most of the time is spent waiting for a server.
_AT_A_TIME = 6


class ManifestError(KdumpError):
    """A manifest that cannot be read as one; the text names the line."""


@dataclass(frozen=True)
class Image:
    """An image file: the names that it may have, most likely first, and what identifies it in a symbol store."""

    names: tuple[str, ...]
    timestamp: int
    size: int

    @property
    def key(self) -> str:
        return image_key(self.timestamp, self.size)


@dataclass(frozen=True)
class Entry:
    """What one module needs. ``image`` and ``pdb`` are ``None`` where the dump does not say, and ``reasons`` why."""

    module: str
    base: int | None
    image: Image | None
    pdb: PdbIdentity | None
    reasons: tuple[str, ...] = ()


# making ---------------------------------------------------------------------------------------------------------------


def entries_of(
    modules: Iterable[Module], images: ImageSet, pdb_of: Callable[[Module], PdbIdentity | None]
) -> Iterator[Entry]:
    """What the modules of a dump need, in their order; ``pdb_of`` gives the identity of a module's PDB."""
    for module in modules:
        reasons = []
        image: Image | None = None
        names = _preferred(image_names(module))
        timestamp = images.image_of(module).timestamp()
        if not names:
            reasons.append(f"{module.image_name!r} is no file name")
        elif not timestamp:
            reasons.append("TimeDateStamp of the image is not in the dump")
        elif not 0 < module.size < 1 << 32:
            reasons.append("the size of the image makes no sense")
        else:
            image = Image(names, timestamp, module.size)
        pdb = pdb_of(module)
        if pdb is None:
            where = "--fetch takes it from the image" if image is not None else "the PDB remains unknown"
            reasons.append(f"the RSDS record of the image is not in the dump: {where}")
        elif safe_file_name(pdb.pdb_name) != pdb.pdb_name:
            reasons.append(f"the image names its PDB {pdb.pdb_name!a}, which is no file name")
            pdb = None
        yield Entry(module.name, module.base, image, pdb, tuple(reasons))


def _preferred(names: list[str]) -> tuple[str, ...]:
    """Names as stores have them: the copies of disk drivers that write the dump are the drivers' own files."""
    originals = [name for name in names if not name.lower().startswith("dump_")]
    return tuple(dict.fromkeys([*originals, *names]))


def lines_of(dump: str, machine: str, entries: Sequence[Entry]) -> Iterator[str]:
    """The manifest of a dump, line by line: its file name, its architecture, and what its modules need."""
    head = {
        "manifest": FORMAT,
        "version": VERSION,
        "dump": dump,
        "machine": machine,
        "modules": len(entries),
    }
    yield json.dumps(head)
    for entry in entries:
        yield json.dumps(_document(entry))


def _document(entry: Entry) -> dict[str, Any]:
    image = pdb = None
    if entry.image is not None:
        paths = [f"{name}/{entry.image.key}/{name}" for name in entry.image.names]
        image = {
            "name": entry.image.names[0],
            "timestamp": f"{entry.image.timestamp:08X}",
            "size": f"{entry.image.size:x}",
            "path": paths[0],
            "other_names": list(entry.image.names[1:]),
        }
    if entry.pdb is not None:
        pdb = {
            "name": entry.pdb.pdb_name,
            "guid": entry.pdb.guid,
            "age": entry.pdb.age,
            "path": f"{entry.pdb.pdb_name}/{store_key(entry.pdb)}/{entry.pdb.pdb_name}",
            "known_by": entry.pdb.known_by,
        }
    return {
        "module": entry.module,
        "base": None if entry.base is None else f"{entry.base:#x}",
        "image": image,
        "pdb": pdb,
        "missing": list(entry.reasons),
    }


# reading --------------------------------------------------------------------------------------------------------------


def read(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of a manifest, each checked. Raises :class:`ManifestError`.

    Paths in it are for people and other tools: here they are made from names and identities.
    """
    stream = iter(lines)
    head = _object(next(stream, ""), 1)
    if head.get("manifest") != FORMAT:
        raise ManifestError(f"line 1: not a manifest: it should say {FORMAT!r}; kdump symbols --manifest writes one")
    if head.get("version") != VERSION:
        raise ManifestError(f"line 1: this is version {head.get('version')!a} of the format, not {VERSION}")
    for number, line in enumerate(stream, 2):
        if number > _MOST_LINES:
            raise ManifestError(f"more than {_MOST_LINES} lines: no dump has as many modules")
        if line.strip():
            yield _entry(_object(line, number), number)


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"line {number}: not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise ManifestError(f"line {number}: not a JSON object")
    return entry


_ENTRY = Without(
    {},
    {
        "module": str,
        "image": Maybe(
            Without(
                {"name": str, "timestamp": Form(_HEXADECIMAL), "size": Form(_HEXADECIMAL)},
                {"other_names": Maybe(Array(str))},
            )
        ),
        "pdb": Maybe({"name": str, "guid": Form(_GUID), "age": Range(0, (1 << 32) - 1)}),
    },
)


def _entry(raw: dict[str, Any], number: int) -> Entry:
    def file_name(value: str) -> str:
        if safe_file_name(value) != value:
            raise ManifestError(f"line {number}: {value[:80]!a} cannot be the name of a file in a symbol store")
        return value

    try:
        check(raw, _ENTRY, "the entry")
    except ShapeError as error:
        raise ManifestError(f"line {number}: {error}") from error
    image: Image | None = None
    if raw.get("image") is not None:
        described = raw["image"]
        others = described.get("other_names") or []
        if len(others) > _MOST_NAMES:
            raise ManifestError(f"line {number}: more than {_MOST_NAMES} names of one file")
        names = tuple(file_name(name) for name in [described["name"], *others])
        image = Image(names, int(described["timestamp"], 16), int(described["size"], 16))
    pdb: PdbIdentity | None = None
    if raw.get("pdb") is not None:
        described = raw["pdb"]
        pdb = PdbIdentity(file_name(described["name"]), described["guid"], described["age"], "manifest")
    return Entry(raw.get("module", "")[:200], None, image, pdb)


# fetching -------------------------------------------------------------------------------------------------------------


@dataclass
class Fetched:
    """What came of a fetch.

    How many files are in the store, how many of them are new, how many were not found, and how many could not be put
    there.
    """

    present: int = 0
    new: int = 0
    absent: int = 0
    unwritten: int = 0


def into_store(path: SearchPath, store: Path) -> SearchPath:
    """A path that fills a store: searched first, and what servers of the path give is put there."""
    default = stores.default_store()
    elements = [Element((store,))]
    for element in path.elements:
        kept = tuple(cache for cache in element.caches if cache not in (default, store))
        elements.append(replace(element, caches=(store, *kept)))
    return SearchPath(path.directories, path.complaints, elements, path.servers, path.attempts)


def fetch(
    entries: Iterable[Entry], store: Path, path: SearchPath, say: Callable[[str], None], problems: list[str]
) -> Fetched:
    """Put the files of a manifest into a symbol store, several at a time.

    ``path`` says where they come from. The PDB of an image that a dump did not hold the record of is taken from the
    image. ``say`` takes a line about each file, in the order of the manifest; what could not be used or asked is
    appended to ``problems``.
    """
    fetcher = _Fetcher(store, path)
    fetched = Fetched()
    seen: set[str] = set()
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        try:
            for files, told in pool.map(fetcher.files_of, entries):
                problems.extend(line for line in told if line not in problems)
                for place, file, old in files:
                    if place in seen:
                        continue
                    seen.add(place)
                    if file is None:
                        fetched.absent += 1
                        say(f"not found  {place}")
                        continue
                    fetched.present += 1
                    fetched.new += not old
                    say(f"{'present' if old else 'fetched':10} {place}  {file.stat().st_size:,} bytes")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    fetched.unwritten = fetcher.unwritten
    return fetched


class _Fetcher:
    """Gets the files of entries of a manifest; several threads may use it."""

    def __init__(self, store: Path, path: SearchPath) -> None:
        self._store = store
        self._path = path
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._new: set[Path] = set()
        self.unwritten = 0

    def files_of(self, entry: Entry) -> tuple[list[tuple[str, Path | None, bool]], list[str]]:
        """(place in the store, the file there, whether it was there already) of each file, and what went wrong."""
        problems: list[str] = []
        files: list[tuple[str, Path | None, bool]] = []
        # Of its own: one that several threads use would list directories while they change.
        filling = into_store(self._path, self._store)
        here = SearchPath((), (), [Element((self._store,))])
        pdb = entry.pdb
        if entry.image is not None:
            image = entry.image

            def fits(candidate: Path) -> None:
                check_image(candidate, image.timestamp, image.size)

            held, old, name = None, False, image.names[0]
            with self._lock(image.key):
                for candidate in image.names:
                    old = any(True for _ in here.matching(candidate, image.key, fits, []))
                    file = next(filling.matching(candidate, image.key, fits, problems), None)
                    if file is not None:
                        name = candidate
                        held, old = self._kept(name, image.key, file, old, problems)
                        break
            files.append((f"{name}/{image.key}/{name}", held, old))
            if pdb is None and held is not None:
                pdb = _pdb_of(held, image, problems)
        if pdb is not None:
            name, key = pdb.pdb_name, store_key(pdb)
            with self._lock(key):
                old = any(True for _ in find_pdb_file(here, pdb, []))
                file = next(find_pdb_file(filling, pdb, problems), None)
                held, old = self._kept(name, key, file, old, problems)
            files.append((f"{name}/{key}/{name}", held, old))
        return files, problems

    def _lock(self, key: str) -> threading.Lock:
        """What keeps two threads from getting the same file."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def _kept(self, name: str, key: str, file: Path | None, old: bool, problems: list[str]) -> tuple[Path | None, bool]:
        """The file in the store, copied there where it is not, and whether it was there before the fetch."""
        if file is not None and not file.is_relative_to(self._store):
            try:
                file = stores.add(self._store, name, key, file)
            except stores.StoreError as error:
                problems.append(str(error))
                self.unwritten += 1
                file = None
        if file is not None and not old:
            self._new.add(file)
        return file, file not in self._new


def _pdb_of(path: Path, image: Image, problems: list[str]) -> PdbIdentity | None:
    """The PDB that an image file names."""
    try:
        loaded = FileImage.load(path, image.timestamp, image.size, None)
    except ImageRefused as refusal:
        problems.append(str(refusal))
        return None
    record = code_view(loaded.read, loaded.headers)
    if record is None or safe_file_name(record.pdb_name) != record.pdb_name:
        return None
    return PdbIdentity.of_record(record)
