"""System PTEs: what of the kernel's address space for mappings and stacks is taken (``_MI_SYSTEM_PTE_TYPE``).

A bit of the bitmap stands for each PTE from ``BasePte`` on, set where it is taken. Windows 7 keeps the type in
``nt!MiSystemPteInfo``, later kernels in ``nt!MiState``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from volatility3_kdump.errors import SymbolsNotFound, Unreadable
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.layout import Layouts
    from volatility3_kdump.target import Target

_TYPE = "_MI_SYSTEM_PTE_TYPE"
#: Where kernels keep the types: names and paths in _MI_SYSTEM_INFORMATION, or a variable.
_PLACES = (
    ("system PTEs", "Vs.SystemPteInfo", "MiSystemPteInfo"),
    ("system views", "SystemPtes.SystemViewPteInfo", None),
    ("kernel stacks", "SystemPtes.KernelStackPteInfo", "MiKernelStackPteInfo"),
)
#: 2^32 PTEs map 16 TB.
_MOST_BITS = 1 << 32
_CHUNK = 1 << 20


class FreeBlock(NamedTuple):
    """``ptes`` free PTEs from the one at ``address`` on."""

    address: int
    ptes: int


@dataclass(frozen=True)
class SystemPtes:
    """A type of system PTEs. ``None`` is not in the dump or not in this kernel. Counts are of PTEs.

    ``base`` is the first PTE, ``entries`` how many the bitmap has, ``failures`` how often none were left.
    """

    name: str
    address: int
    base: int | None
    entries: int | None
    total: int | None
    free: int | None
    failures: int | None
    bitmap: int | None


def system_ptes(target: Target) -> list[SystemPtes]:
    """The types that this kernel has. Raises a KdumpError without symbols, or where none is in the dump."""
    nt = require_symbols(target, "system PTEs", _TYPE, names=True)
    kinds = []
    for name, path, variable in _PLACES:
        address = _address(target, nt, path, variable)
        if address is not None:
            row = _read(target, nt, address)
            if row is not None:
                kinds.append(SystemPtes(name, address, *row))
    if not kinds:
        state = target.symbol("MiState") or target.symbol("MiSystemPteInfo")
        if state is None:
            raise SymbolsNotFound(f"{target.name}: the kernel's symbols do not say where system PTEs are counted")
        raise Unreadable.at(state, "the counters of system PTEs", target.memory.why_unreadable(state))
    return kinds


def _address(target: Target, nt: Layouts, path: str, variable: str | None) -> int | None:
    alone = target.symbol(variable) if variable else None
    state = target.symbol("MiState")
    field = nt.find("_MI_SYSTEM_INFORMATION", path)
    if alone is None and state is not None and field is not None:
        return state + field.offset
    return alone


def _read(target: Target, nt: Layouts, address: int) -> tuple[Any, ...] | None:
    reader = nt.reader(
        _TYPE,
        base="BasePte",
        entries="Bitmap.SizeOfBitMap",
        total="TotalSystemPtes",
        free="TotalFreeSystemPtes",
        failures=("PteFailures", "FailureCount"),
        bitmap="Bitmap.Buffer",
    )
    row = read_row(target.memory, reader, address)
    return None if row is None else tuple(row)


def free_blocks(target: Target, ptes: SystemPtes) -> Iterator[FreeBlock]:
    """Runs of free PTEs by the bitmap, ascending. Raises :class:`Unreadable` where the bitmap is not in the dump."""
    import numpy as np

    memory = target.memory
    if not ptes.bitmap or not ptes.entries or ptes.base is None or ptes.entries > _MOST_BITS:
        raise Unreadable(f"the bitmap of {ptes.name} is not in the dump or cannot be one")
    step, bits = memory.pointer_size, ptes.entries
    begun: int | None = None
    for first in range(0, (bits + 7) // 8, _CHUNK):
        data = memory.read(ptes.bitmap + first, min(_CHUNK, (bits + 7) // 8 - first))
        if data is None:
            place = ptes.bitmap + first
            raise Unreadable.at(place, f"the bitmap of {ptes.name}", memory.why_unreadable(place))
        taken = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: bits - 8 * first]
        before = 1 if begun is None else 0
        edges = np.flatnonzero(np.diff(np.concatenate(([before], taken)).astype(np.int8)))
        for edge in (edges + 8 * first).tolist():
            if begun is None:
                begun = edge
            else:
                yield FreeBlock(ptes.base + step * begun, edge - begun)
                begun = None
    if begun is not None:
        yield FreeBlock(ptes.base + step * begun, bits - begun)
