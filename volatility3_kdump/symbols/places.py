"""Where the symbol tables, PDBs and images of a dump are looked for: what the options and the environment name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from volatility3_kdump.options import Options, PathText
from volatility3_kdump.stores.paths import IMAGE_PATH_VARIABLE, SYMBOL_PATH_VARIABLE, SearchPath
from volatility3_kdump.stores.servers import KNOWN_HOSTS, Servers

ISF_DIRECTORY_VARIABLE = "KDUMP_ISF_DIR"


@dataclass(frozen=True)
class Places:
    """ISF directories besides the host's, the kernel's table if the user names it, and the paths of PDBs and images."""

    isf_directories: tuple[Path, ...] = ()
    isf_file: Path | None = None
    symbol_path: SearchPath = field(default_factory=SearchPath)
    image_path: SearchPath = field(default_factory=SearchPath)

    @property
    def complaints(self) -> list[str]:
        """What of the paths cannot be used, one line each."""
        return [*self.symbol_path.complaints, *self.image_path.complaints]


def places_of(options: Options) -> Places:
    """The places that options name, else those of the environment."""
    named = [part for part in os.environ.get(ISF_DIRECTORY_VARIABLE, "").split(os.pathsep) if part]
    # Shared by both paths: a host that does not answer one of them need not be asked for the other.
    servers = Servers(offline=options.offline or None, progress=options.progress, hosts=KNOWN_HOSTS)
    return Places(
        tuple(map(Path, (*options.isf_directories, *named))),
        Path(options.isf_file) if options.isf_file else None,
        _search_path(options.symbol_path, "symbol path", SYMBOL_PATH_VARIABLE, servers),
        _search_path(options.image_path, "image path", IMAGE_PATH_VARIABLE, servers),
    )


def _search_path(path: PathText | Sequence[PathText] | None, name: str, variable: str, servers: Servers) -> SearchPath:
    """The path that the user gives; else that of the environment, without complaints: it is meant for the debugger."""
    if path is not None:
        return SearchPath.parse(path, name, servers)
    return SearchPath.parse(os.environ.get(variable), name, servers).quiet()
