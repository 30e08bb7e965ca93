"""What an address belongs to, as ``!address`` shows it."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.findings.regions import Region
from volatility3_kdump.text.addresses import pointer


def region_lines(found: Region, contents: str, size: int) -> Iterator[str]:
    """The lines of a region. ``contents`` says whether the dump holds the address, ``size`` is a pointer's in bytes."""
    yield f"Usage:                  {found.text}"
    yield f"VA Type:                {found.kind}"
    yield f"Known by:               {found.source}"
    if found.module is not None:
        yield f"Base Address:           {pointer(found.module.base, size)}"
        yield f"End Address:            {pointer(found.module.end, size)}"
        yield f"Region Size:            {pointer(found.module.size, size)}"
        yield f"Module name:            {found.module.image_name}"
        if found.module.path:
            yield f"Module path:            [{found.module.path}]"
    elif found.unloaded is not None:
        yield f"Base Address:           {pointer(found.unloaded.start, size)}"
        yield f"End Address:            {pointer(found.unloaded.end, size)}"
    yield f"Contents:               {contents}"
