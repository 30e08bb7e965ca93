"""Virtual address descriptors in the words and columns of KD's ``!vad``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.memory.vad_details import VadDetails
from volatility3_kdump.windows.memory.vads import (
    AWE,
    IMAGE,
    LARGE_PAGE_SECTION,
    LARGE_PAGES,
    PHYSICAL,
    ROTATE,
    WRITE_WATCH,
    Section,
    Vad,
    VadTree,
)

_KINDS = {
    PHYSICAL: "Phys",
    IMAGE: "Exe",
    AWE: "AWE",
    WRITE_WATCH: "WrtWatch",
    LARGE_PAGES: "LargePag",
    ROTATE: "Rotate",
    LARGE_PAGE_SECTION: "LargePagSec",
}
#: The access that the low three bits of the memory manager's protection grant.
_ACCESS = (
    "NO_ACCESS",
    "READONLY",
    "EXECUTE",
    "EXECUTE_READ",
    "READWRITE",
    "WRITECOPY",
    "EXECUTE_READWRITE",
    "EXECUTE_WRITECOPY",
)
#: What the two bits above say of pages with access; without access they stand for decommitted pages and the like.
_MODIFIERS = ("", "NOCACHE", "GUARD", "WRITECOMBINE")
_ACCESS_BITS, _GUARD, _DECOMMITTED = 3, 2, 0x10
_PAGE = 4096


def kind_text(kind: int) -> str:
    """``Exe``, ``Phys``; empty for memory of no special kind."""
    return _KINDS.get(kind, "")


def protection_text(value: int | None) -> str:
    """``EXECUTE_WRITECOPY``, ``READWRITE GUARD``; a question mark for an unknown one (``None``)."""
    if value is None:
        return "?"
    if value == _DECOMMITTED:
        return "DECOMMIT"
    access = value & ((1 << _ACCESS_BITS) - 1)
    modifier = _MODIFIERS[value >> _ACCESS_BITS & 3] if access else ""
    return f"{_ACCESS[access]} {modifier}".rstrip()


def vad_lines(tree: VadTree, size: int = 8) -> Iterator[str]:
    """The VADs of a tree, a line each, the sums, and what is wrong with the tree. ``size`` is that of a pointer."""
    width = 2 * size
    yield f"{'VAD':<{width}} Level {'Start':>13} {'End':>13} {'Commit':>8}"
    for vad in tree.vads:
        yield _line(vad, size)
    yield ""
    levels = [vad.level for vad in tree.vads]
    yield (
        f"Total VADs: {len(levels)}, average level: {sum(levels) // len(levels) if levels else 0}, "
        f"maximum depth: {max(levels, default=0)}"
    )
    if tree.problems:
        yield "NOTE: the totals are of the VADs above alone"
    yield _sum("private", [vad.commit for vad in tree.vads if vad.private])
    areas = {
        vad.section.control_area: vad.section.committed
        for vad in tree.vads
        if vad.section is not None and vad.section.in_page_file
    }
    yield _sum("shared", list(areas.values()))
    for problem in tree.problems:
        yield f"NOTE: {problem}"


#: What a detailed VAD is called by its kind.
_MAPS = {
    PHYSICAL: "PhysicalMap",
    IMAGE: "ImageMap",
    AWE: "AWE",
    WRITE_WATCH: "WriteWatch",
    LARGE_PAGES: "LargePages",
    ROTATE: "RotatePhysical",
    LARGE_PAGE_SECTION: "LargePageSection",
}


def detail_lines(details: VadDetails, size: int = 8) -> Iterator[str]:
    """``!vad X 1``: one VAD, without its control area."""
    vad = details.vad
    area = vad.section.control_area if vad.section is not None else None
    yield f"VAD @ {pointer(vad.address, size, tick=False)}"
    control = f"  Control Area:  {pointer(area, size, tick=False)}" if vad.section is not None else ""
    yield f"  Start VPN: {_page(vad.first):>13}  End VPN: {_page(vad.last):>8}{control}"
    charge = "?" if vad.commit is None else f"{vad.commit:x} ({vad.commit}.)" if vad.commit >= 0 else "-1 (-1.)"
    if vad.private:
        yield f"  Commit Charge {charge}"
    else:
        first, last = (pointer(value, size, tick=False) for value in (details.first, details.last))
        yield f"  First ProtoPte: {first}  Last PTE {last}  Commit Charge {charge:>14}"
        yield f"  File Offset   {'?' if details.file_offset is None else f'{details.file_offset:x}'}"
    yield "   " + " ".join(filter(None, _traits(details)))


def _traits(details: VadDetails) -> Iterator[str]:
    vad = details.vad
    yield _MAPS.get(vad.kind or 0, "")
    yield "Private" if vad.private else ""
    yield "" if details.inherited is None else "ViewShare" if details.inherited else "ViewUnmap"
    yield "MemCommit" if details.committed else ""
    yield "NoChange" if details.no_change else ""
    yield protection_text(vad.protection)


def reload_line(vad: Vad, size: int = 8) -> str | None:
    """The command that names the image of a VAD as a module; ``None`` for other memory."""
    section = vad.section
    if vad.kind != IMAGE or vad.start is None or vad.end is None or section is None or not section.file:
        return None
    name = section.file.replace("/", "\\").rpartition("\\")[2]
    return f"Reload command: .reload {name}={pointer(vad.start, size)},{vad.end + 1 - vad.start:x}"


def _sum(what: str, charges: list[int | None]) -> str:
    pages = sum(charge for charge in charges if charge is not None and charge > 0)
    unknown = charges.count(None)
    least = f", without {unknown} that are not in the dump" if unknown else ""
    return f"Total {what} commit: 0x{pages:x} pages ({pages * _PAGE // 1024} KB){least}"


def _line(vad: Vad, size: int) -> str:
    charge = "?" if vad.commit is None else str(vad.commit) if vad.commit < 0 else f"{vad.commit:x}"
    use = "?" if vad.private is None else "Private" if vad.private else "Mapped"
    kind = "?" if vad.kind is None else kind_text(vad.kind)
    columns = (
        f"{pointer(vad.address, size, tick=False)} {vad.level:5} {_page(vad.first):>13} {_page(vad.last):>13} "
        f"{charge:>8} {use:<7} {kind:<11} {protection_text(vad.protection):<18} {_section(vad.section)}"
    )
    return columns.rstrip()


def _page(number: int | None) -> str:
    return "?" if number is None else f"{number:x}"


def _section(section: Section | None) -> str:
    if section is None:
        return ""
    if section.in_page_file:
        committed = f"? [{section.problem}]" if section.committed is None else f"0x{section.committed:x}"
        return f"Pagefile section, shared commit {committed}"
    return section.file if section.file is not None else f"[{section.problem}]"
