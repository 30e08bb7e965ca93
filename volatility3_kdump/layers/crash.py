"""Physical layers over crash dumps of DumpType 1, 2, 5, 6, 8, 9 and 0xA.

They subclass the host's crash layers, so that ``windows.crashinfo`` and everything else that asks for one accepts them,
and replace what the host builds per page by the page maps of :mod:`volatility3_kdump.dump.pagemap`.
"""

from __future__ import annotations

import collections
import functools
from typing import Any

from volatility3.framework import interfaces
from volatility3.framework.layers import crash, physical, segmented
from volatility3.framework.symbols import intermed
from volatility3.framework.symbols.windows.extensions import crash as crash_extensions

from volatility3_kdump.dump import PAGE_SIZE, PHYSICAL_TYPES, DumpType, FileSource, Source, open_dump
from volatility3_kdump.errors import KdumpError, UnsupportedDump
from volatility3_kdump.files import path_of
from volatility3_kdump.layers.paged_memory import PagedMemory
from volatility3_kdump.layers.plain import SourceLayer

_MAGIC_SIZE = 4
#: The types that ``windows.crashinfo`` calls unknown.
_TYPE_WORDS = {
    DumpType.SUMMARY: "kernel memory dump",
    DumpType.BITMAP_KERNEL: "kernel memory dump with a bitmap",
    DumpType.KERNEL_RANGES: "kernel memory dump of a debugger",
    DumpType.USER_RANGES: "kernel and user memory dump of a debugger",
    DumpType.FULL_RANGES: "complete memory dump of a debugger",
}


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
    if isinstance(layer, SourceLayer):
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


class _PagedCrashLayer(PagedMemory, crash.WindowsCrashDump32Layer):
    """What both widths share. The class attributes of the host's layer pick the header."""

    supported_dumptypes = sorted(PHYSICAL_TYPES)

    #: Lets the host's scans for other systems' page tables be skipped.
    _direct_metadata = collections.ChainMap({"os": "Windows"}, crash.WindowsCrashDump32Layer._direct_metadata)

    def __init__(self, context: interfaces.context.ContextInterface, config_path: str, name: str) -> None:
        base = context.layers[context.config[interfaces.configuration.path_join(config_path, "base_layer")]]
        try:
            dump = open_dump(source_of(base))
            if dump.pages is None:
                raise UnsupportedDump("a small memory dump holds no physical memory")
        except KdumpError as error:
            raise crash.WindowsCrashDumpFormatException(name, str(error)) from error
        self.check_header(base)
        self.over(dump)
        # Past the host's constructor: it loads two symbol tables for get_header(), four fifths of the time of opening.
        segmented.SegmentedLayer.__init__(self, context, config_path, name)
        self._page_size = PAGE_SIZE

    @functools.cached_property
    def _crash_table_name(self) -> str:
        """The table of the header's layout, loaded when the host first asks for the header."""
        table: str = intermed.IntermediateSymbolTable.create(
            self._context, self._config_path, "windows", self.crashdump_json
        )
        return table

    @functools.cached_property
    def _crash_common_table_name(self) -> str:
        table: str = intermed.IntermediateSymbolTable.create(
            self._context, self._config_path, "windows", "crash_common", class_types=crash_extensions.class_types
        )
        return table

    @property
    def dtb(self) -> int:
        """DirectoryTableBase as the header has it."""
        return int(self.get_header().DirectoryTableBase)

    @property
    def dump_type(self) -> int:
        """DumpType as the header has it."""
        return int(self.get_header().DumpType)

    def get_header(self) -> Any:
        """The header; its DumpType names the types that the host does not know."""
        return _Header(super().get_header())


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
