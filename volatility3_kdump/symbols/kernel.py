"""Which kernel a dump comes from: its base, and the PDB identity that selects a symbol table.

The base comes from KDDEBUGGER_DATA64, the first loaded module, or the triage driver list. Where the dump holds none of
them, the distances between the variables that the header names select a kernel of the shipped index, and with it the
base; as a last resort, the image that holds those variables is looked for page by page below them. The
identity is the RSDS record of the image; where the dump does not hold it, the distances of known variables from the
base select a kernel from the shipped index.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from volatility3_kdump import tables
from volatility3_kdump.dump import CrashDump, MachineFacts
from volatility3_kdump.images.pe import CodeView, PeImage, code_view, parse_headers
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.symbols.kdbg import DebuggerData, read_debugger_data, recover_debugger_data

ReadMemory = Callable[[int, int], "bytes | None"]
PresentRanges = Callable[[int, int], Iterator[tuple[int, int]]]

#: Index keys that KDDEBUGGER_DATA64 carries under the same name.
_INDEXED = ("PsLoadedModuleList", "PsActiveProcessHead", "MmPfnDatabase", "KiProcessorBlock", "MmUnloadedDrivers")
#: Offset of DllBase in KLDR_DATA_TABLE_ENTRY, the same in every Windows: 0x30 (64-bit), 0x18 (32-bit).
_DLL_BASE = {8: 0x30, 4: 0x18}
_BREAKPOINT = 0x80000003
_BY_DISTANCES = "distances between the variables that the header names, as in the kernel index"
_BY_IMAGE = "the image that holds the variables that the header names, looked for below them"
_PAGE_SIZE, _PAGE_MASK = 0x1000, 0xFFF
#: Kernel images have some 16 MB; as many bytes below the variables an image is looked for.
_LARGEST_KERNEL = 32 << 20
#: So many bytes are asked for at once: what a layer looks up without numpy.
_PIECE = 16 * _PAGE_SIZE


@dataclass(frozen=True)
class PdbIdentity:
    """An image's PDB name, GUID (32 upper-case hexadecimal digits) and age, and how they were established."""

    pdb_name: str
    guid: str
    age: int
    known_by: str

    @classmethod
    def of_record(cls, record: CodeView) -> PdbIdentity:
        """The identity that an image's RSDS record gives."""
        return cls(record.pdb_name, record.guid.hex.upper(), record.age, "RSDS record of the image")

    @property
    def identifier(self) -> str:
        """``GUID-AGE``, as Volatility names its symbol files."""
        return f"{self.guid}-{self.age}"

    @property
    def isf_name(self) -> str:
        """Path of the symbol file below a symbol directory, without suffix."""
        return f"{self.pdb_name}/{self.identifier}"


@dataclass(frozen=True)
class Kernel:
    """Where the kernel image lies and what it is.

    ``image`` holds its PE headers, ``None`` when the dump lacks them. ``identity`` is ``None`` when it could not be
    established; ``candidates`` then lists kernels of the index that fit equally well.
    """

    base: int
    base_known_by: str
    image: PeImage | None
    identity: PdbIdentity | None
    candidates: tuple[str, ...] = ()


def find_kernel(
    dump: CrashDump, read: ReadMemory, debugger: DebuggerData | None, ranges: PresentRanges | None = None
) -> Kernel | None:
    """Find and identify the kernel, ``None`` when the dump gives no base for it.

    ``ranges`` gives the parts of a range, as (address, bytes), outside of which nothing can be read.
    """
    for base, known_by in _bases(dump, read, debugger, ranges):
        image = parse_headers(lambda rva, size, base=base: read(base + rva, size))  # type: ignore[misc]
        if image is None and known_by == "first loaded module":
            continue
        identity = _from_image(read, base, image) if image else None
        candidates: tuple[str, ...] = ()
        if identity is None:
            identity, candidates = _from_index(dump, base, debugger)
        return Kernel(base, known_by, image, identity, candidates)
    return None


