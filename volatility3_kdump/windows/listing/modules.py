"""The modules that names choose."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.images.modules import Module, UnloadedModule, debugger_name

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


def _fits(patterns: Sequence[str], *names: str) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns for name in names)
