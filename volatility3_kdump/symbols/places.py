"""Where the symbol tables, PDBs and images of a dump are looked for: what the options and the environment name."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from volatility3_kdump.escape import printable
from volatility3_kdump.options import Options, PathText
from volatility3_kdump.stores.paths import IMAGE_PATH_VARIABLE, SYMBOL_PATH_VARIABLE, Attempt, SearchPath
from volatility3_kdump.stores.servers import KNOWN_HOSTS, Servers
from volatility3_kdump.symbols.isf import host_symbol_directories

#: Where symbols and images are looked for when nobody names a path: the default store, and Microsoft's public server.
DEFAULT_PATH = "srv*"
ISF_DIRECTORY_VARIABLE = "KDUMP_ISF_DIR"


@dataclass(frozen=True)
class Places:
    """ISF directories besides the host's, the kernel's table if the user names it, and the paths of PDBs and images.

    Images are looked for along the image path and, as the debugger does, along the symbol path behind it.
    """

    isf_directories: tuple[Path, ...] = ()
    isf_file: Path | None = None
    symbol_path: SearchPath = field(default_factory=SearchPath)
    image_path: SearchPath = field(default_factory=SearchPath)

    @property
    def searched_directories(self) -> list[Path]:
        """The directories that are searched for symbol tables, the host's included, in order."""
        return [*self.isf_directories, *host_symbol_directories()]

    @property
    def attempts(self) -> Sequence[Attempt]:
        """The places that were asked for PDBs and images so far, and what came of it, in order."""
        return self.symbol_path.attempts

    @property
    def complaints(self) -> list[str]:
        """What of the paths cannot be used, one line each."""
        return [*self.symbol_path.complaints, *self.image_path.complaints]


def places_of(options: Options) -> Places:
    """The places that options name, else those of the environment."""
    named = [part for part in os.environ.get(ISF_DIRECTORY_VARIABLE, "").split(os.pathsep) if part]
    # Shared by both paths: a host that does not answer one of them need not be asked for the other.
    by_default = options.symbol_path is None and not os.environ.get(SYMBOL_PATH_VARIABLE, "").strip()
    announce = tell if by_default else None
    servers = Servers(offline=options.offline or None, progress=options.progress, hosts=KNOWN_HOSTS, announce=announce)
    if by_default:
        symbol_path = SearchPath.parse(DEFAULT_PATH, "symbol path", servers)
    else:
        symbol_path = _search_path(options.symbol_path, "symbol path", SYMBOL_PATH_VARIABLE, servers)
    image_path = _search_path(options.image_path, "image path", IMAGE_PATH_VARIABLE, servers)
    return Places(
        tuple(map(Path, (*options.isf_directories, *named))),
        Path(options.isf_file) if options.isf_file else None,
        symbol_path,
        image_path.followed_by(symbol_path),
    )


def tell(line: str) -> None:
    """A line on stderr for whoever sits there: what is asked of whom where no path was named."""
    with contextlib.suppress(OSError, ValueError):
        print(f"kdump: {printable(line)}", file=sys.stderr, flush=True)


def _search_path(path: PathText | Sequence[PathText] | None, name: str, variable: str, servers: Servers) -> SearchPath:
    """The path that the user gives; else that of the environment, without complaints: it is meant for the debugger."""
    if path is not None:
        return SearchPath.parse(path, name, servers)
    return SearchPath.parse(os.environ.get(variable), name, servers).quiet()
