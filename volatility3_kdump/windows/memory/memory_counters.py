"""The memory manager's own counters: pages by list, commit by consumer, pools, limits.

One table, :data:`COUNTERS`, says where each counter is kept, newest place first. Since Windows 10 1607 these are
``nt!MiSystemPartition`` (``_MI_PARTITION``: what a memory partition has of its own) and ``nt!MiState``
(``_MI_SYSTEM_INFORMATION``); before, variables of their own, some of which KDDEBUGGER_DATA64 names as well. Small
memory dumps hold seven of the counters (DUMP_MM_STORAGE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump import tables
from volatility3_kdump.dump.header import is_fill
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.structures import read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

PAGE_SIZE = 0x1000
#: More pages than 57-bit addresses can name: a counter above has been overwritten.
MOST_PAGES = 1 << 45
_LIST = "_MMPFNLIST"

NOT_IN_KERNEL = "not in this kernel"
NEEDS_SYMBOLS = "needs the kernel's symbols"
NOT_IN_SMALL_DUMP = "not in small memory dumps"
NOT_WRITTEN = "the kernel did not write it into this small memory dump"


@dataclass(frozen=True)
class Place:
    """Where a kernel keeps a counter: a field of a structure that a symbol names, or the symbol itself.

    ``path`` is the field's dotted path in ``type_name``; without a type the variable itself has ``size`` bytes, as many
    as a pointer where that is 0.
    ``debugger_field`` is the variable's name in KDDEBUGGER_DATA64. ``count`` values of that size, one behind the
    other, are added up. ``scale`` divides the value (bytes into pages).
    """

    symbol: str
    type_name: str | None = None
    path: str = ""
    size: int = 0
    debugger_field: str | None = None
    count: int = 1
    scale: int = 1

    @property
    def text(self) -> str:
        """``nt!MiState.Vs.BootCommit``."""
        return f"nt!{self.symbol}.{self.path}" if self.path else f"nt!{self.symbol}"


@dataclass(frozen=True)
class Definition:
    """A counter: the debugger's word for it, what it is part of, and its places, newest first.

    ``group`` is ``memory``, ``commit`` (what is charged against the commit limit, by consumer), ``total`` or
    ``failures``. ``unit`` is ``pages`` or ``count``. ``processors`` names a field of KPRCB whose values are added up
    over all processors; ``triage`` a field of DUMP_MM_STORAGE. ``signed`` counters may fall below zero.
    """

    label: str
    group: str
    places: tuple[Place, ...] = ()
    unit: str = "pages"
    processors: str | None = None
    triage: str | None = None
    signed: bool = False


@dataclass(frozen=True)
class Counter:
    """A counter's value, or ``None`` and in ``reason`` why it is not known. ``source`` says where it was read."""

    definition: Definition
    value: int | None
    source: str | None
    reason: str | None

    @property
    def label(self) -> str:
        return self.definition.label


def _partition(path: str) -> Place:
    return Place("MiSystemPartition", "_MI_PARTITION", path)


def _state(path: str) -> Place:
    return Place("MiState", "_MI_SYSTEM_INFORMATION", path)


def _variable(symbol: str, size: int = 0, debugger: bool = False, scale: int = 1) -> Place:
    return Place(symbol, None, "", size, symbol if debugger else None, scale=scale)


def _list(symbol: str) -> Place:
    """The length of a list of page frames that is a variable of its own."""
    # The debugger's block names every list but that of bad pages.
    return Place(symbol, _LIST, "Total", debugger_field=None if "Bad" in symbol else symbol)


