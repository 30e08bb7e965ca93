"""The headers of images as they lie in memory, and whether symbols belong to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.images.headers import Headers, read_headers
from volatility3_kdump.images.modules import Module, find_module
from volatility3_kdump.images.pe import reproducible
from volatility3_kdump.symbols.names import PDB_SYMBOLS, PRIVATE_SYMBOLS

if TYPE_CHECKING:
    from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target


class ModuleHeaders(NamedTuple):
    """The headers of a module; ``hashed`` says whether their time stamp is a hash of a reproducible
    build (``None``: not known)."""

    headers: Headers
    hashed: bool | None


class SymbolMatch(NamedTuple):
    """Whether a module has symbols of its own, and which these are, or why it has none."""

    matches: bool
    reason: str


def module_headers(target: Target, module: Module) -> ModuleHeaders:
    """The headers of a module. Raises :class:`KdumpError`."""
    read = target.images.image_of(module).read
    headers = read_headers(read, f"{target.name}: {module.image_name}")
    return ModuleHeaders(headers, reproducible(read, headers.image))


def headers_at(target: Target, base: int, memory: Memory) -> Headers:
    """The headers of the image at an address of an address space. Raises :class:`KdumpError`."""
    module = find_module(target.modules, base)
    if module is not None and module.base == base:
        return module_headers(target, module).headers
    return read_headers(lambda rva, size: memory.read(base + rva, size), f"{target.name}: {base:#x}")


def symbol_match(target: Target, module: Module) -> SymbolMatch:
    """Look for a module's symbols, and say whether they are there."""
    target.names.load(module)
    matches = target.names.status_of(module) in (PDB_SYMBOLS, PRIVATE_SYMBOLS)
    return SymbolMatch(matches, target.names.reason_of(module) or "no symbols")
