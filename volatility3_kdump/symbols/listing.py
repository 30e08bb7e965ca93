"""Symbols by pattern, and those around an address: what ``x`` and ``ln`` show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.wildcards import Wildcard

if TYPE_CHECKING:
    from volatility3_kdump.images.modules import Module
    from volatility3_kdump.symbols.lines import SourceLine
    from volatility3_kdump.symbols.names import AddressNames


class Symbol(NamedTuple):
    """A symbol: its address, its module's name, its own, and whether it can be a function (it lies in code)."""

    address: int
    module: str
    name: str
    code: bool

    def __str__(self) -> str:
        return f"{self.module}!{self.name}"


@dataclass(frozen=True)
class Nearby:
    """What lies around an address: the nearest symbol at or below it, the next one above it in the same module, and
    all that stand at the address itself. ``below`` is ``None`` where the module has no symbol there, ``line`` where
    symbols have no source line."""

    address: int
    module: Module
    below: Symbol | None
    above: Symbol | None
    exact: tuple[Symbol, ...]
    line: SourceLine | None = None


def modules_like(names: AddressNames, pattern: str) -> list[Module]:
    """The loaded modules whose name fits a wildcard."""
    wanted = Wildcard(pattern)
    return [module for module in names.modules if wanted.matches(module.name)]


def matching(names: AddressNames, pattern: str) -> Iterator[Symbol]:
    """The symbols that fit ``module!symbol``, both wildcards, by module and address.

    Symbols of modules that fit are looked for. Raises :class:`KdumpError` when no module fits, or when one that is
    named has no symbols.
    """
    module_pattern, qualified, symbol_pattern = pattern.partition("!")
    if not qualified:
        module_pattern, symbol_pattern = "*", pattern
    modules = modules_like(names, module_pattern)
    if not modules:
        raise KdumpError(f"no loaded module is named {module_pattern}")
    if len(modules) == 1 and names.table_of(modules[0]) is None:
        raise KdumpError(f"{modules[0].name} has no symbols: {names.reason_of(modules[0])}")
    return _matching(names, modules, Wildcard(symbol_pattern or "*"))


def _matching(names: AddressNames, modules: list[Module], wanted: Wildcard) -> Iterator[Symbol]:
    for module in modules:
        table = names.table_of(module)
        for rva, name in table.symbols if table is not None else ():
            if wanted.matches(name):
                yield _symbol(names, module, rva, name)


def nearby(names: AddressNames, address: int) -> Nearby | None:
    """The symbols around an address; ``None`` outside of every module."""
    module, name = names.module_of(address), names.lookup(address)
    if module is None or name is None:
        return None
    rva = address - module.base
    below = None if name.symbol is None else _symbol(names, module, rva - name.offset, name.symbol)
    following = names.next_symbol(module, rva)
    above = None
    if following is not None:
        neighbour = names.lookup(module.base + following)
        above = (
            _symbol(names, module, following, neighbour.symbol) if neighbour is not None and neighbour.symbol else None
        )
    table = names.table_of(module)
    exact = [name for at, name in table.symbols if at == rva] if table is not None else []
    at_address = tuple(_symbol(names, module, rva, name) for name in exact)
    return Nearby(address, module, below, above, at_address, names.line_of(address))


def _symbol(names: AddressNames, module: Module, rva: int, name: str) -> Symbol:
    address = module.base + rva
    return Symbol(address, module.name, name, names.may_be_code(module, address))
