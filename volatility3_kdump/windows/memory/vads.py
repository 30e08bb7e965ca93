"""The virtual address descriptors of a process: which parts of its address space are in use, and what for.

A VAD is an MMVAD_SHORT, or an MMVAD where it maps a section; both begin with the node of a balanced tree that EPROCESS
holds the root of (an MM_AVL_TABLE up to Windows 8, an RTL_AVL_TREE since). Whose file a mapped section shows is said by
Subsection, its ControlArea and that one's FilePointer. Layouts are those of the kernel's symbols; the values of VadType
and Protection have no type of their own there and have not changed since Windows 7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import Layouts, StructReader
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: No tree has more nodes or levels: a balanced one of that many nodes has less than 32.
_MOST_VADS, _MOST_LEVELS = 1 << 20, 64
_PAGE_BITS = 12
_HIGH_VPN_BITS = 32

#: MI_VAD_TYPE by value.
NONE, PHYSICAL, IMAGE, AWE, WRITE_WATCH, LARGE_PAGES, ROTATE, LARGE_PAGE_SECTION = range(8)


@dataclass(frozen=True)
class Section:
    """What a VAD maps. ``file`` is FILE_OBJECT.FileName, without its volume, ``None`` where it is not known.

    ``in_page_file`` says that no file backs it, and ``committed`` is then SEGMENT.NumberOfCommittedPages. ``problem``
    says what could not be read, and why.
    """

    control_area: int | None = None
    in_page_file: bool = False
    committed: int | None = None
    file: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Vad:
    """A virtual address descriptor. ``None`` is what the dump does not hold.

    ``level`` is the distance from the root of the tree; ``first`` and ``last`` are page numbers (virtual addresses in
    units of 4 KB), both in the region. ``commit`` is the charge in pages, -1 where none is kept: the field then holds
    its largest value. ``protection`` is the memory manager's value of 5 bits, ``kind`` one of MI_VAD_TYPE.
    """

    address: int
    level: int
    first: int | None
    last: int | None
    commit: int | None
    kind: int | None
    protection: int | None
    private: bool | None
    section: Section | None = None

    @property
    def start(self) -> int | None:
        """The address of the first byte."""
        return None if self.first is None else self.first << _PAGE_BITS

    @property
    def end(self) -> int | None:
        """The address of the last byte."""
        return None if self.last is None else ((self.last + 1) << _PAGE_BITS) - 1


@dataclass(frozen=True)
class VadTree:
    """The VADs below ``root`` by rising address, and what is wrong with the tree, a line each."""

    root: int
    vads: tuple[Vad, ...]
    problems: tuple[str, ...] = ()


_CHILDREN: dict[str, tuple[str, ...]] = {
    # Windows 8.1 on, Windows 8, Windows 7
    "left": ("VadNode.Left", "VadNode.LeftChild", "LeftChild"),
    "right": ("VadNode.Right", "VadNode.RightChild", "RightChild"),
}
_FIELDS: dict[str, str | tuple[str, ...]] = {
    "first": "StartingVpn",
    "last": "EndingVpn",
    # Windows 8.1: 32 bits of a page number and 8 more, in place of a word
    "first_high": "StartingVpnHigh",
    "last_high": "EndingVpnHigh",
    "commit_high": "CommitChargeHigh",
    # Windows 8: the charge is a word of its own
    "commit": ("u1.VadFlags1.CommitCharge", "u.VadFlags.CommitCharge"),
    "kind": "u.VadFlags.VadType",
    "protection": "u.VadFlags.Protection",
    "private": ("u.VadFlags.PrivateMemory", "u1.VadFlags1.PrivateMemory"),
}


def process_vads(target: Target, process: int) -> VadTree:
    """All VADs of the process at an EPROCESS address.

    Raises :class:`SymbolsNotFound` without the kernel's symbols, and :class:`KdumpError` where the process has none or
    the root of its tree is not in the dump.
    """
    from volatility3_kdump.windows.processes.processes import read_process

    require_symbols(target, "VADs", "_MMVAD_SHORT", "_MMVAD")
    owner = read_process(target, process)
    named = f"process {process:x}" if owner.name is None else f"process {process:x} ({owner.name})"
    if owner.vad_root is None:
        why = target.memory.why_unreadable(process)
        raise KdumpError(f"{target.name}: the VAD root of {named} is not in the dump: {why}")
    if owner.vad_root == 0:
        raise KdumpError(f"{target.name}: {named} has no VADs: its VadRoot is 0")
    tree = read_vads(target, owner.vad_root)
    if owner.vad_count is not None and owner.vad_count != len(tree.vads):
        counted = f"{named} counts {owner.vad_count} VADs, {len(tree.vads)} are in its tree"
        tree = replace(tree, problems=(*tree.problems, counted))
    return tree


def read_vads(target: Target, root: int) -> VadTree:
    """The VAD at an address and those below it in its tree. Errors are those of :func:`process_vads`."""
    nt = require_symbols(target, "VADs", "_MMVAD_SHORT", "_MMVAD")
    if not target.is_kernel_address(root) or root % target.memory.pointer_size:
        raise KdumpError(f"{target.name}: {root:#x} is no VAD: it is not the address of a kernel structure")
    reader = nt.reader("_MMVAD_SHORT", **_CHILDREN)
    if target.memory.read(root, reader.size) is None:
        raise KdumpError(f"{target.name}: the VAD {root:x} is not in the dump: {target.memory.why_unreadable(root)}")
    places, problems = _walk(target, root, reader)
    sections: dict[int, Section] = {}
    vads = tuple(_read(target, nt, address, level, sections) for address, level in places)
    return VadTree(root, vads, (*problems, *_order(vads)))


def _walk(target: Target, root: int, reader: StructReader) -> tuple[list[tuple[int, int]], list[str]]:
    """(address, level) of the nodes from left to right, each once, and what keeps others from being found."""
    memory = target.memory
    placed: list[tuple[int, int]] = []
    problems: list[str] = []
    seen: set[int] = set()
    waiting: list[tuple[int, int, int]] = []
    parent, node, level = 0, root, 0
    while True:
        while node:
            what = None
            if node in seen:
                what = "was there before: the tree is cyclic"
            elif not target.is_kernel_address(node) or node % memory.pointer_size:
                what = "is no kernel structure"
            elif level >= _MOST_LEVELS or len(seen) >= _MOST_VADS:
                what = f"is beyond {_MOST_LEVELS} levels or {_MOST_VADS} nodes: the tree is damaged"
            row: Any = None
            if what is None:
                seen.add(node)
                row = read_row(memory, reader, node)
                if row is None:
                    what = f"is not in the dump: {memory.why_unreadable(node)}"
            if what is not None:
                problems.append(f"{node:#x}, a child of the VAD {parent:x}, {what}; those below it are missing")
                break
            for name in ("left", "right"):
                if getattr(row, name) is None:
                    problems.append(f"the {name} child of the VAD {node:x} is not in the dump")
            waiting.append((node, level, row.right or 0))
            parent, node, level = node, row.left or 0, level + 1
        if not waiting:
            return placed, problems
        parent, level, node = waiting.pop()
        placed.append((parent, level))
        level += 1


def _order(vads: tuple[Vad, ...]) -> list[str]:
    """What contradicts the order of the tree: regions that end before they begin, or lie in one another."""
    problems = []
    before: Vad | None = None
    for vad in vads:
        if vad.first is None or vad.last is None:
            continue
        if vad.last < vad.first:
            problems.append(f"the VAD {vad.address:x} ends before it begins")
        elif before is not None and before.last is not None and vad.first <= before.last:
            problems.append(f"the VAD {vad.address:x} does not begin behind the end of {before.address:x}")
        before = vad
    return problems


def _read(target: Target, nt: Layouts, address: int, level: int, sections: dict[int, Section]) -> Vad:
    reader = nt.reader("_MMVAD_SHORT", **_FIELDS)
    row: Any = read_row(target.memory, reader, address)
    if row is None:
        return Vad(address, level, None, None, None, None, None, None)
    private = None if row.private is None else bool(row.private)
    return Vad(
        address,
        level,
        _page(nt, "StartingVpnHigh", row.first, row.first_high),
        _page(nt, "EndingVpnHigh", row.last, row.last_high),
        _commit(nt, reader, row),
        row.kind,
        row.protection,
        private,
        _section(target, nt, address, sections) if private is False else None,
    )


def _page(nt: Layouts, high_field: str, low: int | None, high: int | None) -> int | None:
    if low is None or not nt.has("_MMVAD_SHORT", high_field):
        return low
    return None if high is None else high << _HIGH_VPN_BITS | low


def _commit(nt: Layouts, reader: StructReader, row: Any) -> int | None:
    field = reader.fields["commit"]
    if field is None or row.commit is None:
        return None
    most = (1 << (field.bits or 8 * field.size)) - 1
    if row.commit == most:
        return -1
    if not nt.has("_MMVAD_SHORT", "CommitChargeHigh"):
        return int(row.commit)
    return None if row.commit_high is None else int(row.commit_high << field.bits | row.commit)


def _section(target: Target, nt: Layouts, vad: int, sections: dict[int, Section]) -> Section | None:
    """What the MMVAD at an address maps; ``None`` where it names no subsection."""
    memory = target.memory
    place = vad + nt.offset("_MMVAD", "Subsection")
    subsection = memory.pointer(place)
    if subsection == 0:
        return None
    if subsection is None:
        return Section(problem=f"its Subsection is not in the dump: {memory.why_unreadable(place)}")
    area, why = _pointer(target, subsection, nt.offset("_SUBSECTION", "ControlArea"), "Subsection")
    if area is None:
        return Section(problem=why)
    if area not in sections:
        sections[area] = _control_area(target, nt, area)
    return sections[area]


def _control_area(target: Target, nt: Layouts, area: int) -> Section:
    reader = nt.reader("_CONTROL_AREA", is_file="u.Flags.File", segment="Segment")
    row: Any = read_row(target.memory, reader, area) if target.is_kernel_address(area) else None
    if row is None or row.is_file is None:
        return Section(area, problem=f"its control area {area:x} {_absence(target, area)}")
    if not row.is_file:
        return _page_file_section(target, nt, area, row.segment)
    file, why = _pointer(target, area, nt.offset("_CONTROL_AREA", "FilePointer"), "control area")
    if file is None:
        return Section(area, problem=why)
    # an EX_FAST_REF: the low bits count references
    file &= ~(0xF if target.memory.pointer_size == 8 else 0x7)
    if not file:
        return Section(area, problem="its control area names no file: FilePointer is 0")
    place = file + nt.offset("_FILE_OBJECT", "FileName")
    name = target.memory.unicode_string(place) if target.is_kernel_address(file) else None
    if name is None:
        absent = _absence(target, file)
        return Section(area, problem=f"the name of its file object {file:x} {absent}")
    return Section(area, file=name) if name else Section(area, problem=f"its file object {file:x} has no name")


def _page_file_section(target: Target, nt: Layouts, area: int, segment: int | None) -> Section:
    field = nt.find("_SEGMENT", "NumberOfCommittedPages")
    committed = None
    if field is not None and segment and target.is_kernel_address(segment):
        committed = target.memory.unsigned(segment + field.offset, field.size)
    problem = None
    if committed is None:
        problem = "its control area names no segment"
        if segment is None:
            problem = f"the segment in its control area {_absence(target, area)}"
        elif segment:
            problem = f"its segment {segment:x} {_absence(target, segment)}"
    return Section(area, in_page_file=True, committed=committed, problem=problem)


def _pointer(target: Target, structure: int, offset: int, what: str) -> tuple[int | None, str | None]:
    """A pointer in a structure, or why there is none."""
    value = target.memory.pointer(structure + offset) if target.is_kernel_address(structure) else None
    return value, None if value is not None else f"its {what} {structure:x} {_absence(target, structure)}"


def _absence(target: Target, address: int) -> str:
    if not target.is_kernel_address(address):
        return "is no kernel structure"
    return f"is not in the dump: {target.memory.why_unreadable(address)}"


def vads_with(target: Target, tree: VadTree, address: int) -> VadTree:
    """The tree reduced to the VADs whose region holds an address. Raises :class:`KdumpError` where none does."""
    vads = tuple(
        vad for vad in tree.vads if vad.start is not None and vad.end is not None and vad.start <= address <= vad.end
    )
    if not vads:
        doubt = f"; {tree.problems[0]}" if tree.problems else ""
        raise KdumpError(f"{target.name}: no VAD of the current process holds {address:x}{doubt}")
    return VadTree(tree.root, vads, tree.problems)
