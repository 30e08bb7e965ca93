"""Which page frames the machine has memory for: runs of them, with holes between.

Source is PHYSICAL_MEMORY_DESCRIPTOR (a number of runs, a number of pages, then a first page frame and a count for each
run, all pointer-sized but the first), which ``nt!MmPhysicalMemoryBlock`` points at. Dump headers have a copy.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_RUNS = 1 << 16
#: Page frames that 52 bits of physical address can name.
_HIGHEST = 1 << 40


@dataclass(frozen=True)
class PhysicalMemory:
    """Runs as (first page frame, pages) in ascending order; ``source`` is what they were read from.

    ``kernel`` says that it is the kernel's own block, not the copy in the dump header.
    """

    runs: tuple[tuple[int, int], ...]
    source: str
    kernel: bool

    @property
    def pages(self) -> int:
        return sum(count for _, count in self.runs)

    @property
    def end(self) -> int:
        """The first page frame behind the last run."""
        first, count = self.runs[-1]
        return first + count


def physical_memory(target: Target) -> PhysicalMemory | None:
    """The machine's memory, from the kernel or else from the header; ``None`` where neither has a sound description."""
    ranges = _of_kernel(target)
    if ranges is not None:
        return PhysicalMemory(ranges, "nt!MmPhysicalMemoryBlock", True)
    try:
        runs = _sound([(run.base_page, run.page_count) for run in target.header.runs()], target.header.number_of_pages)
    except KdumpError:
        return None
    return PhysicalMemory(runs, "the dump header", False) if runs else None


def _of_kernel(target: Target) -> tuple[tuple[int, int], ...] | None:
    memory = target.memory
    variable = target.variable("MmPhysicalMemoryBlock", "MmPhysicalMemoryBlock")
    block = memory.pointer(variable) if variable is not None else None
    if not block or not target.is_kernel_address(block):
        return None
    size = memory.pointer_size
    head = memory.read(block, 2 * size)
    if head is None:
        return None
    count, pages = int.from_bytes(head[:4], "little"), int.from_bytes(head[size:], "little")
    if not 0 < count <= _MOST_RUNS:
        return None
    data = memory.read(block + 2 * size, count * 2 * size)
    if data is None:
        return None
    return _sound(list(struct.iter_unpack("<QQ" if size == 8 else "<II", data)), pages)


def _sound(runs: list[tuple[int, int]], pages: int | None) -> tuple[tuple[int, int], ...] | None:
    """The runs, if they are ascending, disjoint, in range, and add up to the number of pages."""
    bounds = [(first, first + count) for first, count in runs if count]
    if not bounds or bounds[-1][1] > _HIGHEST or sum(end - start for start, end in bounds) != pages:
        return None
    if any(before[1] > after[0] for before, after in itertools.pairwise(bounds)):
        return None
    return tuple((start, end - start) for start, end in bounds)


def installed_pages(target: Target) -> int | None:
    """MmNumberOfPhysicalPages: what the kernel uses of the machine's memory, in pages of 4 KB."""
    variable = target.variable("MmNumberOfPhysicalPages", "MmNumberOfPhysicalPages")
    return target.memory.pointer(variable) if variable else None
