"""The virtual layer over a physical crash layer: the header's page tables, verified before they are trusted."""

from __future__ import annotations

from typing import NamedTuple

from volatility3.framework import exceptions, interfaces
from volatility3.framework.layers import intel

from volatility3_kdump.dump.header import DumpHeader
from volatility3_kdump.layers.container import paging_files_below
from volatility3_kdump.layers.crash import KdumpCrash32Layer, KdumpCrash64Layer

KUSER_SHARED_DATA_64 = 0xFFFFF78000000000
KUSER_SHARED_DATA_32 = 0xFFDF0000

#: Root table addresses: the low bits of CR3 carry a PCID or flags (Intel SDM volume 3, 4.5).
_ROOT_64 = 0x000FFFFFFFFFF000
_ROOT_PAE = 0xFFFFFFE0
_ROOT_32 = 0xFFFFF000


class KdumpIntel57Layer(intel.WindowsIntel32e):
    """x64 with five-level paging (LA57)."""

    _maxvirtaddr = 57
    _structure = [("page map layer 5", 9, False), *intel.WindowsIntel32e._structure]


class _PagedOut(intel.Intel):
    """Pages in paging files. The host gives where such a page starts, whatever the offset in it."""

    def _translate(self, offset: int) -> tuple[int, int, str]:
        located, size, name = super()._translate(offset)
        if name != self._base_layer:
            located = located & -size | offset & size - 1
        return located, size, name


class KdumpPagedIntelLayer(_PagedOut, intel.WindowsIntel):
    """x86 without PAE, with paging files."""


class KdumpPagedIntelPAELayer(_PagedOut, intel.WindowsIntelPAE):
    """x86 with PAE and paging files."""


class KdumpPagedIntel32eLayer(_PagedOut, intel.WindowsIntel32e):
    """x64 with paging files."""


class KdumpPagedIntel57Layer(_PagedOut, KdumpIntel57Layer):
    """x64 with five-level paging and paging files."""


#: Address bits within a large page: 4 MB (32-bit), 2 MB, 1 GB.
_LARGE_PAGES = (22, 21, 30)
_PAE_TOP = 2


class TableLevel(NamedTuple):
    """A level of page tables: the lowest address bit that indexes it, how many do, whether entries may map pages."""

    shift: int
    bits: int
    large: bool


def table_levels(layer: intel.Intel) -> tuple[TableLevel, ...]:
    """The levels of tables that a layer walks, from the top one down.

    Which of them map large pages is from the Intel SDM, volume 3, 4.3 to 4.5: the host's own flags say it of a level in
    some versions and of the level above in others.
    """
    levels = []
    shift = layer._maxvirtaddr
    for _, bits, _ in layer._structure:
        shift -= bits
        # The four entries at the top of PAE's tables map none.
        levels.append(TableLevel(shift, bits, shift in _LARGE_PAGES and bits > _PAE_TOP))
    return tuple(levels)


_WITH_PAGING_FILES: dict[type[intel.Intel], type[intel.Intel]] = {
    intel.WindowsIntel: KdumpPagedIntelLayer,
    intel.WindowsIntelPAE: KdumpPagedIntelPAELayer,
    intel.WindowsIntel32e: KdumpPagedIntel32eLayer,
    KdumpIntel57Layer: KdumpPagedIntel57Layer,
}


def build_virtual_layer(
    context: interfaces.context.ContextInterface, physical_name: str, config_path: str
) -> interfaces.layers.TranslationLayerInterface | None:
    """The Intel layer that the dump header's DirectoryTableBase selects, or ``None`` when no paging mode verifies.

    The layer is not added to the context. The user half of the address space is that of the process that crashed.
    """
    physical = context.layers[physical_name]
    if not isinstance(physical, (KdumpCrash32Layer, KdumpCrash64Layer)):
        return None
    header = physical.dump.header
    root = header.directory_table_base
    if root is None:
        return None
    paging_files = paging_files_below(context, physical)
    for layer_class, mask in _paging_modes(header):
        if paging_files:
            layer_class = _WITH_PAGING_FILES[layer_class]
        name = context.layers.free_layer_name("IntelLayer")
        path = interfaces.configuration.path_join(config_path, name)
        context.config[interfaces.configuration.path_join(path, "memory_layer")] = physical_name
        context.config[interfaces.configuration.path_join(path, "page_map_offset")] = root & mask
        layer = layer_class(context, config_path=path, name=name, metadata={"os": "Windows"})
        if verifies(layer, header):
            return layer
    return None


def _paging_modes(header: DumpHeader) -> list[tuple[type[intel.Intel], int]]:
    if header.architecture == "x64":
        return [(intel.WindowsIntel32e, _ROOT_64), (KdumpIntel57Layer, _ROOT_64)]
    if header.architecture == "x86":
        pae: tuple[type[intel.Intel], int] = (intel.WindowsIntelPAE, _ROOT_PAE)
        plain: tuple[type[intel.Intel], int] = (intel.WindowsIntel, _ROOT_32)
        # PaeEnabled is not always set truthfully: it decides which mode is tried first, no more.
        return [plain, pae] if header.pae_enabled is False else [pae, plain]
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
