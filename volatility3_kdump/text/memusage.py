"""Physical memory in the words and columns of KD's ``!memusage``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.findings.page_owners import DRIVER, IMAGE, MAPPED_FILE, PROCESS, SECTION, MemoryUsage, Use

_KILOBYTES = 4


def lines(usage: MemoryUsage, digits: int = 16) -> Iterator[str]:
    """``!memusage``: pages by list, then kilobytes by use. ``digits`` is how long an address is."""
    for page_list in usage.lists:
        if page_list.pages is None:
            yield f"{page_list.name:>19}: {'?':>8}"
        else:
            yield f"{page_list.name:>19}: {page_list.pages:>8} ({page_list.pages * _KILOBYTES:>8} kb)"
    if usage.uses is not None:
        yield ""
        yield "  Usage Summary (in Kb):"
        yield f"{'Control':<{digits}} Valid Standby Dirty Shared Locked PageTables  name"
        for use in usage.uses:
            yield _use(use, digits)
    if usage.problems:
        yield ""
        yield from (f"NOTE: {problem}" for problem in usage.problems)


def _use(use: Use, digits: int) -> str:
    control = "-" * digits if use.control_area is None else f"{use.control_area & (1 << digits * 4) - 1:0{digits}x}"
    numbers = [
        f"{pages * _KILOBYTES:>{width}}"
        for pages, width in (
            (use.valid, 5),
            (use.standby, 6),
            (use.dirty, 5),
            (use.shared, 5),
            (use.locked, 5),
            (use.page_tables, 5),
        )
    ]
    more = [f"{use.transition * _KILOBYTES} Kb in transition"] if use.transition else []
    more += [f"{use.large * _KILOBYTES} Kb in large pages"] if use.large else []
    ending = f" [{', '.join(more)}]" if more else ""
    return f"{control} {' '.join(numbers)}  {_name(use)}{ending}"


def _name(use: Use) -> str:
    if use.kind in (MAPPED_FILE, IMAGE):
        if use.control_area is None:
            return "mapped_file( ? )"
        name = (use.name or "").rpartition("\\")[2] or use.name
        return f"mapped_file( {name} )" if name else "No Name for File"
    if use.kind == SECTION:
        return "Page File Section"
    if use.kind == PROCESS:
        return f"process( {use.name} {use.pid:x} )" if use.name and use.pid is not None else "process( ? )"
    return f"driver( {use.name} )" if use.kind == DRIVER else use.kind
