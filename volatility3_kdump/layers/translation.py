"""The virtual layers over a physical crash layer: own page-table walks below the host's Intel classes.

The host takes a page directory entry in transition for a large page (its protection field reaches into bit 7), cuts all
frames at 45 bits and maps ranges page by page. These layers are subclasses of the host's, so that every plugin accepts
them, and answer from :mod:`volatility3_kdump.layers.page_tables`.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from volatility3.framework import exceptions, interfaces
from volatility3.framework.layers import intel

from volatility3_kdump.cpu import paging
from volatility3_kdump.cpu.paging import PAGE_SHIFT, PAGE_SIZE, PagingMode
from volatility3_kdump.dump.header import DumpHeader
from volatility3_kdump.layers.crash import source_of
from volatility3_kdump.layers.page_tables import PHYSICAL, AddressSpace, Fault, Place, joined
from volatility3_kdump.layers.paged_memory import PagedMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from volatility3_kdump.dump import Source

vollog = logging.getLogger(__name__)

KUSER_SHARED_DATA_64 = 0xFFFFF78000000000
KUSER_SHARED_DATA_32 = 0xFFDF0000

_PAGE_MASK = PAGE_SIZE - 1
#: Ranges up to so many pages are mapped page by page.
_FEW_PAGES = 16
#: Numbers that an entry can give a paging file.
_PAGING_FILES = 16

Mapped = tuple[int, int, int, int, str]


class KdumpTranslation(intel.Intel):
    """What the layers of all paging modes share; subclasses name their mode."""

    mode: PagingMode

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(context=context, config_path=config_path, name=name, metadata=metadata)
        physical = context.layers[self._base_layer]
        if not isinstance(physical, PagedMemory):
            raise exceptions.LayerException(name, f"{self._base_layer} is no layer over a crash dump")
        self._physical = physical
        self.refresh()

    def refresh(self) -> None:
        """Read the paging files out of the configuration again."""
        self.address_space = self.space_of(self.config["page_map_offset"])

    def change_root(self, root: int) -> bool:
        """Walk the page tables of another process from now on, where they lead to the same kernel."""
        space = self.space_of(root)
        if isinstance(space.place(KUSER_SHARED_DATA_64 & self.address_mask), Fault):
            return False
        self.address_space = space
        self.config["page_map_offset"] = root
        return True

    def space_of(self, root: int) -> AddressSpace:
        """The address space of another top table (its physical address, flags allowed) of the same machine."""
        return AddressSpace(self._physical.page_tables, self.mode, root, self._paging_files())

    def _paging_files(self) -> dict[int, Source]:
        """The paging files that the configuration names, by number."""
        self._swap_names: dict[int, str] = {}
        files: dict[int, Source] = {}
        if self.config.get("swap_layers", False):
            for number in range(_PAGING_FILES):
                path = interfaces.configuration.path_join("swap_layers", f"swap_layers{number}")
                name = self.config.get(path, None)
                if name in self.context.layers:
                    self._swap_names[number] = name
                    files[number] = source_of(self.context.layers[name])
        return files

    # one address ------------------------------------------------------------------------------------------------------

    def _translate(self, offset: int) -> tuple[int, int, str]:
        """Where an address lies: offset in a layer, bytes of its page, name of the layer."""
        place = self.address_space.place(offset)
        if isinstance(place, Fault):
            raise self._error(offset, place)
        base, size, which, _ = place
        name = self._base_layer if which == PHYSICAL else self._swap_names[which]
        return base | offset & size - 1, size, name

    def _translate_entry(self, page_address: int) -> tuple[int, int]:
        """The entry that maps a page, and the highest bit of an offset into the page."""
        place = self.address_space.place(page_address)
        if isinstance(place, Fault):
            raise self._error(page_address, place)
        return place.entry, place.size.bit_length() - 2

    def _error(self, offset: int, fault: Fault) -> exceptions.PagedInvalidAddressException:
        if fault.paged_out:
            return exceptions.SwappedInvalidAddressException(
                layer_name=self.name,
                invalid_address=offset,
                invalid_bits=fault.bits,
                entry=fault.entry,
                swap_offset=(fault.page_file[1] if fault.page_file else 0) << PAGE_SHIFT,
            )
        return exceptions.PagedInvalidAddressException(
            self.name, offset, fault.bits, fault.entry, f"Page fault at entry {fault.entry:#x}"
        )

    def translate_many(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The physical address of each address, -1 where there is none or the page is in a paging file."""
        return self.address_space.translate(addresses)

    # ranges -----------------------------------------------------------------------------------------------------------

    def is_valid(self, offset: int, length: int = 1) -> bool:
        """Whether all bytes of a range are in the dump, or in a paging file."""
        if length <= 1 or (offset & _PAGE_MASK) + length <= PAGE_SIZE:
            place = self.address_space.place(offset)
            return isinstance(place, Place) and self._held(place, offset)
        try:
            for _ in self.mapping(offset, length):
                pass
        except exceptions.InvalidAddressException:
            return False
        return True

    def _held(self, place: Place, offset: int) -> bool:
        """Whether the 4 KB page of an offset into a page is in the dump."""
        if place.which != PHYSICAL:
            return True
        return (
            self._physical.page_tables.pages.offset_of((place.base | offset & place.size - 1) >> PAGE_SHIFT) is not None
        )

    def mapping(self, offset: int, length: int, ignore_errors: bool = False) -> Iterable[Mapped]:
        """Stretches that are contiguous in one layer: (offset, length, offset in the layer, length, layer).

        Of a large page, the parts that the dump holds. Addresses above the address space wrap, as in the host's layers.
        """
        if length <= 0:
            for start, _, mapped, _, name in self._few(offset, 1, ignore_errors):
                yield start, 0, mapped, 0, name
            return
        start, size, place, layer = 0, 0, 0, ""
        for position, step, mapped, _, name in self._pieces(offset, length, ignore_errors):
            if size and position == start + size and mapped == place + size and name == layer:
                size += step
                continue
            if size:
                yield start, size, place, size, layer
            start, size, place, layer = position, step, mapped, name
        if size:
            yield start, size, place, size, layer

    def _pieces(self, offset: int, length: int, ignore_errors: bool) -> Iterator[Mapped]:
        few = _FEW_PAGES << PAGE_SHIFT
        if length <= few:
            yield from self._few(offset, length, ignore_errors)
            return
        if not ignore_errors:
            # Who asks for all up to the first gap, as windows.statistics does, is told of a near one without more ado.
            near = few - (offset & _PAGE_MASK)
            yield from self._few(offset, near, False)
            offset, length = offset + near, length - near
        yield from self._many(offset, length, ignore_errors)

    def _few(self, offset: int, length: int, ignore_errors: bool) -> Iterator[Mapped]:
        """The pages of a short range, each by itself."""
        end = offset + length
        while offset < end:
            place = self.address_space.place(offset)
            step = min(PAGE_SIZE - (offset & _PAGE_MASK), end - offset)
            if isinstance(place, Fault):
                if not ignore_errors:
                    raise self._error(offset, place)
                step = (1 << place.bits) - (offset & (1 << place.bits) - 1)
            else:
                mapped = place.base | offset & place.size - 1
                if self._held(place, offset):
                    yield (
                        offset,
                        step,
                        mapped,
                        step,
                        (self._base_layer if place.which == PHYSICAL else self._swap_names[place.which]),
                    )
                elif not ignore_errors:
                    raise exceptions.InvalidAddressException(
                        self._base_layer, mapped, f"Page {mapped >> PAGE_SHIFT:#x} is not in the dump"
                    )
            offset += step

    def _many(self, offset: int, length: int, ignore_errors: bool) -> Iterator[Mapped]:
        """The pages of a range by whole tables."""
        low = offset & self.address_mask
        above = offset - low
        position, end = low, min(low + length, self.address_mask + 1)
        notes: list[str] = []
        for batch in self.address_space.batches(low, end, notes):
            columns = (column.tolist() for column in joined(batch))
            for start, size, mapped, which in zip(*columns, strict=True):
                if start != position and not ignore_errors:
                    raise self._absent(position + above)
                name = self._base_layer if which == PHYSICAL else self._swap_names[which]
                yield start + above, size, mapped, size, name
                position = start + size
        for note in notes:
            vollog.warning(f"kdump: {self.name}: {note}")
        if not ignore_errors and position != low + length:
            raise self._absent(position + above)

    def _absent(self, offset: int) -> exceptions.InvalidAddressException:
        """Why an address cannot be read."""
        try:
            for _ in self._few(offset, 1, False):
                pass
        except exceptions.InvalidAddressException as error:
            return error
        return exceptions.InvalidAddressException(self.name, offset, f"Address {offset:#x} is not mapped")

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        """Bytes of the address space. What is absent raises, or reads as zeros where ``pad`` asks for that."""
        if (offset & _PAGE_MASK) + length <= PAGE_SIZE:
            place = self.address_space.place(offset)
            if isinstance(place, Place) and place.which == PHYSICAL:
                data = self._physical.page_tables.read(place.base | offset & place.size - 1, length)
                if data is not None:
                    return data
        parts = []
        position = offset
        for start, size, mapped, _, name in self.mapping(offset, length, ignore_errors=pad):
            if start > position:
                parts.append(bytes(start - position))
            parts.append(self._context.layers[name].read(mapped, size, pad))
            position = start + size
        data = b"".join(parts)
        return data + bytes(length - len(data))


