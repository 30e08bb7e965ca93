"""Which modules an address lies in, loaded and unloaded, with its section and its symbol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.images.modules import Module, UnloadedModule

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class LoadedPlace:
    """An address in a loaded module.

    ``section`` and ``section_offset`` are ``None`` where it lies in none, or the module's headers are not in the dump;
    ``symbol_status`` says which symbols ``symbol`` is of.
    """

    module: Module
    offset: int
    symbol: str | None
    symbol_status: str
    symbol_file: str
    has_headers: bool
    section: str | None
    section_offset: int | None


@dataclass(frozen=True)
class AddressPlaces:
    """An address, the module it lies in, those that lay there before, and why the dump lacks it (``None``: it does
    not)."""

    address: int
    loaded: LoadedPlace | None
    unloaded: tuple[UnloadedModule, ...]
    absent: str | None


def name_at(target: Target, address: int) -> str | None:
    """The symbol of an address; ``None`` outside every module."""
    return target.name_of(address)


def variable_at(target: Target, address: int) -> str | None:
    """The name of the variable that begins at an address, ``nt!PsActiveProcessHead``; ``None`` where none does."""
    name = target.names.lookup(address)
    if name is None or name.symbol is None or name.offset:
        return None
    return f"{name.module}!{name.symbol}"


def places_of(target: Target, address: int) -> AddressPlaces:
    """Where an address lies."""
    module = target.names.module_of(address)
    unloaded = tuple(module for module in target.unloaded_modules if module.start <= address < module.end)
    loaded = _loaded(target, module, address) if module is not None else None
    return AddressPlaces(address, loaded, unloaded, target.memory.why_absent(address))


def _loaded(target: Target, module: Module, address: int) -> LoadedPlace:
    offset = address - module.base
    symbol = target.name_of(address)
    headers = target.images.headers_of(module)
    section = headers.section_of(offset) if headers else None
    return LoadedPlace(
        module,
        offset,
        symbol,
        target.names.status_of(module),
        target.names.file_of(module),
        headers is not None,
        section.name if section else None,
        offset - section.address if section else None,
    )
