"""The page tables of a dump: the walk for one address, and for all addresses of a range at once.

What entries mean is in :mod:`volatility3_kdump.cpu.paging`. Entries that are not valid are followed as the memory
manager would without reading a disk: a page or a table in transition is still in memory; a prototype entry leads to the
entry of the section, which is valid or in transition; a page or a table in a paging file is read where the container
of the dump has that file. Everything else is absent.

A table whose entries are all equal maps nothing here, as in the host's layers: Windows 10 fills unused space so.

One address costs a dictionary look-up once its page is known. A range is walked table by table: every table page is
read once, and all its entries are looked up in the page map together, so that absent parts cost nothing.

One file over 500 lines: an address space makes the walk of a range, and that walk reads tables and entries by the
address space's own rules, so that one address and a whole range never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.cpu import paging
from volatility3_kdump.cpu.paging import PAGE_SHIFT, PAGE_SIZE, VALID, EntryForms, PagingMode, TableLevel
from volatility3_kdump.dump import CrashDump, PageMap, Source, extents
from volatility3_kdump.errors import KdumpError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]
    Numbers = NDArray[np.int64]

_PAGE_MASK = PAGE_SIZE - 1
#: Tables that are remembered for all address spaces of a dump: 16 MB.
_MOST_TABLES = 4096
#: Pages that an address space remembers.
_MOST_PLACES = 16384
#: Tables that are read at most in a range, beyond a multiple of the pages in the dump: tables that lead back to
#: themselves would otherwise keep a reader busy for ever. Windows maps each table twice: as a table, and as data by the
#: self-map.
_TABLES_BEYOND, _TABLES_PER_PAGE = 4096, 4
#: Pages that a range can have here: 256 GB.
_MOST_PAGES = 1 << 26
#: A prototype entry lies in the kernel's paged pool, which is not mapped by prototype entries itself.
_DEEPEST_PROTOTYPE = 1

#: ``which`` of pages in physical memory; paging files have their numbers.
PHYSICAL = -1


class Place(NamedTuple):
    """Where a page lies: address of its first byte in physical memory or in the paging file ``which``; bytes of it."""

    base: int
    size: int
    which: int
    entry: int


class Fault(NamedTuple):
    """Why an address has no place: so many low bits of it are concerned, and ``entry`` is the last that was read.

    ``page_file`` is the number of the paging file and the page in it that holds the page, where there is one and it is
    not at hand; the number is ``None`` where only that much is known.
    """

    bits: int
    entry: int
    paged_out: bool = False
    page_file: tuple[int, int] | None = None

    @property
    def unsure(self) -> bool:
        """Whether symbols might tell more of it."""
        return self.paged_out or bool(self.entry & paging.PROTOTYPE_BIT)


class Step(NamedTuple):
    """An entry on the way to a page: its level and place (as in :class:`Place`), and its bits where they are known.

    ``filler`` says that the table holds nothing but this entry, and so counts as mapping nothing.
    """

    level: TableLevel
    address: int
    which: int
    value: int | None
    filler: bool = False


class Batch(NamedTuple):
    """Pages of a range in ascending order: address, place in physical memory (or in a paging file), and which."""

    addresses: Numbers
    sizes: Numbers
    places: Numbers
    which: NDArray[np.int16]


class PageTables:
    """Reads table pages for all address spaces of a dump, and knows how much memory the machine has."""

    def __init__(self, dump: CrashDump) -> None:
        assert dump.pages is not None
        self.pages: PageMap = dump.pages
        self.source: Source = dump.source
        self.build = dump.header.build_number
        self._arm64 = dump.header.architecture == "arm64"
        #: Bits of a page frame number of the machine.
        self.frame_bits = paging.frame_width(dump.machine_frames)
        #: Gives what the kernel's symbols say of entries that are not valid, ``None`` as long as they are not loaded.
        self.learn: Callable[[], EntryForms | None] | None = None
        self._learnt: EntryForms | None = None
        self._tables: dict[int, bytes | None] = {}

    def forms(self, width: int) -> EntryForms:
        """What is known of entries that are not valid, of ``width`` bytes."""
        if self.learn is not None:
            # To learn them memory is read, so that this may be called again.
            learn, self.learn = self.learn, None
            try:
                self._learnt = learn()
                self.learn = learn if self._learnt is None else None
            except KdumpError:
                # A damaged symbol table is reported where it is used for itself.
                pass
        return self._learnt or paging.default_forms(self.build, width, self._arm64)

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes within a physical page; ``None`` where it is not in the dump."""
        located = self.pages.offset_of(address >> PAGE_SHIFT)
        if located is None:
            return None
        data = self.source.read(located + (address & _PAGE_MASK), size)
        return data if len(data) == size else None

    def table(self, address: int, size: int, width: int) -> bytes | None:
        """A table, remembered; ``None`` where it is not in the dump, or all entries of a page are equal."""
        # The top table of PAE may begin a page that holds another kind of table as well.
        key = address << 1 | (size == PAGE_SIZE)
        try:
            return self._tables[key]
        except KeyError:
            if len(self._tables) >= _MOST_TABLES:
                self._tables.clear()
            table = self._tables[key] = _varied(self.read(address, size), width)
            return table


