"""Which folders a path lies in, and where this program itself does: the server asks before it imports anything else."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path


def is_within(path: str, folders: Iterable[str]) -> bool:
    """Whether a path, its links followed, is one of some folders or lies in one; these have no links in them."""
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError):
        return False
    return any(real == folder or real.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def program_folders() -> list[str]:
    """Where Python and its libraries are, and this package."""
    package = Path(__file__).resolve().parents[2]
    broad = {Path("/"), Path.home(), Path(tempfile.gettempdir()).resolve()}
    places = [Path(place).resolve() for place in sys.path if place]
    # The directory that a program is started in stands on the path as well; evidence may lie there.
    here = Path.cwd()
    kept = [place for place in places if place not in broad and (place != here or place == package)]
    kept += [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve() / "lib"]
    return [str(place) for place in dict.fromkeys(kept)]
