"""The memory manager's own regions of the kernel's address space: pools, system PTEs, page tables and the rest.

They come from ``nt!MiState``: ``Vs.SystemVaRegions`` (``_MI_SYSTEM_VA_ASSIGNMENT`` by ``_MI_ASSIGNED_REGION_TYPES``),
then ``Vs.SystemVaType`` (``_MI_SYSTEM_VA_TYPE`` for each 512 GiB of the kernel's half). Kernels that have neither give
the bounds of their pools in KDDEBUGGER_DATA64; Windows 7 has a fixed layout (Windows Internals, 6th edition, chapter
10).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

PAGED_POOL, NONPAGED_POOL, SPECIAL_POOL, STACK = "paged pool", "nonpaged pool", "special pool", "kernel stack"
PAGE_TABLES, HYPERSPACE, SYSTEM_CACHE, SESSION = "page tables", "hyperspace", "system cache", "session space"
SYSTEM_PTES, PFN_DATABASE, IMAGES = "system PTEs", "PFN database", "system images"

#: Bytes of virtual memory that the PTEs of 48-bit addresses take.
_PTE_SPACE = 1 << 39
#: Where the first of the 256 ranges of 512 GiB begins that Vs.SystemVaType has.
_KERNEL_HALF = 0xFFFF800000000000
_WINDOWS_7 = (7600, 7601)

#: Names of _MI_ASSIGNED_REGION_TYPES (``AssignedRegion``...) and _MI_SYSTEM_VA_TYPE (``MiVa``...) to kinds.
_KINDS = {
    "NonPagedPool": NONPAGED_POOL,
    "SecureNonPagedPool": NONPAGED_POOL,
    "PagedPool": PAGED_POOL,
    "SpecialPool": SPECIAL_POOL,
    "SpecialPoolPaged": SPECIAL_POOL,
    "SpecialPoolNonPaged": SPECIAL_POOL,
    "SystemCache": SYSTEM_CACHE,
    "SystemPtes": SYSTEM_PTES,
    "SystemPtesLarge": SYSTEM_PTES,
    "PfnDatabase": PFN_DATABASE,
    "HyperSpace": HYPERSPACE,
    "ProcessSpace": HYPERSPACE,
    "PageTables": PAGE_TABLES,
    "KernelStacks": STACK,
    "KernelShadowStacks": "kernel shadow stacks",
    "Session": SESSION,
    "SessionSpace": SESSION,
    "SessionGlobalSpace": SESSION,
    "SystemImages": IMAGES,
    "DriverImages": IMAGES,
    "BootLoaded": "memory of the boot loader",
    "Hal": "memory of the HAL",
    "Cfg": "control flow guard bitmap",
    "UltraZero": "zeroing window",
    "WorkingSetPagedPool": "working set of paged pool",
    "WorkingSetSystemCache": "working set of the system cache",
}

#: The kernel half of Windows 7 x64: start, end, kind.
_FIXED = (
    (0xFFFFF68000000000, 0xFFFFF70000000000, PAGE_TABLES),
    (0xFFFFF70000000000, 0xFFFFF78000000000, HYPERSPACE),
    (0xFFFFF88000000000, 0xFFFFF8A000000000, SYSTEM_PTES),
    (0xFFFFF8A000000000, 0xFFFFF8C000000000, PAGED_POOL),
    (0xFFFFF90000000000, 0xFFFFF98000000000, SESSION),
    (0xFFFFF98000000000, 0xFFFFFA8000000000, SYSTEM_CACHE),
)


@dataclass(frozen=True)
class KernelRegion:
    """A region: ``kind`` is one of the constants above, or what the kernel calls a region that has none.

    ``source`` names the variable or structure that says it.
    """

    kind: str
    source: str


class KernelRange(NamedTuple):
    """A range of the kernel's address space, ``[low, high)``, sign-extended, and what it is."""

    low: int
    high: int
    region: KernelRegion


def kernel_region(target: Target, address: int) -> KernelRegion | None:
    """The memory manager's region of a kernel address (sign-extended), ``None`` where nothing says it."""
    return next(
        (known_range.region for known_range in kernel_ranges(target) if known_range.low <= address < known_range.high),
        None,
    )


def kernel_ranges(target: Target) -> tuple[KernelRange, ...]:
    """All regions that are known. They overlap: an earlier one is more exact, and hides what a later one says."""
    return target.once(_all_ranges)


def _all_ranges(target: Target) -> tuple[KernelRange, ...]:
    return tuple(_known_ranges(target))


def _known_ranges(target: Target) -> Iterator[KernelRange]:
    if target.header.architecture == "x64":
        base = _pte_base(target)
        if base:
            yield KernelRange(base, base + _PTE_SPACE, KernelRegion(PAGE_TABLES, "MmPteBase"))
    yield from _assigned(target)
    yield from _typed(target)
    yield from _pools(target)
    yield from _fixed(target)


def ranges_of_kinds(target: Target, kinds: Container[str]) -> list[tuple[int, int]]:
    """The ranges ``[low, high)`` that are of some kinds and not hidden by others, ascending, abutting ones joined."""
    taken: list[tuple[int, int]] = []
    chosen: list[tuple[int, int]] = []
    for low, high, region in kernel_ranges(target):
        if region.kind in kinds:
            chosen += _without(low, high, taken)
        taken.append((low, high))
    joined: list[tuple[int, int]] = []
    for low, high in sorted(chosen):
        if joined and joined[-1][1] >= low:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return joined