def _bases(
    dump: CrashDump, read: ReadMemory, debugger: DebuggerData | None, ranges: PresentRanges | None
) -> Iterator[tuple[int, str]]:
    """Where the kernel may lie and how that is known, what is sure first; looked for as far as they are asked for."""
    if isinstance(dump.header, MachineFacts) and dump.header.kernel_base is not None:
        yield dump.header.kernel_base, dump.header.source_of("kernel_base") or ""
        return
    if debugger and debugger.kernel_base:
        yield debugger.kernel_base, "KDDEBUGGER_DATA64.KernBase"
    width = dump.header.pointer_size
    head = dump.header.ps_loaded_module_list
    first = _pointer(read, head, width) if head else None
    base = _pointer(read, first + _DLL_BASE[width], width) if first else None
    if base and base & 0xFFF == 0:
        yield base, "first loaded module"
    if dump.triage is not None:
        if dump.triage.drivers:
            yield dump.triage.drivers[0].base, "first entry of the driver list"
        return
    base = _base_by_distances(dump, read)
    if base is not None:
        yield base, _BY_DISTANCES
    base = _image_below(dump, read, ranges)
    if base is not None:
        yield base, _BY_IMAGE


def _header_pointers(dump: CrashDump) -> dict[str, int]:
    """The kernel's variables that the header names, by their symbols."""
    header = dump.header
    pointers = {
        "PsLoadedModuleList": header.ps_loaded_module_list,
        "PsActiveProcessHead": header.ps_active_process_head,
        "KdDebuggerDataBlock": header.kd_debugger_data_block,
    }
    return {name: address for name, address in pointers.items() if address}


def _base_by_distances(dump: CrashDump, read: ReadMemory) -> int | None:
    """The base of the kernel of the index whose variables lie as far from each other as the header's do.

    ``None`` where no kernel fits, or several whose bases differ.
    """
    pointers = _header_pointers(dump)
    if "PsLoadedModuleList" not in pointers or "PsActiveProcessHead" not in pointers:
        return None
    stopped = _bug_check_routine(dump)
    bases: set[int] = set()
    confirmed: set[int] = set()
    for records in _index().values():
        for record in records:
            rvas = record["rva"]
            if dump.header.machine_type not in (None, record["machine"]):
                continue
            candidates_found = {address - rvas[name] for name, address in pointers.items() if name in rvas}
            if len(candidates_found) != 1 or not {"PsLoadedModuleList", "PsActiveProcessHead"} <= rvas.keys():
                continue
            (base,) = candidates_found
            if base & _PAGE_MASK or base <= 0:
                continue
            bases.add(base)
            if stopped is not None and rvas.get("KeBugCheckEx") == stopped - base:
                confirmed.add(base)
    # What lies at a base is the image, if it is in the dump at all.
    fitting = [base for base in confirmed or bases if read(base, 2) in (None, b"MZ")]
    return fitting[0] if len(fitting) == 1 else None


def _image_below(dump: CrashDump, read: ReadMemory, ranges: PresentRanges | None) -> int | None:
    """The base of the image that holds the variables that the header names: the nearest one below that reaches them.

    Absent pages are left out by the piece: a walk of the page tables for each of them takes a second.
    """
    pointers = sorted(_header_pointers(dump).values())
    if not pointers:
        return None
    lowest = pointers[0] & ~_PAGE_MASK
    for base in _pages_down(lowest, max(0, lowest - _LARGEST_KERNEL), ranges):
        if read(base, 2) != b"MZ":
            continue
        image = parse_headers(lambda rva, size, base=base: read(base + rva, size))  # type: ignore[misc]
        if image is not None and pointers[-1] < base + image.size_of_image:
            return base
    return None


def _pages_down(highest: int, end: int, ranges: PresentRanges | None) -> Iterator[int]:
    """The pages from one down to another, which is left out, without those that are not there."""
    for last in range(highest, end, -_PIECE):
        first = max(end + _PAGE_SIZE, last + _PAGE_SIZE - _PIECE)
        length = last + _PAGE_SIZE - first
        for start, size in reversed([(first, length)] if ranges is None else list(ranges(first, length))):
            yield from range((start + size - 1) & ~_PAGE_MASK, (start & ~_PAGE_MASK) - 1, -_PAGE_SIZE)


def _pointer(read: ReadMemory, address: int, width: int) -> int | None:
    data = read(address, width)
    if data is None:
        return None
    value = int.from_bytes(data, "little")
    return sign_extended(value, width) or None


def _from_image(read: ReadMemory, base: int, image: PeImage) -> PdbIdentity | None:
    record = code_view(lambda rva, size: read(base + rva, size), image)
    if record is None:
        return None
    return PdbIdentity.of_record(record)


