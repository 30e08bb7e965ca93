"""A range of memory as values: units, strings and pointers, each with its name, and with why it is absent where it is.

:class:`MemoryRange` reads them for the ``d`` commands and ``kdump.memory``; :class:`PatternSearch` those of ``s``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.memory import Memory, sign_extended
from volatility3_kdump.windows.memory.contents import Stretch, counted_string, read_text, stretch, stretches
from volatility3_kdump.windows.memory.search import find_bytes

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_TOP = 1 << 64
#: The most characters of a string behind a pointer.
_POINTED_TEXT = 256


@dataclass(frozen=True)
class Unit:
    """The bytes ``start`` to ``stop`` of a stretch. ``value`` is their number where they are one unit, ``symbol`` the
    name of the address that it is, ``absent`` why some of them are not there."""

    stretch: Stretch
    start: int
    stop: int
    value: int | None
    symbol: str | None
    absent: str | None

    @property
    def address(self) -> int:
        return self.stretch.address + self.start


@dataclass(frozen=True)
class StringPiece:
    """A piece of a string; ``text`` is ``None`` where the dump lacks it, and ``absent`` says why."""

    address: int
    text: str | None
    absent: str | None = None


@dataclass(frozen=True)
class Pointed:
    """A pointer and what was asked for of where it points.

    ``value`` is ``None`` where the pointer is not in the dump, and ``absent`` says why. ``symbol`` is the name of what
    it points to; ``pointed`` the pointer there with its ``pointed_symbol``; ``text`` the string there. ``None`` where
    there is none, or the dump lacks it.
    """

    address: int
    value: int | None
    symbol: str | None = None
    pointed: int | None = None
    pointed_symbol: str | None = None
    text: str | None = None
    absent: str | None = None


@dataclass(frozen=True)
class Place:
    """A place where a pattern stands, with what memory holds from there on. ``symbol`` names it, where asked for."""

    stretch: Stretch
    symbol: str | None = None

    @property
    def address(self) -> int:
        return self.stretch.address


class MemoryRange:
    """A range of an address space. ``next`` is the address behind what was read last."""

    def __init__(self, target: Target, start: int, length: int, memory: Memory | None = None) -> None:
        """``memory`` is the address space, by default that of the process that crashed."""
        self._target = target
        self._memory = memory or target.memory
        self.start = self.next = start
        self.length = min(length, _TOP - start)

    @property
    def width(self) -> int:
        """The size of a pointer."""
        return self._memory.pointer_size

    def number(self, size: int) -> int | None:
        """The number at the start of the range; ``None`` where the dump lacks it."""
        return self._memory.unsigned(self.start, size)

    def pieces(self, row: int) -> Iterator[Stretch]:
        """Large pieces, all but the last whole multiples of ``row`` bytes."""
        for piece in stretches(self._memory, self.start, self.length, row):
            yield piece
            self.next = (piece.address + len(piece.data)) % _TOP

    def units(self, step: int, unit: int) -> Iterator[Unit]:
        """``step`` bytes at a time; those of one ``unit`` of more than a byte have a value."""
        for piece in self.pieces(step):
            for start in range(0, len(piece.data), step):
                stop = min(start + step, len(piece.data))
                value = piece.unit(start, unit) if stop - start == unit > 1 else None
                symbol = self._name(value) if unit == self.width else None
                absent = None
                if not all(piece.held[start:stop]):
                    absent = self._memory.why_unreadable(piece.address + start)
                yield Unit(piece, start, stop, value, symbol, absent)

    def strings(self, width: int, most: int | None) -> Iterator[StringPiece]:
        """The string at the start, of characters of ``width`` bytes: to its NUL, or ``most`` characters of it."""
        first = True
        for piece in read_text(self._memory, self.start, width, most):
            self.next = piece.next
            if piece.text is None:
                yield self._absent_string(piece.address)
            elif piece.text or first:
                yield StringPiece(piece.address, piece.text)
            first = False

    def counted(self, wide: bool) -> StringPiece:
        """The text of the UNICODE_STRING (``wide``) or ANSI_STRING at the start, and the address of its buffer.

        Raises :class:`KdumpError` where there is none.
        """
        string = counted_string(self._memory, self.start)
        if string is None:
            return self._absent_string(self.start)
        self.next = self.start + 2 * self.width
        if not string.length and string.length <= string.maximum:
            return StringPiece(string.buffer or self.start, "")
        if string.length > string.maximum or not string.buffer:
            raise KdumpError(
                f"no string structure at {self.start:x}: length {string.length:#x} of {string.maximum:#x}, "
                f"buffer {string.buffer:x}"
            )
        data = self._memory.read(string.buffer, string.length)
        if data is None:
            return self._absent_string(string.buffer)
        return StringPiece(string.buffer, data.decode("utf-16-le" if wide else "latin-1", "replace"))

    def pointers(self, size: int, wanted: str) -> Iterator[Pointed]:
        """Pointers of ``size`` bytes with what is ``wanted`` of each: ``s`` the symbol, ``p`` the pointer that it
        points to, ``a`` or ``u`` the ASCII or UTF-16 text there."""
        for piece in self.pieces(size):
            for offset in range(0, len(piece.data) - size + 1, size):
                yield self._pointed(piece.address + offset, piece.unit(offset, size), size, wanted)

    def _pointed(self, at: int, value: int | None, size: int, wanted: str) -> Pointed:
        if value is None:
            return Pointed(at, None, absent=self._memory.why_unreadable(at))
        goal = sign_extended(value, self.width) if size == 4 else value
        if wanted == "s":
            return Pointed(at, value, self._name(goal))
        if wanted == "p":
            pointed = self._memory.unsigned(goal, size)
            return Pointed(at, value, pointed=pointed, pointed_symbol=self._name(pointed))
        parts = [part.text for part in read_text(self._memory, goal, 1 if wanted == "a" else 2, _POINTED_TEXT)]
        if parts and parts[0] is None:
            return Pointed(at, value)
        return Pointed(at, value, text="".join(part for part in parts if part is not None))

    def _absent_string(self, at: int) -> StringPiece:
        return StringPiece(at, None, self._memory.why_unreadable(at))

    def _name(self, value: int | None) -> str | None:
        return None if value is None else self._target.name_of(sign_extended(value, self.width))


class PatternSearch:
    """Where a pattern stands in a range, at multiples of ``step`` bytes from its start; only what the dump holds is
    searched."""

    def __init__(
        self, target: Target, start: int, length: int, pattern: bytes, step: int, memory: Memory | None = None
    ) -> None:
        self._target = target
        self._memory = memory or target.memory
        self._start, self._length, self._pattern, self._step = start, length, pattern, step

    @property
    def width(self) -> int:
        """The size of a pointer."""
        return self._memory.pointer_size

    def addresses(self) -> Iterator[int]:
        """The addresses, ascending."""
        return find_bytes(self._memory, self._start, self._length, self._pattern, self._step)

    def places(self, row: int, named: bool = False) -> Iterator[Place]:
        """Each place with ``row`` bytes from it on, and its symbol where it shall be ``named``."""
        for at in self.addresses():
            held = stretch(self._memory, at, min(row, _TOP - at))
            yield Place(held, self._target.name_of(at) if named else None)
