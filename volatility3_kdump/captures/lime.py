"""LiME images: ranges of physical memory one after another, each behind a header with its first and last address.

Layout: ``doc/README.md`` of LiME, "lime" format, version 1.
"""

from __future__ import annotations

import struct

from volatility3_kdump.captures.capture import Capture, page_map
from volatility3_kdump.dump import Segment, Source
from volatility3_kdump.errors import CorruptDump

MAGIC = b"EMiL"
_HEADER = struct.Struct("<4sIQQQ")
_MOST_RANGES = 1 << 20


def read_lime(source: Source) -> Capture:
    """The memory in a LiME image. Raises :class:`CorruptDump` for one that holds no range."""
    ranges: list[Segment] = []
    warnings = []
    position = 0
    while position < source.size:
        data = source.read(position, _HEADER.size)
        if len(data) < _HEADER.size:
            warnings.append(f"the file ends inside the header of a range at {position:#x}: the copy is truncated")
            break
        magic, version, first, last, _ = _HEADER.unpack(data)
        if magic != MAGIC or version != 1 or last < first or len(ranges) >= _MOST_RANGES:
            message = f"no header of a LiME range (version 1) at offset {position:#x}"
            if not ranges:
                raise CorruptDump(f"{message}: the image is damaged")
            warnings.append(f"{message}: what follows is left out")
            break
        ranges.append(Segment(first, position + _HEADER.size, last - first + 1))
        position += _HEADER.size + last - first + 1
    pages = page_map(source, ranges, "ranges of the LiME image", warnings)
    return Capture("LiME image", source, pages, (), "a LiME image holds memory only")
