"""Frames between the server and the process of a dump: four bytes of length, little-endian, then JSON."""

from __future__ import annotations

import json
import struct
from typing import Any

LENGTH = struct.Struct("<I")
#: No page of a result is as long.
LONGEST = 16 << 20


class BadFrame(Exception):
    """What the other side sent is no frame."""


def packed(message: dict[str, Any]) -> bytes:
    """A message as a frame."""
    data = json.dumps(message, ensure_ascii=True).encode("ascii")
    return LENGTH.pack(len(data)) + data


def length_of(head: bytes) -> int:
    """The length that a frame's head says. Raises :class:`BadFrame`."""
    length: int = LENGTH.unpack(head)[0]
    if length > LONGEST:
        raise BadFrame(f"a frame of {length} bytes")
    return length


def unpacked(data: bytes) -> dict[str, Any]:
    """The message of a frame. Raises :class:`BadFrame`."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadFrame(str(error)) from error
    if not isinstance(message, dict):
        raise BadFrame("no object")
    return message