def kernel_map(target: Target) -> list[tuple[int, str | None]]:
    """The kernel's half of x64, cut where regions begin or end: (first address, kind up to the next one), ascending.

    ``None`` is a stretch of which nothing says what it is. Addresses are sign-extended.
    """
    ranges = kernel_ranges(target)
    edges = {_KERNEL_HALF, *(edge for low, high, _ in ranges for edge in (low, high))}
    kinds: list[tuple[int, str | None]] = []
    for edge in sorted(edge for edge in edges if edge < 1 << 64):
        region = kernel_region(target, edge)
        kind = region.kind if region is not None else None
        if not kinds or kinds[-1][1] != kind:
            kinds.append((edge, kind))
    return kinds


def va_type_kind(target: Target, value: int) -> str | None:
    """The kind of region that a value of _MI_SYSTEM_VA_TYPE stands for; ``None`` for an unused or unknown one."""
    name = target.nt.enum("_MI_SYSTEM_VA_TYPE").get(value, "") if target.nt is not None else ""
    name = name.removeprefix("MiVa")
    return None if name in ("", "Unused", "MaximumType") else _KINDS.get(name, name)


def _without(low: int, high: int, taken: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is left of a range without some others."""
    for other_low, other_high in sorted(taken):
        if low >= high:
            return
        if low < other_high and other_low < high:
            if low < other_low:
                yield low, other_low
            low = other_high
    if low < high:
        yield low, high


def _pte_base(target: Target) -> int | None:
    variable = target.symbol("MmPteBase")
    base = target.memory.pointer(variable) if variable else None
    return base or (target.debugger["PteBase"] if target.debugger else None)


def _assigned(target: Target) -> Iterator[KernelRange]:
    nt, state = target.nt, target.symbol("MiState")
    regions = nt.find("_MI_SYSTEM_INFORMATION", "Vs.SystemVaRegions") if nt else None
    if nt is None or state is None or regions is None or regions.type_name is None or not regions.count:
        return
    data = target.memory.read(state + regions.offset, regions.size)
    if data is None:
        return
    stride = regions.size // regions.count
    reader = nt.reader(regions.type_name, base="BaseAddress", size="NumberOfBytes")
    for index, name in nt.enum("_MI_ASSIGNED_REGION_TYPES").items():
        if not 0 <= index < regions.count:
            continue
        row = reader.unpack(data, index * stride)
        if row.base and row.size:
            region = _named(name.removeprefix("AssignedRegion"), "nt!MiState.Vs.SystemVaRegions")
            yield KernelRange(row.base, row.base + row.size, region)


def _typed(target: Target) -> Iterator[KernelRange]:
    nt, state = target.nt, target.symbol("MiState")
    types = nt.find("_MI_SYSTEM_INFORMATION", "Vs.SystemVaType") if nt else None
    if nt is None or state is None or types is None or types.size != 256 or target.header.architecture != "x64":
        return
    names = nt.enum("_MI_SYSTEM_VA_TYPE")
    for index in range(types.size):
        value = target.memory.unsigned(state + types.offset + index, 1)
        name = names.get(value or 0, "").removeprefix("MiVa")
        if value and name not in ("", "Unused"):
            low = _KERNEL_HALF + (index << 39)
            yield KernelRange(low, low + (1 << 39), _named(name, "nt!MiState.Vs.SystemVaType"))


def _named(name: str, source: str) -> KernelRegion:
    return KernelRegion(_KINDS.get(name, name), source)


def _pools(target: Target) -> Iterator[KernelRange]:
    """The pools by the variables that KDDEBUGGER_DATA64 names, or by those of Windows 7 to 8.1 that symbols name.

    Only where both bounds are there.
    """
    memory = target.memory
    for kind, names, other_names in (
        (PAGED_POOL, ("MmPagedPoolStart", "MmPagedPoolEnd"), ("MiPagedPoolStart", "MmPagedPoolEnd")),
        (NONPAGED_POOL, ("MmNonPagedPoolStart", "MmNonPagedPoolEnd"), ("MmNonPagedPoolStart", "MiNonPagedPoolEnd")),
    ):
        by_debugger = [target.debugger[name] if target.debugger is not None else None for name in names]
        by_symbols = [target.symbol(name) for name in other_names]
        for variables, source in ((by_debugger, "KDDEBUGGER_DATA64"), (by_symbols, " and ".join(other_names))):
            start, end = (memory.pointer(variable) if variable else None for variable in variables)
            if start and end and target.is_kernel_address(start) and start <= end:
                # Some kernels keep the last byte, others the first page behind it.
                yield KernelRange(start, end + (end & 1), KernelRegion(kind, source))
                break


def _fixed(target: Target) -> Iterator[KernelRange]:
    if target.header.architecture == "x64" and target.header.build_number in _WINDOWS_7:
        for low, high, kind in _FIXED:
            yield KernelRange(low, high, KernelRegion(kind, "the fixed layout of this Windows version"))