#: Every counter, in the debugger's order.
COUNTERS: tuple[Definition, ...] = (
    Definition(
        "Physical Memory",
        "memory",
        (_partition("Vp.NumberOfPhysicalPages"), _variable("MmNumberOfPhysicalPages", debugger=True)),
    ),
    Definition(
        "Available Pages", "memory", (_partition("Vp.AvailablePages"), _variable("MmAvailablePages", debugger=True))
    ),
    Definition(
        "ResAvail Pages",
        "memory",
        (_partition("Vp.ResidentAvailablePages"), _variable("MmResidentAvailablePages", debugger=True)),
        signed=True,
    ),
    # No public structure of the kernels at hand counts these.
    Definition("Locked IO Pages", "memory"),
    Definition(
        "Free System PTEs",
        "memory",
        (
            _state("Vs.SystemPteInfo.TotalFreeSystemPtes"),
            Place("MiSystemPteInfo", "_MI_SYSTEM_PTE_TYPE", "TotalFreeSystemPtes"),
        ),
    ),
    Definition(
        "Modified Pages",
        "memory",
        (_partition("Vp.ModifiedPageListHead.Total"), _list("MmModifiedPageListHead")),
    ),
    Definition(
        "Modified PF Pages",
        "memory",
        (_partition("Vp.TotalPagesForPagingFile"), _variable("MmTotalPagesForPagingFile")),
    ),
    Definition(
        "Modified No Write Pages",
        "memory",
        (_partition("Vp.ModifiedNoWritePageListHead.Total"), _list("MmModifiedNoWritePageListHead")),
    ),
    Definition(
        "NonPagedPool Usage",
        "memory",
        (_state("Pools.AllocatedNonPagedPool"), _variable("MmAllocatedNonPagedPool", debugger=True)),
        triage="MmAllocatedNonPagedPool",
    ),
    # Only in the descriptors of the pools, which differ with the number of NUMA nodes in ways that are not documented.
    Definition("NonPagedPoolNx Usage", "memory"),
    Definition(
        "NonPagedPool Max",
        "memory",
        (
            _state("Vs.MaximumNonPagedPoolInPages"),
            _variable("MmMaximumNonPagedPoolInPages"),
            _variable("MmMaximumNonPagedPoolInBytes", debugger=True, scale=PAGE_SIZE),
        ),
        triage="MmMaximumNonPagedPool",
    ),
    Definition(
        "PagedPool Usage",
        "memory",
        (
            _state("Vs.PagedPoolInfo.AllocatedPagedPool"),
            Place("MmPagedPoolInfo", "_MM_PAGED_POOL_INFO", "AllocatedPagedPool"),
        ),
        triage="PagedPoolAllocated",
    ),
    Definition(
        "PagedPool Maximum",
        "memory",
        (
            _state("Vs.SizeOfPagedPoolInPages"),
            _variable("MmSizeOfPagedPoolInPages"),
            _variable("MmSizeOfPagedPoolInBytes", debugger=True, scale=PAGE_SIZE),
        ),
        triage="PagedPoolMaximum",
    ),
    Definition("Processor Commit", "commit", processors="CachedCommit"),
    # Added up over the sessions; see session_commit.
    Definition("Session Commit", "commit"),
    Definition(
        "Shared Commit",
        "commit",
        (_partition("Vp.SharedCommit"), _state("Vs.SharedCommit"), _variable("MmSharedCommit", debugger=True)),
    ),
    Definition("Special Pool", "commit", (_state("Vs.SpecialPagesInUse"), _variable("MmSpecialPagesInUse"))),
    Definition("Kernel Stacks", "commit", (_variable("MmKernelStackResident"),)),
    Definition("Kernel Shadow Stacks", "commit", (_partition("Vp.KernelShadowStackPages"),)),
    Definition("Pages For MDLs", "commit", (_state("Vs.MdlPagesAllocated"), _variable("MmMdlPagesAllocated"))),
    Definition("ContigMem Pages", "commit", (_state("Vs.ContiguousPagesAllocated"),)),
    Definition("Partition Pages", "commit", (_state("Partitions.TotalPagesInChildPartitions"),)),
    Definition("Pages For AWE", "commit", (_partition("Vp.VadPhysicalPages"), _variable("MmVadPhysicalPages"))),
    Definition("NonPagedPool Commit", "commit", (_state("Vs.NonPagedPoolCommit"),)),
    Definition(
        "PagedPool Commit",
        "commit",
        (
            Place("MmPagedPoolCommit", debugger_field="MmPagedPoolCommit"),
            Place("MmPagedPoolInfo", "_MM_PAGED_POOL_INFO", "PagedPoolCommit"),
        ),
    ),
    Definition("Driver Commit", "commit", (_state("Vs.DriverCommit"), _variable("MmDriverCommit", 4, debugger=True))),
    Definition("Boot Commit", "commit", (_state("Vs.BootCommit"),)),
    Definition("PFN Array Commit", "commit", (_state("Vs.PfnDatabaseCommit"),)),
    Definition("SmallNonPagedPtesCommit", "commit", (_state("Vs.SmallNonPagedPtesCommit"),)),
    Definition("SlabAllocatorPages", "commit", (_partition("Vp.SlabAllocatorPages"),)),
    Definition("SkPagesInUnchargedSlabs", "commit"),
    Definition("System PageTables", "commit", (_state("Vs.SystemPageTableCommit"),)),
    Definition("ProcessLockedFilePages", "commit", (_partition("Vp.ProcessLockedFilePages"),)),
    Definition("Pagefile Hash Pages", "commit", (_state("Vs.PagefileHashPages"),)),
    Definition("Process Commit", "total", (_state("Vs.ProcessCommit"), _variable("MmProcessCommit", debugger=True))),
    Definition(
        "Committed pages",
        "total",
        (_partition("Vp.TotalCommittedPages"), _variable("MmTotalCommittedPages", debugger=True)),
        triage="CommittedPages",
    ),
    Definition(
        "Commit limit", "total", (_partition("Vp.TotalCommitLimit"), _variable("MmTotalCommitLimit", debugger=True))
    ),
    Definition(
        "Peak Commitment",
        "total",
        (_partition("Commit.PeakCommitment"), _variable("MmPeakCommitment", debugger=True)),
        triage="CommittedPagesPeak",
    ),
    Definition(
        "Commit limit maximum",
        "total",
        (_partition("Commit.TotalCommitLimitMaximum"), _variable("MmTotalCommitLimitMaximum", debugger=True)),
        triage="CommitLimitMaximum",
    ),
    Definition(
        "System PTE failures",
        "failures",
        (
            _state("Vs.SystemPteInfo.PteFailures"),
            Place("MiSystemPteInfo", "_MI_SYSTEM_PTE_TYPE", "PteFailures"),
        ),
        "count",
    ),
    Definition(
        "Kernel stack PTE failures",
        "failures",
        (
            _state("SystemPtes.KernelStackPteInfo.PteFailures"),
            Place("MiKernelStackPteInfo", "_MI_SYSTEM_PTE_TYPE", "PteFailures"),
        ),
        "count",
    ),
    # Four counts, for the stages at which a charge can fail.
    Definition(
        "Commit charge failures",
        "failures",
        (_partition("Vp.ChargeCommitmentFailures"), Place("MiChargeCommitmentFailures", size=4, count=4)),
        "count",
    ),
)

