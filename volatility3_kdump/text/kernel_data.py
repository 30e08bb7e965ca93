"""Debug output, the shared page, system PTEs, the file cache and a device's power in the layouts of KD's commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.symbols.shared_data import SharedPage
from volatility3_kdump.text.addresses import plain
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.text.times import TICKS_PER_MILLISECOND, span
from volatility3_kdump.windows.io.device_power import DevicePower
from volatility3_kdump.windows.io.file_cache import VIEW_SIZE, CachedFile, FileCache
from volatility3_kdump.windows.machine.debug_print import DebugPrint
from volatility3_kdump.windows.memory.pte_trackers import PteTracker
from volatility3_kdump.windows.memory.system_ptes import FreeBlock, SystemPtes
from volatility3_kdump.windows.processes.tokens import Token

_PAGE_KILOBYTES = 4


def debug_print_lines(ring: DebugPrint) -> Iterator[str]:
    """``!dbgprint``."""
    yield from ring.lines
    if not ring.lines:
        yield "The buffer of DbgPrint is empty"
    if ring.absent:
        yield f"NOTE: {ring.absent:#x} bytes of the buffer are not in the dump"


def shared_page_lines(page: SharedPage, size: int) -> Iterator[str]:
    """``!kuser``, fields and order as documented."""
    yield f"_KUSER_SHARED_DATA at {plain(page.address, size)}"
    ticks, multiplier = page.ticks, page.multiplier
    if ticks is None or multiplier is None:
        yield "TickCount:    ?"
    else:
        since = span((ticks * multiplier >> 24) * TICKS_PER_MILLISECOND, days=True)
        yield f"TickCount:    {multiplier:x} * {ticks:08x} ({since})"
    yield f"TimeZone Id: {decimal(page.time_zone)}"
    low, high = ("?" if value is None else f"{value:x}" for value in (page.image_low, page.image_high))
    yield f"ImageNumber Range: [{low} .. {high}]"
    yield f"Crypto Exponent: {decimal(page.crypto_exponent)}"
    yield f"SystemRoot: '{'?' if page.system_root is None else page.system_root}'"


def system_pte_lines(kinds: Sequence[SystemPtes]) -> Iterator[str]:
    """``!sysptes``: the counters of each type; the first as KD has it."""
    yield "System PTE Information"
    for ptes in kinds:
        yield f"  Total {'System' if ptes is kinds[0] else ptes.name} Ptes {decimal(ptes.total)}"
        yield f"     free {decimal(ptes.free)}, allocations that failed {decimal(ptes.failures)}"


def free_pte_lines(ptes: SystemPtes, blocks: Sequence[FreeBlock], free: int, count: int, size: int) -> Iterator[str]:
    """``!sysptes 1``: the largest of ``count`` blocks with ``free`` PTEs in all."""
    end = None if ptes.base is None or not ptes.entries else ptes.base + size * (ptes.entries - 1)
    yield ""
    yield f"    starting PTE: {plain(ptes.base, size)}"
    yield f"    ending PTE:   {plain(end, size)}"
    yield ""
    for block in blocks:
        yield f"      free ptes: {plain(block.address, size)}   number free: {block.ptes}."
    if count > len(blocks):
        yield f"      and {count - len(blocks)} smaller blocks"
    largest = max((block.ptes for block in blocks), default=0)
    yield ""
    yield f"  free blocks: {count}   total free: {free}    largest free block: {largest}"


def tracked_pte_lines(trackers: Sequence[PteTracker], problems: Sequence[str], size: int) -> Iterator[str]:
    """``!sysptes 4``: a line for each mapping; no page shows KD's layout."""
    yield ""
    if not trackers and not problems:
        yield "No mapping of locked pages is tracked: Driver Verifier or the registry's TrackPtes asks for it"
        return
    width = 2 * size
    yield f"{'VA':<{width}} {'MDL':<{width}} {'PageCount':>9} {'Length':>8} {'Physical Page':>13}  Caller"
    for tracker in trackers:
        length = "?" if tracker.length is None else f"{tracker.length:x}"
        page = "?" if tracker.page is None else f"{tracker.page:x}"
        places = f"{plain(tracker.system, size)} {plain(tracker.mdl, size)}"
        yield f"{places} {decimal(tracker.ptes):>9} {length:>8} {page:>13}  {tracker.caller or '?'}"
    yield from (f"NOTE: {problem}" for problem in problems)


