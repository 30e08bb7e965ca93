"""A page-frame database: an _MMPFN for every page of the machine's memory.

It follows the page tables as they were made. Pages that these do not map are those of a scene: on the lists of pages,
shared and not mapped at the moment, bad, or free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kdump_sample.memory_counters import write_list_lengths
from kdump_sample.memory_use import MappedFile, PageFrames
from kdump_sample.paging import USER_DATA, USER_READ_ONLY, Mapping
from kdump_sample.physical import PAGE
from kdump_sample.workspace import Workspace
from volatility3_kdump.layout import FieldPath

ZEROED, FREE, STANDBY, MODIFIED, MODIFIED_NO_WRITE, BAD, ACTIVE, TRANSITION = range(8)
_LISTS = {
    "Zeroed": ZEROED,
    "Free": FREE,
    "Standby": STANDBY,
    "Modified": MODIFIED,
    "ModifiedNoWrite": MODIFIED_NO_WRITE,
    "Bad": BAD,
}
#: Software PTEs: read-write without content; in transition; a subsection.
_DEMAND_ZERO, _IN_TRANSITION, _PROTOTYPE = 4 << 5, 1 << 11, 1 << 10
_PROTECTION = 1 << 5
_PAGE_FILE_OFFSET = 0x1F40 << 32
_PTE = 8
_LARGE = 512
_STRIDE_TYPE = "_MMPFN"
#: Regions of a scene by their names in _MI_SYSTEM_VA_TYPE.
_VA_TYPES = {"Session": "SessionSpace", "SystemImages": "DriverImages", "HyperSpace": "ProcessSpace"}


@dataclass
class Frame:
    """A page of the machine. ``owner`` says whose it is: a path, ``section``, a process's directory base, ``kernel``,
    ``table`` or ``none``; ``address`` is what it is mapped at, where it is."""

    pfn: int
    location: int
    owner: str | int = "none"
    address: int = 0
    table: int = 0
    pte: int = 0
    original: int = _DEMAND_ZERO
    references: int = 0
    shares: int = 0
    modified: bool = False
    prototype: bool = False
    deleted: bool = False
    large: bool = False
    awe: bool = False
    page_table: bool = False
    control_area: int = 0
    more: dict[FieldPath, int] = field(default_factory=dict)


class PageFrameDatabase:
    """Makes the database: what it needs of pool at once, the entries when everything else is in memory."""

    def __init__(self, work: Workspace, scene: PageFrames) -> None:
        self._work = work
        self._scene = scene
        self._base = work.scene.pfn_database
        self._stride = work.layouts.size_of(_STRIDE_TYPE)
        self._frames: dict[int, Frame] = {}
        # what a processor maps as a large page is in use, whether the dump has it or not
        taken = {*work.physical.pages, *_large(work.scene.large_page[1]), *_large(scene.large[2])}
        self._free = iter(
            [pfn for first, count in work.scene.memory for pfn in range(first, first + count) if pfn not in taken][::-1]
        )

        directory, address, first = scene.large
        work.memory.map_large(address, first, USER_DATA, directory)
        for mapped in scene.files:
            self._file(mapped)
        self._private(*scene.private)
        self._others()

    def write(self) -> list[Frame]:
        """Write the entries; returns what is in the database, by page frame number."""
        work, scene = self._work, self._scene
        for first, count in work.scene.memory:
            work.memory.write(self._base + first * self._stride, bytes(count * self._stride))
        twice = self._frames.keys() & work.physical.pages.keys()
        if twice:
            raise ValueError(f"page frame {min(twice):#x} is used twice: the scene needs more memory")
        for mapping in work.memory.mappings():
            self._mapped(mapping)
        lists: dict[int, list[int]] = {location: [] for location in range(8)}
        for first, count in work.scene.memory:
            for pfn in range(first, first + count):
                frame = self._frames.get(pfn)
                if frame is None:
                    zeroed = len(lists[ZEROED]) < scene.zeroed
                    frame = self._frames[pfn] = Frame(pfn, ZEROED if zeroed else FREE)
                lists[frame.location].append(pfn)
        for frame in self._frames.values():
            self._entry(frame)
        for location, pfns in lists.items():
            if location not in (ACTIVE, TRANSITION):
                self._link(pfns)
        write_list_lengths(work, {name: len(lists[location]) for name, location in _LISTS.items()})
        return [self._frames[pfn] for pfn in sorted(self._frames)]

    def _take(self, location: int, owner: str | int, **more: object) -> Frame:
        """A page that nothing uses so far."""
        pfn = next(pfn for pfn in self._free if pfn not in self._work.physical.pages)
        frame = self._frames[pfn] = Frame(pfn, location, owner, **more)  # type: ignore[arg-type]
        return frame

    # pages of the scene

    def _file(self, mapped: MappedFile) -> None:
        """A section, its prototype PTEs, and its pages."""
        work = self._work
        counts = (
            *((ACTIVE, False, mapped.mapped), (STANDBY, False, mapped.standby), (MODIFIED, True, mapped.modified)),
            *((MODIFIED_NO_WRITE, True, mapped.modified_no_write), (TRANSITION, False, mapped.transition)),
            (TRANSITION, True, mapped.transition_modified),
        )
        total = sum(count for _, _, count in counts)
        prototypes = work.pool("paged", total * _PTE)
        work.memory.write(prototypes, bytes(total * _PTE))
        area, original = self._section(mapped, prototypes, total)
        index = 0
        for location, modified, count in counts:
            for _ in range(count):
                frame = self._take(location, mapped.path or "section", modified=modified, prototype=True)
                frame.pte, frame.original, frame.control_area = prototypes + index * _PTE, original, area
                frame.references = int(location in (ACTIVE, TRANSITION)) + int(index < mapped.locked)
                frame.shares = len(mapped.processes) if location == ACTIVE else 0
                frame.table = work.memory.translate(frame.pte) or 0
                state = USER_READ_ONLY if location == ACTIVE else _IN_TRANSITION | _PROTECTION
                work.memory.write(frame.pte, (frame.pfn << 12 | state).to_bytes(8, "little"))
                for process in mapped.processes if location == ACTIVE else ():
                    work.memory.map(mapped.address + index * PAGE, frame.pfn, USER_READ_ONLY, process)
                index += 1

    def _section(self, mapped: MappedFile, prototypes: int, total: int) -> tuple[int, int]:
        """Control area, segment and subsection; the address of the first, and the PTE that leads to the last."""
        work = self._work
        subsection, area, segment = (
            work.pool("nonpaged", work.structures.size(name)) for name in ("_SUBSECTION", "_CONTROL_AREA", "_SEGMENT")
        )
        file = 0
        if mapped.path:
            file = work.pool("nonpaged", work.structures.size("_FILE_OBJECT"))
            made = work.structure("_FILE_OBJECT", file, {"Type": 5, "Size": work.structures.size("_FILE_OBJECT")})
            made.unicode("FileName", mapped.path, work.pool("paged", 2 * len(mapped.path) + 2))
        work.zeroed("_CONTROL_AREA", area)
        work.zeroed("_SUBSECTION", subsection)
        made = work.structures.at("_CONTROL_AREA", area)
        made.fill({"Segment": segment, "FilePointer.Value": file | 0xF if file else 0})
        made.fill({"u.Flags.Image": mapped.image, "u.Flags.File": bool(file)})
        work.structure("_SEGMENT", segment, {"ControlArea": area, "TotalNumberOfPtes": total})
        work.structure(
            "_SUBSECTION", subsection, {"ControlArea": area, "SubsectionBase": prototypes, "PtesInSubsection": total}
        )
        leads = (subsection << 16 | _PROTOTYPE | _PROTECTION) & (1 << 64) - 1
        return area, leads if file else _PAGE_FILE_OFFSET | _DEMAND_ZERO

    def _private(self, process: int, address: int, standby: int, modified: int) -> None:
        """Pages of a process that its page tables have as in transition."""
        work = self._work
        for index in range(standby + modified):
            at = address + index * PAGE
            frame = self._take(STANDBY if index < standby else MODIFIED, process, address=at)
            frame.modified = frame.location == MODIFIED
            work.memory.set_entry(at, frame.pfn << 12 | _IN_TRANSITION | _DEMAND_ZERO, process)
            frame.pte, frame.table = self._pte_of(at), self._table_of(at, process)

    def _others(self) -> None:
        scene = self._scene
        for _ in range(scene.bad):
            self._take(BAD, "none")
        for _ in range(scene.cached):
            self._take(ACTIVE, "none")
        awe = self._work.layouts.has(_STRIDE_TYPE, "u4.AweAllocation")
        for _ in range(scene.without_pte):
            self._take(ACTIVE, "awe" if awe else "no pte", references=1, shares=1, awe=awe)
        process, address, _, _ = scene.private
        private, filed = scene.dangling
        for _ in range(private):
            frame = self._take(TRANSITION, process, references=1, deleted=True, modified=True)
            frame.pte, frame.table = self._pte_of(address), self._table_of(address, process)
        example = next(frame for frame in self._frames.values() if frame.prototype and frame.original & _PROTOTYPE)
        for _ in range(filed):
            frame = self._take(TRANSITION, example.owner, references=1, deleted=True, prototype=True)
            frame.pte, frame.table, frame.original = example.pte, example.table, example.original
            frame.control_area = example.control_area

    def _pte_of(self, address: int, level: int = 0) -> int:
        """The address of the entry that maps an address at a level, in the page tables' own mapping."""
        for _ in range(level + 1):
            address = self._work.pte_base + (address >> 12 & (1 << 36) - 1) * _PTE
        return address

    def _table_of(self, address: int, process: int) -> int:
        """The page frame of the page table that has the entry of a user address."""
        for mapping in self._work.memory.mappings():
            if mapping.process == process and mapping.level == 1 and mapping.address == address >> 21 << 21:
                return mapping.pfn
        raise ValueError(f"{address:#x} has no page table")

    # pages that are mapped

    def _mapped(self, mapping: Mapping) -> None:
        top = mapping.level == 4
        table = mapping.level > 0 and not mapping.large
        pte = self._pte_of(self._work.pte_base if top else mapping.address, 3 if top else mapping.level)
        for pfn in _large(mapping.pfn) if mapping.large else (mapping.pfn,):
            entry = self._frames.get(pfn)
            if entry is not None:
                # a file's page; or one that is mapped a second time, as the shared user data is
                entry.shares += int(not entry.prototype)
                continue
            owner = mapping.process or ("table" if table else "kernel")
            frame = self._frames[pfn] = Frame(pfn, ACTIVE, owner, mapping.address, mapping.table, pte)
            frame.references = frame.shares = 1
            frame.modified, frame.large, frame.page_table = True, mapping.large, table
            if not mapping.process and not table:
                frame.more = self._kinds(mapping.address | 0xFFFF << 48)

    def _kinds(self, address: int) -> dict[FieldPath, int]:
        """What old kernels note of a page of the kernel's: the kind of its region, and that it is of a stack."""
        scene, layouts = self._work.scene, self._work.layouts
        fields: dict[FieldPath, int] = {}
        if layouts.has(_STRIDE_TYPE, "VaType"):
            types = {name: value for value, name in layouts.enum("_MI_SYSTEM_VA_TYPE").items()}
            for name, (start, size) in scene.regions.items():
                if start <= address < start + size:
                    fields["VaType"] = types.get(f"MiVa{_VA_TYPES.get(name, name)}", 0)
        if layouts.has(_STRIDE_TYPE, "u3.e1.KernelStack"):
            for process in scene.processes:
                for thread in process.threads:
                    if thread.stack_base - thread.stack_size <= address < thread.stack_base:
                        fields["u3.e1.KernelStack"] = 1
        return fields

    # entries

    def _entry(self, frame: Frame) -> None:
        layouts = self._work.layouts
        made = self._work.structures.at(_STRIDE_TYPE, self._base + frame.pfn * self._stride)
        newer = layouts.has(_STRIDE_TYPE, "u2.DeleteBit")
        made.fill(
            {
                "PteAddress": frame.pte | int(frame.deleted and not newer),
                "OriginalPte.u.Long": frame.original,
                "u2.ShareCount": frame.shares,
                "u3.ReferenceCount": frame.references,
                "u3.e1.PageLocation": frame.location,
                "u3.e1.Modified": frame.modified,
                "u3.e1.CacheAttribute": 1,
                ("u3.e3.Priority", "u3.e1.Priority"): 5,
                "u4.PteFrame": frame.table,
                "u4.PrototypePte": frame.prototype,
                **frame.more,
            }
        )
        if newer:
            made.set("u2.DeleteBit", frame.deleted)
        if layouts.has(_STRIDE_TYPE, "u4.PfnExists"):
            made.set("u4.PfnExists", 1)
        if frame.awe:
            made.set("u4.AweAllocation", 1)

    def _link(self, pfns: list[int]) -> None:
        """The list of page frames: each has the number of the next and of the one before, or all ones."""
        for index, pfn in enumerate(pfns):
            made = self._work.structures.at(_STRIDE_TYPE, self._base + pfn * self._stride)
            last, first = index + 1 == len(pfns), index == 0
            made.set("u1.Flink", -1 if last else pfns[index + 1])
            made.set("u2.Blink", -1 if first else pfns[index - 1])


def _large(first: int) -> range:
    return range(first, first + _LARGE)
