"""KD's crash-dump analysis inside Volatility 3.

For scripts::

    import volatility3_kdump

    target = volatility3_kdump.open("MEMORY.DMP")
    print(hex(target.header.bug_check_code), target.name_of(target.header_context.ip))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.version import __version__

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

__all__ = ["__version__", "open"]


def open(
    path: str | os.PathLike[str],
    isf_directories: Sequence[str | os.PathLike[str]] = (),
    isf_file: str | os.PathLike[str] | None = None,
    symbol_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    image_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    member: str | None = None,
    offline: bool | None = None,
    kernel: int | None = None,
) -> Target:
    """Open a crash dump or a memory image, or the one in an archive.

    The parameters are those of :class:`volatility3_kdump.options.Options`. Raises a
    :class:`~volatility3_kdump.errors.KdumpError`.
    """
    from volatility3_kdump.options import Options
    from volatility3_kdump.windows.opening import open_target

    return open_target(path, Options(isf_directories, isf_file, symbol_path, image_path, member, offline, None, kernel))
