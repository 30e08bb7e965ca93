"""Which parts of an address space a dump holds, and quick reading of all of them.

The pages are those of :mod:`volatility3_kdump.layers.page_tables`, so that this and the layers see the same memory.
Small memory dumps have no page tables: their pieces are stored with their addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from volatility3.framework import interfaces

from volatility3_kdump.cpu.paging import PAGE_SHIFT, PAGE_SIZE
from volatility3_kdump.dump import Source
from volatility3_kdump.errors import Unreadable
from volatility3_kdump.layers.page_tables import PHYSICAL, AddressSpace
from volatility3_kdump.layers.translation import KdumpTranslation
from volatility3_kdump.layers.triage import KdumpTriageLayer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

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
        (data,) = self.read_each([(address, size)])
        return data

    def read_each(self, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As :meth:`read` for each address and size; quicker than as many calls."""
        import numpy as np

        addresses, sizes = np.array(parts, np.int64).reshape(-1, 2).T
        firsts = np.maximum(0, np.searchsorted(self._starts, addresses, "right") - 1).tolist()
        stops = np.searchsorted(self._starts, addresses + sizes, "left").tolist()
        for (address, size), first, stop in zip(parts, firsts, stops, strict=True):
            data = self._read_pieces(address, size, slice(first, stop))
            if len(data) != size:
                raise Unreadable(f"not all of {size:#x} bytes at {address % _WRAP:#x} are in the dump")
            yield data

    def _read_pieces(self, address: int, size: int, pieces: slice) -> bytes:
        """What is present of a range in some pieces, of which only the first and the last may reach out of it."""
        starts, sizes, offsets = (column[pieces].tolist() for column in (self._starts, self._sizes, self._offsets))
        if not starts or starts[0] > address:
            return b""
        sizes[-1] = min(sizes[-1], address + size - starts[-1])
        offsets[0] += address - starts[0]
        sizes[0] -= address - starts[0]
        if len(self._sources) == 1:
            return b"".join(map(self._sources[0].read, offsets, sizes))
        sources = map(self._sources.__getitem__, self._which[pieces].tolist())
        return b"".join(
            [source.read(offset, length) for source, offset, length in zip(sources, offsets, sizes, strict=True)]
        )


def present_memory(
    layer: interfaces.layers.DataLayerInterface, low: int = -SIGN, high: int = SIGN - 1
) -> PresentMemory | None:
    """What a dump holds of the virtual layer, within ``[low, high)``, signed addresses.

    ``None`` for layers that are not over a crash dump. The kernel's half is ``[-SIGN, 0)``.
    """
    if isinstance(layer, KdumpTriageLayer):
        return _of_triage(layer, low, high)
    if isinstance(layer, KdumpTranslation):
        return _of_tables(layer.address_space, low, high)
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


def _of_tables(space: AddressSpace, low: int, high: int) -> PresentMemory:
    import numpy as np

    size = 1 << space.mode.address_bits
    half = size >> 1
    sources = [space.tables.source, *space.paging_files.values()]
    index = {PHYSICAL: 0, **{number: place for place, number in enumerate(space.paging_files, 1)}}
    notes: list[str] = []
    parts: list[tuple[Numbers, Numbers, Numbers, NDArray[np.int16]]] = []
    # The kernel's half, which is negative, then the user's.
    for first, stop, above in ((half, size, size), (0, half, 0)):
        for batch in space.batches(max(first, low + above), min(stop, high + above), notes):
            offsets = batch.places.copy()
            held = batch.which == PHYSICAL
            places = batch.places[held]
            offsets[held] = space.tables.pages.offsets_of(places >> PAGE_SHIFT) + (places & PAGE_SIZE - 1)
            parts.append((batch.addresses - above, batch.sizes, offsets, batch.which))
    if not parts:
        empty = np.zeros(0, np.int64)
        return PresentMemory(sources, empty, empty, empty, empty.astype(np.uint8), notes)
    starts, sizes, offsets = (np.concatenate([part[column] for part in parts]) for column in range(3))
    numbers = np.concatenate([part[3] for part in parts])
    which = np.zeros(len(starts), np.uint8)
    for number, place in index.items():
        which[numbers == number] = place
    ends, after = starts + sizes, offsets + sizes
    broken = (starts[1:] != ends[:-1]) | (offsets[1:] != after[:-1]) | (which[1:] != which[:-1])
    firsts = np.concatenate(([0], np.flatnonzero(broken) + 1))
    lasts = np.append(firsts[1:], len(starts)) - 1
    return PresentMemory(sources, starts[firsts], ends[lasts] - starts[firsts], offsets[firsts], which[firsts], notes)