class KdumpIntelLayer(KdumpTranslation, intel.WindowsIntel):
    """x86 without PAE."""

    mode = paging.INTEL_32


class KdumpIntelPAELayer(KdumpTranslation, intel.WindowsIntelPAE):
    """x86 with PAE."""

    mode = paging.INTEL_PAE


class KdumpIntel32eLayer(KdumpTranslation, intel.WindowsIntel32e):
    """x64 with four-level paging."""

    _maxphyaddr = 52
    mode = paging.INTEL_4_LEVEL


class KdumpIntel57Layer(KdumpTranslation, intel.WindowsIntel32e):
    """x64 with five-level paging (LA57)."""

    _maxphyaddr = 52
    _maxvirtaddr = 57
    _structure = [("page map layer 5", 9, False), *intel.WindowsIntel32e._structure]
    mode = paging.INTEL_5_LEVEL


class KdumpArm64Layer(KdumpTranslation, intel.WindowsIntel32e):
    """ARM64 with pages of 4 KB. The host has no such layer: its own plugins are to know that this is no x64."""

    _direct_metadata = collections.ChainMap({"architecture": "AArch64"}, intel.WindowsIntel32e._direct_metadata)
    mode = paging.ARM64_4_LEVEL


def build_virtual_layer(
    context: interfaces.context.ContextInterface, physical_name: str, config_path: str
) -> interfaces.layers.TranslationLayerInterface | None:
    """The layer that the dump header's DirectoryTableBase selects, or ``None`` when no paging mode verifies.

    The layer is not added to the context. The user half of the address space is that of the process that crashed.
    """
    physical = context.layers[physical_name]
    if not isinstance(physical, PagedMemory):
        return None
    header = physical.dump.header
    root = header.directory_table_base
    if root is None:
        return None
    for layer_class in _paging_modes(header):
        name = context.layers.free_layer_name("IntelLayer")
        path = interfaces.configuration.path_join(config_path, name)
        context.config[interfaces.configuration.path_join(path, "memory_layer")] = physical_name
        context.config[interfaces.configuration.path_join(path, "page_map_offset")] = root & layer_class.mode.root
        layer = layer_class(context, config_path=path, name=name, metadata={"os": "Windows"})
        if verifies(layer, header):
            return layer
    return None


