"""Threads that hold the lock of a working set or address space, by the bits of their ETHREAD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.errors import SymbolsNotFound
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer, every_thread
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_HELD = ("ProcessWorkingSet", "SystemWorkingSet", "SystemCacheWorkingSet", "SessionWorkingSet", "PagedPoolWorkingSet")
_LATER = ("SystemPtesWorkingSet", "ProcessAddressSpace")


def working_set_owners(
    target: Target, progress: Progress | None = None
) -> Iterator[tuple[ListedThread, tuple[str, ...]]]:
    """Each thread that holds one, and the names of the bits that say so. Raises a KdumpError without symbols."""
    nt = require_symbols(target, "owners of working sets", "_ETHREAD")
    names = [f"Owns{held}{how}" for held in (*_HELD, *_LATER) for how in ("Exclusive", "Shared")]
    names = [name for name in names if nt.has("_ETHREAD", name)]
    if not names:
        raise SymbolsNotFound(f"{target.name}: ETHREAD of this kernel does not say who owns a working set")
    reader = nt.reader("_ETHREAD", **{name: name for name in names})
    namer = ThreadNamer(target)
    for thread in every_thread(target, None, progress):
        row = read_row(target.memory, reader, thread.address)
        if row is not None and any(row):
            yield namer.named(thread), tuple(name for name, value in zip(names, row, strict=True) if value)
