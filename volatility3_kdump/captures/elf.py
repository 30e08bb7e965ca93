"""ELF core files: of QEMU and libvirt, of VirtualBox, and Xen's, which keeps pages in sections.

Layouts: System V ABI, chapters 4 and 5; Xen: ``docs/misc/dump-core-format.txt``.
"""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple

from volatility3_kdump.captures.capture import Capture, page_map
from volatility3_kdump.captures.hypervisor_cores import virtualbox_processors, xen_processors
from volatility3_kdump.captures.notes import Note, header_in, notes_in, processors_of
from volatility3_kdump.cpu.state import ProcessorState
from volatility3_kdump.dump import Segment, Source
from volatility3_kdump.dump.pagemap import PAGE_SHIFT, RunPageMap
from volatility3_kdump.errors import CorruptDump, UnsupportedDump

MAGIC = b"\x7fELF"
_CLASS_32, _CLASS_64, _LITTLE_ENDIAN = 1, 2, 1
_CORE = 4
_MACHINES = {62: "x86-64", 3: "x86", 183: "AArch64"}
_LOAD, _NOTE = 1, 4
#: e_phnum of a file with more program headers than it can say; section 0 has their number in sh_info.
_MANY = 0xFFFF
#: Program headers that are read at most, and bytes of notes.
_MOST_HEADERS, _MOST_NOTES = 1 << 21, 16 << 20
_MOST_SECTIONS = 1 << 12
_NOT_A_PAGE = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


class _Layout(NamedTuple):
    """What differs between the classes: the header from e_type on, a program header, a section header."""

    header: struct.Struct
    program: struct.Struct
    section: struct.Struct


_LAYOUTS = {
    _CLASS_32: _Layout(struct.Struct("<HHIIIIIHHHHHH"), struct.Struct("<8I"), struct.Struct("<10I")),
    _CLASS_64: _Layout(struct.Struct("<HHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<IIQQQQIIQQ")),
}


class _Section(NamedTuple):
    name: int
    offset: int
    size: int
    info: int
    entry_size: int


def read_elf(source: Source) -> Capture:
    """The memory in an ELF core file.

    Raises :class:`UnsupportedDump` for other ELF files and other processors, :class:`CorruptDump` for one without
    pages.
    """
    identification = source.read(0, 16)
    layout = _LAYOUTS.get(identification[4]) if len(identification) == 16 else None
    if layout is None or identification[5] != _LITTLE_ENDIAN:
        raise UnsupportedDump("this is an ELF file, but not one of a 32- or 64-bit little-endian processor")
    data = source.read(16, layout.header.size)
    if len(data) < layout.header.size:
        raise CorruptDump(f"the file ends at offset {source.size:#x}, inside the ELF header: the copy is truncated")
    kind, machine, _, _, programs, sections, _, _, size, count, section_size, section_count, names = (
        layout.header.unpack(data)
    )
    if kind != _CORE:
        raise UnsupportedDump("this is an ELF file, but no core file (e_type at offset 0x10): no memory is in it")
    if machine not in _MACHINES:
        raise UnsupportedDump(
            f"this is an ELF core file of a machine with e_machine {machine:#x} (at offset 0x12), which is neither "
            "x86 nor ARM64: its page tables cannot be walked here"
        )
    table = _sections(source, layout, sections, section_size, section_count)
    xen = _named(source, table, names)
    if ".xen_pages" in xen:
        return _xen(source, xen)
    if count == _MANY and table:
        count = table[0].info
    headers = _programs(source, layout, programs, size, count)
    ranges = []
    notes: list[Note] = []
    broken: list[str] = []
    for entry in headers:
        kind, offset, address, file_size, memory_size = entry
        if kind == _NOTE:
            notes += notes_in(source.read(offset, min(file_size, _MOST_NOTES)), broken)
        elif kind == _LOAD and file_size:
            ranges.append(Segment(address, offset, min(file_size, memory_size or file_size)))
    states, complaints = processors_of(notes)
    complaints += broken
    if not states:
        states, more = virtualbox_processors(notes)
        complaints += more
    pages = page_map(source, ranges, "segments of the ELF file", complaints)
    owner = "QEMU" if any(note.name == b"QEMU" for note in notes) else ""
    owner = owner or ("VirtualBox" if any(note.name.startswith(b"VB") for note in notes) else "")
    return Capture(
        f"{owner} ELF core file".strip(),
        source,
        pages,
        tuple(states),
        "" if states else "the ELF file has no notes of processors that are understood here",
        header=header_in(notes),
    )


