"""The export table of an image: names for the functions that a module offers, where nothing better is at hand.

Layout: IMAGE_EXPORT_DIRECTORY of the PE format specification. Any page of the table may be missing.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from volatility3_kdump.images.pe import EXPORT, PeImage, ReadImage

_PAGE_SIZE = 0x1000
#: Ordinals are 16 bits wide.
_MOST = 0x10000
_LONGEST_NAME = 4096
#: Bytes that all names together may take, so that names which all point at one long text come to an end.
_MOST_TEXT = 8 << 20
_SMALLEST_READ = 64
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,4095}")


@dataclass(frozen=True)
class Exports:
    """The functions and variables of an export table, forwarders left out.

    ``symbols`` holds (RVA, name) in ascending order; exports by ordinal alone are called ``Ordinal`` and their number.
    ``unnamed`` holds the RVAs of exports whose names are not in the dump or not fit to print. ``complete`` is false
    when parts of the table were missing or did not make sense.
    """

    symbols: tuple[tuple[int, str], ...]
    unnamed: tuple[int, ...]
    complete: bool


def read_exports(read: ReadImage, image: PeImage) -> Exports | None:
    """The export table of an image, as far as it can be read; ``None`` when the image has none."""
    located = image.directory(EXPORT)
    return None if located is None else _Reader(read, image, *located).exports()


class _Reader:
    def __init__(self, read: ReadImage, image: PeImage, start: int, size: int) -> None:
        self._read = read
        self._image = image
        self._start = start
        self._end = start + size
        self._pages: dict[int, bytes | None] = {}
        self._complete = True
        self._budget = _MOST_TEXT

    def exports(self) -> Exports:
        head = self._bytes(self._start, 40)
        if head is None:
            return Exports((), (), False)
        base, functions, names, addresses_at, names_at, ordinals_at = struct.unpack_from("<6I", head, 16)
        if functions > _MOST or names > _MOST:
            return Exports((), (), False)
        addresses = self._numbers(addresses_at, functions, 4)
        named, all_names_known = self._names(names, names_at, ordinals_at)
        symbols: set[tuple[int, str]] = set()
        unnamed: set[int] = set()
        for index, rva in enumerate(addresses):
            # An address inside the directory itself is that of a forwarder's text.
            if not rva or self._start <= rva < self._end or rva >= self._image.size_of_image:
                continue
            if index in named:
                symbols.update((rva, name) for name in named[index] if name)
                if not any(named[index]):
                    unnamed.add(rva)
            elif all_names_known:
                symbols.add((rva, f"Ordinal{base + index}"))
            else:
                unnamed.add(rva)
        unnamed -= {rva for rva, _ in symbols}
        return Exports(tuple(sorted(symbols)), tuple(sorted(unnamed)), self._complete and not unnamed)

    def _names(self, count: int, names_at: int, ordinals_at: int) -> tuple[dict[int, list[str | None]], bool]:
        """The names of each index of the address table, and whether no index can have a name beyond them."""
        pointers = self._numbers(names_at, count, 4)
        indices = self._numbers(ordinals_at, count, 2)
        named: dict[int, list[str | None]] = {}
        for pointer, index in zip(pointers, indices, strict=True):
            if index is not None:
                named.setdefault(index, []).append(self._name(pointer) if pointer else None)
        return named, None not in indices

    def _numbers(self, rva: int, count: int, width: int) -> list[int | None]:
        """The entries of a table; ``None`` for those that are missing."""
        code = {2: "H", 4: "I"}[width]
        whole = self._read(rva, count * width) if count else b""
        if whole is not None:
            return list(struct.unpack(f"<{count}{code}", whole))
        self._complete = False
        entries: list[int | None] = []
        for index in range(count):
            data = self._bytes(rva + index * width, width)
            entries.append(None if data is None else int.from_bytes(data, "little"))
        return entries

    def _name(self, rva: int) -> str | None:
        collected = bytearray()
        while len(collected) < _LONGEST_NAME and self._budget > 0:
            part = self._rest_of_page(rva + len(collected))
            if part is None:
                self._complete = False
                return None
            end = part.find(b"\0", 0, _LONGEST_NAME)
            self._budget -= max(len(part) if end < 0 else end, _SMALLEST_READ)
            collected += part if end < 0 else part[:end]
            if end >= 0:
                break
        if self._budget <= 0 or not _PRINTABLE.fullmatch(collected):
            self._complete = False
            return None
        return collected.decode("ascii")

    def _bytes(self, rva: int, size: int) -> bytes | None:
        page, skip = divmod(rva, _PAGE_SIZE)
        held = self._page(page)
        if held is not None and skip + size <= len(held):
            return held[skip : skip + size]
        return self._read(rva, size)

    def _rest_of_page(self, rva: int) -> bytes | None:
        """Bytes up to the end of the page, or one byte where the page is not whole."""
        page, skip = divmod(rva, _PAGE_SIZE)
        held = self._page(page)
        return held[skip:] if held is not None and skip < len(held) else self._read(rva, 1)

    def _page(self, number: int) -> bytes | None:
        if number not in self._pages:
            start = number * _PAGE_SIZE
            size = min(_PAGE_SIZE, self._image.size_of_image - start)
            self._pages[number] = self._read(start, size) if size > 0 else None
        return self._pages[number]
