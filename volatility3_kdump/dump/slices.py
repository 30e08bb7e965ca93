"""What a slice says of itself: of which dump it holds some pages, and which commands read them.

A slice is a dump of type 6 that ``kdump slice`` writes. Its note is JSON in a blob of the tagged data.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass

from volatility3_kdump.shapes import Array, Range, ShapeError, check

TAG = uuid.UUID("3f1f4c38-6e0a-4a1e-9d6b-2f1c7b1d9a55")
LARGEST = 1 << 20
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
