"""Looks for the ISF symbol table of a module on this machine; nothing is downloaded.

Searched are directories of the user's and then the host's symbol directories, each in the layouts that occur:
``<dir>/windows/<pdb>/<GUID>-<age>``, ``<dir>/<pdb>/<GUID>-<age>`` and ``<dir>/<GUID>-<age>`` with ``.json`` and the
suffixes of compressed files, and symbol packs (``*.zip``) in those directories. Names are built from a validated GUID,
so that nothing from a dump becomes a path unchecked.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from volatility3_kdump import isf_document, tables
from volatility3_kdump.collecting import settle
from volatility3_kdump.escape import printable
from volatility3_kdump.files import FileFailure, is_directory, is_file, open_file, read_at_most
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.symbols.kernel import PdbIdentity

#: Suffix of a file and what makes a readable stream of its bytes.
_OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".json": lambda stream: stream,
    ".json.xz": lambda stream: cast("IO[bytes]", lzma.open(stream)),
    ".json.gz": lambda stream: cast("IO[bytes]", gzip.open(stream)),
    ".json.bz2": lambda stream: cast("IO[bytes]", bz2.open(stream)),
}
#: What damaged compressed files and archives raise.
_UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)
_IDENTIFIER = re.compile(r"[0-9A-F]{32}-[0-9]{1,9}")
#: Not dots alone: those would lead out of the directory.
_PDB_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.+-]{1,64}")


def host_symbol_directories() -> list[Path]:
    """The directories in which the host looks for symbols, including those given to it with ``-s``."""
    import volatility3.symbols

    directories = [Path(path) for path in volatility3.symbols.__path__]
    return [path for path in directories if is_directory(path)]


def relative_names(identity: PdbIdentity) -> list[str]:
    """The places of a table below a symbol directory, without suffix; empty when the identity cannot be a file name."""
    if not _IDENTIFIER.fullmatch(identity.identifier) or not _PDB_NAME.fullmatch(identity.pdb_name):
        return []
    return [f"windows/{identity.isf_name}", identity.isf_name, identity.identifier]


def load_table(
    identity: PdbIdentity,
    directories: Sequence[Path] = (),
    host: bool = True,
    validated: Callable[[Path], str | None] = lambda path: None,
) -> Layouts | None:
    """The symbol table of any module, ``None`` when no directory has it.

    ``host`` says whether the host's directories are searched behind those given; ``validated`` gives the SHA-256 of a
    file whose document was validated when it was written. Raises
    :class:`~volatility3_kdump.layout.LayoutError` when a file by the right name is damaged or for another PDB.
    """
    for directory in [*directories, *(host_symbol_directories() if host else [])]:
        for path in _candidates(directory, identity):
            return _checked(_load_file(path, validated(path)), identity)
        for pack in sorted(directory.glob("*.zip")):
            table = _from_pack(pack, identity)
            if table is not None:
                return _checked(table, identity)
    return None


def load_kernel_table(
    identity: PdbIdentity, directories: Sequence[Path] = (), otherwise: Callable[[], Layouts | None] = lambda: None
) -> Layouts | None:
    """As :func:`load_table`, then what ``otherwise`` gives, and the table that the package ships as the last resort.

    The shipped one holds no more than the package itself needs.
    """
    loaded = load_table(identity, directories) or otherwise()
    if loaded is not None:
        return loaded
    shipped = tables.kernel_table_path()
    if shipped.is_file():
        table = _load_file(shipped)
        if _identifier(table) == identity.identifier:
            return table
    return None


def load_table_file(path: Path) -> Layouts:
    """A symbol table from a file whose suffix says how it is compressed."""
    return _load_file(path)


def _candidates(directory: Path, identity: PdbIdentity) -> Iterator[Path]:
    for name in relative_names(identity):
        for suffix in _OPENERS:
            path = directory / (name + suffix)
            if is_file(path):
                yield path


def _load_file(path: Path, validated: str | None = None) -> Layouts:
    try:
        status = path.stat()
    except OSError as error:
        raise LayoutError(f"{path}: cannot be read as a symbol table: {error}") from error
    return _parsed_file(path, status.st_mtime_ns, status.st_size, validated)


@functools.lru_cache(maxsize=2)
def _parsed_file(path: Path, modified: int, size: int, validated: str | None) -> Layouts:
    """A table from a file; ``modified`` and ``size`` keep the answer from outliving the file.

    Dumps that are looked at one after another are often of the same kernel. A table takes about 20 MB.
    """
    sound = False
    suffix = next((suffix for suffix in sorted(_OPENERS, key=len, reverse=True) if path.name.endswith(suffix)), "")
    if not suffix:
        return Layouts.load(path)
    try:
        with open_file(path) as stream:
            packed: IO[bytes] = stream
            if validated is not None:
                # What is hashed is what is parsed, whatever becomes of the file.
                content = read_at_most(stream, isf_document.MOST_BYTES)
                sound = hashlib.sha256(content).hexdigest() == validated
                packed = io.BytesIO(content)
            data = _decompressed(packed, suffix, str(path))
    except FileFailure as failure:
        raise LayoutError(f"{path}: cannot be read as a symbol table: it {failure}") from failure
    except _UNREADABLE as error:
        raise LayoutError(f"{path}: cannot be read as a symbol table: {error}") from error
    table = Layouts.parse(data, str(path), sound)
    settle()
    return table


def _decompressed(stream: IO[bytes], suffix: str, origin: str) -> bytes:
    """The document in a stream; never more than a symbol table can have, whatever a compressed file grows to."""
    data = read_at_most(_OPENERS[suffix](stream), isf_document.MOST_BYTES + 1)
    if len(data) > isf_document.MOST_BYTES:
        raise LayoutError(
            f"{origin}: more than {isf_document.MOST_BYTES >> 20} MiB when decompressed: not a symbol table"
        )
    return data


def _from_pack(pack: Path, identity: PdbIdentity) -> Layouts | None:
    try:
        status = pack.stat()
        names = _names_in_pack(pack, status.st_mtime_ns, status.st_size)
        if not any(name + suffix in names for name in relative_names(identity) for suffix in _OPENERS):
            return None
        with zipfile.ZipFile(pack) as archive:
            for name in relative_names(identity):
                for suffix in _OPENERS:
                    if name + suffix in names:
                        origin = f"{pack}!{name}{suffix}"
                        with archive.open(name + suffix) as stream:
                            return Layouts.parse(_decompressed(stream, suffix, origin), origin)
    except _UNREADABLE:
        return None
    return None


@functools.lru_cache(maxsize=16)
def _names_in_pack(pack: Path, modified: int, size: int) -> frozenset[str]:
    """The files in a pack; ``modified`` and ``size`` keep the answer from outliving the file."""
    with zipfile.ZipFile(pack) as archive:
        return frozenset(archive.namelist())


def _identifier(table: Layouts) -> str | None:
    try:
        pdb = table.metadata["windows"]["pdb"]
        return f"{str(pdb['GUID']).upper()}-{int(pdb['age'])}"
    except (KeyError, TypeError, ValueError):
        return None


def _checked(table: Layouts, identity: PdbIdentity) -> Layouts:
    identifier = _identifier(table)
    if identifier is not None and identifier != identity.identifier:
        raise LayoutError(f"{table.origin}: holds the symbols of {identifier}, not of {identity.identifier}; refused")
    return table


def how_to_get_image(name: str, timestamp: int, size: int) -> str:
    """One line that tells which image file leads to the symbols of a module, and how to get it."""
    return (
        f"{printable(name)} (time stamp {timestamp:08X}, size {size:x}) leads to its symbols: -y 'srv*' "
        "(--symbol-path) gets it from Microsoft's server"
    )


def how_to_get(identity: PdbIdentity) -> str:
    """One line that tells which file is missing and how to make it."""
    guid_and_age = identity.identifier.replace("-", "")
    return (
        f"needs {identity.pdb_name} {guid_and_age} on the symbol path: -y 'srv*' (--symbol-path) gets it from "
        "Microsoft's server ('kdump symbols --manifest DUMP --for crash' lists it for a machine with internet); or the "
        f"symbol table {identity.isf_name}.json.xz in a directory given with --isf-dir"
    )
