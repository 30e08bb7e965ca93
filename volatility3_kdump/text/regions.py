"""What an address belongs to, as ``!address`` shows it."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.findings.regions import Region
from volatility3_kdump.text.addresses import pointer


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