def _varied(table: bytes | None, width: int) -> bytes | None:
    """A table, unless it is a page whose entries are all equal."""
    if table is not None and len(table) == PAGE_SIZE and table == table[:width] * (PAGE_SIZE // width):
        return None
    return table


class AddressSpace:
    """The translation that one top table gives.

    ``paging_files`` gives the paging files at hand, by number.
    """

    def __init__(
        self,
        tables: PageTables,
        mode: PagingMode,
        root: int,
        paging_files: Mapping[int, Source] | None = None,
    ) -> None:
        self.tables, self.mode, self.root = tables, mode, root & mode.root
        self.paging_files = paging_files or {}
        self._places: dict[int, Place | Fault] = {}
        self._mask = (1 << mode.address_bits) - PAGE_SIZE

    # one address ------------------------------------------------------------------------------------------------------

    def place(self, address: int) -> Place | Fault:
        """Where the page of an address (without sign extension) lies, remembered."""
        page = address & self._mask
        try:
            return self._places[page]
        except KeyError:
            outcome = self.walk(page)
            # Where the symbols are not loaded yet they may tell more of it later.
            if isinstance(outcome, Place) or self.tables.learn is None or not outcome.unsure:
                if len(self._places) >= _MOST_PLACES:
                    self._places.clear()
                self._places[page] = outcome
            return outcome

    @property
    def forms(self) -> EntryForms:
        """What is known of entries that are not valid."""
        return self.tables.forms(self.mode.width)

    def walk(self, address: int, steps: list[Step] | None = None, depth: int = 0) -> Place | Fault:
        """As :meth:`place`, by walking the tables. The entries on the way are added to ``steps``."""
        mode, width = self.mode, self.mode.width
        table, which = self.root, PHYSICAL
        entry = 0
        for level in mode.levels:
            data = self._table(table, which, level)
            at = (address >> level.shift & (1 << level.bits) - 1) * width
            if data is None:
                if steps is not None:
                    steps.append(self._step_without_table(level, table + at, which))
                return Fault(level.shift + level.bits, entry)
            entry = int.from_bytes(data[at : at + width], "little")
            if steps is not None:
                steps.append(Step(level, table + at, which, entry))
            which = PHYSICAL
            if entry & VALID:
                if level.large and mode.is_large(entry, level):
                    if entry & level.reserved_large:
                        return Fault(level.shift, entry)
                    return Place(mode.large_base(entry, level), 1 << level.shift, PHYSICAL, entry)
                if entry & level.reserved != level.expected:
                    return Fault(level.shift, entry)
                table = entry & mode.frame
                continue
            kind = paging.kind_of(entry, width)
            if kind == paging.TRANSITION:
                frame = self._transition_frame(entry)
                if frame is None:
                    return Fault(level.shift, entry)
                table = frame << PAGE_SHIFT
            elif kind == paging.PAGE_FILE:
                located = paging.page_file_place(entry, self.forms, width)
                if located is None or not self._has_page(*located):
                    return Fault(level.shift, entry, True, located)
                which, table = located[0], located[1] << PAGE_SHIFT
            elif kind == paging.PROTOTYPE and level.shift == PAGE_SHIFT and depth < _DEEPEST_PROTOTYPE:
                return self._of_section(entry, depth + 1)
            else:
                return Fault(level.shift, entry)
        return Place(table, PAGE_SIZE, which, entry)

    def _of_section(self, entry: int, depth: int) -> Place | Fault:
        """The page of a section, by the prototype entry that an entry names."""
        address = paging.prototype_address(entry, self.forms, self.mode)
        prototype = self.walk(address & self._mask, None, depth) if address is not None else None
        data = self._read(prototype, address or 0, 8) if isinstance(prototype, Place) else None
        if data is None:
            return Fault(PAGE_SHIFT, entry)
        value = int.from_bytes(data, "little")
        if value & VALID:
            return Place(value & self.mode.frame, PAGE_SIZE, PHYSICAL, entry)
        kind = paging.kind_of(value)
        if kind == paging.TRANSITION:
            frame = self._transition_frame(value)
            return Fault(PAGE_SHIFT, entry) if frame is None else Place(frame << PAGE_SHIFT, PAGE_SIZE, PHYSICAL, entry)
        if kind == paging.PAGE_FILE:
            located = paging.page_file_place(value, self.forms)
            if located is not None and self._has_page(*located):
                return Place(located[1] << PAGE_SHIFT, PAGE_SIZE, located[0], entry)
            return Fault(PAGE_SHIFT, entry, True, located)
        return Fault(PAGE_SHIFT, entry)

    def _transition_frame(self, entry: int) -> int | None:
        mode = self.mode
        return paging.transition_frame(entry, self.tables.frame_bits, mode.width, mode.marks_invalid)

    def _has_page(self, number: int, page: int) -> bool:
        source = self.paging_files.get(number)
        return source is not None and (page + 1) << PAGE_SHIFT <= source.size

    def _table(self, address: int, which: int, level: TableLevel) -> bytes | None:
        """A table that maps something; ``None`` for others, and where it is not at hand."""
        width = self.mode.width
        if which == PHYSICAL:
            return self.tables.table(address, width << level.bits, width)
        return _varied(self._read_at(address, which, width << level.bits), width)

    def _step_without_table(self, level: TableLevel, address: int, which: int) -> Step:
        data = self._read_at(address, which, self.mode.width)
        return Step(level, address, which, None if data is None else int.from_bytes(data, "little"), data is not None)

    def _read(self, place: Place, address: int, size: int) -> bytes | None:
        """Bytes at an address within a page."""
        return self._read_at(place.base + (address & place.size - 1), place.which, size)

    def _read_at(self, offset: int, which: int, size: int) -> bytes | None:
        if which == PHYSICAL:
            return self.tables.read(offset, size)
        data = self.paging_files[which].read(offset, size)
        return data if len(data) == size else None

    # many addresses ---------------------------------------------------------------------------------------------------

    def translate(self, addresses: NDArray[np.uint64]) -> Numbers:
        """The physical address of each address (sign extension is ignored), -1 where there is none.

        Pages in paging files have none. The pages of the tables are read once each.
        """
        import numpy as np

        wanted = addresses & np.uint64((1 << self.mode.address_bits) - 1)
        pages, inverse = np.unique(wanted >> np.uint64(PAGE_SHIFT), return_inverse=True)
        bases = np.full(len(pages), -1, np.int64)
        self._translate_pages(0, self.root, pages, np.arange(len(pages)), bases)
        translated = bases[inverse.reshape(-1)]
        physical: Numbers = np.where(
            translated < 0, translated, translated | (wanted & np.uint64(_PAGE_MASK)).astype(np.int64)
        )
        return physical

    def _translate_pages(self, depth: int, table: int, pages: Words, indexes: Numbers, bases: Numbers) -> None:
        """Translate the page numbers at ``indexes``, which all go through one table, in order."""
        import numpy as np

        level = self.mode.levels[depth]
        entries = self._entries(table, PHYSICAL, level)
        if entries is None:
            return
        slots = (pages[indexes] >> np.uint64(level.shift - PAGE_SHIFT)).astype(np.int64) & (1 << level.bits) - 1
        if level.shift == PAGE_SHIFT:
            chosen = entries[slots]
            frames = self._frames(chosen)
            odd = np.flatnonzero(
                (frames < 0) & (chosen & np.uint64(VALID | paging.PROTOTYPE_BIT) == paging.PROTOTYPE_BIT)
            )
            for index in odd.tolist():
                place = self.place(int(pages[indexes[index]]) << PAGE_SHIFT)
                if isinstance(place, Place) and place.which == PHYSICAL:
                    frames[index] = place.base >> PAGE_SHIFT
            bases[indexes] = np.where(frames < 0, -1, frames << PAGE_SHIFT)
            return
        # The page numbers are sorted, so that those of one slot follow one another.
        firsts = np.flatnonzero(np.append(True, slots[1:] != slots[:-1]))
        for first, stop in zip(firsts.tolist(), [*firsts[1:].tolist(), len(slots)], strict=True):
            inner = indexes[first:stop]
            entry = int(entries[slots[first]])
            if entry & VALID and self.mode.is_large(entry, level):
                if not entry & level.reserved_large:
                    base = self.mode.large_base(entry, level)
                    within = (pages[inner].astype(np.int64) << PAGE_SHIFT) & (1 << level.shift) - 1
                    bases[inner] = base | within
                continue
            following = self._lower_table(entry, level)
            if following is None:
                continue
            address, which = following
            if which == PHYSICAL:
                self._translate_pages(depth + 1, address, pages, inner, bases)
            else:
                for index in inner.tolist():
                    place = self.place(int(pages[index]) << PAGE_SHIFT)
                    if isinstance(place, Place) and place.which == PHYSICAL:
                        bases[index] = place.base | (int(pages[index]) << PAGE_SHIFT) & place.size - 1

    def _lower_table(self, entry: int, level: TableLevel) -> tuple[int, int] | None:
        """The table that an entry above the last level leads to, and which file it is in."""
        if entry & VALID:
            return (entry & self.mode.frame, PHYSICAL) if entry & level.reserved == level.expected else None
        kind = paging.kind_of(entry, self.mode.width)
        if kind == paging.TRANSITION:
            frame = self._transition_frame(entry)
            return None if frame is None else (frame << PAGE_SHIFT, PHYSICAL)
        if kind == paging.PAGE_FILE:
            located = paging.page_file_place(entry, self.forms, self.mode.width)
            if located is not None and self._has_page(*located):
                return located[1] << PAGE_SHIFT, located[0]
        return None

    def _entries(self, table: int, which: int, level: TableLevel) -> Words | None:
        """The entries of a table; ``None`` where it is not at hand, or all of a page are equal."""
        import numpy as np

        data = self._table(table, which, level)
        if data is None:
            return None
        return np.frombuffer(data, np.uint64 if self.mode.width == 8 else np.uint32).astype(np.uint64)

    def _frames(self, entries: Words) -> Numbers:
        """The page frames of entries of the last level, of any shape: valid or in transition; -1 for all others."""
        import numpy as np

        valid = entries & np.uint64(VALID) != 0
        last = self.mode.levels[-1]
        if last.reserved:
            valid &= entries & np.uint64(last.reserved) == np.uint64(last.expected)
        frames = ((entries & np.uint64(self.mode.frame)) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        both = np.uint64(VALID | paging.PROTOTYPE_BIT | paging.TRANSITION_BIT)
        moved = entries & both == np.uint64(paging.TRANSITION_BIT)
        if self.mode.width == 4 or not moved.any():
            return np.where(valid | moved, frames, -1)
        bits = self.tables.frame_bits
        above = frames >> bits
        one_bit = above & (above - 1) if self.mode.marks_invalid else above
        moved &= (one_bit == 0) & (entries >> np.uint64(paging.POINTER_SHIFT) != np.uint64(paging.POINTER))
        return np.where(valid, frames, np.where(moved, frames & (1 << bits) - 1, -1))

    def batches(self, low: int = 0, high: int | None = None, notes: list[str] | None = None) -> Iterator[Batch]:
        """The pages in ``[low, high)``, addresses without sign extension, that are in the dump or a paging file.

        Each batch is what one table of the level above the last maps. ``notes`` is told where the walk was cut short.
        """
        end = 1 << self.mode.address_bits
        walk = _Range(self, max(low, 0), end if high is None else min(high, end), [] if notes is None else notes)
        yield from walk.descend(0, self.root, PHYSICAL, 0)


class _Range:
    """One pass over the tables of a range."""

    def __init__(self, space: AddressSpace, low: int, high: int, notes: list[str]) -> None:
        self._space, self._low, self._high, self._notes = space, low, high, notes
        self._pages = space.tables.pages
        self._tables_left = self._pages.present * _TABLES_PER_PAGE + _TABLES_BEYOND
        self._pages_left = _MOST_PAGES

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

    def descend(self, depth: int, table: int, which: int, base: int) -> Iterator[Batch]:
        """Go through a table that maps addresses from ``base`` on."""
        space, levels = self._space, self._space.mode.levels
        level = levels[depth]
        if not self._spend(1):
            return
        entries = space._entries(table, which, level)
        if entries is None:
            return
        first = max(0, self._low - base >> level.shift)
        stop = min(len(entries), (self._high - base + (1 << level.shift) - 1) >> level.shift)
        if depth + 2 == len(levels):
            yield from self._directory(entries, first, stop, base)
            return
        for index in range(first, stop):
            entry = int(entries[index])
            start = base + (index << level.shift)
            if not entry:
                continue
            if entry & VALID and space.mode.is_large(entry, level):
                if not entry & level.reserved_large:
                    yield from self._batch([self._large(entry, level, start)])
                continue
            below = space._lower_table(entry, level)
            if below is not None:
                yield from self.descend(depth + 1, below[0], below[1], start)

    def _directory(self, entries: Words, first: int, stop: int, base: int) -> Iterator[Batch]:
        """What the table above the last level maps: its large pages, and its tables all together."""
        import numpy as np

        space, level = self._space, self._space.mode.levels[-2]
        parts: list[tuple[Numbers, Numbers, Numbers, int]] = []
        tables: list[bytes] = []
        starts: list[int] = []
        width = space.mode.width
        size = width << space.mode.levels[-1].bits
        present = np.flatnonzero(entries[first:stop]) + first
        for index, entry in zip(present.tolist(), entries[present].tolist(), strict=True):
            start = base + (index << level.shift)
            if entry & VALID and space.mode.is_large(entry, level):
                if not entry & level.reserved_large and self._spend(0):
                    parts.append(self._large(entry, level, start))
                continue
            below = space._lower_table(entry, level)
            if below is None or not self._spend(1):
                continue
            # Tables of the last level are too many to be remembered.
            data = _varied(space._read_at(*below, size), width)
            if data is not None:
                tables.append(data)
                starts.append(start)
        if tables:
            entries_below = np.frombuffer(b"".join(tables), np.uint64 if width == 8 else np.uint32)
            parts += self._leaves(entries_below.astype(np.uint64).reshape(len(tables), -1), np.array(starts, np.int64))
        yield from self._batch(parts)

    def _large(self, entry: int, level: TableLevel, start: int) -> tuple[Numbers, Numbers, Numbers, int]:
        """The parts of a large page that the dump holds."""
        import numpy as np

        base = self._space.mode.large_base(entry, level)
        first = base >> PAGE_SHIFT
        rows = [
            (start + (extent.pfn - first << PAGE_SHIFT), extent.count << PAGE_SHIFT, extent.pfn << PAGE_SHIFT)
            for extent in extents(self._pages, first, first + (1 << level.shift - PAGE_SHIFT))
        ]
        columns = np.array(rows, np.int64).reshape(-1, 3).T
        self._pages_left -= int(columns[1].sum()) >> PAGE_SHIFT
        return columns[0], columns[1], columns[2], PHYSICAL

    def _leaves(self, tables: Words, starts: Numbers) -> Iterator[tuple[Numbers, Numbers, Numbers, int]]:
        """The pages of last tables, which map addresses from ``starts`` on."""
        import numpy as np

        space = self._space
        frames = space._frames(tables)
        proto = np.uint64(VALID | paging.PROTOTYPE_BIT)
        sections = tables & proto == np.uint64(paging.PROTOTYPE_BIT)
        paged = None
        if sections.any():
            frames, paged = self._of_sections(tables, sections, frames)
        rows, columns = np.nonzero(frames >= 0)
        pfns = frames[rows, columns]
        held = self._pages.offsets_of(pfns) >= 0
        rows, columns, pfns = rows[held], columns[held], pfns[held]
        self._pages_left -= len(pfns)
        addresses = starts[rows] + (columns.astype(np.int64) << PAGE_SHIFT)
        yield addresses, np.full(len(addresses), PAGE_SIZE, np.int64), pfns << PAGE_SHIFT, PHYSICAL
        if space.paging_files:
            yield from self._paged_out(tables, starts)
            if paged is not None:
                yield from self._paged_out(paged, starts)

    def _of_sections(self, tables: Words, sections: NDArray[np.bool_], frames: Numbers) -> tuple[Numbers, Words]:
        """Replace the frames of entries that name prototype entries by those of the prototype entries.

        Also returns the prototype entries that are not in memory, where those entries were, and zero elsewhere.
        """
        import numpy as np

        space = self._space
        rows, columns = np.nonzero(sections)
        entries, inverse = np.unique(tables[rows, columns], return_inverse=True)
        values = np.zeros(len(entries), np.uint64)
        pages: dict[int, bytes | None] = {}
        for index, entry in enumerate(entries.tolist()):
            address = paging.prototype_address(entry, space.forms, space.mode)
            if address is None:
                continue
            page = address & ~_PAGE_MASK
            if page not in pages:
                place = space.walk(page, None, _DEEPEST_PROTOTYPE)
                pages[page] = space._read(place, page, PAGE_SIZE) if isinstance(place, Place) else None
            data = pages[page]
            if data is not None:
                at = address & _PAGE_MASK
                values[index] = int.from_bytes(data[at : at + 8], "little")
        spread = values[inverse.reshape(-1)]
        frames[rows, columns] = space._frames(spread)
        rest = np.zeros(tables.shape, np.uint64)
        rest[rows, columns] = np.where(frames[rows, columns] < 0, spread, np.uint64(0))
        return frames, rest

    def _paged_out(self, tables: Words, starts: Numbers) -> Iterator[tuple[Numbers, Numbers, Numbers, int]]:
        """The pages in paging files that are at hand."""
        import numpy as np

        space, width = self._space, self._space.mode.width
        flags = np.uint64(VALID | paging.PROTOTYPE_BIT | paging.TRANSITION_BIT)
        high = tables >> np.uint64(32 if width == 8 else PAGE_SHIFT)
        rows, columns = np.nonzero((tables & flags == 0) & (high != 0))
        by_file: dict[int, list[tuple[int, int]]] = {}
        addresses = starts[rows] + (columns.astype(np.int64) << PAGE_SHIFT)
        for address, entry in zip(addresses.tolist(), tables[rows, columns].tolist(), strict=True):
            located = paging.page_file_place(entry, space.forms, width)
            if located is not None and space._has_page(*located):
                by_file.setdefault(located[0], []).append((address, located[1] << PAGE_SHIFT))
        for number, pairs in by_file.items():
            pair = np.array(pairs, np.int64).T
            yield pair[0], np.full(len(pairs), PAGE_SIZE, np.int64), pair[1], number

    def _batch(self, parts: list[tuple[Numbers, Numbers, Numbers, int]]) -> Iterator[Batch]:
        """Sort parts by address, and cut them to the range."""
        import numpy as np

        if not parts:
            return
        addresses, sizes, places = (np.concatenate([part[column] for part in parts]) for column in range(3))
        which = np.concatenate([np.full(len(part[0]), part[3], np.int16) for part in parts])
        kept = (addresses < self._high) & (addresses + sizes > self._low)
        if not kept.any():
            return
        if not kept.all():
            addresses, sizes, places, which = addresses[kept], sizes[kept], places[kept], which[kept]
        order = np.argsort(addresses, kind="stable")
        addresses, sizes, places, which = addresses[order], sizes[order], places[order], which[order]
        before = max(0, self._low - int(addresses[0]))
        if before:
            addresses[0], sizes[0], places[0] = addresses[0] + before, sizes[0] - before, places[0] + before
        sizes[-1] = min(int(sizes[-1]), self._high - int(addresses[-1]))
        yield Batch(addresses, sizes, places, which)


def joined(batch: Batch) -> Batch:
    """The same pages with those that follow one another, in address and place, as one."""
    import numpy as np

    ends = batch.addresses + batch.sizes
    broken = (
        (batch.addresses[1:] != ends[:-1])
        | (batch.places[1:] != (batch.places + batch.sizes)[:-1])
        | (batch.which[1:] != batch.which[:-1])
    )
    firsts = np.concatenate(([0], np.flatnonzero(broken) + 1))
    lasts = np.append(firsts[1:], len(ends)) - 1
    return Batch(
        batch.addresses[firsts], ends[lasts] - batch.addresses[firsts], batch.places[firsts], batch.which[firsts]
    )
