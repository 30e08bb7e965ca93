"""Sections: what memory that several processes can map belongs to.

A subsection names its control area, this the file that is mapped (``_SUBSECTION.ControlArea``,
``_CONTROL_AREA.FilePointer``, ``_FILE_OBJECT.FileName``). Sections without a file have paging files behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.windows.structures import read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The low bits of an EX_FAST_REF count references.
_REFERENCES = 0xF


@dataclass(frozen=True)
class ControlArea:
    """A section's control area. ``file`` is its FILE_OBJECT, 0 for none; ``name`` the file's path in its volume.

    ``image`` says that the file is mapped as an image. ``None`` is not in the dump.
    """

    address: int
    image: bool | None
    file: int | None
    name: str | None


def control_area_of(target: Target, subsection: int) -> ControlArea | None:
    """The control area of a subsection at an address; ``None`` where it is not in the dump or is none."""
    nt = target.nt
    if nt is None or not target.is_kernel_address(subsection) or subsection % target.memory.pointer_size:
        return None
    row = read_row(target.memory, nt.reader("_SUBSECTION", area="ControlArea"), subsection)
    if row is None or not row.area or not target.is_kernel_address(row.area):
        return None
    return read_control_area(target, row.area)


def read_control_area(target: Target, address: int) -> ControlArea | None:
    """The control area at an address; ``None`` where it is not in the dump, or its segment belongs to another."""
    nt, memory = target.nt, target.memory
    if nt is None:
        return None
    reader = nt.reader("_CONTROL_AREA", segment="Segment", file="FilePointer.Value", image="u.Flags.Image")
    row = read_row(memory, reader, address)
    if row is None:
        return None
    if row.segment and target.is_kernel_address(row.segment):
        owner = memory.pointer(row.segment + nt.offset("_SEGMENT", "ControlArea"))
        if owner is not None and owner != address:
            return None
    file = None if row.file is None else row.file & ~_REFERENCES
    name = None
    if file and target.is_kernel_address(file):
        name = memory.unicode_string(file + nt.offset("_FILE_OBJECT", "FileName"))
    return ControlArea(address, None if row.image is None else bool(row.image), file, name)
