"""Reading the target's virtual memory: every answer is the bytes or ``None``, never zeros for what is absent."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator

from volatility3_kdump.errors import ReadLimit
from volatility3_kdump.options import parse_size

ReadMemory = Callable[[int, int], "bytes | None"]

LIMIT_VARIABLE = "KDUMP_READ_LIMIT"
#: What a read costs beside its bytes: reading eight bytes takes about as long as reading some hundred.
READ_COST = 256
#: How often a command may read everything that a dump holds, and what it may read of the smallest dump.
_TIMES_PRESENT = 16
_LEAST = 128 << 20

PAGE_SIZE = 0x1000
_LONGEST_STRING = 0x10000


class ReadBudget:
    """What one command may read of a dump, in bytes with :data:`READ_COST` for each read.

    The lists of a damaged or hostile dump overlap: a few pages can hold a hundred thousand processes with as many
    threads each, and every list by itself is within its bounds. What a command needs of a sound dump is a few times
    what the dump holds, so that is the measure. ``limit`` is ``None`` for no limit.
    """

    __slots__ = ("left", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        #: Without limit until a command begins: a script asks one target for as much as it likes.
        self.left: float = math.inf

    @classmethod
    def of_dump(cls, present: int) -> ReadBudget:
        """For a dump that holds so many bytes of memory; the environment variable ``KDUMP_READ_LIMIT`` has priority.

        It is a number of bytes, with k, M, G or T behind it; 0 stands for no limit.
        """
        chosen = parse_size(os.environ.get(LIMIT_VARIABLE, ""))
        if chosen is not None:
            return cls(chosen or None)
        return cls(max(_LEAST, _TIMES_PRESENT * present))

    def begin(self) -> None:
        """A command begins: all of the budget is there again."""
        self.left = math.inf if self.limit is None else self.limit

    def spent(self) -> ReadLimit:
        """What to raise when nothing is left."""
        return ReadLimit(
            f"stopped: this has read {self.limit or 0:,} bytes, many times what the dump holds, so that its lists must "
            f"overlap or lead in circles; the rest is left out ({LIMIT_VARIABLE} sets another limit, 0 none)"
        )


def sign_extended(value: int, pointer_size: int) -> int:
    """An address of ``pointer_size`` bytes as 64 bits: those of 32-bit targets are extended by their sign.

    So KDDEBUGGER_DATA64 and the debugger's 64-bit interfaces keep them.
    """
    return value | 0xFFFFFFFF00000000 if pointer_size == 4 and value >> 31 == 1 else value


class Memory:
    """Typed reads over a function that reads bytes.

    Addresses are virtual and sign-extended; ``pointer_size`` is 4 or 8. ``None`` means that the dump does not hold all
    the bytes asked for.
    """

    def __init__(
        self,
        read: ReadMemory,
        pointer_size: int,
        why: Callable[[int], str],
        ranges: Callable[[int, int], Iterator[tuple[int, int]]] | None = None,
        budget: ReadBudget | None = None,
        read_fragment: ReadMemory | None = None,
    ) -> None:
        """``ranges`` gives the parts of a range, as (address, bytes), outside of which nothing can be read.

        ``budget`` is what ``read`` draws on. ``read_fragment`` reads as ``read`` does, for who wants a few bytes of
        many pages: a slice keeps those bytes, and not their pages.
        """
        self.read = read
        self.read_fragment = read if read_fragment is None else read_fragment
        self.budget = ReadBudget(None) if budget is None else budget
        self.pointer_size = pointer_size
        self._why = why
        self._ranges = ranges

    def ranges(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of a range, as (address, bytes) in order, outside of which nothing can be read."""
        return iter([(address, length)]) if self._ranges is None else self._ranges(address, length)

    def why_unreadable(self, address: int) -> str:
        """The reason why an address cannot be read, for a message."""
        return self._why(address)

    def why_absent(self, address: int) -> str | None:
        """The reason why the byte at an address cannot be read; ``None`` where it can."""
        return None if self.read(address, 1) is not None else self._why(address)

    def unsigned(self, address: int, size: int) -> int | None:
        """A little-endian unsigned integer of ``size`` bytes."""
        data = self.read(address, size)
        return None if data is None else int.from_bytes(data, "little")

    def pointer(self, address: int) -> int | None:
        """A pointer of the target's width, sign-extended to 64 bits."""
        value = self.unsigned(address, self.pointer_size)
        return None if value is None else sign_extended(value, self.pointer_size)

    def unicode_string(self, address: int) -> str | None:
        """The text of a UNICODE_STRING; ``None`` when the structure or its buffer is not in the dump."""
        size = 2 * self.pointer_size
        head = self.read(address, size)
        if head is None:
            return None
        length = struct.unpack_from("<H", head)[0] & ~1
        buffer = self.pointer(address + self.pointer_size)
        if length == 0:
            return ""
        return self.utf16(buffer, length) if buffer else None

    def utf16(self, address: int, length: int) -> str | None:
        """``length`` bytes of UTF-16 text, lone surrogates replaced."""
        data = self.read(address, min(length, _LONGEST_STRING))
        return None if data is None else data.decode("utf-16-le", "replace")

    def c_string(self, address: int, most: int = 256) -> str | None:
        """A NUL-terminated 8-bit string of at most ``most`` bytes; ``None`` when it does not end within them."""
        parts = []
        position = address
        end = address + most
        while position < end:
            size = min(PAGE_SIZE - position % PAGE_SIZE, end - position)
            data = self._present_prefix(position, size)
            if not data:
                return None
            parts.append(data)
            if b"\0" in data:
                return b"".join(parts).split(b"\0", 1)[0].decode("latin-1")
            if len(data) < size:
                return None
            position += size
        return None

    def _present_prefix(self, address: int, size: int) -> bytes:
        """As many of ``size`` bytes as are present without a gap."""
        data = self.read(address, size)
        if data is not None:
            return data
        low, high = 0, size
        while low + 1 < high:
            middle = (low + high) // 2
            if self.read(address, middle) is None:
                high = middle
            else:
                low = middle
        return self.read(address, low) or b"" if low else b""

    def present(self, address: int, length: int) -> Iterator[tuple[int, bytes]]:
        """The readable pages or part pages of a range, as (address, bytes), in order."""
        for start, extent in self.ranges(address, length):
            position, end = start, start + extent
            while position < end:
                size = min(PAGE_SIZE - position % PAGE_SIZE, end - position)
                data = self.read(position, size)
                if data is not None:
                    yield position, data
                position += size


def no_memory(pointer_size: int, why: str) -> Memory:
    """A memory that holds nothing, for the reason given."""
    return Memory(lambda address, size: None, pointer_size, lambda address: why)
