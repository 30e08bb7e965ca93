"""Which parts of an address space a dump holds, and quick reading of all of them.

The host maps a range page by page, with a walk through the page tables for each. Here every table page is read once
and all its entries are looked up in the dump's page map together, so that the cost is that of the tables, not of the
pages that they map. Small memory dumps have no page tables: their pieces are stored with their addresses.

Entries are judged as the host judges them (``WindowsMixin`` of its Intel layers), so that both see the same pages:
valid or in transition; in a paging file, where the archive that the dump came from has that; not at all in a table
whose entries are all equal, with which Windows 10 fills unused space. What differs: a large page of which the dump
holds only some 4 KB pages counts with these; the host leaves all of it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from volatility3.framework import interfaces
from volatility3.framework.layers import intel

from volatility3_kdump.dump import PAGE_SIZE, Source
from volatility3_kdump.errors import Unreadable
from volatility3_kdump.layers.container import KdumpPagingFileLayer
from volatility3_kdump.layers.crash import KdumpCrash32Layer, KdumpCrash64Layer
from volatility3_kdump.layers.translation import table_levels
from volatility3_kdump.layers.triage import KdumpTriageLayer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]
    Numbers = NDArray[np.int64]

_PAGE_SHIFT = 12
_VALID, _LARGE, _PROTOTYPE, _TRANSITION = 1 << 0, 1 << 7, 1 << 10, 1 << 11
#: Bit 12 of an entry that maps a large page selects its memory type.
_LARGE_PAT = 1 << 12
#: Tables that are read at most, beyond a multiple of the pages in the dump: tables that lead back to themselves would
#: otherwise keep a reader busy for ever. Windows maps each table twice: as a table, and as data by the self-map.
_MOST_TABLES = 4096
_TABLES_PER_PAGE = 4
#: Pages that an address space can have here: 256 GB.
_MOST_PAGES = 1 << 26

SIGN = 1 << 63
_WRAP = 1 << 64


class Run(NamedTuple):
    """``size`` bytes at ``address`` that the dump holds without a gap."""

    address: int
    size: int


def signed(address: int) -> int:
    """An address as a number that grows through the kernel's half, which is negative, and then the user's."""
    return address - _WRAP if address & SIGN else address


class PresentMemory:
    """The stretches of an address space that a dump holds, in order: first those of the kernel, then the user's.

    ``notes`` says where the enumeration was cut short, one line each.
    """

    def __init__(
        self,
        sources: list[Source],
        starts: Numbers,
        sizes: Numbers,
        offsets: Numbers,
        which: NDArray[np.uint8],
        notes: Iterable[str] = (),
    ) -> None:
        """Pieces sorted by signed address: their sizes in bytes and where they lie in ``sources[which]``."""
        import numpy as np

        self._sources = sources
        self._starts, self._sizes, self._offsets, self._which = starts, sizes, offsets, which
        self._ends = starts + sizes
        #: Index of the first piece of each run.
        self._firsts = np.flatnonzero(np.append(True, starts[1:] != self._ends[:-1])[: len(starts)])
        self.notes = tuple(notes)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return int(self._sizes.sum())

    def size_between(self, low: int, high: int) -> int:
        """Bytes present in ``[low, high)``, signed addresses."""
        return sum(run.size for run in self.runs(low, high))

    def runs(self, low: int = -SIGN, high: int = SIGN - 1) -> Iterator[Run]:
        """Stretches without a gap within ``[low, high)``, signed addresses, however they are stored."""
        import numpy as np

        firsts = self._firsts
        if not len(firsts):
            return
        starts = self._starts[firsts]
        ends = self._ends[np.append(firsts[1:], len(self._starts)) - 1]
        begin, stop = int(np.searchsorted(ends, low, "right")), int(np.searchsorted(starts, high, "left"))
        for start, end in zip(starts[begin:stop].tolist(), ends[begin:stop].tolist(), strict=True):
            first, last = max(start, low), min(end, high)
            yield Run(first, last - first)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of a run, or of a part of one. Raises :class:`Unreadable` where there is a gap."""
        import numpy as np

        first = max(0, int(np.searchsorted(self._starts, address, "right")) - 1)
        stop = int(np.searchsorted(self._starts, address + size, "left"))
        starts, sizes, offsets = (column[first:stop].tolist() for column in (self._starts, self._sizes, self._offsets))
        if starts and starts[0] <= address:
            # Cut the first and the last piece to what is wanted.
            sizes[-1] = min(sizes[-1], address + size - starts[-1])
            offsets[0] += address - starts[0]
            sizes[0] -= address - starts[0]
            sources = map(self._sources.__getitem__, self._which[first:stop].tolist())
            parts = [
                source.read(offset, length) for source, offset, length in zip(sources, offsets, sizes, strict=True)
            ]
            if sum(map(len, parts)) == size:
                return b"".join(parts)
        raise Unreadable(f"not all of {size:#x} bytes at {address % _WRAP:#x} are in the dump")


