"""Types and names of a module from its PDB, converted once and kept in the user's cache.

A converted PDB is an ISF table, ``isf-VERSION/windows/PDB/GUID-AGE.json.gz`` below the cache directory, and found there
as any other. Its document is validated when it is written, and the file's SHA-256 kept beside it, ``.sha256``: as long
as only the user can write there, a file of that digest is not validated at each run. The version counts the changes of
the converter that change its result.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from volatility3_kdump.archives.cache import default_directory, make_private
from volatility3_kdump.archives.cache_files import CacheError, refuse_foreign
from volatility3_kdump.collecting import no_collection, settle
from volatility3_kdump.files import FileFailure, read_bytes
from volatility3_kdump.isf_document import validate
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.shapes import ShapeError
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.isf import load_table, relative_names
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.msf import CorruptPdb
from volatility3_kdump.symbols.pdb.names import PdbRefused, find_pdb_file, open_pdb
from volatility3_kdump.symbols.pdb.types import document_of

_VERSION = 3
_NOTE = ".sha256"
_SYMBOLS_TOGETHER = 512


def directory() -> Path:
    """Where converted tables are kept."""
    return default_directory() / f"isf-{_VERSION}"


def table_from_pdb(identity: PdbIdentity, path: SearchPath, problems: list[str]) -> Layouts | None:
    """The symbol table of a module, from the cache or converted from the PDB that a symbol path has.

    ``None`` when there is no such PDB. A line about what could not be used is appended to ``problems``.
    """
    try:
        _refuse_foreign()
        cached = load_table(identity, [directory()], host=False, validated=_digest)
    except CacheError:
        cached = None  # said where a table is to be kept
    except LayoutError:
        cached = None  # damaged: made anew
    if cached is not None:
        return cached
    for candidate in find_pdb_file(path, identity, problems):
        try:
            return _converted(candidate, identity, problems)
        except (PdbRefused, LayoutError) as error:
            problems.append(str(error))
    return None


def _refuse_foreign() -> None:
    """Raise :class:`CacheError` where somebody else may have put a table into the cache; not where there is none."""
    with suppress(OSError):
        for place in (default_directory(), directory()):
            refuse_foreign(place)


def _digest(table: Path) -> str | None:
    """The SHA-256 of a table that was validated when it was written; ``None`` where somebody else may have said so."""
    note = table.with_name(table.name + _NOTE)
    try:
        for parent in (default_directory(), directory(), directory() / "windows", table.parent):
            refuse_foreign(parent)
        return read_bytes(note, 64).decode("ascii", "replace")
    except (CacheError, FileFailure, OSError):
        return None


def _converted(path: Path, identity: PdbIdentity, problems: list[str]) -> Layouts:
    try:
        with open_pdb(path, identity) as pdb, no_collection():
            document = document_of(pdb, identity.pdb_name)
    except (OSError, CorruptPdb) as error:
        raise PdbRefused(f"{path}: cannot be read as a PDB: {error}; refused") from error
    if not document["user_types"] and not document["symbols"]:
        raise PdbRefused(f"{path}: holds neither types nor public symbols; refused")
    try:
        _keep(document, identity)
    except CacheError as error:
        problems.append(f"the converted {identity.pdb_name} is not kept: {error}")
    except OSError as error:
        problems.append(f"{directory()}: the converted {identity.pdb_name} cannot be kept: {error.strerror or error}")
    settle()
    return Layouts(document, str(path))


def _pieces(document: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A document as JSON, piece by piece: in one, shared fields would fill memory."""
    encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
    for before, (section, entries) in zip(chain("{", repeat(",")), document.items(), strict=False):
        yield f"{before}{json.dumps(section)}:"
        # Symbols are many and small.
        together = _SYMBOLS_TOGETHER if section == "symbols" else 1
        items = iter(entries.items())
        for mark in chain("{", repeat(",")):
            piece = dict(islice(items, together))
            if not piece:
                break
            yield mark + encode(piece)[1:-1]
        yield "}" if entries else "{}"
    yield "}"


def _keep(document: dict[str, dict[str, Any]], identity: PdbIdentity) -> None:
    """Write a table into the cache, whole or not at all."""
    names = relative_names(identity)
    if not names:
        return
    place = directory() / f"{names[0]}.json.gz"
    make_private(place.parent)
    _refuse_foreign()
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 5, packed, 0) as file:
        for piece in _pieces(document):
            file.write(piece.encode())
    content = packed.getvalue()
    _write(place, content)
    try:
        validate(document)
    except ShapeError:
        return  # each run finds out, and makes it anew
    _write(place.with_name(place.name + _NOTE), hashlib.sha256(content).hexdigest().encode())


def _write(place: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix="new-", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
