"""The modules that names choose."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.images.modules import Module, UnloadedModule, debugger_name
from volatility3_kdump.symbols.isf import how_to_get_image
from volatility3_kdump.wildcards import Wildcard

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


def chosen_modules(target: Target, names: Sequence[str]) -> list[Module]:
    """The loaded modules of these names (``nt``, ``ntoskrnl.exe``, ``win32k*``), or all, by address."""
    loaded = sorted(target.modules, key=lambda module: module.base)
    return [module for module in loaded if _fits(names, module.name, module.image_name)] if names else loaded


def chosen_unloaded(target: Target, names: Sequence[str]) -> list[UnloadedModule]:
    """The unloaded modules of these names, or all, most recent first."""
    unloaded = target.unloaded_modules
    if not names:
        return unloaded
    return [module for module in unloaded if _fits(names, debugger_name(module.name), module.name)]


def module_at(target: Target, address: int) -> Module | None:
    """The loaded module that an address lies in."""
    return target.names.module_of(address)


def module_named(target: Target, name: str) -> Module | None:
    """The loaded module of a name (``nt``, ``ntoskrnl.exe``), in any case of letters."""
    wanted = name.lower()
    return next(
        (module for module in target.modules if wanted in (module.name.lower(), module.image_name.lower())), None
    )


@dataclass(frozen=True)
class ModuleSymbols:
    """What names the addresses of a module.

    ``state`` are the debugger's words, ``reason`` says why they are no better ones, ``remedy`` what would help.
    """

    module: Module
    state: str
    reason: str | None
    remedy: str


def symbols_of(target: Target, module: Module, load: bool = False) -> ModuleSymbols:
    """The symbols of a module; with ``load`` they are looked for now, if that has not been done."""
    names = target.names
    if load:
        names.load(module)
    state = names.status_of(module)
    return ModuleSymbols(module, state, names.reason_of(module), _remedy(target, module, state))


def _remedy(target: Target, module: Module, state: str) -> str:
    """What would get the symbols that a module lacks; empty where nothing is known, or nothing is lacking."""
    if target.kernel is not None and target.kernel.base == module.base:
        return "" if target.has_names else target.symbol_remedy
    if state != "no symbols" or not module.timestamp or target.images.image_of(module).image_file() is not None:
        return ""
    fetched = how_to_get_image(module.image_name, module.timestamp, module.size)
    return f"{fetched}; a driver that is not Microsoft's needs -i DIRECTORY with its file"


def _fits(patterns: Sequence[str], *names: str) -> bool:
    return any(_wildcard(pattern).matches(name) for pattern in patterns for name in names)


@functools.lru_cache(maxsize=64)
def _wildcard(pattern: str) -> Wildcard:
    return Wildcard(pattern)
