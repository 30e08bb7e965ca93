"""What physical memory is used for: the page-frame database by list, and by the file, process, driver or pool.

The numbers come from :mod:`volatility3_kdump.windows.memory.page_frames`; here they get names, and are compared
with the lengths of the lists that the memory manager keeps itself.
"""

from __future__ import annotations

import bisect
import dataclasses
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volatility3_kdump.cpu.paging import FRAME_64, LARGE, VALID
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import LayoutError
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.memory import page_frames
from volatility3_kdump.windows.memory.kernel_regions import STACK, SYSTEM_PTES, kernel_map, va_type_kind
from volatility3_kdump.windows.memory.memory_counters import COUNTERS, LISTS, Counter, read_counter, read_counters
from volatility3_kdump.windows.memory.page_frames import Bits, FrameLayout, SelfMap, Tally
from volatility3_kdump.windows.memory.physical_memory import PhysicalMemory, physical_memory
from volatility3_kdump.windows.memory.pte import invalid_pte_mask, pte_base
from volatility3_kdump.windows.memory.sections import ControlArea, control_area_of
from volatility3_kdump.windows.processes.process_lists import walk_processes
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

PROCESS, MAPPED_FILE, IMAGE, SECTION = "process", "mapped file", "image", "page file section"
DRIVER, PAGE_TABLES, AWE, WITHOUT_PTE, UNKNOWN = "driver", "page tables", "AWE", "no page table entry", "unknown"
#: Uses in the order in which they are shown.
_ORDER = (MAPPED_FILE, IMAGE, SECTION, PROCESS, DRIVER)
_PAGE = 0x1000
_FIVE_LEVELS = 5
_LEVELS = 5

NOT_COUNTED = "only the page-frame database has it"


@dataclass
class Use:
    """Pages with the same owner. ``kind`` is one of the constants above, or a region of the kernel's address space.

    ``name`` is the file's path, the process's image or the driver's; ``control_area``, ``process`` and ``pid`` are
    ``None`` where they do not apply. All others are pages: in use (of them shared, and held by more than one
    reference), on the standby list, waiting to be written, in transition; page tables; and how many of those in use are
    mapped as large pages.
    """

    kind: str
    name: str | None = None
    control_area: int | None = None
    process: int | None = None
    pid: int | None = None
    valid: int = 0
    standby: int = 0
    dirty: int = 0
    transition: int = 0
    shared: int = 0
    locked: int = 0
    page_tables: int = 0
    large: int = 0
    note: str | None = None

    @property
    def pages(self) -> int:
        return self.valid + self.standby + self.dirty + self.transition + self.page_tables

    def add(self, flags: int, pages: int) -> None:
        """Count pages with the flags of :mod:`~volatility3_kdump.windows.memory.page_frames`."""
        kind = flags & 3
        if kind == page_frames.VALID:
            self.valid += pages
        elif kind == page_frames.ON_STANDBY:
            self.standby += pages
        elif kind == page_frames.DIRTY:
            self.dirty += pages
        else:
            self.transition += pages
        if flags & page_frames.SHARED:
            self.shared += pages
        if flags & page_frames.LOCKED:
            self.locked += pages


@dataclass(frozen=True)
class PageList:
    """Pages on one list: as the database has them, and as the memory manager counts them (``None``: it does not)."""

    name: str
    pages: int | None
    counter: int | None = None


@dataclass
class MemoryUsage:
    """Physical memory by list (in the debugger's order) and by use, and what is wrong or missing, a line each.

    ``uses`` is ``None`` where only the counters were asked for or can be had.
    """

    lists: list[PageList]
    uses: list[Use] | None
    problems: list[str] = field(default_factory=list)


