"""Mappings of locked pages that the kernel tracks (``_PTE_TRACKER``).

They are tracked where Driver Verifier or the registry's ``TrackPtes`` asks for it; the lists of ``_SYSPTES_HEADER`` are
in ``nt!MiState`` since Windows 8.1, in ``nt!MiPteHeader`` before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import SymbolsNotFound, Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.target import Target

_TYPE, _HEADER = "_PTE_TRACKER", "_SYSPTES_HEADER"
_MOST_TRACKERS = 1 << 16


@dataclass(frozen=True)
class PteTracker:
    """A mapping: the MDL, where its pages are mapped (``system``), what it describes (``start`` and ``offset``), how
    many PTEs and bytes, the first page frame, and who asked for it. ``None`` is not in the dump or in this kernel."""

    address: int
    mdl: int | None
    ptes: int | None
    system: int | None
    start: int | None
    offset: int | None
    length: int | None
    page: int | None
    caller: str | None


def pte_trackers(target: Target) -> tuple[list[PteTracker], list[str]]:
    """The mappings that are tracked, and what is wrong with their lists. Raises a KdumpError."""
    nt = require_symbols(target, "trackers of mappings", _TYPE, _HEADER, names=True)
    header = _header(target, nt)
    if header is None:
        raise SymbolsNotFound(f"{target.name}: the kernel's symbols do not say where mappings are tracked")
    heads = nt.field(_HEADER, "ListHead")
    link = nt.offset(_TYPE, "ListEntry")
    size = 2 * target.memory.pointer_size
    trackers: list[PteTracker] = []
    problems: list[str] = []
    for number in range(heads.count or 1):
        head = header + heads.offset + number * size
        first = target.memory.pointer(head)
        if first is None:
            raise Unreadable.at(head, "the lists of tracked mappings", target.memory.why_unreadable(head))
        if not first:
            # Never set up: tracking was never asked for.
            continue
        walk = walk_list(target.memory, head, _MOST_TRACKERS, f"list {number} of tracked mappings")
        problems += walk.problems
        trackers += [_read(target, nt, entry - link) for entry in walk.entries]
    return trackers, problems


def _header(target: Target, nt: Layouts) -> int | None:
    state, field = target.symbol("MiState"), nt.find("_MI_SYSTEM_INFORMATION", "Vs.PteHeader")
    if state is not None and field is not None:
        return state + field.offset
    return target.symbol("MiPteHeader")


def _read(target: Target, nt: Layouts, address: int) -> PteTracker:
    reader = nt.reader(
        _TYPE,
        mdl="Mdl",
        ptes="Count",
        system="SystemVa",
        start="StartVa",
        offset="Offset",
        length="Length",
        page="Page",
    )
    row = read_row(target.memory, reader, address)
    if row is None:
        return PteTracker(address, *(None,) * 8)
    field = nt.find(_TYPE, "StackTrace") or nt.find(_TYPE, "CallingAddress")
    caller = target.memory.pointer(address + field.offset) if field is not None else None
    name = (target.name_of(caller) or f"{caller:x}") if caller else None
    return PteTracker(address, row.mdl, row.ptes, row.system, row.start, row.offset, row.length, row.page, name)
