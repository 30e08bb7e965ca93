"""Damage: changes of bytes, and of JSON documents, that a generator of random numbers chooses."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Sequence
from typing import Any

INTERESTING = (0, 1, 0x45474150, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFF000, 0x1000, 0x2000)
INTERESTING_LONG = (0, 1 << 40, (1 << 64) - 1, 0x4547415045474150, 1 << 63)
#: What a value of a document is replaced by: other types, and numbers that nothing can have.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 31,
    1 << 64,
    1e308,
    float("inf"),
    "",
    "x",
    "\x1b\u202e",
    [],
    {},
    [[]],
)


def mutate(data: bytes, generator: random.Random, near: Sequence[int] = ()) -> bytes:
    """One to six changes. ``near`` are sizes of the front part that changes are to lie in, besides anywhere."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 6)):
        if not changed:
            break
        offset = generator.randrange(min(len(changed), generator.choice((*near, len(changed)))))
        kind = generator.randrange(8)
        if kind == 0:
            changed[offset] ^= 1 << generator.randrange(8)
        elif kind in (1, 2):
            # Fields are aligned.
            offset &= ~3
            changed[offset : offset + 4] = struct.pack("<I", generator.choice(INTERESTING))
        elif kind == 3:
            offset &= ~7
            value = generator.choice((*INTERESTING_LONG, generator.getrandbits(64)))
            changed[offset : offset + 8] = struct.pack("<Q", value)
        elif kind == 4:
            offset &= ~3
            current = int.from_bytes(changed[offset : offset + 4].ljust(4, b"\0"), "little")
            step = generator.choice((-0x1000, -8, -1, 1, 4, 0x10, 0x1000))
            changed[offset : offset + 4] = struct.pack("<I", current + step & 0xFFFFFFFF)
        elif kind == 5:
            size = generator.randrange(1, 0x300)
            pattern = generator.choice((b"\0", b"\xff", b"PAGE", b"\x55"))
            changed[offset : offset + size] = (pattern * size)[:size]
        elif kind == 6:
            size = generator.randrange(1, 0x200)
            source = generator.randrange(len(changed))
            changed[offset : offset + size] = changed[source : source + size]
        else:
            del changed[generator.randrange(len(changed)) :]
    return bytes(changed[: len(data) + 0x1000])


def mutate_text(text: str, generator: random.Random, alphabet: str) -> str:
    """Characters replaced, put in, left out and repeated; ``alphabet`` are those that mean something."""
    characters = list(text)
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(characters) + 1)
        kind = generator.randrange(5)
        if kind == 0:
            characters.insert(place, generator.choice(alphabet))
        elif kind == 1:
            characters[place : place + generator.randrange(1, 4)] = []
        elif kind == 2:
            characters[place : place + 1] = generator.choice(alphabet)
        elif kind == 3:
            part = characters[place : place + generator.randrange(1, 12)]
            characters[place:place] = part * generator.randrange(1, 4)
        else:
            characters.insert(place, chr(generator.choice((0, 9, 0x1B, 0x7F, 0x85, 0x202E, 0xDC80, 0x1F600))))
    return "".join(characters)


def mutate_document(document: Any, generator: random.Random) -> Any:
    """A JSON document with one to three values replaced, moved or left out."""
    changed = copy.deepcopy(document)
    for _ in range(generator.randint(1, 3)):
        place = changed
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = generator.choice(keys)
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and generator.random() < 0.85:
                place = inner
                continue
            if generator.random() < 0.15:
                del place[key]
            else:
                place[key] = copy.deepcopy(generator.choice(ODD_VALUES))
            break
    return changed
