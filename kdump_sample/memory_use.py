"""What the memory of a made machine is used for, as data: counters, page files, and what page frames hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PageFile:
    """A paging file; sizes in pages. One without a name is the virtual store of compressed pages."""

    name: str
    size: int
    free: int
    minimum: int
    maximum: int
    peak: int
    swap: bool = False


def _counters() -> dict[str, int]:
    """Counters of a machine with 8 GB, by the names that :mod:`kdump_sample.memory_counters` has."""
    return {
        "resident available": 1_689_400,
        "paging file": 21_430,
        "system ptes": 33_554_432,
        "free system ptes": 33_548_499,
        "view ptes": 4_194_304,
        "free view ptes": 4_190_011,
        "stack ptes": 1_048_576,
        "free stack ptes": 1_020_944,
        "nonpaged pool": 61_234,
        "nonpaged pool maximum": 1_677_439,
        "paged pool": 89_552,
        "paged pool maximum": 4_294_967_296,
        "shared commit": 31_877,
        "special pool": 48,
        "kernel stacks": 3_411,
        "kernel shadow stacks": 0,
        "mdl pages": 12_907,
        "contiguous pages": 3_344,
        "partition pages": 0,
        "awe pages": 512,
        "nonpaged pool commit": 63_010,
        "paged pool commit": 90_112,
        "driver commit": 11_903,
        "boot commit": 42_118,
        "pfn commit": 24_577,
        "small ptes": 190,
        "slab pages": 2_048,
        "page tables": 4_114,
        "locked file pages": 77,
        "hash pages": 1_024,
        "process commit": 9_950,
        "committed": 265_500,
        "commit limit": 2_621_087,
        "peak commitment": 301_114,
        "commit limit maximum": 8_388_608,
        "system pte failures": 0,
        "stack pte failures": 0,
    }


@dataclass(frozen=True)
class MemoryUse:
    """Counters in pages, the lengths of the page lists, the paging files, KPRCB.CachedCommit of each processor (the
    last value for all others), and the committed pages of sessions by number."""

    lists: Mapping[str, int] = field(
        default_factory=lambda: {
            "Zeroed": 412_003,
            "Free": 11_870,
            "Standby": 703_218,
            "Modified": 25_114,
            "ModifiedNoWrite": 92,
            "Bad": 0,
        }
    )
    counters: Mapping[str, int] = field(default_factory=_counters)
    commit_failures: tuple[int, int, int, int] = (0, 0, 0, 0)
    #: Pages of each paged pool, where the kernel has several.
    paged_pools: tuple[int, ...] = (40_000, 12_388, 12_388, 12_388, 12_388)
    page_files: tuple[PageFile, ...] = (
        PageFile("\\??\\C:\\pagefile.sys", 524_288, 500_144, 524_288, 1_572_864, 31_020),
        PageFile("\\??\\C:\\swapfile.sys", 4_096, 4_094, 4_096, 3_145_728, 2, swap=True),
    )
    processor_commit: tuple[int, ...] = (120, 87, 201)
    session_commit: Mapping[int, int] = field(default_factory=lambda: {0: 1_204, 2: 6_318})


@dataclass(frozen=True)
class MappedFile:
    """A file that a section maps, or with an empty ``path`` a section with a paging file behind it.

    The first ``mapped`` pages are in use by the processes of these directory bases, from ``address`` on; then come
    pages on the standby list, on that of modified pages, and in transition, clean and modified.
    """

    path: str
    image: bool
    address: int
    processes: tuple[int, ...]
    mapped: int
    standby: int = 0
    modified: int = 0
    modified_no_write: int = 0
    transition: int = 0
    transition_modified: int = 0
    #: How many of the mapped pages are held by an MDL as well.
    locked: int = 0


@dataclass(frozen=True)
class PageFrames:
    """What the page-frame database has besides the pages that the page tables map.

    ``private`` are pages of the process of this directory base that are mapped no more: on the standby list and on that
    of modified pages, from an address on. ``large`` is a page of 2 MB of a process: directory base, address, first page
    frame. ``dangling`` are pages that are deleted and yet in transition: without a file behind them, and with one.
    ``without_pte`` were allocated without an address. What is left of the memory is free.
    """

    files: tuple[MappedFile, ...]
    private: tuple[int, int, int, int]
    large: tuple[int, int, int]
    zeroed: int
    bad: int
    cached: int
    dangling: tuple[int, int]
    without_pte: int
