"""What a slice says of itself: of which dump it holds some pages, and which commands read them.

A slice is a dump of type 6 that ``kdump slice`` writes. Its note is JSON in a blob of the tagged data. Another blob has
fragments: a few bytes each of pages that the slice lacks, as physical address (8 bytes), size (2 bytes) and bytes.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from volatility3_kdump.shapes import Array, Range, ShapeError, check

TAG = uuid.UUID("3f1f4c38-6e0a-4a1e-9d6b-2f1c7b1d9a55")
LARGEST = 1 << 20
FRAGMENTS_TAG = uuid.UUID("b0f7d3a2-58c4-4d0b-8a55-6c2e91f04c1e")
LARGEST_FRAGMENTS = 64 << 20
_FRAGMENT = struct.Struct("<QH")
_PAGE_SIZE = 0x1000
_MOST_PAGES = 1 << 52
_SHAPE = {
    "of": str,
    "commands": Array(str),
    "pages": Range(0, _MOST_PAGES),
    "pages_of_original": Range(0, _MOST_PAGES),
    "scrubbed": Array(str),
    "writer": str,
}


@dataclass(frozen=True)
class SliceNote:
    """``of`` is the name of the original, ``scrubbed`` the rules by which it was scrubbed; ``writer`` is a version."""

    of: str
    commands: tuple[str, ...]
    pages: int
    pages_of_original: int
    scrubbed: tuple[str, ...]
    writer: str

    def packed(self) -> bytes:
        """The note as it lies in a dump."""
        return json.dumps(asdict(self)).encode()


def parse_note(data: bytes) -> SliceNote | None:
    """The note in a blob; ``None`` for what is none."""
    try:
        read = json.loads(data)
        check(read, _SHAPE)
    except (ValueError, RecursionError, ShapeError):
        return None
    return SliceNote(
        read["of"],
        tuple(read["commands"]),
        read["pages"],
        read["pages_of_original"],
        tuple(read["scrubbed"]),
        read["writer"],
    )


def packed_fragments(fragments: Mapping[int, bytes]) -> bytes:
    """Fragments by physical address as they lie in a dump."""
    return b"".join(
        _FRAGMENT.pack(address, len(fragments[address])) + fragments[address] for address in sorted(fragments)
    )


def parse_fragments(data: bytes) -> dict[int, bytes]:
    """The fragments in a blob, by physical address; none where the blob is damaged."""
    fragments: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + _FRAGMENT.size > len(data):
            return {}
        address, size = _FRAGMENT.unpack_from(data, position)
        position += _FRAGMENT.size
        if not 0 < size <= _PAGE_SIZE - address % _PAGE_SIZE or position + size > len(data):
            return {}
        fragments[address] = data[position : position + size]
        position += size
    return fragments
