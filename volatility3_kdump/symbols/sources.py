"""Which symbols name the addresses of a module: an ISF table, its PDB, its COFF symbols, or its export table."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from volatility3_kdump.cpu.x86_frames import FrameTable
from volatility3_kdump.images.exports import read_exports
from volatility3_kdump.images.image_files import ModuleImage
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import code_view
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.coff_names import lines_of, names_of
from volatility3_kdump.symbols.converted import table_from_pdb
from volatility3_kdump.symbols.isf import load_table
from volatility3_kdump.symbols.kernel import Kernel, PdbIdentity
from volatility3_kdump.symbols.lines import Lines
from volatility3_kdump.symbols.pdb.frames import frame_table
from volatility3_kdump.symbols.pdb.lines import load_lines
from volatility3_kdump.symbols.pdb.msf import CorruptPdb
from volatility3_kdump.symbols.pdb.names import PdbRefused, find_pdb, find_pdb_file, open_pdb
from volatility3_kdump.symbols.pdb.undecorate import LITERAL, is_literal, undecorate_cpp
from volatility3_kdump.symbols.types import TypeTable


@dataclass(frozen=True)
class SymbolTable:
    """The symbols of one module.

    ``source`` is ``isf``, ``pdb``, ``coff`` or ``exports``; ``origin`` names the file, or says ``export table``.
    ``symbols`` holds (RVA, name) in ascending order, the preferred name of an address first. ``unnamed`` holds RVAs
    where something without a usable name begins, so that the name before must not reach beyond. ``complete`` is false
    when the dump lacks parts of the table; ``private`` where a PDB was not stripped of private symbols.
    """

    source: str
    origin: str
    symbols: Sequence[tuple[int, str]]
    unnamed: Sequence[int] = ()
    complete: bool = True
    private: bool = False

    @functools.cached_property
    def by_name(self) -> tuple[dict[str, int], dict[str, int]]:
        """RVA by name: by the exact one, and by that in lower case. The lowest address of a name counts."""
        exact: dict[str, int] = {}
        folded: dict[str, int] = {}
        for rva, name in self.symbols:
            exact.setdefault(name, rva)
            folded.setdefault(name.lower(), rva)
        return exact, folded

    def ranges(self, borders: Sequence[int]) -> tuple[list[int], list[str | None]]:
        """Where each symbol begins, ascending, and its name; ``None`` where what has no usable name begins.

        ``borders`` are RVAs that no symbol reaches across. Do not change the lists: the next dump gets them too.
        """
        return self._ranges(tuple(borders))

    @functools.cached_property
    def _ranges(self) -> Callable[[tuple[int, ...]], tuple[list[int], list[str | None]]]:
        @functools.lru_cache(maxsize=2)
        def made(borders: tuple[int, ...]) -> tuple[list[int], list[str | None]]:
            at: dict[int, str | None] = {}
            for rva, name in self.symbols:
                at.setdefault(rva, name)
            for rva in (*(borders if at else ()), *self.unnamed, 0):
                at.setdefault(rva, None)
            starts = sorted(at)
            return starts, [at[start] for start in starts]

        return made


#: One kernel is the kernel of many dumps, and naming takes longer than the rest of an analysis.
_OF_TABLES: weakref.WeakKeyDictionary[Layouts, SymbolTable] = weakref.WeakKeyDictionary()


def isf_symbols(table: Layouts) -> SymbolTable:
    """The symbols of an ISF table, as the debugger shows them.

    The host's converter has already taken the leading underscore from C names.
    """
    if table not in _OF_TABLES:
        _OF_TABLES[table] = _isf_symbols(table)
    return _OF_TABLES[table]


def _isf_symbols(table: Layouts) -> SymbolTable:
    symbols: list[tuple[int, int, str]] = []
    for name, rva in table.symbols():
        if not rva:
            continue
        if not name.startswith("?"):
            symbols.append((rva, 0, name))
        elif name.startswith(LITERAL):
            symbols.append((rva, 2, undecorate_cpp(name)))
        else:
            symbols.append((rva, 1, undecorate_cpp(name)))
    symbols.sort()
    return SymbolTable("isf", table.origin, [(rva, name) for rva, _, name in symbols], private=is_private(table))


def is_private(table: Layouts) -> bool:
    """Whether a table was made here of a PDB that was not stripped; other tables do not say."""
    producer = table.metadata.get("producer")
    return isinstance(producer, dict) and producer.get("symbols") == "private"


def identity_in(image: ModuleImage) -> PdbIdentity | None:
    """The PDB identity in an image; ``None`` when the RSDS record is not to be had."""
    headers = image.headers()
    record = code_view(image.read, headers) if headers else None
    return None if record is None else PdbIdentity.of_record(record)


class SymbolSources:
    """Finds the symbols of modules. What was found wrong is appended to ``problems``."""

    def __init__(
        self,
        image_of: Callable[[Module], ModuleImage],
        isf_directories: Sequence[Path],
        path: SearchPath,
        problems: list[str],
        kernel: Kernel | None = None,
    ) -> None:
        """``kernel`` may be known by more than its image."""
        self._kernel = kernel
        self._types: dict[int, TypeTable | None] = {}
        self._frames: dict[int, FrameTable | None] = {}
        self._image_of = image_of
        self._isf_directories = isf_directories
        self._path = path
        self._problems = problems

    def identity_of(self, module: Module) -> PdbIdentity | None:
        """The identity of a module's PDB, from its image, or the kernel's however it is known; ``None`` if unknown."""
        if self._kernel is not None and self._kernel.base == module.base and self._kernel.identity is not None:
            return self._kernel.identity
        return identity_in(self._image_of(module))

    def find(self, module: Module) -> tuple[SymbolTable | None, str]:
        """The best symbols of a module and where they come from, or ``None`` and why there are none."""
        identity = self.identity_of(module)
        if identity is None:
            missing = "the RSDS record of its image is not in the dump"
        else:
            table = self._from_isf(identity) or self._from_pdb(identity)
            if table is not None:
                return table, table.origin
            missing = f"neither {identity.isf_name}.json.xz nor {identity.pdb_name} of that build was found"
        compiled = self._from_coff(module)
        if compiled is not None:
            return compiled, compiled.origin
        exported = self._from_exports(module)
        if exported is None:
            return None, missing
        partly = "" if exported.complete else ", parts of which are not in the dump"
        return exported, f"{exported.origin}{partly}; {missing}"

    def lines(self, module: Module, table: SymbolTable) -> Lines | None:
        """The source lines of a module, in the file that gave its names; ``None`` where it has none."""
        if table.source == "pdb":
            identity = self.identity_of(module)
            return None if identity is None else load_lines(Path(table.origin), identity)
        file = self._image_of(module).image_file() if table.source == "coff" else None
        return None if file is None else lines_of(file, Path(table.origin))

    def frames(self, module: Module) -> FrameTable | None:
        """The frame data of an x86 module's PDB; ``None`` when there is none at hand."""
        if module.base not in self._frames:
            self._frames[module.base] = self._frame_table(module)
        return self._frames[module.base]

    def _frame_table(self, module: Module) -> FrameTable | None:
        identity = self.identity_of(module)
        if identity is None:
            return None
        for path in find_pdb_file(self._path, identity, self._problems):
            try:
                with open_pdb(path, identity) as pdb:
                    return frame_table(pdb)
            except (OSError, CorruptPdb, PdbRefused) as error:
                self._problems.append(f"{path}: its frame data cannot be read: {error}")
        return None

    def types(self, module: Module) -> TypeTable | None:
        """The types of a module, from an ISF table or its PDB; ``None`` when neither is at hand."""
        if module.base not in self._types:
            layouts = self._layouts(module)
            self._types[module.base] = None if layouts is None else TypeTable(layouts)
        return self._types[module.base]

    def _layouts(self, module: Module) -> Layouts | None:
        identity = self.identity_of(module)
        if identity is None:
            return None
        try:
            table = load_table(identity, self._isf_directories)
        except LayoutError as error:
            self._problems.append(str(error))
            return None
        return table_from_pdb(identity, self._path, self._problems) if table is None else table

    def _from_isf(self, identity: PdbIdentity) -> SymbolTable | None:
        try:
            table = load_table(identity, self._isf_directories)
        except LayoutError as error:
            self._problems.append(str(error))
            return None
        return None if table is None else isf_symbols(table)

    def _from_pdb(self, identity: PdbIdentity) -> SymbolTable | None:
        pdb = find_pdb(self._path, identity, self._problems)
        if pdb is None:
            return None
        # Any other name of a literal's address says more.
        symbols = sorted(pdb.symbols, key=lambda pair: (pair[0], is_literal(pair[1])))
        return SymbolTable("pdb", str(pdb.path), symbols, private=pdb.private)

    def _from_coff(self, module: Module) -> SymbolTable | None:
        """The symbols that gcc and clang leave in image files, or in files that they were split off to."""
        image = self._image_of(module)
        start = image.read(0x3C, 4)
        table = image.read(int.from_bytes(start, "little") + 12, 4) if start is not None else None
        if table is None or not any(table):
            return None  # Microsoft's linker writes none: the file is not looked for
        file = image.image_file()
        located = names_of(file, self._path, self._problems) if file is not None else None
        return None if located is None else SymbolTable("coff", located[0], located[1])

    def _from_exports(self, module: Module) -> SymbolTable | None:
        image = self._image_of(module)
        headers = image.headers()
        exports = read_exports(image.read, headers) if headers else None
        if exports is None or not exports.symbols:
            return None
        symbols = [(rva, undecorate_cpp(name)) for rva, name in exports.symbols]
        return SymbolTable("exports", "export table", symbols, exports.unnamed, exports.complete)
