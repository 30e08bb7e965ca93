"""Rows of ``kdump.address``: what an address belongs to."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.kernel_space import kernel_space, usage
from volatility3_kdump.findings.regions import Region, place_of
from volatility3_kdump.memory import Memory
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text.regions import region_lines, stretch_lines, usage_lines, usage_word
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


def space_text(target: Target, chosen: str | None, summary: bool, progress: Progress | None = None) -> Iterator[str]:
    """``!address`` over the kernel's address space; ``chosen`` are uses, separated by commas.

    Raises a :class:`KdumpError` for a use that this dump does not have.
    """
    stretches = kernel_space(target, progress)
    if not stretches:
        raise KdumpError(f"{target.name}: nothing in the dump says what the kernel's address space is used for")
    if chosen is not None:
        usages = {usage_word(stretch.kind).lower(): usage_word(stretch.kind) for stretch in stretches}
        wanted = {{"stack": "kernelstack"}.get(word, word) for word in chosen.lower().split(",")}
        unknown = sorted(wanted - usages.keys())
        if unknown:
            raise KdumpError(f"!address -f: {unknown[0]} is not among {', '.join(sorted(usages.values()))}")
        stretches = [stretch for stretch in stretches if usage_word(stretch.kind).lower() in wanted]
    if summary:
        yield from usage_lines(usage(target, stretches))
        return
    for stretch in stretches:
        yield from stretch_lines(stretch, target.memory.pointer_size)