@functools.lru_cache(maxsize=1)
def _index() -> dict[tuple[int | None, int | None], list[Mapping[str, Any]]]:
    """The shipped kernel index, by the distances of the module and process list heads from the base."""
    index: dict[tuple[int | None, int | None], list[Mapping[str, Any]]] = {}
    for record in tables.json_lines("kernels.jsonl"):
        rvas = record["rva"]
        index.setdefault((rvas.get("PsLoadedModuleList"), rvas.get("PsActiveProcessHead")), []).append(record)
    return index


def indexed_variables(identity: PdbIdentity) -> Mapping[str, int]:
    """The distances from the base of the variables that the shipped index has of a kernel; empty where it lacks it."""
    for records in _index().values():
        for record in records:
            if record["guid"] == identity.guid and record["age"] == identity.age:
                rvas: Mapping[str, int] = record["rva"]
                return rvas
    return {}


def debugger_without_keys(dump: CrashDump, kernel: Kernel | None, read: ReadMemory) -> DebuggerData | None:
    """KDDEBUGGER_DATA64 without symbols, decoded where the kernel keeps it encoded; ``None`` where it stays so.

    Its place and what must stand in it are the header's, else those of the shipped index of kernels.
    """
    if kernel is None or dump.header.bits != 64:
        return None
    index = indexed_variables(kernel.identity) if kernel.identity is not None else {}
    names = ("PsLoadedModuleList", "PsActiveProcessHead", "KdDebuggerDataBlock")
    variables = {name: kernel.base + index[name] for name in names if name in index} | _header_pointers(dump)
    address = variables.pop("KdDebuggerDataBlock", None)
    return read_debugger_data(read, address) or recover_debugger_data(read, address, kernel.base, variables)


def _bug_check_routine(dump: CrashDump) -> int | None:
    """Address of KeBugCheckEx from the header's exception record, which the kernel makes up as a breakpoint there."""
    layouts = tables.structures()
    type_name = f"_EXCEPTION_RECORD{dump.header.bits}"
    reader = layouts.reader(type_name, code="ExceptionCode", address="ExceptionAddress")
    if not dump.header.exception_record:
        return None
    row = reader.unpack(dump.header.exception_record)
    return row.address if row.code == _BREAKPOINT else None


def variable_distances(dump: CrashDump, base: int, debugger: DebuggerData | None) -> dict[str, int]:
    """The distances from the kernel's base, in bytes, of the variables whose addresses a dump gives."""
    header = dump.header
    distances: dict[str, int] = {}
    for name in _INDEXED:
        address = debugger[name] if debugger else None
        if address:
            distances[name] = address - base
    for name, address in (
        ("PsLoadedModuleList", header.ps_loaded_module_list),
        ("PsActiveProcessHead", header.ps_active_process_head),
        ("KdDebuggerDataBlock", header.kd_debugger_data_block),
    ):
        if address:
            distances.setdefault(name, address - base)
    return distances


def _from_index(
    dump: CrashDump, base: int, debugger: DebuggerData | None
) -> tuple[PdbIdentity | None, tuple[str, ...]]:
    """The kernel whose variables lie where this one's do; several, if the known distances do not tell them apart."""
    header = dump.header
    distances = variable_distances(dump, base, debugger)
    if "PsLoadedModuleList" not in distances or "PsActiveProcessHead" not in distances:
        return None, ()
    fitting = [
        record
        for record in _index().get((distances["PsLoadedModuleList"], distances["PsActiveProcessHead"]), [])
        if header.machine_type in (None, record["machine"])
        and all(record["rva"].get(name, rva) == rva for name, rva in distances.items())
    ]
    stopped = _bug_check_routine(dump)
    if len(fitting) > 1 and stopped is not None:
        # Builds of one source differ in their code more than in their variables.
        fitting = [record for record in fitting if record["rva"].get("KeBugCheckEx") == stopped - base] or fitting
    if len(fitting) != 1:
        return None, tuple(f"{record['pdb']}/{record['guid']}-{record['age']}" for record in fitting)
    record = fitting[0]
    known_by = f"distances of {len(distances)} kernel variables from the base"
    return PdbIdentity(record["pdb"], record["guid"], record["age"], known_by), ()
