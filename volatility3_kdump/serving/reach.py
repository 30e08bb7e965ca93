"""What the process of a dump may reach: folders, caches, servers. It works that out itself, before it is confined.

The process of the server does not: it would have to import what knows the places of symbols, and so the host.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volatility3_kdump.archives.cache import default_directory
from volatility3_kdump.options import Options
from volatility3_kdump.serving.folders import program_folders
from volatility3_kdump.stores import stores
from volatility3_kdump.stores.servers import offline_by_default
from volatility3_kdump.symbols.places import places_of


@dataclass(frozen=True)
class Reach:
    """Folders that may be read, folders that may be written, what commands may name as places of symbols."""

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    nameable: tuple[str, ...]
    offline: bool


def options_of(settings: Mapping[str, Any]) -> Options:
    """What dumps are opened with, as the server sends it."""
    sent = settings["options"]
    return Options(sent["isf_directories"], None, sent["symbol_path"], sent["image_path"], None, sent["offline"])


def reach_of(settings: Mapping[str, Any]) -> Reach:
    """What the settings of a server lead to; makes the caches, whose parents the process could not make later."""
    options = options_of(settings)
    places = places_of(options)
    local: list[Path] = [*places.searched_directories]
    caches: list[Path] = [default_directory(), stores.default_store()]
    servers: list[str] = []
    for path in (places.symbol_path, places.image_path):
        local += path.directories
        for element in path.elements:
            local += [place for place in element.places if isinstance(place, Path)]
            servers += [place for place in element.places if isinstance(place, str)]
            caches += element.caches
    if settings["triage_ini"] is not None:
        local.append(Path(settings["triage_ini"]))
    with contextlib.suppress(ImportError, AttributeError):
        from volatility3.framework import constants

        caches.append(Path(constants.CACHE_PATH))
    for place in caches:
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
    roots = settings["roots"]
    writable = tuple(os.path.realpath(place) for place in caches)
    return Reach(
        (*roots, *program_folders(), *map(str, local)),
        writable,
        (*roots, *writable, *servers),
        bool(options.offline) or offline_by_default(),
    )
