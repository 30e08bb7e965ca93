"""Pool in the words and columns of KD's ``!poolused`` and ``!pool``.

Lines that KD does not have start with ``NOTE:``; what is only a candidate is called that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.findings.pool_tags import Candidate, TagFile, TagName
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.memory.big_pool import BigPage
from volatility3_kdump.windows.memory.kernel_regions import (
    NONPAGED_POOL,
    PAGED_POOL,
    SESSION,
    SPECIAL_POOL,
    KernelRegion,
)
from volatility3_kdump.windows.memory.pool import ALLOCATED, FREE, PoolBlock, PoolPage, Unplaced
from volatility3_kdump.windows.memory.pool_usage import PoolUsage, TagUse, Use

#: The words of the sort orders.
SORTED = {
    "nonpaged": "Sorting by NonPaged Pool Consumed",
    "paged": "Sorting by Paged Pool Consumed",
    "tag": "Sorting by Tag",
}
_REGIONS = {
    PAGED_POOL: "Paged pool",
    NONPAGED_POOL: "Nonpaged pool",
    SPECIAL_POOL: "Special pool",
    SESSION: "Session pool",
}
_STATES = {ALLOCATED: "(Allocated)", FREE: "(Free)"}
_PROTECTED = 0x80000000
_MOST_NAMED = 3


def tag_text(tag: str | None, value: int | None) -> str:
    """Four columns of a tag; its number where it is not printable, question marks where it is not known."""
    if value is None:
        return "????"
    return f"{tag:<4}" if tag is not None else f"{value:08x}"


# !poolused ------------------------------------------------------------------------------------------------------------


def usage_header(order: str, verbose: bool) -> Iterator[str]:
    yield f" {SORTED[order]}"
    yield ""
    if verbose:
        half = "    Allocs      Frees       Diff         Used"
        yield f"      {'NonPaged':^{len(half)}} {'Paged':^{len(half)}}".rstrip()
        yield f" Tag  {half} {half}"
    else:
        yield "               NonPaged                  Paged"
        yield " Tag     Allocs         Used     Allocs         Used"
    yield ""


def usage_line(use: TagUse, owner: str, verbose: bool) -> str:
    return f" {tag_text(use.tag, use.tag_value)}{_halves(use.nonpaged, use.paged, verbose)}\t{owner}"


def total_line(usage: PoolUsage, verbose: bool) -> str:
    ending = "" if usage.whole else "\tof the rows that could be read"
    return f"TOTAL{_halves(usage.nonpaged, usage.paged, verbose)}{ending}"


def _halves(nonpaged: Use, paged: Use, verbose: bool) -> str:
    if verbose:
        return "".join(
            f" {use.allocs:>10} {use.frees:>10} {use.in_use:>10} {use.bytes:>12}" for use in (nonpaged, paged)
        )
    return f"{nonpaged.in_use:>10}{nonpaged.bytes:>13}{paged.in_use:>11}{paged.bytes:>13}"


def owner(tag: str | None, name: TagName | None, file: TagFile | None, users: Sequence[Candidate]) -> str:
    """Who a tag belongs to: by the user's file as KD has it, and the drivers that have it in their code."""
    parts = []
    if name is not None:
        parts.append(f"{name.description} , Binary: {name.binary or 'unknown'}")
    elif file is not None:
        parts.append(f"UNKNOWN pooltag '{tag or '?'}', please update pooltag.txt")
    if users:
        parts.append(candidates(users))
    return "; ".join(parts)


def candidates(users: Sequence[Candidate]) -> str:
    """``candidates by code: myfault (2), nt (1)``."""
    named = ", ".join(f"{candidate.module.name} ({candidate.count})" for candidate in users[:_MOST_NAMED])
    more = f" and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else ""
    return f"candidates by code: {named}{more}"