def memory_usage(
    target: Target, summary: bool = False, progress: Progress | None = None, no_write: bool = False
) -> MemoryUsage:
    """Count physical memory. ``summary`` reads no more than the memory manager's own counters, ``no_write`` leaves the
    uses of modified pages that are not to be written alone.

    Raises a :class:`~volatility3_kdump.errors.KdumpError` where the dump cannot hold any of it.
    """
    if target.dump.triage is not None:
        raise KdumpError(
            f"{target.name}: a small memory dump holds neither the page-frame database nor the lengths of the page "
            "lists; kdump.vm (!vm) shows the few counters that it has"
        )
    counters = read_counters(target, LISTS)
    total = read_counter(target, COUNTERS[0])
    if summary:
        return _of_counters(target, counters, total)
    try:
        return _of_database(target, counters, total, progress, no_write)
    except _NoDatabase as reason:
        usage = _of_counters(target, counters, total)
        usage.problems.insert(0, f"{reason}; the numbers are the memory manager's own counters")
        return usage


class _NoDatabase(Exception):
    """Why the page-frame database cannot be read."""


def _of_counters(target: Target, counters: dict[str, Counter], total: Counter) -> MemoryUsage:
    present = [counter for counter in (*counters.values(), total) if counter.value is not None]
    if not present:
        require_symbols(target, "the numbers of physical pages", names=True)
        raise KdumpError(f"{target.name}: the lengths of the page lists are not in the dump: {total.reason}")
    values = {name: counter.value for name, counter in counters.items()}
    lists = [
        PageList(name, values.get(name), values.get(name))
        for name in ("Zeroed", "Free", "Standby", "Modified", "ModifiedNoWrite", "Active/Valid", "Transition")
    ]
    lists += [PageList("SLIST/Temp", None), PageList("Bad", values["Bad"], values["Bad"]), PageList("Unknown", None)]
    listed = sum(page_list.pages or 0 for page_list in lists)
    lists.append(PageList("TOTAL", total.value, total.value))
    problems = [
        f"{name}: {counter.reason}" for name, counter in counters.items() if counter.value is None and counter.reason
    ]
    if total.value is not None and listed > total.value:
        problems.append(f"the lists come to {listed} pages, more than TOTAL: a counter is wrong")
    return MemoryUsage(lists, None, problems)


def _of_database(
    target: Target, counters: dict[str, Counter], total: Counter, progress: Progress | None, no_write: bool
) -> MemoryUsage:
    nt = target.nt
    if nt is None or not target.has_names or not nt.has_type(page_frames.ENTRY):
        raise _NoDatabase("the page-frame database needs the kernel's symbols")
    try:
        layout = FrameLayout.of(nt)
    except LayoutError as error:
        raise _NoDatabase(str(error)) from error
    variable = target.symbol("MmPfnDatabase")
    database = target.memory.pointer(variable) if variable is not None else None
    if not database or not target.is_kernel_address(database):
        raise _NoDatabase("nt!MmPfnDatabase is not in the dump or no address of the kernel's")
    memory = physical_memory(target)
    if memory is None:
        raise _NoDatabase("neither nt!MmPhysicalMemoryBlock nor the dump header says where memory is")
    if memory.end * layout.stride > (1 << 64) - database:
        raise _NoDatabase(f"{memory.source} names page frame {memory.end - 1:x}, which the database cannot have")
    owners = _Owners(target, database, memory, layout)
    counts = page_frames.tally(target, database, memory, layout, owners.self_map, owners.stretches, progress)
    if counts.unknown == counts.pages:
        raise _NoDatabase(f"the page-frame database at {database:x} is not in the dump")
    lists = _lists(counts, counters, total)
    if no_write:
        counts.owners = {owner: pages for owner, pages in counts.owners.items() if owner[2] & page_frames.NO_WRITE}
    uses, problems = owners.uses(counts)
    if counts.unknown:
        problems.insert(
            0, f"{counts.unknown} of {counts.pages} entries of the page-frame database are not in the dump: Unknown"
        )
    if not memory.kernel:
        problems.append("nt!MmPhysicalMemoryBlock is not in the dump: where memory is was taken from the dump header")
    problems += _disagreements(lists, counts)
    return MemoryUsage(lists, uses, problems)


