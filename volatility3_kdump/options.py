"""What a dump is opened with: one value for scripts, plugins, the prompt and batches."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from volatility3_kdump.progress import Progress

PathText = Union[str, "os.PathLike[str]"]
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int | None:
    """A size in bytes, as people write it (``20G``, ``500 MiB``); ``None`` for what is none."""
    size = re.fullmatch(r"([0-9]{1,15})\s*([kmgt]?)(i?b)?", text.strip().lower())
    return int(size[1]) * _UNITS[size[2]] if size else None


def kernel_base(text: str) -> int:
    """A kernel's base address in hexadecimal, as KD writes it or others do.

    Raises :class:`ValueError` for what is none; a 32-bit address is sign-extended.
    """
    digits = re.fullmatch(r"(?:0x)?([0-9a-f`]{1,17})", text.strip().lower())
    if digits is None or not digits[1].strip("`"):
        raise ValueError(f"{text[:40]!r} is no address")
    address = int(digits[1].replace("`", ""), 16)
    return address | 0xFFFFFFFF << 32 if 1 << 31 <= address < 1 << 32 else address


@dataclass(frozen=True)
class Options:
    """Where the parts of a dump and its symbols are looked for.

    ``isf_directories`` are searched for symbol tables before the host's directories; ``isf_file`` names the kernel's
    table itself. ``symbol_path`` and ``image_path`` are where PDB files and image files are looked for, in the grammar
    of :mod:`volatility3_kdump.stores.paths`; ``None`` stands for those of the debugger's environment variables
    ``_NT_SYMBOL_PATH`` and ``_NT_EXECUTABLE_IMAGE_PATH``, and without the first for ``srv*``: a store in the user's
    cache, and Microsoft's public server; an empty path is no place. Images are looked for along the symbol path, too.
    Servers are asked unless ``offline`` is true; where it is not, the environment variable ``KDUMP_OFFLINE`` and the
    host's ``--offline`` decide. ``member`` is
    the name or number of the dump in an archive that holds several, and ``progress`` is told the percentage and what is
    done while it is extracted or a file is fetched. ``kernel`` is the base address of the Windows kernel to show, of a
    memory image that holds several; by default it is the first to which the evidence leads.
    """

    isf_directories: Sequence[PathText] = ()
    isf_file: PathText | None = None
    symbol_path: PathText | Sequence[PathText] | None = None
    image_path: PathText | Sequence[PathText] | None = None
    member: str | None = None
    offline: bool | None = None
    progress: Progress | None = None
    kernel: int | None = None
