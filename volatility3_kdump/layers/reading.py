"""Reads of layers as the rest of the package has them: bytes or ``None``, sign-extended addresses, ranges, reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from volatility3.framework import exceptions, interfaces

from volatility3_kdump.dump import PAGE_SIZE
from volatility3_kdump.dump.recording import RecordingSource
from volatility3_kdump.dump.source import Source
from volatility3_kdump.layers.paged_memory import PagedMemory
from volatility3_kdump.layers.paging import paged
from volatility3_kdump.memory import READ_COST, Memory, ReadBudget, ReadMemory

_PAGE_SHIFT, _PAGE_MASK = 12, PAGE_SIZE - 1
#: How many pages a reader remembers: 256 MB of addresses, in a few MB.
_MOST_PAGES = 65536


def memory_of(layer: interfaces.layers.TranslationLayerInterface, pointer_size: int) -> Memory:
    """The virtual memory that a layer gives, with a budget for each command."""
    budget = ReadBudget.of_dump(_bytes_present(layer))
    read = reader_of(layer, budget)
    return Memory(
        read,
        pointer_size,
        lambda address: why_unreadable(layer, address),
        ranges_of(layer),
        budget,
        fragment_reader_of(layer, read, budget),
    )


def _bytes_present(layer: interfaces.layers.TranslationLayerInterface) -> int:
    """How many bytes of memory the dump behind a layer holds; 0 where that is not known."""
    physical = layer.context.layers.get(layer.config.get("memory_layer", ""), None)
    if isinstance(physical, PagedMemory) and physical.dump.pages is not None:
        return physical.dump.source.size
    return 0


def physical_memory_of(layer: interfaces.layers.DataLayerInterface, pointer_size: int) -> Memory:
    """Physical memory, by physical address."""
    return Memory(physical_reader_of(layer), pointer_size, _why_absent)


def _why_absent(address: int) -> str:
    return f"page {address >> _PAGE_SHIFT:x} is not in the dump file"


def why_unreadable(layer: interfaces.layers.TranslationLayerInterface, address: int) -> str:
    """The reason why an address of a virtual layer cannot be read."""
    tables = paged(layer)
    if tables is None:
        return "not captured in this small memory dump"
    try:
        physical, _, _ = tables._translate(address & tables.address_mask)
    except exceptions.SwappedInvalidAddressException:
        return "paged out"
    except exceptions.InvalidAddressException:
        return "not mapped, or its page table is not in the dump" + _or_the_slice(layer)
    return _why_absent(physical) + _or_the_slice(layer)


def _or_the_slice(layer: interfaces.layers.TranslationLayerInterface) -> str:
    """What absent memory of a slice may be: memory that the original has."""
    physical = layer.context.layers.get(layer.config.get("memory_layer", ""), None)
    if not isinstance(physical, PagedMemory) or physical.dump.slice is None:
        return ""
    return ", which is a slice: nobody read it when the slice was made"


def reader_of(
    layer: interfaces.layers.TranslationLayerInterface, budget: ReadBudget | None = None
) -> Callable[[int, int], bytes | None]:
    """Reads of a virtual layer that answer ``None`` instead of raising, and accept sign-extended addresses.

    Raises :class:`~volatility3_kdump.memory.ReadLimit` when the budget is spent.

    A 64-bit address that is not canonical names nothing, even where its low bits do; 32-bit addresses may be given
    with or without their extension.
    """
    mask: int = layer.address_mask
    locate = _page_locator(layer)
    canonical = _canonical(mask)
    allowed = ReadBudget(None) if budget is None else budget

    def read(address: int, size: int) -> bytes | None:
        allowed.left -= size + READ_COST
        if allowed.left < 0:
            raise allowed.spent()
        if not canonical(address) or (size > 1 and not canonical(address + size - 1)):
            return None
        within = address & _PAGE_MASK
        if locate is not None and 0 < size <= PAGE_SIZE - within:
            located = locate(address & mask & ~_PAGE_MASK)
            if located is not None:
                source, offset = located
                piece = source.read(offset + within, size)
                return piece if len(piece) == size else None
        try:
            data: bytes = layer.read(address & mask, size)
        except exceptions.InvalidAddressException:
            return None
        return data

    return read


def _canonical(mask: int) -> Callable[[int], bool]:
    """Whether an address is one, of a layer with this mask."""
    sign = (mask + 1) >> 1
    extension = ~mask & 0xFFFFFFFFFFFFFFFF

    def canonical(address: int) -> bool:
        high = address & ~mask
        return high == (extension if address & sign else 0) or (mask == 0xFFFFFFFF and high == 0)

    return canonical


def fragment_reader_of(
    layer: interfaces.layers.TranslationLayerInterface, read: ReadMemory, budget: ReadBudget
) -> ReadMemory:
    """As ``read``, for a few bytes of many pages: a slice of what is read keeps these bytes, and has no more of them.

    They are read as everything else is where they lie in two pages, and from layers that are not over pages of a file.
    """
    tables = paged(layer)
    physical = layer.context.layers.get(layer.config.get("memory_layer", ""), None)
    if tables is None or not isinstance(physical, PagedMemory) or physical.dump.pages is None:
        return read
    mask: int = layer.address_mask
    canonical = _canonical(mask)
    dump, pages, name = physical.dump, physical.dump.pages, physical.name
    recording = dump.source if isinstance(dump.source, RecordingSource) else None

    def place(address: int, size: int) -> int | None:
        """The physical address of bytes in one page."""
        if not canonical(address) or not 0 < size <= PAGE_SIZE - (address & _PAGE_MASK):
            return None
        try:
            translated, _, behind = tables._translate(address & mask)
        except exceptions.InvalidAddressException:
            return None
        return translated if behind == name else None

    def kept(address: int, size: int) -> bytes | None:
        """What a slice has of a page that it lacks."""
        physical_address = place(address, size) if dump.fragments else None
        data = None if physical_address is None else dump.fragments.get(physical_address)
        return data if data is not None and len(data) == size else None

    def read_fragment(address: int, size: int) -> bytes | None:
        if recording is None:
            data = read(address, size)
            return kept(address, size) if data is None else data
        physical_address = place(address, size)
        if physical_address is None:
            return read(address, size)
        budget.left -= size + READ_COST
        if budget.left < 0:
            raise budget.spent()
        offset = pages.offset_of(physical_address >> _PAGE_SHIFT)
        if offset is not None:
            data = recording.read_fragment(offset + (physical_address & _PAGE_MASK), size, physical_address)
            return data if len(data) == size else None
        data = kept(address, size)
        if data is not None:
            recording.keep_fragment(physical_address, data)
        return data

    return read_fragment


def ranges_of(
    layer: interfaces.layers.TranslationLayerInterface,
) -> Callable[[int, int], Iterator[tuple[int, int]]]:
    """Which parts of a range of sign-extended addresses a virtual layer holds, as (address, bytes) in order.

    What is absent is left out by whole page tables, so that the whole address space can be asked for.
    """
    mask: int = layer.address_mask
    sign = (mask + 1) >> 1
    halves = [(0, sign), ((1 << 64) - sign, 1 << 64)]
    if mask == 0xFFFFFFFF:
        halves.insert(1, (sign, mask + 1))

    def ranges(address: int, length: int) -> Iterator[tuple[int, int]]:
        if paged(layer) is None:
            for start, size, *_ in layer.mapping(address, length, ignore_errors=True):
                yield start, size
            return
        for low, high in halves:
            position, end = max(address, low), min(address + length, high)
            if position < end:
                for start, size, *_ in layer.mapping(position & mask, end - position, ignore_errors=True):
                    yield start + position - (position & mask), size

    return ranges


def physical_reader_of(layer: interfaces.layers.DataLayerInterface) -> Callable[[int, int], bytes | None]:
    """Reads of a layer of physical memory that answer ``None`` instead of raising."""

    def read(address: int, size: int) -> bytes | None:
        try:
            data: bytes = layer.read(address, size)
        except (exceptions.InvalidAddressException, exceptions.LayerException):
            return None
        return data

    return read


def _page_locator(
    layer: interfaces.layers.TranslationLayerInterface,
) -> Callable[[int], tuple[Source, int] | None] | None:
    """Where the pages of a layer lie in the dump file, remembered; ``None`` for layers that are not over such a file.

    Walking the page tables through the host's layers takes ten times as long as reading what they lead to, and lists
    of structures come back to the same pages. A page that is not there is not remembered.
    """
    tables = paged(layer)
    if tables is None:
        return None
    physical = layer.context.layers.get(layer.config.get("memory_layer", ""), None)
    if not isinstance(physical, PagedMemory):
        return None
    pages, source, name = physical.dump.pages, physical.dump.source, physical.name
    if pages is None:
        return None
    offsets: dict[int, int] = {}
    space = getattr(tables, "address_space", None)

    def locate(page: int) -> tuple[Source, int] | None:
        nonlocal space
        if getattr(tables, "address_space", None) is not space:
            space = tables.address_space
            offsets.clear()
        offset = offsets.get(page)
        if offset is None:
            try:
                translated, _, behind = tables._translate(page)
            except exceptions.InvalidAddressException:
                return None
            offset = pages.offset_of(translated >> _PAGE_SHIFT) if behind == name else None
            if offset is None:
                return None
            if len(offsets) >= _MOST_PAGES:
                offsets.clear()
            offsets[page] = offset
        return source, offset

    return locate
