"""LiME images: ranges of physical memory one after another, each behind a header with its first and last address.

Layout: ``doc/README.md`` of LiME, "lime" format, version 1.
"""

from __future__ import annotations

import struct

from volatility3_kdump.captures.capture import Capture, no_range_here, page_map, range_header
from volatility3_kdump.dump import Segment, Source

MAGIC = b"EMiL"
_HEADER = struct.Struct("<4sIQQQ")
_MOST_RANGES = 1 << 20


def read_lime(source: Source) -> Capture:
    """The memory in a LiME image. Raises :class:`CorruptDump` for one that holds no range."""
    ranges: list[Segment] = []
    warnings: list[str] = []
    position = 0
    while position < source.size:
        header = range_header(source, position, _HEADER, warnings)
        if header is None:
            break
        magic, version, first, last, _ = header
        if magic != MAGIC or version != 1 or last < first or len(ranges) >= _MOST_RANGES:
            warnings.append(no_range_here("a LiME range (version 1)", position, ranges))
            break
        ranges.append(Segment(first, position + _HEADER.size, last - first + 1))
        position += _HEADER.size + last - first + 1
    pages = page_map(source, ranges, "ranges of the LiME image", warnings)
    return Capture("LiME image", source, pages, (), "a LiME image holds memory only")
