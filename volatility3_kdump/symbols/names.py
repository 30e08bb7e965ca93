"""Addresses to names: ``module!symbol+offset`` where symbols exist, ``module+offset`` where they do not."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from volatility3_kdump.layout import Layouts
from volatility3_kdump.windows.modules import Module

#: Start of the decorated names of string literals, which public symbols list among functions.
_LITERAL = "??_C@"


@dataclass(frozen=True)
class Name:
    """A named address: its module, the nearest symbol at or below it in that module, and the distance in bytes.

    ``symbol`` is ``None`` where the module has no symbols; ``offset`` is then from the module's base.
    """

    module: str
    symbol: str | None
    offset: int

    def __str__(self) -> str:
        stem = self.module if self.symbol is None else f"{self.module}!{self.symbol}"
        return f"{stem}+{self.offset:#x}" if self.offset or self.symbol is None else stem


class AddressNames:
    """Looks addresses up among the modules of a dump and their symbol tables."""

    def __init__(self, modules: Sequence[Module], tables: dict[int, Layouts]) -> None:
        """``tables`` maps a module's base address to its symbol table."""
        self._modules = sorted(modules, key=lambda module: module.base)
        self._bases = [module.base for module in self._modules]
        self._tables = tables

    def module_of(self, address: int) -> Module | None:
        """The loaded module whose image range holds an address."""
        index = bisect.bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        module = self._modules[index]
        return module if address < module.base + module.size else None

    def lookup(self, address: int) -> Name | None:
        """The name of an address, ``None`` outside every module."""
        module = self.module_of(address)
        if module is None:
            return None
        offset = address - module.base
        table = self._tables.get(module.base)
        nearest = table.nearest(offset) if table else None
        if nearest and nearest[0].startswith(_LITERAL):
            # The code behind a literal belongs to a function that has no public symbol.
            nearest = None
        return Name(module.name, nearest[0], nearest[1]) if nearest else Name(module.name, None, offset)

    def text(self, address: int) -> str | None:
        """As :meth:`lookup`, as KD writes it."""
        found = self.lookup(address)
        return None if found is None else str(found)
