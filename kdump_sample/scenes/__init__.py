"""The scenes that ``kdump sample --scene`` can show, by name.

A scene is a function that gives a :class:`~kdump_sample.scene.Scene` for one kernel's symbol table. It is
registered with :func:`scene`; the modules of this package are loaded when a scene is first asked for.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable

from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import Scene
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import Layouts

Maker = Callable[[Layouts], Scene]

DEFAULT = "myfault"

_MAKERS: dict[str, Maker] = {DEFAULT: lambda layouts: high_irql_fault()}


def scene(name: str) -> Callable[[Maker], Maker]:
    """Register a function under a scene's name."""

    def register(maker: Maker) -> Maker:
        if name in _MAKERS:
            raise ValueError(f"two scenes of the name {name}")
        _MAKERS[name] = maker
        return maker

    return register


def scene_names() -> list[str]:
    """The names of all scenes, the default one first."""
    _load()
    return [DEFAULT, *sorted(_MAKERS.keys() - {DEFAULT})]


def make_scene(name: str, layouts: Layouts) -> Scene:
    """A scene by its name. Raises :class:`~volatility3_kdump.errors.KdumpError` for one that does not exist."""
    if name != DEFAULT:
        _load()
    if name not in _MAKERS:
        raise KdumpError(f"no scene {name}: choose one of {', '.join(scene_names())}")
    return _MAKERS[name](layouts)


@functools.lru_cache(maxsize=1)
def _load() -> None:
    for entry in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{entry}")
