"""Rows of ``kdump.vad``: the regions of a process's address space."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.vads import detail_lines, kind_text, protection_text, reload_line, vad_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.files import control_area_grid
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, FLAG, NUMBER, TEXT, Column, table
from volatility3_kdump.windows.memory.vad_details import vad_details
from volatility3_kdump.windows.memory.vads import Vad, VadTree


def _problem(vad: Vad) -> list[str]:
    return [vad.section.problem] if vad.section is not None and vad.section.problem is not None else []


VADS = table(
    "kdump.vad",
    Column("Vad", ADDRESS, "the MMVAD or MMVAD_SHORT", lambda vad: vad.address),
    Column("Level", NUMBER, "its depth in the tree", lambda vad: vad.level),
    keys.START(lambda vad: vad.start),
    Column("Last", ADDRESS, "its last address", lambda vad: vad.end),
    keys.COMMIT_PAGES(lambda vad: vad.commit),
    Column("Private", FLAG, "private memory; otherwise mapped", lambda vad: vad.private),
    Column(
        "VadKind",
        TEXT,
        "`Phys`, `Exe`, `AWE`, `WrtWatch`, `LargePag`, `Rotate`, `LargePagSec`; null for none of them",
        lambda vad: None if vad.kind is None else kind_text(vad.kind) or BLANK,
    ),
    Column(
        "PageProtection",
        TEXT,
        "`READWRITE`, `EXECUTE_WRITECOPY`, ...",
        lambda vad: None if vad.protection is None else protection_text(vad.protection),
    ),
    Column(
        "MappedFile",
        TEXT,
        "the file that it maps; `paging file` for a section without one",
        lambda vad: BLANK if vad.section is None else "paging file" if vad.section.in_page_file else vad.section.file,
    ),
    keys.CONTROL_AREA(lambda vad: BLANK if vad.section is None else vad.section.control_area),
    keys.NOTES(_problem),
)


def vad_grid(target: Target, tree: VadTree) -> KdumpGrid:
    """The VADs of a tree in the order of their addresses, and what is wrong with it."""

    def rows() -> Iterator[Row]:
        for vad in tree.vads:
            yield VADS.row(0, vad)
        for problem in tree.problems:
            yield VADS.row(0, Notes=[problem])

    return VADS.grid(rows(), lambda: vad_lines(tree, target.memory.pointer_size))


def one_vad_lines(target: Target, vad: Vad) -> Iterator[str]:
    """``!vad X 1``: one VAD in full, its control area, and the command that loads symbols for the image in it."""
    size = target.memory.pointer_size
    yield from detail_lines(vad_details(target, vad), size)
    area = vad.section.control_area if vad.section is not None else None
    if area:
        yield ""
        try:
            yield from control_area_grid(target, area).kd_lines()
        except KdumpError as error:
            yield f"NOTE: {error}"
    command = reload_line(vad, size)
    if command is not None:
        yield ""
        yield command
