"""Which container a memory image is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from volatility3_kdump.captures import avml, elf, kdump_compressed, lime, raw, vmware
from volatility3_kdump.captures.capture import Capture
from volatility3_kdump.dump import Source

_READERS: dict[bytes, Callable[[Source], Capture]] = {
    elf.MAGIC: elf.read_elf,
    lime.MAGIC: lime.read_lime,
    avml.MAGIC: avml.read_avml,
    kdump_compressed.MAGIC: kdump_compressed.read_kdump,
    kdump_compressed.FLAT_MAGIC: kdump_compressed.read_kdump,
}
_LONGEST_MAGIC = 16
_PAGE = 0x1000
#: A page is looked at every 512 KB, or less often where that would be more than 65,536 pages.
_STEP, _MOST_STEPS = 512 << 10, 1 << 16


def open_capture(source: Source, path: Path | None = None) -> Capture | None:
    """The memory image in a file, ``None`` for a file of no container that is known here; raw images have none.

    ``path`` is the file's own, beside which others may belong to it. Raises a
    :class:`~volatility3_kdump.errors.KdumpError` for an image that cannot be read.
    """
    start = source.read(0, _LONGEST_MAGIC)
    for magic, read in _READERS.items():
        if start.startswith(magic):
            return read(source)
    if start.startswith((*vmware.MAGICS, vmware.OLD_MAGIC)):
        return vmware.read_state(source, path)
    if path is not None and path.suffix.lower() == vmware.SUFFIX:
        return vmware.read_vmem(source, path)
    return None


def open_raw(source: Source) -> Capture | None:
    """A file as a raw image, ``None`` for one that is too small to be one, or empty wherever it is looked at."""
    if source.size < raw.SMALLEST or not _holds_something(source):
        return None
    return raw.read_raw(source)


def _holds_something(source: Source) -> bool:
    """Whether a file has any bytes in its first part, or in single pages of the rest: ARM64's memory begins high."""
    if source.read(0, raw.SMALLEST).strip(b"\0"):
        return True
    step = max(_STEP, source.size // _MOST_STEPS & -_PAGE)
    return any(source.read(place, _PAGE).strip(b"\0") for place in range(raw.SMALLEST, source.size, step))
