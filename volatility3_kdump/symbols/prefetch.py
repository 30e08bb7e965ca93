"""Gets the image and PDB files of several modules at a time: nearly all of the time is spent waiting for servers.

What is got lies in the stores of the path afterwards, where those who ask for one file find it. Paths without servers
have nothing that takes time; nothing is done for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from volatility3_kdump.images.image_files import FileImage, ImageRefused, check_image, image_key, image_names
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import code_view
from volatility3_kdump.stores.paths import SearchPath
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.names import find_pdb_file

_AT_A_TIME = 6


def modules_of(addresses: Iterable[int], modules: Sequence[Module]) -> list[Module]:
    """The modules that hold any of some addresses, in load order."""
    chosen = set()
    ordered = sorted(modules, key=lambda module: module.base)
    for word in addresses:
        for module in ordered:
            if module.base <= word < module.end:
                chosen.add(module.base)
                break
    return [module for module in modules if module.base in chosen]


def prefetch(modules: Sequence[Module], images: SearchPath, symbols: SearchPath, problems: list[str]) -> None:
    """Put the image and PDB files of modules into the stores of two paths.

    A module whose TimeDateStamp is not known is left out. What could not be used or asked is appended to ``problems``.
    """
    wanted = [module for module in modules if module.timestamp]
    if len(wanted) < 2 or not (images.asks_servers or symbols.asks_servers):
        return
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for told in pool.map(lambda module: _get(module, images.copy(), symbols.copy()), wanted):
            problems.extend(line for line in told if line not in problems)
    images.forget()
    symbols.forget()


def _get(module: Module, images: SearchPath, symbols: SearchPath) -> list[str]:
    problems: list[str] = []
    assert module.timestamp is not None
    timestamp, size = module.timestamp, module.size

    def check(path: Path) -> None:
        try:
            check_image(path, timestamp, size)
        except ImageRefused as refusal:
            raise ImageRefused(f"image of {module.name}: {refusal}") from refusal

    for name in image_names(module):
        image_file = next(images.matching(name, image_key(timestamp, size), check, problems), None)
        if image_file is None:
            continue
        try:
            image = FileImage.load(image_file, timestamp, size, None)
        except ImageRefused as refusal:
            problems.append(f"image of {module.name}: {refusal}")
            break
        record = code_view(image.read, image.headers)
        if record is not None:
            next(find_pdb_file(symbols, PdbIdentity.of_record(record), problems), None)
        break
    return problems
