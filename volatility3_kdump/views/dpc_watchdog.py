"""Rows of ``kdump.dpcwatchdog``: what processors ran while the DPC watchdog sampled them."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import NUMBER, Column, Part, Table
from volatility3_kdump.windows.machine import dpc_watchdog
from volatility3_kdump.windows.machine.dpc_watchdog import Profile, Share

_WATCHDOG = 0x133
#: Places of a module that are shown; samples without symbols are at many addresses.
_MOST_PLACES = 16

_SHARE = Part[Share](
    "",
    keys.PROCESSOR(lambda share: share.processor),
    keys.MODULE(lambda share: share.module),
    keys.SYMBOL(lambda share: share.place, "of a place in the module; the module's name for all of it"),
    keys.ADDRESS(lambda share: share.address),
    keys.COUNT(lambda share: share.count, "of sampled addresses"),
    Column("Percent", NUMBER, "of the addresses sampled on the processor", lambda share: share.percent),
)
DPC_WATCHDOG = Table("kdump.dpcwatchdog", _SHARE)


def block_address(target: Target) -> int:
    """Where the bug check says that the watchdog's block is. Raises :class:`KdumpError` for other bug checks."""
    check = header_bug_check(target)
    if check is None or check.code != _WATCHDOG:
        raise KdumpError(f"{target.name}: only bug check 133 (DPC_WATCHDOG_VIOLATION) names the watchdog's samples")
    address = check.arguments[2 if check.arguments[0].value else 3].value
    if not address:
        raise KdumpError(f"{target.name}: the bug check names no block of the DPC watchdog")
    return address


def watchdog_profiles(target: Target) -> list[Profile]:
    """The samples of each processor. Raises :class:`KdumpError` where there are none."""
    block = dpc_watchdog.triage_block(target, block_address(target))
    sampled = list(dpc_watchdog.profiles(target, block))
    if not sampled:
        raise KdumpError(f"{target.name}: the dump does not hold the samples of the DPC watchdog")
    return sampled


def dpc_watchdog_grid(target: Target) -> KdumpGrid:
    """A row for each module that a processor was in, below it its most sampled places."""
    sampled = watchdog_profiles(target)
    return DPC_WATCHDOG.grid(_rows(target, sampled), lambda: watchdog_lines(target, sampled))


def _rows(target: Target, sampled: list[Profile]) -> Iterator[Row]:
    for profile in sampled:
        places = dpc_watchdog.by_function(target, profile)
        for share in dpc_watchdog.by_module(target, profile):
            yield DPC_WATCHDOG.row(0, {_SHARE: share})
            for place in [place for place in places if place.module == share.module][:_MOST_PLACES]:
                yield DPC_WATCHDOG.row(1, {_SHARE: place})


def watchdog_lines(target: Target, sampled: list[Profile] | None = None) -> Iterator[str]:
    """The lines of ``!dpcwatchdog``: for each processor its modules, the most sampled first, with their places."""
    for profile in watchdog_profiles(target) if sampled is None else sampled:
        held = "" if profile.present >= profile.length else f" ({profile.present:#x} of {profile.length:#x} bytes held)"
        yield f"CPU#{profile.processor}: {profile.total} addresses sampled at {profile.buffer:#x}{held}"
        places = dpc_watchdog.by_function(target, profile)
        for share in dpc_watchdog.by_module(target, profile):
            yield f"  {share.percent:3d} %  {share.count:6d}  {share.place}"
            for place in [place for place in places if place.module == share.module][:_MOST_PLACES]:
                yield f"        {place.count:6d}    {place.place}"
        yield ""
