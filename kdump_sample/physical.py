"""Sparse physical memory: the pages that a made dump holds, by page frame number (PFN)."""

from __future__ import annotations

from collections.abc import Iterable

PAGE = 0x1000


class PhysicalMemory:
    """Pages of 4096 bytes that are created when they are first allocated or claimed; every other page is absent.

    Pages are handed out from named ranges, each of which grows upwards from its first PFN, so that the pages of one
    purpose stay together and a run list of the whole stays short. Pages of the range ``user`` hold user-mode data,
    which kernel dumps leave out.
    """

    def __init__(self, ranges: dict[str, int], installed: Iterable[tuple[int, int]]) -> None:
        self._next = dict(ranges)
        #: Contents by PFN.
        self.pages: dict[int, bytearray] = {}
        #: PFNs whose content belongs to user mode.
        self.user_pages: set[int] = set()
        #: The machine's memory as (first PFN, number of pages), what MmPhysicalMemoryBlock would say.
        self.installed = tuple(installed)

    @property
    def highest_pfn(self) -> int:
        """The last PFN of the installed memory."""
        return max(first + count for first, count in self.installed) - 1

    def allocate(self, purpose: str) -> int:
        """The PFN of a new page of zeros from the named range."""
        while self._next[purpose] in self.pages:
            self._next[purpose] += 1
        pfn = self._next[purpose]
        self._next[purpose] += 1
        self.claim(pfn)
        if purpose == "user":
            self.user_pages.add(pfn)
        return pfn

    def claim(self, pfn: int) -> bytearray:
        """Make the page of this PFN present, full of zeros if it was absent."""
        page = self.pages.get(pfn)
        if page is not None:
            return page
        if not any(first <= pfn < first + count for first, count in self.installed):
            raise ValueError(f"page frame {pfn:#x} is outside the installed memory")
        page = self.pages[pfn] = bytearray(PAGE)
        return page

    def runs(self, pfns: Iterable[int] | None = None) -> list[tuple[int, int]]:
        """The given PFNs, or all that are present, as (first PFN, number of pages) in ascending order."""
        runs: list[tuple[int, int]] = []
        for pfn in sorted(self.pages if pfns is None else pfns):
            if runs and runs[-1][0] + runs[-1][1] == pfn:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((pfn, 1))
        return runs
