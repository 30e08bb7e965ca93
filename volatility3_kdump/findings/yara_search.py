"""What is searched by YARA rules, and the hits with their owners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.memory_owners import MemoryOwners, Owner
from volatility3_kdump.findings.yara_rules import Rules
from volatility3_kdump.findings.yara_scan import Hit, scan
from volatility3_kdump.layers.present import SIGN, PresentMemory, present_memory, signed
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.modules import chosen_modules
from volatility3_kdump.windows.memory.kernel_regions import NONPAGED_POOL, PAGED_POOL, SPECIAL_POOL, ranges_of_kinds
from volatility3_kdump.windows.processes import process_lists
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.user_mode import process_layer

if TYPE_CHECKING:
    from volatility3.framework import interfaces

    from volatility3_kdump.target import Target

Area = tuple[int, int]

_KERNEL_HALF: Area = (-SIGN, 0)
_USER_HALF: Area = (0, SIGN - 1)


@dataclass(frozen=True)
class Scope:
    """What is scanned: every present kernel page, unless anything is chosen.

    ``modules`` are names of loaded drivers with ``*``, an empty tuple for all of them; ``pid`` is the process whose
    user pages are meant. ``limits`` is a range of addresses, ``[start, end)``, sign-extended, outside of which nothing
    is scanned; alone, or with ``pid``, it is all that is scanned.
    """

    modules: tuple[str, ...] | None = None
    pool: bool = False
    stacks: bool = False
    pid: int | None = None
    limits: tuple[int, ...] | None = None


#: Every present kernel page.
EVERYTHING = Scope()


class Scan:
    """Rules, and where they are looked for."""

    def __init__(self, target: Target, rules: Rules, scope: Scope, most: int | None, progress: Progress | None) -> None:
        self.target, self.rules, self.most, self.progress = target, rules, most, progress
        #: Whether there are more hits than were asked for.
        self.stopped = False
        self.process = _process(target, scope.pid) if scope.pid is not None else None
        self.owners = MemoryOwners(target, self.process)
        self.areas = _areas(target, scope, self.owners)
        self.memory = _memory(target, self.process, self.areas)
        self.size = sum(self.memory.size_between(*area) for area in self.areas)
        if not self.size:
            raise KdumpError(f"{target.name}: nothing to scan: {_why_nothing(target, scope, self.process)}")

    def hits(self) -> Iterator[tuple[Hit, Owner]]:
        for index, hit in enumerate(scan(self.memory, self.areas, self.rules, self.progress)):
            if index == self.most:
                self.stopped = True
                return
            yield hit, self.owners.of(hit.address)

    def notes(self) -> list[str]:
        """What a scan could not find, once it has ended."""
        hits = "1 hit" if self.most == 1 else f"{self.most} hits"
        stopped = [f"stopped after {hits}: there are more"] if self.stopped else []
        return [*self.memory.notes, *self.rules.notes, *stopped]


def _process(target: Target, pid: int) -> Process:
    for address in process_lists.process_addresses(target):
        process = read_process(target, address)
        if process.pid == pid:
            return process
    raise KdumpError(f"{target.name}: no process has the id {pid} ({pid:#x})")


def _areas(target: Target, scope: Scope, owners: MemoryOwners) -> list[Area]:
    """Ranges of signed addresses in rising order. Images stay apart, even where they abut."""
    chosen = scope.modules is not None or scope.pool or scope.stacks
    if scope.pid is not None and chosen:
        raise KdumpError("--pid is for the user pages of a process: it does not go with --modules, --pool and --stacks")
    if not chosen:
        half = _USER_HALF if scope.pid is not None else _KERNEL_HALF
        if scope.limits is None:
            return [half]
        limits = _limits(*scope.limits)
        return _cut(limits, [half]) if scope.pid is not None else limits
    areas: list[Area] = []
    if scope.modules is not None:
        areas += _module_areas(target, scope.modules)
    if scope.pool:
        areas += _pool_areas(target)
    if scope.stacks:
        areas += [_area(low, high) for low, high in owners.stack_ranges()]
    if scope.limits is not None:
        areas = _cut(areas, _limits(*scope.limits))
    return _disjoint(areas)


def _module_areas(target: Target, names: tuple[str, ...]) -> list[Area]:
    modules = chosen_modules(target, names)
    if not modules:
        reason = f"no module is named {' or '.join(names)}" if names else "no module list"
        raise KdumpError(f"{target.name}: {reason}")
    return [_area(module.base, module.end) for module in modules]


def _pool_areas(target: Target) -> list[Area]:
    pools = ranges_of_kinds(target, {PAGED_POOL, NONPAGED_POOL, SPECIAL_POOL})
    if not pools:
        because = f" ({target.symbol_status})" if not target.has_names else ""
        if target.dump.triage is not None:
            because = ": a small memory dump does not hold the memory manager's regions; without --pool all is scanned"
        raise KdumpError(f"{target.name}: nothing in the dump says where the pools are{because}")
    return [_area(low, high) for low, high in pools]


def _limits(start: int, end: int) -> list[Area]:
    """The parts of ``[start, end)`` in the two halves of the address space."""
    if start >= end:
        raise KdumpError(f"--range begins at {start:#x} and ends at {end:#x}: the end is the first address beyond it")
    halves = [_area(start, min(end, SIGN)), _area(max(start, SIGN), end)]
    return sorted(half for half in halves if half[0] < half[1])


def _disjoint(areas: list[Area]) -> list[Area]:
    """In rising order; those that overlap become one."""
    disjoint: list[Area] = []
    for low, high in sorted(areas):
        if disjoint and low < disjoint[-1][1]:
            disjoint[-1] = disjoint[-1][0], max(high, disjoint[-1][1])
        else:
            disjoint.append((low, high))
    return disjoint


def _area(low: int, high: int) -> Area:
    """A range ``[low, high)`` by signed addresses."""
    return signed(low), signed(high - 1) + 1 if high > low else signed(low)


def _cut(areas: list[Area], limits: list[Area]) -> list[Area]:
    """The parts of areas that lie within limits."""
    cut = [(max(low, first), min(high, last)) for low, high in areas for first, last in limits]
    return [(low, high) for low, high in cut if low < high]


def _memory(target: Target, process: Process | None, areas: list[Area]) -> PresentMemory:
    layer: interfaces.layers.DataLayerInterface | None = None
    if process is not None:
        layer = process_layer(target, process)
    elif target.layer_name is not None:
        layer = target.context.layers[target.layer_name]
    low, high = (min(area[0] for area in areas), max(area[1] for area in areas)) if areas else (0, 0)
    memory = present_memory(layer, low, high) if layer is not None else None
    if memory is None:
        why = target.problems[-1] if target.problems and target.layer_name is None else "no address can be translated"
        if process is not None:
            why = f"the page tables of {process.name or '?'} ({process.pid}) are not in the dump"
        raise KdumpError(f"{target.name}: nothing to scan: {why}")
    return memory


def _why_nothing(target: Target, scope: Scope, process: Process | None) -> str:
    if process is not None:
        where = " in the range" if scope.limits is not None else ""
        return (
            f"no user page of {process.name or '?'} ({process.pid}){where} is in the dump; kernel dumps leave them out"
        )
    if scope.limits is not None:
        return "no byte of the range is in the dump, or of what was chosen in it"
    if scope.modules or scope.pool or scope.stacks:
        return "nothing of what was chosen is in the dump"
    return "no kernel memory is in the dump"
