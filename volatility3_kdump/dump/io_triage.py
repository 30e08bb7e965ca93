"""IoTriageDumpData: memory that the kernel adds to small memory dumps as tagged data, block by block.

Windows 11 24H2 writes it. A head of its own is followed by a record with the name, the number of blocks and the bytes
of all of them; each block is its address, its size and its bytes. One block is the path of the process that crashed,
as _EPROCESS.SeAuditProcessCreationInfo names it. Found on real small memory dumps.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from volatility3_kdump.dump.source import Source
from volatility3_kdump.dump.tagged import TaggedBlob

_NAME = b"IoTriageDumpData\0"
#: The largest blob that is read; those of real dumps have 91 to 94 KB.
_LARGEST = 1 << 24
#: Size of the record, number of blocks, bytes of all blocks, zero, offset of the name in the record's head.
_RECORD = struct.Struct("<5I")
#: Address, size, zero.
_BLOCK = struct.Struct("<QII")


def io_triage_blocks(source: Source, blobs: Sequence[TaggedBlob]) -> dict[int, bytes]:
    """The bytes of each block by its address; empty where the dump has no such data or it does not add up."""
    for blob in blobs:
        if _RECORD.size < blob.size <= _LARGEST and _NAME in source.read(blob.offset, min(blob.size, 0x100)):
            return parse_blocks(source.read(blob.offset, blob.size))
    return {}


def parse_blocks(data: bytes) -> dict[int, bytes]:
    """The blocks of a blob; empty when the record or a block leads outside, or the sizes differ from their sum."""
    start = int.from_bytes(data[:4], "little")
    if start + _RECORD.size > len(data):
        return {}
    size, count, total, _, _ = _RECORD.unpack_from(data, start)
    position = start + size
    end = position + total
    if _NAME not in data[start + _RECORD.size : position] or end > len(data) or count > total // _BLOCK.size:
        return {}
    blocks: dict[int, bytes] = {}
    for _ in range(count):
        if position + _BLOCK.size > end:
            return {}
        address, length, _ = _BLOCK.unpack_from(data, position)
        position += _BLOCK.size
        if position + length > end:
            return {}
        blocks.setdefault(address, data[position : position + length])
        position += length
    return blocks if position == end else {}
