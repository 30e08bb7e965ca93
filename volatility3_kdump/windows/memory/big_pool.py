"""Big pool allocations: those of more than a page, which ``nt!PoolBigPageTable`` tracks and no header precedes.

The table is an open hash of ``_POOL_TRACKER_BIG_PAGES`` by address; bit 0 of ``Va`` marks an entry that is free. The
segment heap of Windows 10 1903 and later has it as well, for everything that it gives out at the start of a page.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.memory import PAGE_SIZE
from volatility3_kdump.windows.memory.pool_header import tag_text
from volatility3_kdump.windows.memory.pool_tables import read_table, table_bounds

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_TYPE = "_POOL_TRACKER_BIG_PAGES"
_FREE = 1
#: Entries that are free overlap, those in use do not: so many of the former are looked at.
_MOST_OVERLAPPING = 64


class BigPage(NamedTuple):
    """An entry of nt!PoolBigPageTable. ``size`` is NumberOfBytes; ``entry`` is where the entry itself lies.

    ``pool_type`` is a POOL_TYPE. An entry that is free describes what was there last.
    """

    address: int
    size: int
    tag_value: int
    pool_type: int
    allocated: bool
    entry: int

    @property
    def tag(self) -> str | None:
        return tag_text(self.tag_value)


@dataclass(frozen=True)
class BigPages:
    """The big allocations by address. ``problem`` says why there are none or what is missing, ``None`` if nothing.

    ``rows`` is the size of the table, ``missing`` how many of its entries lie in absent pages.
    """

    entries: tuple[BigPage, ...]
    rows: int
    missing: int
    problem: str | None

    def find(self, address: int) -> BigPage | None:
        """The allocation that holds an address: one in use before one that is free."""
        used = _last(self._used, self._used_starts, address, 1)
        return used or _last(self._free, self._free_starts, address, _MOST_OVERLAPPING)

    @functools.cached_property
    def _used(self) -> list[BigPage]:
        return [entry for entry in self.entries if entry.allocated]

    @functools.cached_property
    def _free(self) -> list[BigPage]:
        return [entry for entry in self.entries if not entry.allocated]

    @functools.cached_property
    def _used_starts(self) -> list[int]:
        return [entry.address for entry in self._used]

    @functools.cached_property
    def _free_starts(self) -> list[int]:
        return [entry.address for entry in self._free]


def _last(entries: list[BigPage], starts: list[int], address: int, most: int) -> BigPage | None:
    """The last entry that starts at or below an address and reaches beyond it, of so many below it."""
    end = bisect.bisect_right(starts, address)
    below = reversed(entries[max(0, end - most) : end])
    return next((entry for entry in below if address < entry.address + entry.size), None)


def read_big_pages(target: Target) -> BigPages:
    """The entries of nt!PoolBigPageTable, sorted by address; ``target.pool.big_pages`` keeps them."""
    import numpy as np

    nt = target.nt
    if nt is None or not nt.has_type(_TYPE):
        reason = target.symbol_status if not target.has_names else f"the kernel's symbols have no {_TYPE}"
        return BigPages((), 0, 0, f"big pages are not known: {reason}")
    bounds = table_bounds(target, "PoolBigPageTable", "PoolBigPageTableSize", nt.size_of(_TYPE))
    if isinstance(bounds, str):
        return BigPages((), 0, 0, f"big pages are not known: {bounds}")
    table = read_table(
        target.memory, nt, _TYPE, *bounds, va="Va", key="Key", pool_type="PoolType", size="NumberOfBytes"
    )
    va, size = table.columns["va"], table.columns["size"].astype(np.uint64)
    # addresses of 32-bit kernels are sign-extended
    va = va.astype(np.int32 if va.dtype.itemsize == 4 else np.int64).astype(np.int64).astype(np.uint64)
    address = va & ~np.uint64(_FREE)
    used = address != 0
    # a sum beyond the address space wraps, and is then below its first part
    possible = (address % PAGE_SIZE == 0) & (size != 0) & (address + size - np.uint64(1) >= address)
    possible &= address >= np.uint64(target.kernel_start)
    order = np.nonzero(used & possible)[0]
    order = order[np.lexsort((va[order] & np.uint64(_FREE) == 0, address[order]))]
    columns = (
        address,
        size,
        table.columns["key"],
        table.columns["pool_type"],
        va & np.uint64(_FREE) == 0,
        table.addresses,
    )
    entries = map(BigPage._make, zip(*(column[order].tolist() for column in columns), strict=True))
    impossible = int((used & ~possible).sum())
    problems = []
    if table.missing:
        problems.append(f"{table.missing} of {table.count} entries of nt!PoolBigPageTable are not in the dump")
    if impossible:
        problems.append(f"{impossible} entries of nt!PoolBigPageTable are impossible")
    return BigPages(tuple(entries), table.count, table.missing, "; ".join(problems) or None)
