"""Lookaside lists: ``_GENERAL_LOOKASIDE``, by the lists of those that drivers and the kernel have made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.memory.pool_header import tag_text
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_LISTS = 1 << 14
#: The lists of lists, by what they hold.
_HEADS = (
    *("ExSystemLookasideListHead", "ExPoolLookasideListHead"),
    *("ExNPagedLookasideListHead", "ExPagedLookasideListHead"),
)
_FIELDS = {
    "depth": "Depth",
    "most": "MaximumDepth",
    "allocates": "TotalAllocates",
    "allocate_misses": "AllocateMisses",
    "frees": "TotalFrees",
    "free_misses": "FreeMisses",
    "kind": "Type",
    "tag": "Tag",
    "size": "Size",
}


@dataclass(frozen=True)
class Lookaside:
    """A ``_GENERAL_LOOKASIDE``; ``None`` is not in the dump. ``kind`` is its POOL_TYPE."""

    address: int
    depth: int | None
    most: int | None
    allocates: int | None
    allocate_misses: int | None
    frees: int | None
    free_misses: int | None
    kind: int | None
    tag_value: int | None
    size: int | None

    @property
    def tag(self) -> str | None:
        """The tag's characters; ``None`` where they are not printable."""
        return None if self.tag_value is None else tag_text(self.tag_value)


def read_lookaside(target: Target, address: int) -> Lookaside:
    """The list at an address. Raises :class:`KdumpError` where it is not in the dump."""
    nt = require_symbols(target, "lookaside lists", "_GENERAL_LOOKASIDE")
    row: Any = read_row(target.memory, nt.reader("_GENERAL_LOOKASIDE", **_FIELDS), address)
    if row is None:
        raise Unreadable.at(address, "a lookaside list", target.memory.why_unreadable(address))
    return Lookaside(address, *row)


def all_lookasides(target: Target, own: bool) -> tuple[list[Lookaside], tuple[str, ...]]:
    """The system's lists, with ``own`` those of drivers too, and what is wrong with the lists of them.

    Raises :class:`KdumpError` without symbols.
    """
    nt = require_symbols(target, "lookaside lists", "_GENERAL_LOOKASIDE.ListEntry", names=True)
    link = nt.offset("_GENERAL_LOOKASIDE", "ListEntry")
    lists: list[Lookaside] = []
    problems: list[str] = []
    for name in _HEADS if own else _HEADS[:2]:
        head = target.symbol(name)
        if head is None or not target.memory.pointer(head):
            continue
        walk = walk_list(target.memory, head, _MOST_LISTS, name)
        problems += walk.problems
        for entry in walk.entries:
            try:
                lists.append(read_lookaside(target, entry - link))
            except KdumpError as error:
                problems.append(str(error))
    return lists, tuple(problems)
