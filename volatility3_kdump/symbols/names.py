"""Addresses to names: ``module!symbol+offset`` where symbols exist, ``module+offset`` where they do not.

A symbol names everything up to the next one in the same section of the same module. Symbols are looked for when an
address in their module is first looked up.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.collecting import no_collection
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import PeImage
from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import PAGE_SIZE, sign_extended
from volatility3_kdump.symbols.lines import Lines, SourceLine
from volatility3_kdump.symbols.sources import SymbolTable, is_private, isf_symbols

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Sources that may have source lines.
_WITH_LINES = frozenset({"pdb", "coff"})
#: Below this many addresses, one by one is quicker than arrays.
_FEW = 256
#: What the debugger's ``lm`` says about the symbols of a module, by their source. A table is a PDB in another form.
PDB_SYMBOLS, PRIVATE_SYMBOLS = "pdb symbols", "private pdb symbols"
_STATES = {
    "isf": PDB_SYMBOLS,
    "pdb": PDB_SYMBOLS,
    "coff": "coff symbols",
    "exports": "export symbols",
    "": "no symbols",
}


class Name(
    NamedTuple
):  # not a dataclass: one is made for every frame of every thread, and a tuple is made in half the time
    """A named address: its module, the nearest symbol at or below it in that module, and the distance in bytes.

    ``symbol`` is ``None`` where the module has no symbols; ``offset`` is then from the module's base. ``source`` says
    where the symbol comes from: ``isf``, ``pdb``, ``coff`` or ``exports``. Exports are few, so that the nearest one
    below is often not the function that the address is in.
    """

    module: str
    symbol: str | None
    offset: int
    source: str | None = None

    def __str__(self) -> str:
        stem = self.module if self.symbol is None else f"{self.module}!{self.symbol}"
        return f"{stem}+{self.offset:#x}" if self.offset or self.symbol is None else stem


@dataclass
class Prepared:
    """The symbols of a module for bisection. ``names`` is ``None`` where a range without a name begins."""

    starts: list[int]
    names: list[str | None]
    source: str | None
    reason: str
    table: SymbolTable | None


class AddressNames:
    """Looks addresses up among the modules of a dump and their symbols."""

    def __init__(
        self,
        modules: Sequence[Module],
        tables: Mapping[int, Layouts],
        find: Callable[[Module], tuple[SymbolTable | None, str]] | None = None,
        headers_of: Callable[[Module], PeImage | None] | None = None,
        lines: Callable[[Module, SymbolTable], Lines | None] | None = None,
        pointer_size: int = 8,
    ) -> None:
        """``tables`` maps a module's base address to its symbol table.

        Addresses of a target with 32-bit pointers may be given as registers hold them, or sign-extended.

        ``find`` gives the symbols of the other modules, and where they come from or why there are none; ``headers_of``
        the headers of an image, whose sections a symbol does not reach across; ``lines`` the source lines of a module
        in what names it.
        """
        #: The modules in load order.
        self.modules = tuple(modules)
        self._modules = sorted(modules, key=lambda module: module.base)
        self._bases = [module.base for module in self._modules]
        self._tables = tables
        self._find = find
        self._headers_of = headers_of
        self._find_lines = lines
        self._lines: dict[int, Lines | None] = {}
        self._narrow = pointer_size == 4
        self._prepared: list[Prepared | None] = [None] * len(self._modules)

    def module_of(self, address: int) -> Module | None:
        """The loaded module whose image range holds an address."""
        if self._narrow:
            address = sign_extended(address & 0xFFFFFFFF, 4)
        index = bisect.bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        module = self._modules[index]
        return module if address < module.base + module.size else None

    def may_be_code(self, module: Module, address: int) -> bool:
        """Whether an address in a module can be code: its section is executable, or the headers are not in the dump."""
        image = self._headers_of(module) if self._headers_of is not None else None
        if image is None or not image.sections:
            return address >= module.base + PAGE_SIZE
        section = image.section_of(address - module.base)
        return section is not None and section.executable

    def lookup(self, address: int) -> Name | None:
        """The name of an address, ``None`` outside every module."""
        return self._named(address, 0)

    def lookup_return(self, address: int) -> Name | None:
        """The name of a return address.

        The call before it decides which function it belongs to, because a call that does not return may be the last
        instruction of its function; the offset is that of the address itself.
        """
        return self._named(address - 1, 1) or self._named(address, 0)

    def lookup_many(self, addresses: Sequence[int]) -> list[Name | None]:
        """As :meth:`lookup` for each address, in order; quicker than as many calls, most so where addresses recur."""
        if len(addresses) < _FEW:
            return [self._named(address, 0) for address in addresses]
        import numpy as np

        values = np.array(addresses, np.uint64)
        if self._narrow:
            values = values.astype(np.uint32).astype(np.int32).astype(np.uint64)
        ordered = np.sort(values)
        first = np.append(True, ordered[1:] != ordered[:-1])
        if 2 * np.count_nonzero(first) > len(values):
            return self._named_each(values)
        unique = ordered[first]
        named = self._named_each(unique)
        return list(map(named.__getitem__, np.searchsorted(unique, values).tolist()))

    def _named_each(self, addresses: NDArray[np.uint64]) -> list[Name | None]:
        """The names of addresses, in their order."""
        import numpy as np

        owners = np.searchsorted(np.array(self._bases, np.uint64), addresses, side="right") - 1
        if owners.min() == owners.max():
            return self._named_of(int(owners[0]), addresses)
        order = np.argsort(owners, kind="stable")
        named: list[Name | None] = []
        for places in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
            named += self._named_of(int(owners[places[0]]), addresses[places])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return list(map(named.__getitem__, back.tolist()))

    def _named_of(self, index: int, addresses: NDArray[np.uint64]) -> list[Name | None]:
        """The names of addresses from one module's base up to the next; a negative ``index`` is below all modules."""
        import numpy as np

        if index < 0:
            return [None] * len(addresses)
        offsets = addresses - np.uint64(self._modules[index].base)
        inside = offsets < self._modules[index].size
        if inside.all():
            return self._named_inside(index, offsets.astype(np.int64))
        # No module's symbols are looked for because of an address beyond it.
        named = iter(self._named_inside(index, offsets[inside].astype(np.int64)) if inside.any() else ())
        return [next(named) if within else None for within in inside.tolist()]

    def _named_inside(self, index: int, offsets: NDArray[np.int64]) -> list[Name | None]:
        """The names of places in one module, by their offsets from its base."""
        import numpy as np

        module_name = self._modules[index].name
        prepared = self._prepared[index] or self._prepare(index)
        starts = np.array(prepared.starts, np.int64)
        nearest = np.searchsorted(starts, offsets, side="right") - 1
        symbols = list(map(prepared.names.__getitem__, nearest.tolist()))
        distances = (offsets - starts[nearest]).tolist()
        values = zip(itertools.repeat(module_name), symbols, distances, itertools.repeat(prepared.source), strict=False)
        # What Name() does, without the calls. No name is part of a cycle.
        with no_collection():
            named: list[Name | None] = list(map(functools.partial(tuple.__new__, Name), values))
        nameless = np.array([symbol is None for symbol in prepared.names])[nearest]
        for place in np.flatnonzero(nameless).tolist():
            named[place] = Name(module_name, None, int(offsets[place]))
        return named

    def text(self, address: int) -> str | None:
        """As :meth:`lookup`, as KD writes it."""
        name = self.lookup(address)
        return None if name is None else str(name)

    def line_of(self, address: int, call_site: bool = False) -> SourceLine | None:
        """The source line of an address, of a return address that of the call; ``None`` where none is recorded.

        Nothing is looked for that the names of the module do not come from.
        """
        place = address - 1 if call_site else address
        module = self.module_of(place)
        if module is None or self._find_lines is None:
            return None
        if module.base not in self._lines:
            table = self.table_of(module)
            named = table is not None and table.source in _WITH_LINES
            self._lines[module.base] = self._find_lines(module, table) if named and table is not None else None
        lines = self._lines[module.base]
        return None if lines is None else lines.line_of(place - module.base)

    def status_of(self, module: Module) -> str:
        """The state of a module's symbols, nothing being searched for it.

        ``private pdb symbols`` of a PDB that was not stripped, and of a table that was made here of one; ``pdb
        symbols`` of others; ``coff symbols``, ``export symbols``, ``no symbols``, or ``deferred`` as long as nobody
        looked up an address in it.
        """
        if module.base in self._tables:
            return PRIVATE_SYMBOLS if is_private(self._tables[module.base]) else _STATES["isf"]
        prepared = self._prepared_of(module)
        if prepared is None:
            return "deferred"
        if prepared.table is not None and prepared.table.private:
            return PRIVATE_SYMBOLS
        return _STATES[prepared.source or ""]

    def reason_of(self, module: Module) -> str | None:
        """Where a module's symbols come from, or why there are none; ``None`` while they are deferred."""
        if module.base in self._tables:
            return self._tables[module.base].origin
        prepared = self._prepared_of(module)
        return None if prepared is None else prepared.reason

    def file_of(self, module: Module) -> str:
        """The file that names a module: of exports its image's name, as KD has it; empty without one so far."""
        if module.base in self._tables:
            return self._tables[module.base].origin
        prepared = self._prepared_of(module)
        if prepared is None or prepared.table is None:
            return ""
        return module.image_name if prepared.source == "exports" else prepared.table.origin

    def load(self, module: Module) -> None:
        """Look for a module's symbols now."""
        index = self._index_of(module)
        if index is not None and self._prepared[index] is None:
            self._prepare(index)

    def keep(self, earlier: AddressNames, but: int) -> None:
        """Take over what was found for the modules of the same dump, but for the one at the base address ``but``."""
        for index, module in enumerate(self._modules):
            if module.base != but and module.base not in self._tables:
                self._prepared[index] = earlier._prepared_of(module)

    def prepared(self, module: Module) -> Prepared:
        """The symbols of one of the modules for bisection, which are looked for now."""
        index = self._index_of(module)
        assert index is not None
        return self._prepared[index] or self._prepare(index)

    def table_of(self, module: Module) -> SymbolTable | None:
        """All symbols of a module, which are looked for now; ``None`` when there are none."""
        self.load(module)
        prepared = self._prepared_of(module)
        return None if prepared is None else prepared.table

    def next_symbol(self, module: Module, rva: int) -> int | None:
        """The RVA of the first symbol of a module above an RVA; ``None`` when there is none."""
        self.load(module)
        prepared = self._prepared_of(module)
        if prepared is None:
            return None
        first = bisect.bisect_right(prepared.starts, rva)
        return next((prepared.starts[i] for i in range(first, len(prepared.starts)) if prepared.names[i]), None)

    def address_of(self, module: Module, symbol: str) -> int | None:
        """The virtual address of a symbol of a module, by its exact name or else without regard to case."""
        if module.base in self._tables:
            rva = self._tables[module.base].symbol(symbol)
            if rva is not None:
                return module.base + rva
        self.load(module)
        prepared = self._prepared_of(module)
        if prepared is None or prepared.table is None:
            return None
        exact, folded = prepared.table.by_name
        offset = exact.get(symbol, folded.get(symbol.lower()))
        return None if offset is None else module.base + offset

    def starting_with(self, module: Module, prefix: str, most: int) -> list[str]:
        """Names of a module's symbols that start with a prefix, whatever its case: the first ``most`` in order."""
        self.load(module)
        prepared = self._prepared_of(module)
        names = {name for name in (prepared.names if prepared is not None else []) if name is not None}
        wanted = prefix.lower()
        return sorted(name for name in names if name.lower().startswith(wanted))[:most]

    def _index_of(self, module: Module) -> int | None:
        index = bisect.bisect_right(self._bases, module.base) - 1
        return index if index >= 0 and self._bases[index] == module.base else None

    def _prepared_of(self, module: Module) -> Prepared | None:
        index = self._index_of(module)
        return None if index is None else self._prepared[index]

    def _named(self, address: int, further: int) -> Name | None:
        """The name of the place ``further`` bytes behind an address, by the symbol that names the address."""
        if self._narrow:
            address = sign_extended(address & 0xFFFFFFFF, 4)
        index = bisect.bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        module = self._modules[index]
        offset = address - module.base
        if offset >= module.size:
            return None
        prepared = self._prepared[index] or self._prepare(index)
        nearest = bisect.bisect_right(prepared.starts, offset) - 1
        symbol = prepared.names[nearest]
        if symbol is None:
            return Name(module.name, None, offset + further)
        return Name(module.name, symbol, offset - prepared.starts[nearest] + further, prepared.source)

    def _prepare(self, index: int) -> Prepared:
        module = self._modules[index]
        table: SymbolTable | None = None
        reason = "not looked for"
        if module.base in self._tables:
            table = isf_symbols(self._tables[module.base])
            reason = table.origin
        elif self._find is not None:
            table, reason = self._find(module)
        starts: list[int] = [0]
        names: list[str | None] = [None]
        if table is not None:
            starts, names = table.ranges(self._section_starts(module))
        prepared = Prepared(starts, names, table.source if table else None, reason, table)
        self._prepared[index] = prepared
        return prepared

    def _section_starts(self, module: Module) -> list[int]:
        headers = self._headers_of(module) if self._headers_of is not None else None
        return [] if headers is None else [section.address for section in headers.sections]
