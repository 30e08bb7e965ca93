"""Raw images: the byte at an offset of the file is the byte at that physical address."""

from __future__ import annotations

from volatility3_kdump.captures.capture import Capture, page_map
from volatility3_kdump.dump import Segment, Source

RAW = "raw memory image"
#: No Windows runs in less: smaller files are not searched for one.
SMALLEST = 16 << 20


def read_raw(source: Source) -> Capture:
    """The memory in a raw image: all of the file."""
    pages = page_map(source, [Segment(0, 0, source.size)], "bytes of the raw image")
    return Capture(RAW, source, pages, (), "a raw image holds memory only")
