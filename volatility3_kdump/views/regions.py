"""Rows of ``kdump.address``: what an address belongs to."""

from __future__ import annotations

from volatility3_kdump.findings.regions import Region, place_of
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.text.regions import region_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.table import BLANK, TEXT, Column, table


def _start(region: Region) -> object:
    if region.module is not None:
        return region.module.base
    return region.unloaded.start if region.unloaded is not None else BLANK


def _end(region: Region) -> object:
    place = region.module or region.unloaded
    return place.end if place is not None else BLANK


REGIONS = table(
    "kdump.address",
    keys.ADDRESS(),
    Column("Usage", TEXT, "what the address is, in words", lambda region: region.text),
    keys.REGION(lambda region: region.kind),
    keys.KNOWN_BY(lambda region: region.source),
    keys.START(_start, "of the module"),
    keys.END(_end),
    keys.IMAGE(lambda region: region.module.image_name if region.module is not None else BLANK),
    keys.PATH(lambda region: region.module.path if region.module is not None else BLANK),
    keys.SYMBOL(),
    keys.IN_DUMP(),
)


def region_grid(target: Target, address: int, memory: Memory | None = None) -> KdumpGrid:
    """What an address belongs to; ``memory`` is the address space, by default that of the process that crashed."""
    place = place_of(target, address, memory)
    region, symbol = place.region, BLANK if place.symbol is None else place.symbol
    row = REGIONS.row(0, region, Address=address, Symbol=symbol, InDump=place.absent or "yes")
    contents = place.absent or "in the dump"
    return REGIONS.grid([row], lambda: region_lines(region, contents, target.memory.pointer_size))