def _programs(
    source: Source, layout: _Layout, offset: int, size: int, count: int
) -> list[tuple[int, int, int, int, int]]:
    """Type, file offset, physical address, bytes in the file, bytes in memory of each program header."""
    if size < layout.program.size or count > _MOST_HEADERS:
        raise CorruptDump(f"the ELF header claims {count:,} program headers of {size} bytes: it is damaged")
    data = source.read(offset, size * count)
    if len(data) < size * count:
        raise CorruptDump(
            f"the file ends at offset {source.size:#x}, inside the {count:,} program headers at {offset:#x}: the copy "
            "is truncated"
        )
    headers = []
    for place in range(0, size * count, size):
        fields = layout.program.unpack_from(data, place)
        if layout.program.size == 32:
            kind, at, _, physical, file_size, memory_size, _, _ = fields
        else:
            kind, _, at, _, physical, file_size, memory_size, _ = fields
        headers.append((kind, at, physical, file_size, memory_size))
    return headers


def _sections(source: Source, layout: _Layout, offset: int, size: int, count: int) -> list[_Section]:
    """The section headers, as far as they lie in the file."""
    if not offset or size < layout.section.size:
        return []
    # A file with many program headers has one section, and may not count it.
    data = source.read(offset, size * min(max(count, 1), _MOST_SECTIONS))
    table = []
    for place in range(0, len(data) - layout.section.size + 1, size):
        name, _, _, _, at, length, _, info, _, entry_size = layout.section.unpack_from(data, place)
        table.append(_Section(name, at, length, info, entry_size))
    return table


def _named(source: Source, table: list[_Section], names: int) -> dict[str, _Section]:
    """The sections by name."""
    if not 0 < names < len(table):
        return {}
    strings = source.read(table[names].offset, min(table[names].size, 1 << 16))
    return {strings[entry.name : entry.name + 32].split(b"\0")[0].decode("latin-1"): entry for entry in table[1:]}


def _xen(source: Source, sections: dict[str, _Section]) -> Capture:
    """Xen's core: page after page in ``.xen_pages``; ``.xen_p2m`` or ``.xen_pfn`` has the page frame of each."""
    pages = sections[".xen_pages"]
    frames_of, step = (".xen_p2m", 2) if ".xen_p2m" in sections else (".xen_pfn", 1)
    if frames_of not in sections:
        raise CorruptDump("Xen's core file has neither .xen_p2m nor .xen_pfn: no page can be located")
    place = sections[frames_of]
    most = min(place.size // (8 * step), pages.size >> PAGE_SHIFT)
    data = source.read(place.offset, most * 8 * step)
    frames = array("Q", data[: len(data) // (8 * step) * 8 * step])[::step]
    ranges: list[Segment] = []
    first = count = start = 0
    for index, frame in enumerate(frames):
        if frame in _NOT_A_PAGE:
            continue
        if count and frame == first + count and index == start + count:
            count += 1
            continue
        if count:
            ranges.append(_stretch(first, pages.offset, start, count))
        first, start, count = frame, index, 1
    if count:
        ranges.append(_stretch(first, pages.offset, start, count))
    warnings = [] if len(frames) == most else [f"{frames_of} is cut short by the end of the file"]
    status = sections.get(".xen_prstatus")
    states: list[ProcessorState] = []
    complaints: list[str] = []
    if status is not None:
        data = source.read(status.offset, min(status.size, _MOST_NOTES))
        states, complaints = xen_processors(data, status.entry_size)
    mapped: RunPageMap = page_map(source, ranges, "pages of Xen's core file", [*warnings, *complaints])
    why = "" if states else "Xen's core file has no registers that are understood here"
    return Capture("Xen core file", source, mapped, tuple(states), why)


def _stretch(frame: int, offset: int, index: int, count: int) -> Segment:
    return Segment(frame << PAGE_SHIFT, offset + (index << PAGE_SHIFT), count << PAGE_SHIFT)
