"""Rows of ``kdump.yara``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.memory_owners import MemoryOwners, Owner
from volatility3_kdump.findings.yara_rules import Rule, Rules, load_rules
from volatility3_kdump.findings.yara_scan import Hit, scan
from volatility3_kdump.layers.present import SIGN, PresentMemory, present_memory, signed
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import yara as text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.drivers import chosen_modules
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, BYTES, HEX, TEXT, Column, table
from volatility3_kdump.windows.memory.kernel_regions import NONPAGED_POOL, PAGED_POOL, SPECIAL_POOL, ranges_of_kinds
from volatility3_kdump.windows.processes import processes
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.user_mode import process_layer

if TYPE_CHECKING:
    from volatility3.framework import interfaces

Area = tuple[int, int]

#: Bytes of a match in its row.
_MOST_BYTES = 64
_KERNEL_HALF: Area = (-SIGN, 0)
_USER_HALF: Area = (0, SIGN - 1)

YARA = table(
    "kdump.yara",
    keys.ADDRESS(
        lambda hit: hit[0].address,
        "where the match begins; sign-extended, as KD has it (the host cuts addresses to 48 bits)",
    ),
    Column("Rule", TEXT, "name of the rule, without its namespace", lambda hit: hit[0].rule.name),
    Column("String", TEXT, "identifier of the string with its `$`", lambda hit: hit[0].string),
    Column("Length", BYTES, "bytes of the match", lambda hit: hit[0].length),
    keys.BYTES(lambda hit: hit[0].data[:_MOST_BYTES].hex(" "), f"the first {_MOST_BYTES} of them"),
    Column(
        "OwnerKind",
        TEXT,
        "`driver`, `unloaded driver`, `kernel stack`, `processor`, `paged pool`, `nonpaged pool`, `nonpaged NX pool`, "
        "`session pool`, `special pool`, `pool`, `PFN database`, `page tables`, another region of the kernel by its "
        "name, `kernel` where nothing names it, `user`; `note` for a row that says what could not be found",
        lambda hit: hit[1].kind,
    ),
    Column(
        "Owner",
        TEXT,
        "the driver's file; the pool tag; `thread ADDRESS (PROCESS PID.TID)`, ids in hexadecimal, or `DPC stack of "
        "processor N`; `KPRCB of processor N`; `page frame N`; process and id in decimal",
        lambda hit: hit[1].name,
    ),
    Column(
        "OwnerAddress",
        ADDRESS,
        "where that begins: image, pool block with its header, lowest address of the stack, control block, the "
        "EPROCESS for user pages",
        lambda hit: hit[1].address,
    ),
    Column("OwnerOffset", HEX, "how far into it the match lies", lambda hit: hit[1].offset),
    keys.SECTION(lambda hit: hit[1].section, "with the offset in it"),
    keys.SYMBOL(
        lambda hit: hit[1].symbol,
        "the nearest one at or below, `module+offset` where the module has none; for user pages the module of the "
        "process",
    ),
    Column(
        "Detail",
        TEXT,
        "pool: size, state, how the block is known; stacks: how far below the base; page tables: which page the entry "
        "maps; otherwise why no more is known",
        lambda hit: hit[1].detail,
    ),
    Column("Namespace", TEXT, "of the rule", lambda hit: hit[0].rule.namespace),
    Column("RuleTags", TEXT, "of the rule", lambda hit: " ".join(hit[0].rule.tags) or BLANK),
    Column("Meta", TEXT, "of the rule, as `name=value; name=value`", lambda hit: meta_text(hit[0].rule) or BLANK),
    keys.NOTES(more="of a `note`: what could not be found"),
)


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


class _Scan:
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


def yara_grid(
    target: Target,
    rules: str | None = None,
    rules_file: str | None = None,
    compiled_file: str | None = None,
    scope: Scope = Scope(),
    most: int | None = None,
    progress: Progress | None = None,
) -> KdumpGrid:
    """A row for every match of a string of the rules, and one for what a scan could not find.

    Exactly one of ``rules`` (a text), ``rules_file`` and ``compiled_file`` is given; ``most`` is the number of hits to
    stop after. Raises :class:`~volatility3_kdump.errors.KdumpError` for bad rules, and where the dump holds nothing of
    what is to be scanned.
    """
    if most is not None and most < 1:
        raise KdumpError(f"--limit is {most}: use a number of hits from 1 on")
    loaded = load_rules(rules, rules_file, compiled_file)
    scanned = _Scan(target, loaded, scope, most, progress)
    return YARA.grid(_rows(scanned), lambda: _kd_lines(scanned))


# what to scan ---------------------------------------------------------------------------------------------------------


def _process(target: Target, pid: int) -> Process:
    for found in processes.process_addresses(target):
        process = read_process(target, found)
        if process.pid == pid:
            return process
    raise KdumpError(f"{target.name}: no process has the id {pid} ({pid:#x})")


def _areas(target: Target, scope: Scope, owners: MemoryOwners) -> list[Area]:
    """Ranges of signed addresses in rising order. Images stay apart, even where they abut."""
    chosen = scope.modules is not None or scope.pool or scope.stacks
    if scope.pid is not None and chosen:
        raise KdumpError("--pid is for the user pages of a process: it does not go with --modules, --pool and --stacks")
    areas: list[Area] = []
    if scope.modules is not None:
        modules = chosen_modules(target, scope.modules)
        if not modules:
            reason = f"no module is named {' or '.join(scope.modules)}" if scope.modules else "no module list"
            raise KdumpError(f"{target.name}: {reason}")
        areas += [_area(module.base, module.end) for module in modules]
    if scope.pool:
        pools = ranges_of_kinds(target, {PAGED_POOL, NONPAGED_POOL, SPECIAL_POOL})
        if not pools:
            because = f" ({target.symbol_status})" if target.nt is None else ""
            if target.dump.triage is not None:
                because = (
                    ": a small memory dump does not hold the memory manager's regions; without --pool all is scanned"
                )
            raise KdumpError(f"{target.name}: nothing in the dump says where the pools are{because}")
        areas += [_area(low, high) for low, high in pools]
    if scope.stacks:
        areas += [_area(low, high) for low, high in owners.stack_ranges()]
    if scope.limits is not None:
        start, end = scope.limits
        if start >= end:
            raise KdumpError(
                f"--range begins at {start:#x} and ends at {end:#x}: the end is the first address beyond it"
            )
        halves = [_area(start, min(end, SIGN)), _area(max(start, SIGN), end)]
        limits = sorted(half for half in halves if half[0] < half[1])
        if not chosen:
            return _cut(limits, [_USER_HALF]) if scope.pid is not None else limits
        areas = _cut(areas, limits)
    elif not chosen:
        return [_USER_HALF if scope.pid is not None else _KERNEL_HALF]
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


# rows and lines -------------------------------------------------------------------------------------------------------


def _rows(scanned: _Scan) -> Iterator[Row]:
    for hit in scanned.hits():
        yield YARA.row(0, hit)
    for note in scanned.notes():
        yield YARA.row(0, OwnerKind="note", Notes=[note])


def meta_text(rule: Rule) -> str:
    """The pairs of a rule's ``meta`` in one line."""
    return "; ".join(f"{name}={value}" for name, value in rule.meta)


def _kd_lines(scanned: _Scan) -> Iterator[str]:
    size = scanned.target.memory.pointer_size
    yield text.heading(scanned.size, scanned.rules.library)
    hits = 0
    rules: set[tuple[str, str]] = set()
    for hit, owner in scanned.hits():
        hits += 1
        rules.add((hit.rule.namespace, hit.rule.name))
        yield ""
        yield from text.hit(hit, owner, size)
    yield ""
    yield text.summary(hits, len(rules))
    for note in scanned.notes():
        yield f"NOTE: {note}"
