"""One entry of the page-frame database, and one control area, with all that they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.memory.page_entries import database, has_page
from volatility3_kdump.windows.memory.sections import read_control_area
from volatility3_kdump.windows.structures import read_fields, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_ACTIVE, _STANDBY = 6, 2
_LISTS = ("Zeroed", "Free", "Standby", "Modified", "ModifiedNoWrite", "Bad", "Active", "Transition")


@dataclass(frozen=True)
class PageFrame:
    """An _MMPFN. ``flink`` and ``shares`` are links where the page is on a list."""

    page: int
    address: int
    flink: int | None
    shares: int | None
    pte: int | None
    original: int | None
    references: int | None
    containing: int | None
    location: int | None
    modified: bool | None
    priority: int | None
    prototype: bool | None
    cache: int | None

    @property
    def list_name(self) -> str | None:
        """The list that it is on, or ``Active``."""
        return None if self.location is None or self.location >= len(_LISTS) else _LISTS[self.location]


def read_page_frame(target: Target, page: int) -> PageFrame:
    """The entry of a page. Raises :class:`KdumpError` where there is none in the dump."""
    nt = require_symbols(target, "page frames", "_MMPFN")
    base = database(target)
    if base is None:
        raise KdumpError(f"{target.name}: the dump does not say where the page-frame database is")
    if has_page(target, page) is False:
        raise KdumpError(f"{target.name}: the machine has no page {page:x}")
    address = base + page * nt.size_of("_MMPFN")
    fields = read_fields(
        target,
        "_MMPFN",
        address,
        {
            "flink": "u1.Flink",
            "shares": "u2.ShareCount",
            "pte": "PteAddress",
            "original": "OriginalPte.u.Long",
            "references": "u3.ReferenceCount",
            "containing": "u4.PteFrame",
            "location": "u3.e1.PageLocation",
            "modified": "u3.e1.Modified",
            "priority": "u3.e3.Priority" if nt.has("_MMPFN", "u3.e3.Priority") else "u3.e1.Priority",
            "prototype": "u4.PrototypePte",
            "cache": "u3.e1.CacheAttribute",
        },
    )
    return PageFrame(
        page,
        address,
        fields["flink"],
        fields["shares"],
        fields["pte"],
        fields["original"],
        fields["references"],
        fields["containing"],
        fields["location"],
        None if fields["modified"] is None else bool(fields["modified"]),
        fields["priority"],
        None if fields["prototype"] is None else bool(fields["prototype"]),
        fields["cache"],
    )


@dataclass(frozen=True)
class ControlAreaDetails:
    """A _CONTROL_AREA; ``flags`` are the names of the bits that are set. ``name`` is the file's path in its volume."""

    address: int
    segment: int | None
    flink: int | None
    blink: int | None
    sections: int | None
    pages: int | None
    views: int | None
    users: int | None
    mod_writes: int | None
    file: int | None
    name: str | None
    long_flags: int | None
    flags: tuple[str, ...]
    ptes: int | None
    size: int | None


def read_control_area_details(target: Target, address: int) -> ControlAreaDetails:
    """The control area at an address. Raises :class:`KdumpError` where there is none in the dump."""
    nt = require_symbols(target, "control areas", "_CONTROL_AREA", "_SEGMENT")
    area = read_control_area(target, address)
    if area is None:
        raise KdumpError(
            f"{target.name}: no control area at {address:#x}: it is not in the dump, or its segment is of another"
        )
    fields = read_fields(
        target,
        "_CONTROL_AREA",
        address,
        {
            "segment": "Segment",
            "flink": "ListHead.Flink",
            "blink": "ListHead.Blink",
            "sections": "NumberOfSectionReferences",
            "pages": "NumberOfPfnReferences",
            "views": "NumberOfMappedViews",
            "users": "NumberOfUserReferences",
            "writes": "ModifiedWriteCount",
            "flags": "u.LongFlags",
        },
    )
    names = []
    for name in nt.field_names("_MMSECTION_FLAGS") if nt.has_type("_MMSECTION_FLAGS") else ():
        field = nt.find("_MMSECTION_FLAGS", name)
        if field is not None and field.bits == 1 and (fields["flags"] or 0) >> field.bit & 1:
            names.append((field.bit, name))
    ptes = size = None
    if fields["segment"]:
        try:
            segment = read_fields(
                target, "_SEGMENT", fields["segment"], {"ptes": "TotalNumberOfPtes", "size": "SizeOfSegment"}
            )
            ptes, size = segment["ptes"], segment["size"]
        except KdumpError:
            pass
    return ControlAreaDetails(
        address,
        fields["segment"],
        fields["flink"],
        fields["blink"],
        fields["sections"],
        fields["pages"],
        fields["views"],
        fields["users"],
        fields["writes"],
        area.file,
        area.name,
        fields["flags"],
        tuple(name for _, name in sorted(names)),
        ptes,
        size,
    )