def _lists(tally: Tally, counters: dict[str, Counter], total: Counter) -> list[PageList]:
    values = {name: counter.value for name, counter in counters.items()}
    locations = tally.locations
    lists = [
        PageList(name, locations[location], values.get(name))
        for name, location in (
            ("Zeroed", page_frames.ZEROED),
            ("Free", page_frames.FREE),
            ("Standby", page_frames.STANDBY),
            ("Modified", page_frames.MODIFIED),
            ("ModifiedNoWrite", page_frames.MODIFIED_NO_WRITE),
            ("Active/Valid", page_frames.ACTIVE),
            ("Transition", page_frames.TRANSITION),
        )
    ]
    return [
        *lists,
        PageList("SLIST/Temp", tally.cached),
        PageList("Bad", locations[page_frames.BAD], values.get("Bad")),
        PageList("Unknown", tally.unknown),
        PageList("TOTAL", tally.pages, total.value),
        PageList("Dangling Yes Commit", tally.dangling_committed),
        PageList("Dangling No Commit", tally.dangling),
    ]


def _disagreements(lists: list[PageList], tally: Tally) -> Iterator[str]:
    """Lists whose length in the database is not that of the counters."""
    for page_list in lists:
        if page_list.pages is None or page_list.counter is None or page_list.pages == page_list.counter:
            continue
        if page_list.name != "TOTAL" and page_list.pages < page_list.counter <= page_list.pages + tally.unknown:
            continue  # the entries that are missing may make up for it
        yield (
            f"{page_list.name}: {page_list.pages} pages in the page-frame database, "
            f"the memory manager counts {page_list.counter}"
        )


# owners ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stretch:
    """A part of the kernel's address space: the kind of use that its pages are, and a driver's name."""

    start: int
    kind: str | None
    name: str | None


