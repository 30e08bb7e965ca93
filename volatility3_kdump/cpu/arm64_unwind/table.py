"""The exception directory of one image: which function an RVA lies in."""

from __future__ import annotations

import bisect
import itertools
import struct
from collections.abc import Callable, Iterator

from volatility3_kdump.cpu.arm64_unwind.functions import Function, TableAbsent, decode_full, decode_packed

_PAGE = 0x1000
_ENTRY = 8
#: An entry of kind 3 in bits 0 and 1, and the bytes of the code that it covers.
_ISLAND, _ISLAND_SIZE = 3, 12
#: Bytes of an exception directory that are looked at: two million functions, several times the largest image's.
_LARGEST_DIRECTORY = 16 << 20


class FunctionTable:
    """The exception directory of one image.

    ``read_rva(rva, size)`` gives bytes of the image, ``None`` where any of them is absent; ``directory`` is data
    directory 3 as (RVA, size), ``None`` when the image has none, so that all its functions are leaves.
    """

    def __init__(
        self,
        read_rva: Callable[[int, int], bytes | None],
        directory: tuple[int, int] | None,
        size_of_image: int,
    ) -> None:
        self._read = read_rva
        self._directory = directory
        self._size_of_image = size_of_image
        self._begins: list[int] | None = None
        self._words: list[int] = []
        #: Whether an entry just before each one, or at last after all of them, is not in the dump.
        self._gaps: list[bool] = [False]
        self._functions: dict[tuple[int, int], Function | str] = {}

    def find(self, rva: int) -> Function | None:
        """The function that covers an RVA; ``None`` for a leaf function.

        Raises :class:`TableAbsent` when the dump does not hold the bytes that would tell.
        """
        begins = self._load() if self._begins is None else self._begins
        index = bisect.bisect_right(begins, rva)
        if index:
            function = self._decode(begins[index - 1], self._words[index - 1])
            if rva < function.end:
                return function
        if self._gaps[index] and 0 <= rva < self._size_of_image:
            raise TableAbsent(f"the exception directory entry for RVA {rva:#x} is not in the dump")
        return None

    def __iter__(self) -> Iterator[Function]:
        """Every function whose entry and unwind data the dump holds, by address."""
        for begin, word in zip(self._load(), self._words, strict=True):
            try:
                yield self._decode(begin, word)
            except TableAbsent:
                continue

    def _load(self) -> list[int]:
        if self._begins is not None:
            return self._begins
        rva, size = self._directory or (0, 0)
        size = max(min(size, self._size_of_image - rva, _LARGEST_DIRECTORY), 0)
        entries: list[tuple[int, int]] = []
        gaps: list[bool] = []
        following = 0
        gap = False
        for number, begin, word in self._entries(rva, size // _ENTRY):
            gap = gap or number != following
            following = number + 1
            if 0 < begin < self._size_of_image:
                entries.append((begin, word))
                gaps.append(gap)
                gap = False
        gaps.append(gap or following != size // _ENTRY)
        if any(first[0] > second[0] for first, second in itertools.pairwise(entries)):
            # In a table that is not sorted an absent entry may belong anywhere.
            entries.sort()
            gaps = [any(gaps)] * len(gaps)
        self._begins = [begin for begin, _ in entries]
        self._words = [word for _, word in entries]
        self._gaps = gaps
        return self._begins

    def _entries(self, rva: int, count: int) -> Iterator[tuple[int, int, int]]:
        whole = self._read(rva, count * _ENTRY) if count else b""
        if whole is not None and len(whole) == count * _ENTRY:
            for number, (begin, word) in enumerate(struct.iter_unpack("<II", whole)):
                yield number, begin, word
            return
        number = 0
        while number < count:
            start = rva + number * _ENTRY
            # Entries up to the next page; one that straddles it is read by itself.
            fitting = min(max((_PAGE - start % _PAGE) // _ENTRY, 1), count - number)
            data = self._read(start, fitting * _ENTRY)
            if data is not None and len(data) == fitting * _ENTRY:
                for index, (begin, word) in enumerate(struct.iter_unpack("<II", data)):
                    yield number + index, begin, word
            number += fitting

    def _decode(self, begin: int, word: int) -> Function:
        key = (begin, word)
        function = self._functions.get(key)
        if function is None:
            try:
                function = self._island(begin, word) if word & 3 == _ISLAND else self._described(begin, word)
            except TableAbsent as error:
                function = str(error)
            self._functions[key] = function
        if isinstance(function, str):
            raise TableAbsent(function)
        return function

    def _described(self, begin: int, word: int) -> Function:
        return decode_packed(begin, word) if word & 3 else decode_full(begin, self._read, word)

    def _island(self, begin: int, word: int) -> Function:
        """Three instructions that branch to another function, in whose frame they run: adrp, add, br.

        The documentation reserves this kind of entry; linkers emit it with the RVA of another entry of the table.
        """
        start, size = self._directory or (0, 0)
        place = word & ~3
        data = self._read(place, _ENTRY) if start <= place < start + size and not (place - start) % _ENTRY else None
        other_begin, other = struct.unpack("<II", data) if data is not None and len(data) == _ENTRY else (0, _ISLAND)
        if other & 3 == _ISLAND:
            reason = f"the entry of kind 3 at RVA {begin:#x} names no entry of the table"
            return Function(begin, _ISLAND_SIZE, "packed", (), 0, reason=reason)
        body = self._described(other_begin, other)
        return Function(begin, _ISLAND_SIZE, body.form, body.codes, 0, reason=body.reason)
