"""Physical layers over crash dumps of DumpType 1, 2, 5, 6, 8, 9 and 0xA.

They subclass the host's crash layers, so that ``windows.crashinfo`` and everything else that asks for one accepts them,
and replace what the host builds per page by the page maps of :mod:`volatility3_kdump.dump.pagemap`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

from volatility3.framework import exceptions, interfaces
from volatility3.framework.layers import crash, physical

from volatility3_kdump.dump import PAGE_SIZE, PHYSICAL_TYPES, CrashDump, DumpType, FileSource, Source, open_dump
from volatility3_kdump.errors import KdumpError, UnsupportedDump
from volatility3_kdump.files import path_of
from volatility3_kdump.layers.container import KdumpMemberLayer
from volatility3_kdump.layers.page_tables import PageTables

_PAGE_MASK = PAGE_SIZE - 1
_PAGE_SHIFT = 12
_MAGIC_SIZE = 4
#: The types that ``windows.crashinfo`` calls unknown.
_TYPE_WORDS = {
    DumpType.SUMMARY: "kernel memory dump",
    DumpType.BITMAP_KERNEL: "kernel memory dump with a bitmap",
    DumpType.KERNEL_RANGES: "kernel memory dump of a debugger",
    DumpType.USER_RANGES: "kernel and user memory dump of a debugger",
    DumpType.FULL_RANGES: "complete memory dump of a debugger",
}
#: Pages that are read ahead for who reads pieces of at least so many bytes one after another: 128 KB.
_PAGES_AHEAD = 32
_WORTH_READING_AHEAD = 1024


class LayerSource:
    """The bytes of a Volatility layer, for dumps that do not lie in a plain file."""

    def __init__(self, layer: interfaces.layers.DataLayerInterface) -> None:
        self._layer = layer
        self.name = layer.name
        self.size = layer.maximum_address + 1

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        data: bytes = self._layer.read(offset, length)
        return data


def source_of(layer: interfaces.layers.DataLayerInterface) -> Source:
    """The quickest way to the bytes of a layer: the file itself where the layer is a plain local file."""
    if isinstance(layer, KdumpMemberLayer):
        return layer.source
    if isinstance(layer, physical.FileLayer):
        path = path_of(layer.location)
        if path is not None:
            source = FileSource(path)
            # The host decompresses some files on the fly; the plain file then holds other bytes.
            if source.size == layer.maximum_address + 1 and (
                source.size < _MAGIC_SIZE or source.read(0, _MAGIC_SIZE) == layer.read(0, _MAGIC_SIZE)
            ):
                return source
            source.close()
    return LayerSource(layer)


class _PagedCrashLayer(crash.WindowsCrashDump32Layer):
    """What both widths share. The class attributes of the host's layer pick the header."""

    supported_dumptypes = sorted(PHYSICAL_TYPES)

    #: Lets the host's scans for other systems' page tables be skipped.
    _direct_metadata = collections.ChainMap({"os": "Windows"}, crash.WindowsCrashDump32Layer._direct_metadata)

    def __init__(self, context: interfaces.context.ContextInterface, config_path: str, name: str) -> None:
        base = context.layers[context.config[interfaces.configuration.path_join(config_path, "base_layer")]]
        try:
            self.dump: CrashDump = open_dump(source_of(base))
            if self.dump.pages is None:
                raise UnsupportedDump("a small memory dump holds no physical memory")
        except KdumpError as error:
            raise crash.WindowsCrashDumpFormatException(name, str(error)) from error
        self._pages = self.dump.pages
        self._source = self.dump.source
        #: Bytes that were read ahead, and their address; where the last short read ended.
        self._ahead: tuple[int, bytes] = (0, b"")
        self._next = 0
        #: The page tables in this memory, for all layers above.
        self.page_tables = PageTables(self.dump)
        super().__init__(context, config_path, name)

    def get_header(self) -> Any:
        """The header; its DumpType names the types that the host does not know."""
        return _Header(super().get_header())

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


class _NamedType(int):
    """A DumpType that says in words what it is where it is formatted: ``windows.crashinfo`` knows two types."""

    def __format__(self, code: str) -> str:
        type_name = _TYPE_WORDS.get(int(self))
        return int(self).__format__(code) + (f", {type_name}" if type_name else "")


class _Header:
    """The host's header object, but for DumpType."""

    def __init__(self, header: interfaces.objects.ObjectInterface) -> None:
        self._header = header

    def __getattr__(self, name: str) -> Any:
        if name == "_header":
            raise AttributeError(name)
        value = getattr(self._header, name)
        return _NamedType(value) if name == "DumpType" else value


class KdumpCrash64Layer(_PagedCrashLayer, crash.WindowsCrashDump64Layer):
    """Physical memory of a 64-bit crash dump, all seven types that hold it."""


class KdumpCrash32Layer(_PagedCrashLayer):
    """Physical memory of a 32-bit crash dump."""
