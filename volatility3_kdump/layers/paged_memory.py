"""Physical memory over any page map: what the layers of crash dumps and of memory images have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from volatility3.framework import exceptions

from volatility3_kdump.dump import PAGE_SIZE, CrashDump
from volatility3_kdump.dump.recording import RecordingSource, recorded
from volatility3_kdump.layers.page_tables import PageTables

_PAGE_MASK = PAGE_SIZE - 1
_PAGE_SHIFT = 12
#: Pages that are read ahead for who reads pieces of at least so many bytes one after another: 128 KB.
_PAGES_AHEAD = 32
_WORTH_READING_AHEAD = 1024


class PagedMemory:
    """Answers reads of physical memory from a page map and the file; a base beside one of the host's segmented layers.

    Every layer with this base has ``dump``, whose pages there are, and ``page_tables``, the tables in this memory for
    all layers above.
    """

    name: str
    _base_layer: str

    def over(self, dump: CrashDump) -> None:
        """Take the pages of a dump that has some. To be called before the host's constructor."""
        assert dump.pages is not None
        pages = dump.pages
        if dump.header.container is None:
            # Images are searched as a whole for what a dump's header says: what is read of them says nothing.
            dump = dataclasses.replace(dump, source=recorded(dump.source, pages))
        self.dump = dump
        self._pages = pages
        self._source = dump.source
        #: Bytes that were read ahead, and their address; where the last short read ended.
        self._ahead: tuple[int, bytes] = (0, b"")
        self._next = 0
        self.page_tables = PageTables(dump)

    def _load_segments(self) -> None:
        """Nothing to load: the page map answers."""

    def _find_segment(self, offset: int, next: bool = False) -> tuple[int, int, int, int]:
        """The stretch of pages that holds an offset (or follows it), as the host's segment tuple."""
        pfn = offset >> _PAGE_SHIFT
        if next:
            following = self._pages.next_present(pfn if offset & _PAGE_MASK == 0 else pfn + 1)
            if following is None:
                raise exceptions.InvalidAddressException(
                    self.name, offset, f"No page at or above {offset:#x} in the dump"
                )
            pfn = following
        extent = self._pages.extent(pfn, self._pages.declared + 1)
        if extent.offset is None:
            raise exceptions.InvalidAddressException(self.name, offset, f"Page {pfn:#x} is not in the dump")
        length = extent.count << _PAGE_SHIFT
        return extent.pfn << _PAGE_SHIFT, extent.offset, length, length

    def is_valid(self, offset: int, length: int = 1) -> bool:
        if offset < 0:
            return False
        first = offset >> _PAGE_SHIFT
        last = (offset + max(length, 1) - 1) >> _PAGE_SHIFT
        if first == last:
            return self._pages.offset_of(first) is not None
        while first <= last:
            extent = self._pages.extent(first, last - first + 1)
            if extent.offset is None:
                return False
            first += extent.count
        return True

    def mapping(
        self, offset: int, length: int, ignore_errors: bool = False
    ) -> Iterable[tuple[int, int, int, int, str]]:
        """Stretches of the dump as (offset, length, file offset, length, base layer), as the host defines it."""
        position = offset
        end = offset + max(length, 1)
        while position < end:
            pfn = position >> _PAGE_SHIFT
            within = position & _PAGE_MASK
            extent = self._pages.extent(pfn, (end - 1 >> _PAGE_SHIFT) - pfn + 1)
            if extent.offset is None:
                if not ignore_errors:
                    raise exceptions.InvalidAddressException(self.name, position, f"Page {pfn:#x} is not in the dump")
                following = self._pages.next_present(pfn)
                if following is None:
                    return
                position = following << _PAGE_SHIFT
                continue
            size = min((extent.count << _PAGE_SHIFT) - within, end - position)
            shown = size if length else 0
            yield position, shown, extent.offset + within, shown, self._base_layer
            position += size

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        """Bytes of physical memory. Absent pages raise, or read as zeros where ``pad`` asks for that."""
        start, ahead = self._ahead
        within = offset - start
        if within >= 0 and within + length <= len(ahead):
            if within + length == len(ahead):
                self._read_ahead(offset + length)
            return ahead[within : within + length]
        page = offset & _PAGE_MASK
        if page + length <= PAGE_SIZE and offset >= 0:
            located = self._pages.offset_of(offset >> _PAGE_SHIFT)
            if located is not None:
                data = self._source.read(located + page, length)
                if offset == self._next and length >= _WORTH_READING_AHEAD:
                    self._read_ahead(offset + length)
                self._next = offset + length
                return data
        parts = []
        position = offset
        for start, size, located, _, _ in self.mapping(offset, length, ignore_errors=pad):
            if start > position:
                parts.append(bytes(start - position))
            parts.append(self._source.read(located, size))
            position = start + size
        data = b"".join(parts)
        return data + bytes(length - len(data)) if pad else data

    def _read_ahead(self, offset: int) -> None:
        """Who reads on from where the last read ended will want what follows, as far as it is stored without a gap."""
        if isinstance(self._source, RecordingSource):
            # Only what is asked for counts as read.
            return
        extent = self._pages.extent(offset >> _PAGE_SHIFT, _PAGES_AHEAD)
        if extent.offset is not None:
            within = offset & _PAGE_MASK
            self._ahead = offset, self._source.read(extent.offset + within, (extent.count << _PAGE_SHIFT) - within)

    @property
    def minimum_address(self) -> int:
        first = self._pages.next_present(0)
        return 0 if first is None else first << _PAGE_SHIFT

    @property
    def maximum_address(self) -> int:
        highest = self._pages.highest
        return 0 if highest is None else ((highest + 1) << _PAGE_SHIFT) - 1