def counter_lines(usage: PoolUsage) -> Iterator[str]:
    """What the pools' own counters say beside the totals."""
    for counter in usage.counters:
        use = usage.nonpaged if counter.pool == "nonpaged" else usage.paged
        what = "allocated pages" if counter.pages else "blocks"
        if not usage.whole:
            share = "how many of them have a tag is not known"
        elif 0 <= use.bytes <= counter.bytes:
            share = f"{100 * use.bytes / counter.bytes:.1f}% of them have a tag"
        else:
            share = "the tags do not add up"
        yield f"{counter.pool} pool by {counter.source}: {counter.bytes} bytes of {what}, {share}"
    for line in usage.disagreements:
        yield f"NOTE: disagreement: {line}"


# big pages ------------------------------------------------------------------------------------------------------------


def big_header(size: int = 8) -> str:
    return f" {'Address':<{2 * size}} {'Size':>12} Tag  {'Type':<12} State"


def big_line(big: BigPage, kind: str, owner_text: str, size: int = 8) -> str:
    state = "Allocated" if big.allocated else "Free"
    address = pointer(big.address, size, tick=False)
    return f" {address} {big.size:>12x} {tag_text(big.tag, big.tag_value)} {kind:<12} {state}\t{owner_text}".rstrip()


# !pool ----------------------------------------------------------------------------------------------------------------


def page_header(page: PoolPage, size: int = 8) -> str:
    return f"Pool page {pointer(page.address, size, tick=False)} region is {region_name(page.region)}"


def region_name(region: KernelRegion | None) -> str:
    """KD's name of the region that a page lies in."""
    kind = region.kind if region is not None else None
    return _REGIONS.get(kind or "", f"Unknown ({kind})" if kind else "Unknown")


def block_line(block: PoolBlock, marked: bool, size: int = 8) -> str:
    """A row of ``!pool``; the block that the address lies in is marked."""
    star = "*" if marked else " "
    address = pointer(block.address, size, tick=False)
    protected = " (Protected)" if block.tag_value is not None and block.tag_value & _PROTECTED else ""
    tag = tag_text(block.tag, block.tag_value)
    if block.big:
        state = "" if block.state == ALLOCATED else f", {block.state}"
        return f"{star}{address} : large page allocation, tag is {tag}, size is {block.size:#x} bytes{state}"
    previous = f"{block.previous_size:4x}" if block.previous_size is not None else "   -"
    state = _STATES.get(block.state, "(Unknown)")
    return f"{star}{address} size: {block.size:4x} previous size: {previous}  {state:<12}{star}{tag}{protected}"


def content_lines(rows: Sequence[tuple[int, Sequence[int | None]]], size: int = 8) -> Iterator[str]:
    """The rows of a block's first words in the columns of the documented example, and an empty line."""
    for number, (address, values) in enumerate(rows):
        shown = " ".join("????????" if value is None else f"{value:08x}" for value in values)
        yield f"{' ' if number == 0 else '    '}{pointer(address, size, tick=False)}  {shown}"
    yield ""


def owner_lines(block: PoolBlock, name: TagName | None, users: Sequence[Candidate]) -> Iterator[str]:
    """The second line of a marked block, and what it is known by."""
    if name is not None:
        tag, binary = tag_text(block.tag, block.tag_value), name.binary or "unknown"
        yield f"\t\tPooltag {tag} : {name.description}, Binary : {binary}"
    elif block.tag_value is not None:
        yield "\t\tOwning component : Unknown (update pooltag.txt)"
    if users:
        yield f"\t\t{candidates(users)}"
    kind = f"{block.kind} pool" if block.kind else "pool of unknown kind"
    yield f"\t\t{kind}, known by {block.known_by}"
    if block.problem:
        yield f"\t\tNOTE: {block.problem}"


def unplaced_line(page: PoolPage, unplaced: Unplaced, size: int = 8) -> str:
    return f"{pointer(page.address, size, tick=False)} is in no known block: {unplaced.reason}"