def _paging_modes(header: DumpHeader) -> list[type[KdumpTranslation]]:
    if header.architecture == "x64":
        return [KdumpIntel32eLayer, KdumpIntel57Layer]
    if header.architecture == "arm64":
        return [KdumpArm64Layer]
    if header.architecture == "x86":
        # PaeEnabled is not always set truthfully: it decides which mode is tried first, no more.
        modes: list[type[KdumpTranslation]] = [KdumpIntelPAELayer, KdumpIntelLayer]
        return modes[::-1] if header.pae_enabled is False else modes
    return []


def verifies(layer: intel.Intel, header: DumpHeader) -> bool:
    """Whether a translation reaches what every Windows kernel has.

    Either a kernel list head whose first entry points back at it, or a shared data page with a plausible version.
    """
    width = header.pointer_size
    for head in (header.ps_loaded_module_list, header.ps_active_process_head):
        if head is None:
            continue
        first = _pointer(layer, head, width)
        if first and _pointer(layer, first + width, width) == head & layer.address_mask:
            return True
    shared = KUSER_SHARED_DATA_64 if header.bits == 64 else KUSER_SHARED_DATA_32
    try:
        major = int.from_bytes(layer.read((shared & layer.address_mask) + 0x26C, 4), "little")
    except exceptions.InvalidAddressException:
        return False
    return major in (5, 6, 10)


def _pointer(layer: intel.Intel, address: int, width: int) -> int | None:
    try:
        value = int.from_bytes(layer.read(address & layer.address_mask, width), "little")
    except exceptions.InvalidAddressException:
        return None
    return value & int(layer.address_mask)