def present_memory(
    layer: interfaces.layers.DataLayerInterface, low: int = -SIGN, high: int = SIGN - 1
) -> PresentMemory | None:
    """What a dump holds of the virtual layer, within ``[low, high)``, signed addresses.

    ``None`` for layers that are not over a crash dump. The kernel's half is ``[-SIGN, 0)``.
    """
    if isinstance(layer, KdumpTriageLayer):
        return _of_triage(layer, low, high)
    if isinstance(layer, intel.Intel):
        physical = layer.context.layers.get(layer.config.get("memory_layer", ""), None)
        if isinstance(physical, (KdumpCrash32Layer, KdumpCrash64Layer)):
            return _Walk(layer, physical, low, high).result()
    return None


def _of_triage(layer: KdumpTriageLayer, low: int, high: int) -> PresentMemory:
    import numpy as np

    source = layer.dump.source
    rows = []
    for segment in layer.segments:
        start = signed(segment.address)
        first = max(start, low)
        last = min(start + segment.size, start + max(0, source.size - segment.offset), high)
        if first < last:
            rows.append((first, last - first, segment.offset + first - start))
    rows.sort()
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return PresentMemory([source], columns[0], columns[1], columns[2], np.zeros(len(rows), np.uint8))


class _Walk:
    """One pass over the page tables of an Intel layer."""

    def __init__(
        self, layer: intel.Intel, physical: KdumpCrash32Layer | KdumpCrash64Layer, low: int, high: int
    ) -> None:
        pages = physical.dump.pages
        assert pages is not None
        self._pages, self._source = pages, physical.dump.source
        self._low, self._high = low, high
        self._first_page = max(low, PAGE_SIZE - SIGN) - PAGE_SIZE + 1
        self._wide = layer._entry_size == 8
        self._frame = (1 << layer._maxphyaddr) - PAGE_SIZE
        self._address_bits = layer._maxvirtaddr
        self._levels = table_levels(layer)
        self._sources: list[Source] = [self._source]
        self._paging_files = self._find_paging_files(layer)
        self._tables_left = pages.present * _TABLES_PER_PAGE + _MOST_TABLES
        self._pages_left = _MOST_PAGES
        self._notes: list[str] = []
        self._found: list[tuple[Numbers, Numbers, Numbers, int]] = []
        root = layer._page_map_offset
        self._descend(0, root, 0)

    def _find_paging_files(self, layer: intel.Intel) -> dict[int, int]:
        """Number of a paging file to its index among the sources; a valid entry of that number names a page in it."""
        found = {}
        if layer.config.get("swap_layers", False):
            for number in range(16):
                name = layer.config.get(interfaces.configuration.path_join("swap_layers", f"swap_layers{number}"), None)
                swap = layer.context.layers.get(name, None) if name else None
                if isinstance(swap, KdumpPagingFileLayer):
                    found[number] = len(self._sources)
                    self._sources.append(swap.source)
        return found

    def result(self) -> PresentMemory:
        import numpy as np

        if not self._found:
            empty = np.zeros(0, np.int64)
            return PresentMemory(self._sources, empty, empty, empty, empty.astype(np.uint8), self._notes)
        starts, sizes, offsets = (np.concatenate([part[column] for part in self._found]) for column in range(3))
        which = np.concatenate([np.full(len(part[0]), part[3], np.uint8) for part in self._found])
        order = np.argsort(starts, kind="stable")
        return PresentMemory(self._sources, starts[order], sizes[order], offsets[order], which[order], self._notes)

    # tables -----------------------------------------------------------------------------------------------------------

    def _table(self, address: int, entries: int) -> Words | None:
        """The entries of a table; ``None`` where it is not in the dump, or all of a page are equal."""
        import numpy as np

        width = 8 if self._wide else 4
        located = self._pages.offset_of(address >> _PAGE_SHIFT)
        if located is None:
            return None
        data = self._source.read(located + address % PAGE_SIZE, entries * width)
        if len(data) < entries * width or (len(data) == PAGE_SIZE and data == data[:width] * entries):
            return None
        return np.frombuffer(data, np.uint64 if self._wide else np.uint32).astype(np.uint64)

    def _spend(self, tables: int) -> bool:
        """Whether that many more tables may be read."""
        self._tables_left -= tables
        if self._tables_left >= 0 and self._pages_left > 0:
            return True
        if not self._notes:
            self._notes.append(
                "the page tables lead to more tables or pages than a dump of this size can have: they are damaged, "
                "and what they map beyond that is left out"
            )
        return False

    def _descend(self, depth: int, table: int, base: int) -> None:
        """Go through a table that maps addresses from ``base`` (without sign extension) on."""
        import numpy as np

        level = self._levels[depth]
        if not self._spend(1):
            return
        entries = self._table(table, 1 << level.bits)
        if entries is None:
            return
        starts = self._signed(base + (np.arange(len(entries), dtype=np.int64) << level.shift))
        valid = _valid(entries) & (starts < self._high) & (starts + ((1 << level.shift) - 1) >= self._low)
        if depth == len(self._levels) - 1:
            self._leaves(entries.reshape(1, -1), starts[:1])
            return
        large = valid & (entries & np.uint64(_LARGE) != 0) if level.large else np.zeros(len(entries), bool)
        for index in np.flatnonzero(large).tolist():
            self._large(int(entries[index]), int(starts[index]), level.shift)
        inner = np.flatnonzero(valid & ~large)
        if depth + 2 == len(self._levels):
            self._leaf_tables(entries[inner] & np.uint64(self._frame), starts[inner])
            return
        mask = (1 << self._address_bits) - 1
        for index in inner.tolist():
            self._descend(depth + 1, int(entries[index]) & self._frame, int(starts[index]) & mask)

    def _signed(self, addresses: Numbers) -> Numbers:
        """Sign-extend addresses."""
        import numpy as np

        half = np.int64(1 << (self._address_bits - 1))
        return (addresses ^ half) - half

    def _leaf_tables(self, tables: Words, starts: Numbers) -> None:
        """Read the last tables below one directory, and look all their entries up together."""
        import numpy as np

        if not len(tables) or not self._spend(len(tables)):
            return
        located = self._pages.offsets_of((tables >> np.uint64(_PAGE_SHIFT)).astype(np.int64))
        read = self._source.read
        held = located >= 0
        data = [read(offset, PAGE_SIZE) for offset in located[held].tolist()]
        whole = [len(page) == PAGE_SIZE for page in data]
        entries = np.frombuffer(
            b"".join(page for page in data if len(page) == PAGE_SIZE), np.uint64 if self._wide else np.uint32
        )
        table = entries.reshape(-1, PAGE_SIZE // entries.itemsize).astype(np.uint64)
        bases = starts[held][np.array(whole, bool)]
        varied = (table != table[:, :1]).any(axis=1)
        self._leaves(table[varied], bases[varied])

    # pages ------------------------------------------------------------------------------------------------------------

    def _leaves(self, tables: Words, starts: Numbers) -> None:
        """The pages of last tables, which map addresses from ``starts`` on."""
        import numpy as np

        rows, columns = np.nonzero(_valid(tables))
        entries = tables[rows, columns]
        addresses = starts[rows] + (columns.astype(np.int64) << _PAGE_SHIFT)
        pfns = ((entries & np.uint64(self._frame)) >> np.uint64(_PAGE_SHIFT)).astype(np.int64)
        self._add(addresses, self._pages.offsets_of(pfns), 0)
        if self._paging_files:
            self._paged_out(tables, starts)

    def _paged_out(self, tables: Words, starts: Numbers) -> None:
        """The pages in paging files (MMPTE_SOFTWARE: PageFileLow names the file, PageFileHigh the page)."""
        import numpy as np

        shift = np.uint64(32 if self._wide else _PAGE_SHIFT)
        flags = np.uint64(_VALID | _LARGE | _PROTOTYPE | _TRANSITION)
        rows, columns = np.nonzero((tables & flags == np.uint64(_LARGE)) & (tables >> shift != 0))
        entries = tables[rows, columns]
        addresses = starts[rows] + (columns.astype(np.int64) << _PAGE_SHIFT)
        numbers = entries >> np.uint64(1) & np.uint64(0xF)
        offsets = (entries >> shift << np.uint64(_PAGE_SHIFT)).astype(np.int64)
        for number, index in self._paging_files.items():
            chosen = numbers == number
            inside = offsets[chosen] + PAGE_SIZE <= self._sources[index].size
            self._add(addresses[chosen], np.where(inside, offsets[chosen], -1), index)

    def _large(self, entry: int, start: int, shift: int) -> None:
        """A page of 2 MB, 4 MB or 1 GB."""
        import numpy as np

        first = (entry & self._frame & ~_LARGE_PAT) >> _PAGE_SHIFT
        pages = np.arange(1 << (shift - _PAGE_SHIFT), dtype=np.int64)
        if self._spend(0):
            self._add(start + (pages << _PAGE_SHIFT), self._pages.offsets_of(first | pages), 0)

    def _add(self, addresses: Numbers, offsets: Numbers, which: int) -> None:
        """Note pages and where they are stored, adjacent ones together."""
        import numpy as np

        kept = (offsets >= 0) & (addresses >= self._first_page) & (addresses < self._high)
        addresses, offsets = addresses[kept], offsets[kept]
        if not len(addresses):
            return
        self._pages_left -= len(addresses)
        broken = (np.diff(addresses) != PAGE_SIZE) | (np.diff(offsets) != PAGE_SIZE)
        firsts = np.concatenate(([0], np.flatnonzero(broken) + 1))
        counts = np.diff(np.append(firsts, len(addresses)))
        self._found.append((addresses[firsts], counts << _PAGE_SHIFT, offsets[firsts], which))


def _valid(entries: Words) -> NDArray[np.bool_]:
    """Which entries name a page in memory: valid ones, and those in transition."""
    import numpy as np

    in_transition = entries & np.uint64(_TRANSITION | _PROTOTYPE) == np.uint64(_TRANSITION)
    valid: NDArray[np.bool_] = (entries & np.uint64(_VALID) != 0) | in_transition
    return valid
