"""Names from PDB files: procedures, public symbols and import thunks, by RVA.

A PDB belongs to an image if the GUID of its PDB information stream and the age of its DBI stream are those of the
image's RSDS record. (The age of the information stream grows when a tool rewrites the file, so symbol stores go by the
other.) The file format is read by the package ``purepdb``, which is optional.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.paths import SearchPath, safe_file_name
from volatility3_kdump.symbols.undecorate import undecorate

if TYPE_CHECKING:
    from purepdb import PDB

#: Machine of the DBI stream header (IMAGE_FILE_MACHINE_*) for which calling conventions decorate C names.
_I386 = 0x14C
#: Which record names an address that several name: procedures have the name of the source, thunks that of their target.
_PROCEDURE, _PUBLIC, _THUNK = 0, 1, 2


class PdbRefused(KdumpError):
    """A PDB file of another build, or one that cannot be read; the text says which."""


@dataclass(frozen=True)
class PdbSymbols:
    """The named addresses of one PDB: ``symbols`` holds (RVA, name) in ascending order, the best name first."""

    path: Path
    symbols: tuple[tuple[int, str], ...]


def store_key(identity: PdbIdentity) -> str:
    """The directory of a PDB in a symbol store: GUID and age, in hexadecimal."""
    return f"{identity.guid}{identity.age:x}"


def find_pdb(path: SearchPath, identity: PdbIdentity, problems: list[str]) -> PdbSymbols | None:
    """The symbols of the first PDB on a symbol path that belongs to an image.

    A line about each file that had to be refused is appended to ``problems``.
    """
    name = safe_file_name(identity.pdb_name)
    if name is None:
        return None
    for found in path.files(name, store_key(identity)):
        try:
            return load_pdb(found, identity)
        except PdbRefused as refusal:
            problems.append(str(refusal))
    return None


def load_pdb(path: Path, identity: PdbIdentity) -> PdbSymbols:
    """The symbols of a PDB file. Raises :class:`PdbRefused` when it does not have that identity or cannot be read."""
    try:
        from purepdb import PDB
    except ImportError as error:
        raise PdbRefused(
            f"{path}: not read, that needs the package purepdb (Python 3.11 or later): "
            "pip install 'volatility3-kdump[pdb]'"
        ) from error
    try:
        with PDB.open(str(path)) as pdb:
            guid, age = uuid.UUID(bytes_le=pdb.info().guid).hex.upper(), pdb.dbi.age
            if (guid, age) != (identity.guid, identity.age):
                raise PdbRefused(
                    f"{path}: GUID {guid} and age {age} are not the image's {identity.guid} and {identity.age}; refused"
                )
            if not pdb.sections and not pdb.original_sections:
                raise PdbRefused(f"{path}: holds no section headers, so its symbols have no addresses; refused")
            return PdbSymbols(path, _symbols(pdb))
    except PdbRefused:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise, the file is of no use
        raise PdbRefused(f"{path}: cannot be read as a PDB: {error or type(error).__name__}; refused") from error


def _symbols(pdb: PDB) -> tuple[tuple[int, str], ...]:
    pointer_size = 4 if pdb.dbi.machine == _I386 else 8
    found: set[tuple[int, int, bool, str]] = set()

    def add(rank: int, segment: int, offset: int, name: str) -> None:
        rva = pdb.to_rva(segment, offset)
        if rva and name and name.isprintable():
            found.add((rva, rank, name.startswith("?"), name))

    for procedure in pdb.module_procs():
        add(_PROCEDURE, procedure.segment, procedure.offset, procedure.name)
    for public in pdb.public_symbols():
        add(_PUBLIC, public.segment, public.offset, undecorate(public.name, pointer_size))
    for thunk in pdb.thunks():
        add(_THUNK, thunk.segment, thunk.offset, thunk.name)
    return tuple((rva, name) for rva, _, _, name in sorted(found))
