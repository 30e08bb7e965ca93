"""Contents of memory, byte by byte held or absent: what the prompt's ``d`` commands and ``kdump.memory`` show.

* :func:`stretches` - a range of memory in pieces that say which bytes the dump holds.
* :func:`read_text` - a string that ends at a NUL, in pieces.
* :func:`counted_string` - the buffer of a UNICODE_STRING or ANSI_STRING.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from volatility3_kdump.memory import Memory, sign_extended

_CHUNK = 0x10000
_TOP = 1 << 64
#: The most bytes of a string that is looked at where no length was given.
LONGEST_TEXT = 0x10000


@dataclass(frozen=True)
class Stretch:
    """``data`` are the bytes from ``address`` on, ``held`` a byte for each: 1 where the dump has it, else 0."""

    address: int
    data: bytes
    held: bytes

    def unit(self, offset: int, size: int) -> int | None:
        """The unsigned number of ``size`` bytes at an offset; ``None`` where a byte of it is absent."""
        if not all(self.held[offset : offset + size]) or offset + size > len(self.data):
            return None
        return int.from_bytes(self.data[offset : offset + size], "little")


def stretches(memory: Memory, address: int, length: int, row: int = 16) -> Iterator[Stretch]:
    """A range in pieces of some 64 KB; all but the last are whole multiples of ``row`` bytes."""
    end = min(address + length, _TOP)
    step = max(_CHUNK // row, 1) * row
    while address < end:
        size = min(step, end - address)
        yield stretch(memory, address, size)
        address += size


def stretch(memory: Memory, address: int, size: int) -> Stretch:
    """A range of memory; it must not reach beyond 64 bits."""
    data, held = bytearray(size), bytearray(size)
    for start, piece in memory.present(address, size):
        offset = start - address
        data[offset : offset + len(piece)] = piece
        held[offset : offset + len(piece)] = b"\1" * len(piece)
    return Stretch(address, bytes(data), bytes(held))


class Text(NamedTuple):
    """A piece of a string at ``address``; ``text`` is ``None`` where the dump lacks it. ``next`` is the address behind
    it, behind the NUL in the last piece."""

    address: int
    text: str | None
    next: int


def read_text(memory: Memory, address: int, width: int, most: int | None = None, piece: int = 32) -> Iterator[Text]:
    """A string of characters of ``width`` bytes (1: Latin-1, 2: UTF-16), ``piece`` characters at a time.

    It ends at its NUL, after ``most`` characters, or at the first that the dump lacks.
    """
    left = LONGEST_TEXT // width if most is None else most
    while left > 0 and address < _TOP:
        characters = min(piece, left, max((_TOP - address) // width, 1))
        chunk = stretch(memory, address, min(characters * width, _TOP - address))
        count = next((i for i in range(characters) if not _whole(chunk, i, width)), characters)
        data = chunk.data[: count * width]
        end = next((i for i in range(count) if not any(data[i * width : (i + 1) * width])), None)
        characters_read = data[: (count if end is None else end) * width].decode(
            "latin-1" if width == 1 else "utf-16-le", "replace"
        )
        if end is not None:
            yield Text(address, characters_read, address + (end + 1) * width)
            return
        if count:
            yield Text(address, characters_read, address + count * width)
        if count < characters:
            yield Text(address + count * width, None, address + count * width)
            return
        address += count * width
        left -= count


def _whole(chunk: Stretch, index: int, width: int) -> bool:
    return all(chunk.held[index * width : (index + 1) * width]) and (index + 1) * width <= len(chunk.data)


class CountedString(NamedTuple):
    """The fields of a UNICODE_STRING or ANSI_STRING: lengths in bytes, and the buffer's address."""

    length: int
    maximum: int
    buffer: int


def counted_string(memory: Memory, address: int) -> CountedString | None:
    """The structure at an address; ``None`` where the dump lacks it. Its layout never changed."""
    head = memory.read(address, 2 * memory.pointer_size)
    if head is None:
        return None
    length, maximum = struct.unpack_from("<HH", head)
    buffer = int.from_bytes(head[memory.pointer_size :], "little")
    return CountedString(length, maximum, sign_extended(buffer, memory.pointer_size))


class CountedText(NamedTuple):
    """A UNICODE_STRING or STRING: its lengths in bytes, its buffer; ``text`` is ``None`` where the dump lacks it."""

    length: int
    maximum: int
    buffer: int
    text: str | None


def counted_text(memory: Memory, address: int, wide: bool, most: int = LONGEST_TEXT) -> CountedText | None:
    """The string of a structure, of at most so many bytes; ``None`` where the structure is not in the dump."""
    length, maximum = memory.unsigned(address, 2), memory.unsigned(address + 2, 2)
    buffer = memory.pointer(address + memory.pointer_size)
    if length is None or maximum is None or buffer is None:
        return None
    data = memory.read(buffer, min(length, most)) if length else b""
    string = None if data is None else data.decode("utf-16-le" if wide else "latin-1", "replace")
    return CountedText(length, maximum, buffer, string)


def why_no_string(memory: Memory, address: int) -> str:
    """Why no string could be read at an address."""
    return memory.why_unreadable(address)


def zero_ended(memory: Memory, address: int, wide: bool, most: int) -> str | None:
    """A string up to its zero, of at most so many characters, or what the dump has of it; ``None`` for nothing."""
    if not wide:
        return memory.c_string(address, most)
    units = bytearray()
    for start, data in memory.present(address, 2 * most):
        if start != address + len(units):
            break
        units += data
    for index in range(0, len(units) - 1, 2):
        if units[index : index + 2] == b"\0\0":
            return units[:index].decode("utf-16-le", "replace")
    return units[: len(units) & ~1].decode("utf-16-le", "replace") if units else None


def held_bytes(memory: Memory, address: int, length: int) -> int:
    """How many bytes of a range the dump has."""
    return sum(len(data) for _, data in memory.present(address, length))


def pieces(memory: Memory, address: int, length: int, size: int) -> Iterator[bytes]:
    """A range that the dump has, in pieces of at most ``size`` bytes."""
    for position in range(0, length, size):
        yield memory.read(address + position, min(size, length - position)) or b""