#: The lengths of the lists of page frames by their debugger's name.
LISTS: tuple[Definition, ...] = tuple(
    Definition(
        label,
        "lists",
        (_partition(f"{part}.{name}PageListHead.Total"), _list(f"Mm{name}PageListHead")),
    )
    for label, part, name in (
        ("Zeroed", "PageLists", "Zeroed"),
        ("Free", "PageLists", "Free"),
        ("Standby", "PageLists", "Standby"),
        ("Modified", "Vp", "Modified"),
        ("ModifiedNoWrite", "Vp", "ModifiedNoWrite"),
        ("Bad", "PageLists", "Bad"),
    )
)


def read_counters(target: Target, definitions: tuple[Definition, ...] = COUNTERS) -> dict[str, Counter]:
    """The counters by label, in order; each has a value or a reason."""
    return {definition.label: read_counter(target, definition) for definition in definitions}


def read_counter(target: Target, definition: Definition) -> Counter:
    """One counter, from the first place that this kernel has."""
    if target.dump.triage is not None:
        return _of_triage(target, definition)
    reason = NOT_IN_KERNEL
    if definition.processors is not None:
        return _over_processors(target, definition, definition.processors)
    for place in definition.places:
        located = _locate(target, place)
        if located is None:
            continue
        address, size, count = located
        data = target.memory.read(address, size * count)
        if data is None:
            return _absent(definition, target.memory.why_unreadable(address), place.text)
        parts = (data[index * size : (index + 1) * size] for index in range(count))
        value = sum(int.from_bytes(part, "little", signed=definition.unit == "pages") for part in parts)
        return _checked(definition, value // place.scale, place.text)
    if not target.has_names and definition.places:
        reason = NEEDS_SYMBOLS
    return _absent(definition, reason)


def _locate(target: Target, place: Place) -> tuple[int, int, int] | None:
    """(address, bytes of a value, number of values) of a place; ``None`` where the kernel does not have it."""
    base = target.variable(place.symbol, place.debugger_field)
    if base is None:
        return None
    if place.type_name is None:
        return base, place.size or target.memory.pointer_size, place.count
    nt = target.nt
    if nt is None or not (target.has_names or nt.has_type(place.type_name)):
        # A list's length is its first field in every kernel (_MMPFNLIST).
        return (base, target.memory.pointer_size, 1) if place.type_name == _LIST else None
    field = nt.find(place.type_name, place.path) if nt.has_type(place.type_name) else None
    if field is None:
        return None
    count = field.count or 1
    return base + field.offset, field.size // count, count


def _over_processors(target: Target, definition: Definition, path: str) -> Counter:
    nt = target.nt
    field = nt.find("_KPRCB", path) if nt is not None and nt.has_type("_KPRCB") else None
    source = f"KPRCB.{path} of every processor"
    if field is None:
        return _absent(definition, NOT_IN_KERNEL if target.has_names else NEEDS_SYMBOLS)
    expected = target.header.number_processors or len(processors(target))
    total, counted = 0, 0
    for processor in processors(target):
        value = target.memory.unsigned(processor.prcb + field.offset, field.size) if processor.prcb else None
        if value is not None:
            total, counted = total + value, counted + 1
    if not counted or counted < expected:
        return _absent(definition, f"the control blocks of {expected - counted} processors are not in the dump", source)
    return _checked(definition, total, source)


def _of_triage(target: Target, definition: Definition) -> Counter:
    """A counter in DUMP_MM_STORAGE. The kernel leaves zeros there when it does not fill the structure in."""
    triage = target.dump.triage
    blob = triage.memory_manager if triage is not None else None
    if definition.triage is None or blob is None:
        return _absent(definition, NOT_IN_SMALL_DUMP)
    layouts = tables.structures()
    field = layouts.field(f"_DUMP_MM_STORAGE{target.header.bits}", definition.triage)
    data = target.dump.source.read(blob.offset + field.offset, field.size)
    value = int.from_bytes(data, "little")
    if len(data) < field.size or field.offset + field.size > blob.size:
        return _absent(definition, "the file ends before it")
    if not value or is_fill(value, field.size, field.offset):
        return _absent(definition, NOT_WRITTEN)
    return _checked(definition, value, f"DUMP_MM_STORAGE.{definition.triage}")


def _checked(definition: Definition, value: int, source: str) -> Counter:
    if (value < 0 and not definition.signed) or abs(value) > MOST_PAGES:
        return _absent(definition, f"the counter holds {value}, which is no number of pages", source)
    return Counter(definition, value, source, None)


def _absent(definition: Definition, reason: str, source: str | None = None) -> Counter:
    return Counter(definition, None, source, reason)


# paged pools ----------------------------------------------------------------------------------------------------------

_DESCRIPTOR = "_POOL_DESCRIPTOR"
_MOST_POOLS = 65


def paged_pools(target: Target) -> list[Counter]:
    """Pages in each of the paged pools that kernels before Windows 10 1903 have; empty for others.

    ``nt!ExpPagedPoolDescriptor`` is an array of pointers to _POOL_DESCRIPTORs: the first, then as many as
    ``nt!ExpNumberOfPagedPools`` says.
    """
    nt, memory = target.nt, target.memory
    table = target.symbol("ExpPagedPoolDescriptor")
    count_at = target.symbol("ExpNumberOfPagedPools")
    if nt is None or table is None or count_at is None or not nt.has_type(_DESCRIPTOR) or target.dump.triage:
        return []
    count = memory.unsigned(count_at, 4)
    # Since Windows 10 1607, what was ever allocated and freed is counted.
    reader = nt.reader(_DESCRIPTOR, total="TotalPages", taken="PagesAllocated", given="PagesDeallocated")
    pools = []
    for index in range(min(count + 1, _MOST_POOLS) if count is not None else 0):
        definition = Definition(f"PagedPool {index} Usage", "memory")
        address = memory.pointer(table + index * memory.pointer_size)
        if address == 0:
            continue
        row = read_row(memory, reader, address) if address and target.is_kernel_address(address) else None
        pages = row.total if row is not None else None
        if row is not None and row.taken is not None and row.given is not None:
            pages = row.taken - row.given
        if pages is None:
            pools.append(_absent(definition, "its descriptor is not in the dump"))
        else:
            pools.append(_checked(definition, pages, f"_POOL_DESCRIPTOR at {address:x}"))
    return pools


# sessions -------------------------------------------------------------------------------------------------------------


def session_commit(target: Target, definition: Definition, sessions: dict[int, None] | None) -> Counter:
    """MM_SESSION_SPACE.CommittedPages over the sessions that processes belong to, by the structures' addresses."""
    nt = target.nt
    field = nt.find("_MM_SESSION_SPACE", "CommittedPages") if nt and nt.has_type("_MM_SESSION_SPACE") else None
    if target.dump.triage is not None:
        return _absent(definition, NOT_IN_SMALL_DUMP)
    if field is None:
        return _absent(definition, NOT_IN_KERNEL if target.has_names else NEEDS_SYMBOLS)
    if sessions is None:
        return _absent(definition, "the sessions of some processes are not in the dump")
    total = 0
    for address in sessions:
        value = target.memory.unsigned(address + field.offset, field.size)
        if value is None:
            return _absent(definition, f"the session at {address:x}: {target.memory.why_unreadable(address)}")
        total += value
    return _checked(definition, total, "MM_SESSION_SPACE.CommittedPages of every session")
