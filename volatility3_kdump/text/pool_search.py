"""Searches of pool in the words of KD's ``!poolfind``, ``!irpfind`` and ``!poolval``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.io.devices import DeviceObject
from volatility3_kdump.windows.io.requests import Irp
from volatility3_kdump.windows.memory.pool import FREE, UNKNOWN, PoolBlock
from volatility3_kdump.windows.memory.pool_check import PageCheck

_KINDS = {
    "nonpaged": "Nonpaged pool",
    "nonpaged NX": "Nonpaged pool",
    "paged": "Paged pool",
    "session": "Session pool",
    "special": "Special pool",
}


def _range(low: int, high: int, size: int) -> str:
    return f"({pointer(low, size, tick=False)} : {pointer(high & ((1 << 8 * size) - 1), size, tick=False)})"


def table_line(tag: str, number: int, table: tuple[int, int] | None, size: int = 8) -> str:
    """What is read first: the table of big pages."""
    where = _range(*table, size) if table is not None else "(not in the dump)"
    return f"Scanning large pool allocation table for tag {number:#x} ({tag:<4}) {where}"


def area_line(tag: str, number: int, pool: str | None, low: int, high: int, size: int = 8) -> str:
    """What is searched now."""
    what = f"{pool} pool" if pool is not None else "kernel memory"
    return f"Searching {what} {_range(low, high, size)} for tag {number:#x} ({tag:<4})"


def block_line(block: PoolBlock, size: int = 8) -> str:
    """``ffff830da0ce8010 : tag Proc, size     0xb70, Nonpaged pool``."""
    kind = _KINDS.get(block.kind or "", "Pool")
    state = {FREE: ", Free", UNKNOWN: ", state not known"}.get(block.state, "")
    bytes_of_owner = block.end - block.data
    tag = f"{block.tag or '????':<4}"
    return f"{pointer(block.data, size, tick=False)} : tag {tag}, size {f'{bytes_of_owner:#x}':>9}, {kind}{state}"


# !irpfind ---


def irp_header(size: int = 8) -> str:
    width = 2 * size
    stack = f"irpStack: (Mj,Mn)   {'DevObj':<{width}}[Driver]         MDL Process"
    return f"  {'Irp':<{width - 1}}{'[ Thread ]':<{width + 3}}{stack}"


def irp_line(irp: Irp, device: DeviceObject | None, process: int | None, size: int = 8) -> str:
    """``fffffa8019753390 [fffffa801a9f9b50] irpStack: ( 3, 0)  fffffa801a9c9980 [ \\Driver\\mouclass]``."""
    line = f"{pointer(irp.address, size, tick=False)} [{pointer(irp.thread, size, tick=False)}] "
    location, count = irp.current_location, irp.stack_count
    if location is not None and count is not None and location > count:
        line += f"Irp is complete (CurrentLocation {location} > StackCount {count})"
    elif irp.current is None:
        line += "irpStack: (not in the dump)"
    else:
        current = irp.current
        codes = ",".join("??" if code is None else f"{code:2x}" for code in (current.major, current.minor))
        at = "00000000" if current.device == 0 else pointer(current.device, size, tick=False)
        driver = (device.driver.name if device.driver else None) or device.driver_text if device else None
        line += f"irpStack: ({codes})  {at} [ {driver or 'its driver is not in the dump'}]"
    return line + ("" if process is None else f" 0x{pointer(process, size, tick=False)}")


# !poolval ---


def check_lines(check: PageCheck, address: int, region: str, level: int, size: int = 8) -> Iterator[str]:
    """What the headers of a page say of each other; ``level`` 1 lists them, 2 and 3 say more of each."""
    page = pointer(check.page, size, tick=False)
    yield f"Pool page {pointer(address, size, tick=False)} region is {region}"
    yield ""
    yield f"Validating Pool headers for pool page: {pointer(address, size, tick=False)}"
    yield ""
    if check.walk is None:
        yield f"Pool page [ {page} ] cannot be validated: {check.absent}"
        return
    yield f"Pool page [ {page} ] is {'VALID' if check.valid else 'INVALID'}."
    if level >= 1:
        yield ""
        for walked in check.walk.headers:
            header = walked.header
            line = f" {pointer(header.address, size, tick=False)} size: {header.block_size:4x}"
            if level >= 2:
                state = "(Allocated)" if header.allocated else "(Free)"
                line += f" previous size: {header.previous_size:4x} {state:<11} {header.tag or '????'}"
            if level >= 3:
                line += f" PoolType {header.pool_type:x} PoolTag {header.tag_value:08x}"
            yield line
    if check.valid:
        return
    yield ""
    yield "Analyzing linked list..."
    for low, high in check.corrupt:
        yield (
            f"[ {pointer(low, size, tick=False)} --> {pointer(high, size, tick=False)} "
            f"(size = {high - low:#x} bytes)]: Corrupt region"
        )
    if check.walk.problem:
        yield f"NOTE: {check.walk.problem}"
    yield ""
    yield "Scanning for single bit errors..."
    yield ""
    for header_address, bit in check.bits:
        header_at = pointer(header_address, size, tick=False)
        yield f"[ {header_at} ]: bit {bit} of its sizes inverted makes all headers agree"
    if not check.bits:
        yield "None found"
