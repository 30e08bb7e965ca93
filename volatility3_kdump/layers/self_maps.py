"""The search for top page tables by the entry with which Windows makes each of them map itself.

One of the upper 256 entries of a page names this very page, on x64 as on ARM64 (:mod:`volatility3_kdump.cpu.paging`).
What is found is a table only if it leads to Windows: the search says where to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.cpu.paging import ARM64_FRAME, PAGE_SHIFT, PAGE_SIZE, VALID
from volatility3_kdump.dump import PageMap, Source, extents

if TYPE_CHECKING:
    from volatility3_kdump.progress import Progress

_ENTRIES, _UPPER = 512, 256
#: Pages that are read at once: 2 MB.
_AT_ONCE = 512
#: Pages that are looked at: 4 GB. The System process's table is made early, and lies low. Stretches of zeros do not
#: count, up to 8 GB: ARM64's memory begins at 1 or 2 GB, and raw images count from 0.
_MOST_PAGES, _MOST_READ = 1 << 20, 1 << 21
#: Pages that are given at most: noise may look like tables.
_MOST_FOUND = 4096


def self_maps(pages: PageMap, source: Source, progress: Progress | None = None) -> Iterator[int]:
    """The physical addresses of pages that map themselves, in ascending order."""
    import numpy as np

    left, maps, seen = min(_MOST_PAGES, pages.present), 0, 0
    whole = max(min(_MOST_READ, pages.present), 1)
    bits = np.uint64(ARM64_FRAME | VALID)
    for stretch in extents(pages, 0, (pages.highest or 0) + 1):
        if stretch.offset is None:
            continue
        for first in range(0, stretch.count, _AT_ONCE):
            count = min(_AT_ONCE, stretch.count - first, left)
            if count <= 0 or seen >= _MOST_READ:
                return
            seen += count
            if progress is not None:
                progress(100 * min(seen / whole, 1), "Searching for page tables that map themselves")
            data = source.read(stretch.offset + (first << PAGE_SHIFT), count << PAGE_SHIFT)
            words = np.frombuffer(data[: len(data) & -PAGE_SIZE], np.uint64)
            if not words.any():
                continue
            left -= count
            tables = words.reshape(-1, _ENTRIES)[:, _UPPER:]
            frames = np.arange(stretch.pfn + first, stretch.pfn + first + len(tables), dtype=np.uint64)
            own = (frames << np.uint64(PAGE_SHIFT)) | np.uint64(VALID)
            for index in np.flatnonzero(((tables & bits) == own[:, None]).any(axis=1)).tolist():
                yield int(frames[index]) << PAGE_SHIFT
                maps += 1
                if maps >= _MOST_FOUND:
                    return
