"""What an address belongs to, as ``!address`` shows it."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.findings.kernel_space import IMAGE, Stretch, Usage
from volatility3_kdump.findings.regions import Region
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.memory.kernel_regions import (
    HYPERSPACE,
    IMAGES,
    NONPAGED_POOL,
    PAGE_TABLES,
    PAGED_POOL,
    PFN_DATABASE,
    SESSION,
    SPECIAL_POOL,
    STACK,
    SYSTEM_CACHE,
    SYSTEM_PTES,
)

#: Words behind KernelSpaceUsage; Image, PFNDatabase and KernelStack are documented, the others made like them.
_USAGES = {
    IMAGE: "Image",
    STACK: "KernelStack",
    PFN_DATABASE: "PFNDatabase",
    NONPAGED_POOL: "NonPagedPool",
    PAGED_POOL: "PagedPool",
    SPECIAL_POOL: "SpecialPool",
    PAGE_TABLES: "PageTables",
    HYPERSPACE: "HyperSpace",
    SYSTEM_CACHE: "SystemCache",
    SESSION: "Session",
    SYSTEM_PTES: "SystemPtes",
    IMAGES: "SystemImages",
}


def usage_word(kind: str) -> str:
    """``PagedPool``: how ``!address`` calls a kind, and how ``-f:`` takes it."""
    return _USAGES.get(kind) or "".join(word[:1].upper() + word[1:] for word in kind.split())


def stretch_lines(stretch: Stretch, size: int) -> Iterator[str]:
    """One range of ``!address``."""
    yield f"  {pointer(stretch.low, size, tick=False)} - {pointer(stretch.size, size, tick=False)}"
    yield f"          Usage       KernelSpaceUsage{usage_word(stretch.kind)}"
    if stretch.name is not None:
        yield f"          ImageName   {stretch.name}"
    if stretch.thread is not None:
        cid = ".".join("?" if value is None else f"{value:x}" for value in (stretch.pid, stretch.tid))
        yield f"          KernelStack {pointer(stretch.thread, size, tick=False)} : {cid}"
    yield ""


def usage_lines(usages: list[Usage]) -> Iterator[str]:
    """``!address -summary`` and ``!vm 20``: bytes of address space and bytes that the dump holds, by use."""
    yield "--- Usage Summary ---------------- RgnCount ---------- Total Size ------------ In dump"
    for usage in usages:
        present = "?" if usage.present is None else _amount(usage.present)
        yield f"{usage_word(usage.kind):<34}{usage.count:>8} {_amount(usage.size):>21} {present:>20}"


def _amount(size: int) -> str:
    for unit, shift in (("TB", 40), ("GB", 30), ("MB", 20)):
        if size >> shift:
            return f"{size / (1 << shift):.3f} {unit}"
    return f"{size / 1024:.3f} kB"


def region_lines(region: Region, contents: str, size: int) -> Iterator[str]:
    """The lines of a region. ``contents`` says whether the dump holds the address, ``size`` is a pointer's in bytes."""
    yield f"Usage:                  {region.text}"
    yield f"VA Type:                {region.kind}"
    yield f"Known by:               {region.source}"
    if region.module is not None:
        yield f"Base Address:           {pointer(region.module.base, size)}"
        yield f"End Address:            {pointer(region.module.end, size)}"
        yield f"Region Size:            {pointer(region.module.size, size)}"
        yield f"Module name:            {region.module.image_name}"
        if region.module.path:
            yield f"Module path:            [{region.module.path}]"
    elif region.unloaded is not None:
        yield f"Base Address:           {pointer(region.unloaded.start, size)}"
        yield f"End Address:            {pointer(region.unloaded.end, size)}"
    yield f"Contents:               {contents}"