def file_cache_lines(cache: FileCache, size: int) -> Iterator[str]:
    """``!filecache``: a line for each file."""
    active = cache.vacbs - cache.inactive
    valid = [file.valid for file in cache.files if file.valid is not None]
    yield "***** Dump file cache******"
    yield f"  {cache.inactive} nonactive VACBs, {active} active VACBs of {VIEW_SIZE // 1024} kb"
    yield "File Cache Information"
    yield f"  {len(cache.files)} shared cache maps"
    if len(valid) == len(cache.files):
        yield f"  File cache has {sum(valid)} valid pages"
    yield ""
    yield "  Usage Summary (in Kb):"
    yield f"{'Control':<{2 * size}}   Valid   Dirty   Views  Name"
    for file in cache.files:
        yield _cached(file, size)
    yield from (f"NOTE: {problem}" for problem in cache.problems)


def _cached(file: CachedFile, size: int) -> str:
    numbers = (
        f"{'?' if pages is None else pages * _PAGE_KILOBYTES:>7}"
        for pages in (file.valid, file.dirty, len(file.views) * VIEW_SIZE // 1024 // _PAGE_KILOBYTES)
    )
    name = "?" if file.name is None else file.name.rpartition("\\")[2] or file.name or "  No Name for File"
    return f"{plain(file.control_area, size)} {' '.join(numbers)}  {name}"


def device_power_lines(power: DevicePower, name: str | None, size: int) -> Iterator[str]:
    """``!podev``: no page shows its layout; what it says of the device is that of ``!devobj``."""
    device = power.device
    yield f"Device object ({plain(device.address, size)}) is for:"
    yield f" {name or ''} {device.driver_text or '?'} DriverObject {plain(device.driver_address, size)}"
    yield (
        f"DevExt {plain(device.extension, size)}  DevObjExt {plain(device.more, size)}"
        f"  AttachedDevice (Upper) {plain(device.above, size)}"
    )
    flags = "?" * 8 if power.flags is None else f"{power.flags:08x}"
    system, own = _state("S", power.system_state), _state("D", power.device_state)
    yield f"PowerFlags: {flags}  SystemState={system}  DeviceState={own}"
    idle = power.idle
    if idle is None:
        yield f"Dope: none: {power.why_no_idle}"
        return
    yield f"Dope: {plain(idle.address, size)}"
    yield f"  IdleCount: {decimal(idle.idle)}  BusyCount: {decimal(idle.busy)}"
    yield f"  ConservationIdleTime: {decimal(idle.conservation)} s  PerformanceIdleTime: {decimal(idle.performance)} s"
    yield f"  IdleState: {_state('D', idle.state)}  CurrentState: {_state('D', idle.current)}"


def _state(letter: str, value: int | None) -> str:
    """States count from unspecified: 1 is S0 or D0."""
    return "?" if value is None else f"{letter}{value - 1}" if value else "unspecified"


def token_line(
    process: int, pid: int | None, image: str | None, token: Token | str, also: int | None, size: int
) -> str:
    """A process with its token, or why there is none; ``also`` is an earlier process with the same."""
    cid = "?" if pid is None else f"{pid:04x}"
    start = f"PROCESS {plain(process, size)}  Cid: {cid}  Image: {image or '?'}"
    if isinstance(token, str):
        return f"{start}  Token: ? ({token})"
    user = token.groups.items[0].text if token.groups.items else None
    session = "?" if token.session is None else f"{token.session:x}"
    same = f"  (the token of process {plain(also, size)} too)" if also is not None else ""
    return f"{start}  Token: {plain(token.address, size)}  SessionId: {session}  User: {user or '?'}{same}"