class _Owners:
    """Names the owners that the entries give."""

    def __init__(self, target: Target, database: int, memory: PhysicalMemory, layout: FrameLayout) -> None:
        self._target = target
        self._database = database
        self._memory = memory
        self._layout = layout
        self.self_map = _self_map(target)
        self._map = list(_stretches(target)) if self.self_map is not None else []
        #: For :func:`~volatility3_kdump.windows.memory.page_frames.tally`.
        self.stretches = [(stretch.start, stretch.kind is not None) for stretch in self._map]
        self._found: dict[tuple[str, str | None, int | None, int | None], Use] = {}
        self._problems: list[str] = []
        self._roots: dict[int, tuple[int, int | None, str | None]] = {}
        self._areas: dict[int, ControlArea | None] = {}
        self._mask = invalid_pte_mask(target)
        #: By the page frame of a page table.
        self._by_table: dict[int, Use] = {}
        self._tables: dict[int, bytes | None] = {}
        self._unread_tables = 0

    def uses(self, tally: Tally) -> tuple[list[Use], list[str]]:
        """Every use, the largest of its kind first, and what could not be told."""
        self._read_processes()
        for (kind, value, flags), pages in tally.owners.items():
            self._add(kind, value, flags, pages)
        if self.self_map is None:
            self._problems.append("who owns pages that are not shared is not known: the base of the page tables is not")
        if self._unread_tables:
            self._problems.append(
                f"{self._unread_tables} pages are page tables or large pages: the tables above them are not in the dump"
            )
        order = {kind: place for place, kind in enumerate(_ORDER)}
        uses = sorted(self._found.values(), key=lambda use: (order.get(use.kind, len(order)), -use.pages))
        return [self._with_note(use) for use in uses], self._problems

    def _add(self, kind: int, value: int, flags: int, pages: int) -> None:
        if kind == page_frames.PRIVATE:
            self._of_process(value).add(flags, pages)
        elif kind == page_frames.USER_TABLE:
            self._user_table(value, flags, pages)
        elif kind == page_frames.SYSTEM_TABLE:
            self._system_table(value, flags, pages)
        elif kind == page_frames.SUBSECTION:
            self._of_file(value).add(flags, pages)
        elif kind == page_frames.SYSTEM:
            self._of_system(value).add(flags, pages)
        elif kind == page_frames.VA_TYPE:
            self._use(va_type_kind(self._target, value) or UNKNOWN).add(flags, pages)
        else:
            names = {
                page_frames.PAGING_FILE: SECTION,
                page_frames.KERNEL_STACK: STACK,
                page_frames.AWE: AWE,
                page_frames.OTHER: WITHOUT_PTE,
            }
            self._use(names.get(kind, UNKNOWN)).add(flags, pages)

    def _use(
        self,
        kind: str,
        name: str | None = None,
        *,
        control_area: int | None = None,
        process: int | None = None,
        pid: int | None = None,
    ) -> Use:
        key = (kind, name, control_area, process)
        if key not in self._found:
            self._found[key] = Use(kind, name, control_area, process, pid)
        return self._found[key]

    def _with_note(self, use: Use) -> Use:
        note = None
        if use.kind == SECTION:
            note = "entries of the page-frame database do not say which section"
        elif use.kind == SYSTEM_PTES and not any(stretch.kind == STACK for stretch in self._map):
            if self._layout.kernel_stack is None:
                note = "with kernel stacks: nothing in this kernel tells them apart"
        elif use.kind == WITHOUT_PTE:
            note = "allocated without an address, for instance for an MDL or AWE"
        elif use.kind == PROCESS and use.process is None:
            note = "its page tables lead to no process of the list"
        elif use.kind in (MAPPED_FILE, UNKNOWN) and use.control_area is None:
            note = "its subsection or control area is not in the dump"
        return dataclasses.replace(use, note=note) if note else use

    # processes

    def _read_processes(self) -> None:
        walk = walk_processes(self._target)
        self._problems += walk.problems
        idle = self._target.symbol("PsIdleProcess")
        addresses = [*walk.entries]
        own = self._target.memory.pointer(idle) if idle is not None else None
        if own and self._target.is_kernel_address(own):
            addresses.append(own)
        for address in addresses:
            process = read_process(self._target, address)
            if process.directory_table_base:
                frame = (process.directory_table_base & FRAME_64) // _PAGE
                self._roots.setdefault(frame, (address, process.pid, process.name))

    def _of_process(self, frame: int) -> Use:
        """The process that a page table belongs to: the tables above it lead to the top one of a process."""
        passed: list[int] = []
        use = None
        while use is None:
            use = self._by_table.get(frame)
            if use is not None:
                break
            passed.append(frame)
            root = self._roots.get(frame)
            above = self._word(frame, self._layout.frame) if root is None else None
            if root is not None:
                address, pid, name = root
                use = self._use(PROCESS, name, process=address, pid=pid)
            elif above is None or above == frame or len(passed) > _LEVELS:
                use = self._use(PROCESS)
            else:
                frame = above
        for table in passed:
            self._by_table[table] = use
        return use

    def _word(self, frame: int, bits: Bits) -> int | None:
        """A field of one page frame's entry."""
        address = self._database + frame * self._layout.stride + bits.word * 8
        word = self._target.memory.unsigned(address, 8) if frame < self._memory.end else None
        return None if word is None else word >> bits.bit & bits.mask

    def _user_table(self, value: int, flags: int, pages: int) -> None:
        frame, index = value >> 9, value & 0x1FF
        use = self._of_process(frame)
        entry = self._entry(frame, index)
        if entry is None:
            self._unread_tables += pages
        if entry is not None and entry & VALID and entry & LARGE:
            use.add(flags, pages)
            use.large += pages
        else:
            self._add_table(use, flags, pages)

    @staticmethod
    def _add_table(use: Use, flags: int, pages: int) -> None:
        use.page_tables += pages
        if flags & page_frames.LOCKED:
            use.locked += pages

    def _entry(self, frame: int, index: int) -> int | None:
        """An entry of the page table in a page frame."""
        from volatility3.framework import exceptions

        name = self._target.physical_layer_name
        if frame not in self._tables:
            try:
                layer = self._target.context.layers[name or ""]
                self._tables[frame] = layer.read(frame * _PAGE, _PAGE)
            except (exceptions.InvalidAddressException, KeyError):
                self._tables[frame] = None
        data = self._tables[frame]
        entry: int | None = None if data is None else struct.unpack_from("<Q", data, index * 8)[0]
        return entry

    # the kernel

    def _system_table(self, value: int, flags: int, pages: int) -> None:
        self_map = self.self_map
        assert self_map is not None
        entry = self._target.memory.unsigned(self_map.base + value * 8, 8)
        if entry is None:
            self._unread_tables += pages
        if entry is not None and entry & VALID and entry & LARGE:
            address = value << 12
            for _ in range(_LEVELS):
                if not self_map.low_base <= address < self_map.low_base + self_map.size:
                    break
                address = (address - self_map.low_base) >> 3 << 12
            index = self._stretch_of(address)
            kind = self._map[index].kind if index < len(self._map) else None
            use = self._of_system(index) if kind else self._of_type((entry & FRAME_64) // _PAGE, index)
            use.add(flags, pages)
            use.large += pages
        else:
            self._add_table(self._use(PAGE_TABLES), flags, pages)

    def _of_type(self, frame: int, index: int) -> Use:
        """The use of a page whose address says nothing, by what its entry in the database notes of it."""
        bits = self._layout.va_type
        word = self._word(frame, bits) if bits is not None else None
        kind = va_type_kind(self._target, word) if word is not None else None
        return self._use(kind) if kind else self._of_system(index)

    def _stretch_of(self, low_address: int) -> int:
        """The stretch that an address of the kernel's half, without its extension, is in."""
        assert self.self_map is not None
        low = (1 << self.self_map.bits) - 1
        starts = [stretch.start & low for stretch in self._map]
        return max(bisect.bisect_right(starts, low_address) - 1, 0)

    def _of_system(self, index: int) -> Use:
        if index >= len(self._map):
            return self._use(UNKNOWN)
        stretch = self._map[index]
        return self._use(stretch.kind or "kernel", stretch.name)

    # files

    def _of_file(self, value: int) -> Use:
        address = value | -1 << 48 & 0xFFFFFFFFFFFFFFFF if value >> 47 else value
        if address not in self._areas:
            control_area = control_area_of(self._target, address)
            if control_area is None and self._mask:
                # Kernels that protect from L1TF may keep invalid PTEs with these bits reversed.
                control_area = control_area_of(self._target, address ^ self._mask >> 16)
            self._areas[address] = control_area
        area = self._areas[address]
        if area is None:
            return self._use(MAPPED_FILE)
        return self._use(IMAGE if area.image else MAPPED_FILE, area.name, control_area=area.address)


def _self_map(target: Target) -> SelfMap | None:
    if target.header.architecture != "x64":
        return None
    base = pte_base(target)
    levels = target.debugger.paging_levels if target.debugger is not None else None
    return SelfMap(base, 57 if levels == _FIVE_LEVELS else 48) if base else None


def _stretches(target: Target) -> Iterator[_Stretch]:
    """The kernel's address space: the regions of the memory manager, with the drivers in them."""
    modules = sorted(target.modules, key=lambda module: module.base)
    regions = kernel_map(target)
    edges = {start for start, _ in regions}
    for module in modules:
        edges.update((module.base, module.end))
    starts = [start for start, _ in regions]
    bases = [module.base for module in modules]
    for edge in sorted(edge for edge in edges if starts[0] <= edge < 1 << 64):
        index = bisect.bisect_right(bases, edge) - 1
        if index >= 0 and edge < modules[index].end:
            yield _Stretch(edge, DRIVER, modules[index].image_name)
        else:
            yield _Stretch(edge, regions[bisect.bisect_right(starts, edge) - 1][1], None)
