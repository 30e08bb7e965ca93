"""AVML images: ranges as in LiME, each compressed as a snappy stream.

Layout: ``src/image.rs`` of AVML, version 2: a header with the first and the end address, a stream in snappy's framing
format (``framing_format.txt`` of snappy), and the length of the stream.
"""

from __future__ import annotations

import struct

from volatility3_kdump.captures.blocks import SNAPPY, STORED, BlockSource, require
from volatility3_kdump.captures.capture import Capture, no_range_here, page_map, range_header
from volatility3_kdump.dump import Segment, Source

MAGIC = b"AVML"
_HEADER = struct.Struct("<4sIQQQ")
_LENGTH = 8
_COMPRESSED, _UNCOMPRESSED, _STREAM = 0x00, 0x01, 0xFF
#: Chunks of these types may not be left out.
_UNKNOWN = range(0x02, 0x80)
_CHECKSUM = 4
#: A chunk unpacks to so much at most.
_LARGEST = 0x10000


def read_avml(source: Source) -> Capture:
    """The memory in an AVML image.

    Raises :class:`CorruptDump` for one that holds no range, :class:`UnsupportedContainer` without a library for snappy.
    """
    require(SNAPPY)
    unpacked = BlockSource(source)
    ranges: list[Segment] = []
    warnings: list[str] = []
    position = 0
    while position < source.size:
        header = range_header(source, position, _HEADER, warnings)
        if header is None:
            break
        magic, version, first, end, _ = header
        if magic != MAGIC or version != 2 or end <= first:
            warnings.append(no_range_here("an AVML range (version 2)", position, ranges))
            break
        begin = unpacked.size
        position, complaint = _chunks(source, position + _HEADER.size, end - first, unpacked)
        held = unpacked.size - begin
        if held:
            ranges.append(Segment(first, begin, min(held, end - first)))
        if complaint:
            warnings.append(complaint)
            break
        if held != end - first:
            warnings.append(f"the range at {first:#x} has {held:,} of {end - first:,} bytes")
        position += _LENGTH
    pages = page_map(unpacked, ranges, "ranges of the AVML image", warnings)
    return Capture("AVML image", unpacked, pages, (), "an AVML image holds memory only")


def _chunks(source: Source, position: int, wanted: int, unpacked: BlockSource) -> tuple[int, str]:
    """Note the chunks of a stream; where it ends, and what is wrong with it."""
    have = 0
    while have < wanted:
        head = source.read(position, 16)
        if len(head) < 4:
            return position, f"the file ends inside the snappy stream at {position:#x}: the copy is truncated"
        kind, size = head[0], int.from_bytes(head[1:4], "little")
        if position + 4 + size > source.size:
            return position, f"the file ends inside the snappy chunk at {position:#x}: the copy is truncated"
        if kind in (_COMPRESSED, _UNCOMPRESSED):
            stored = size - _CHECKSUM
            length = stored if kind == _UNCOMPRESSED else _length(head[4 + _CHECKSUM :])
            if stored <= 0 or not 0 < length <= _LARGEST:
                return position, f"the snappy chunk at {position:#x} is damaged: what follows is left out"
            unpacked.add(position + 4 + _CHECKSUM, stored, length, STORED if kind == _UNCOMPRESSED else SNAPPY)
            have += length
        elif kind in _UNKNOWN:
            return position, f"a snappy chunk of unknown type {kind:#x} at {position:#x}: what follows is left out"
        position += 4 + size
    return position, ""


def _length(data: bytes) -> int:
    """The unpacked length that a block of snappy begins with, as a varint."""
    value = 0
    for place, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value
    return 0
