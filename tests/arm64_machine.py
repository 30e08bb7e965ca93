"""An ARM64 machine with page tables, laid out as Windows does: the memory of a real small memory dump in its places.

What the dump holds lies at the addresses where it lay. Around it is what such dumps leave out: page tables by the root
and self-map that the dump itself names, the kernel's headers and RSDS record, the list of modules, and the page that
all processes see. The tables are built here from the Arm ARM (D8.3, descriptors of the 4 KB granule); no reader of the
package has a part in them.
"""

from __future__ import annotations

import json
import lzma
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import volatility3_kdump
from kdump_sample import pe
from kdump_sample.memory_images import elf_core
from kdump_sample.physical import PAGE, PhysicalMemory
from tests.archives import packing
from volatility3_kdump import tables
from volatility3_kdump.layout import Layouts
from volatility3_kdump.target import Target
from volatility3_kdump.windows.machine.processors import processors

DUMP = "triage_arm64_22000.dmp"
#: DirectoryTableBase of its header, which KPROCESS, TTBR0_EL1 (with an ASID) and TTBR1_EL1 (800h on) have as well.
ROOT = 0x946AA000
#: TCR_EL1 of its processors: T0SZ and T1SZ are 17, granules of 4 KB.
TCR = 0x95B5513511
KERNEL, KERNEL_SIZE = 0xFFFFF803F2E00000, 0x103E000
KUSER = 0xFFFFF78000000000
SELF_MAP = 0xFFFFA88000000000
GUID = "5D3C9A17E2B84F06A1C07B94D8E65F32"
_BLOCK = 1 << 21
#: Physical memory of such machines begins at 2 GB.
_MEMORY, _KERNEL_FRAME, _FRAMES = 0x80000, 0x80400, 0x20000
_LISTS = 0xFFFFBB8E00000000
_RSDS = 0xFF0000
_ATTRIBUTES = {"kernel": 0x0060_0000_0000_0703, "code": 0x0000_0000_0000_0783, "table": 0x0060_0000_0000_0F03}


@dataclass
class Tables:
    """One page that is the table of both halves, what it leads to, and the page frames that are handed out."""

    memory: PhysicalMemory
    root: int
    following: int = _MEMORY + 0x8000

    def __post_init__(self) -> None:
        self.memory.claim(self.root // PAGE)

    def frame(self) -> int:
        while self.following in self.memory.pages:
            self.following += 1
        self.memory.claim(self.following)
        return self.following

    def entry(self, address: int, level: int) -> tuple[int, int]:
        """The page frame of the table with the entry of an address at a level (3: of pages), and the entry's place."""
        table = self.root // PAGE
        for above in range(level):
            place = (address >> 39 - 9 * above & 0x1FF) * 8
            page = self.memory.pages[table]
            (value,) = struct.unpack_from("<Q", page, place)
            if not value & 1:
                value = self.frame() << 12 | _ATTRIBUTES["table"]
                struct.pack_into("<Q", page, place, value)
            assert value & 3 == 3, "a block is in the way"
            table = (value & 0x0000FFFFFFFFF000) >> 12
        return table, (address >> 39 - 9 * level & 0x1FF) * 8

    def set(self, address: int, level: int, value: int) -> None:
        table, place = self.entry(address, level)
        struct.pack_into("<Q", self.memory.pages[table], place, value)

    def map(self, address: int, frame: int, kind: str = "kernel") -> None:
        self.set(address, 3, frame << 12 | _ATTRIBUTES[kind])

    def map_block(self, address: int, frame: int) -> None:
        self.set(address, 2, frame << 12 | _ATTRIBUTES["code"] & ~2)


@dataclass
class Machine:
    """Physical memory, page tables, and where each page of the small dump went: address to page frame."""

    memory: PhysicalMemory
    tables: Tables
    small: Target
    frames: dict[int, int] = field(default_factory=dict)

    def page(self, address: int) -> bytearray:
        """The page of an address, made where there is none."""
        page = address & -PAGE
        if page not in self.frames:
            if 0 <= page - KERNEL < KERNEL_SIZE:
                frame = _KERNEL_FRAME + (page - KERNEL) // PAGE
                self.memory.claim(frame)
            else:
                frame = self.tables.frame()
                self.tables.map(page, frame)
            self.frames[page] = frame
        return self.memory.pages[self.frames[page]]

    def put(self, address: int, data: bytes) -> None:
        for at in range(0, len(data)):
            if not at or not (address + at) % PAGE:
                size = min(PAGE - (address + at) % PAGE, len(data) - at)
                within = (address + at) % PAGE
                self.page(address + at)[within : within + size] = data[at : at + size]

    def dump(self, path: Path) -> Path:
        """A complete dump (type 5) with the header of the small one."""
        held = flat(self)
        packed = packing.bitmap(sorted(held), max(held) + 1, memory=held)
        block = bytearray(self.small.dump.source.read(0, 0x2000))
        packing.put(block, 64, "DumpType", 5)
        path.write_bytes(bytes(block) + packed[0x2000:])
        return path


def arm64_machine(shared_data: Path) -> Machine:
    """The machine of the small dump."""
    small = volatility3_kdump.open(shared_data / "dumps" / DUMP)
    memory = PhysicalMemory({}, [(_MEMORY, _FRAMES)])
    made = Machine(memory, Tables(memory, ROOT), small)
    for block in range(0, KERNEL_SIZE, _BLOCK):
        made.tables.map_block(KERNEL + block, _KERNEL_FRAME + block // PAGE)
    for address, size in small.memory.ranges(0, 1 << 64):
        data = small.memory.read(address, size)
        assert data is not None
        # The map of page tables is that of the tables made here.
        if not SELF_MAP <= address < SELF_MAP + (1 << 39):
            made.put(address, data)
    _kernel_headers(made)
    _shared_data(made)
    _modules(made)
    debugger = small.dump.triage.debugger_data if small.dump.triage is not None else None
    assert debugger is not None
    made.put(small.header.kd_debugger_data_block or 0, small.dump.source.read(debugger.offset, debugger.size))
    made.tables.set(SELF_MAP, 0, ROOT | _ATTRIBUTES["table"])
    return made


def _kernel_headers(made: Machine) -> None:
    """The first page of the kernel, and its RSDS record."""
    (kernel, *_) = made.small.modules
    sections = [pe.Section(".rdata", _RSDS, 0x1000, pe.READ_ONLY)]
    image = pe.Image("ntoskrnl.exe", KERNEL, KERNEL_SIZE, kernel.timestamp or 0, 0, sections)
    image.codeview, image.debug_rva = pe.Codeview("ntkrnlmp.pdb", GUID, 1), _RSDS
    for rva, data in pe.build(image).items():
        made.page(KERNEL + rva)[: len(data)] = data
    headers = made.page(KERNEL)
    (start,) = struct.unpack_from("<I", headers, 0x3C)
    struct.pack_into("<H", headers, start + 4, 0xAA64)
    # The exception directory, which no such dump holds.
    struct.pack_into("<II", headers, start + 0x18 + 0x70 + 8 * 3, 0xE00000, 0x10000)


def _shared_data(made: Machine) -> None:
    layouts = tables.structures()
    values = {
        "NtMajorVersion": 10,
        "NtBuildNumber": 0xF0000000 | 22000,
        "ActiveProcessorCount": made.small.header.number_processors or 0,
        "NtProductType": 1,
        "ProductTypeIsValid": 1,
        "TickCount": 51000,
    }
    page = made.page(KUSER)
    for name, value in values.items():
        place = layouts.field("_KUSER_SHARED_DATA", name)
        page[place.offset : place.offset + place.size] = value.to_bytes(place.size, "little")


def _modules(made: Machine) -> None:
    """The list of loaded modules, with what the dump's driver list says."""
    nt = made.small.nt
    head = made.small.header.ps_loaded_module_list
    assert nt is not None and head is not None
    entries = {f"{_LISTS + 0x200 * index:#x}": driver for index, driver in enumerate(made.small.modules)}
    addresses = [int(address, 16) for address in entries]
    made.put(head, struct.pack("<QQ", addresses[0], addresses[-1]))
    for index, (address, driver) in enumerate(zip(addresses, entries.values(), strict=True)):
        following = addresses[index + 1] if index + 1 < len(addresses) else head
        made.put(address, struct.pack("<QQ", following, addresses[index - 1] if index else head))
        for name, value in {
            "DllBase": driver.base,
            "SizeOfImage": driver.size,
            "TimeDateStamp": driver.timestamp,
            "CheckSum": driver.checksum,
        }.items():
            _set(made, nt, address, name, value or 0)
        path = driver.path or driver.name
        for name, text in {"BaseDllName": path.rpartition("\\")[2], "FullDllName": path}.items():
            data = text.encode("utf-16-le")
            at = _LISTS + 0x100000 + 0x200 * (2 * index + (name == "BaseDllName"))
            made.put(at, data + b"\0\0")
            _set(made, nt, address, f"{name}.Length", len(data))
            _set(made, nt, address, f"{name}.MaximumLength", len(data) + 2)
            _set(made, nt, address, f"{name}.Buffer", at)


def _set(made: Machine, nt: Layouts, address: int, path: str, value: int) -> None:
    place = nt.field("_LDR_DATA_TABLE_ENTRY", path)
    made.put(address + place.offset, value.to_bytes(place.size, "little"))


def flat(made: Machine) -> Mapping[int, bytes]:
    """Pages by page frame."""
    return {frame: bytes(page) for frame, page in made.memory.pages.items()}


# images ---------------------------------------------------------------------------------------------------------------

#: The kernel's variables by KDDEBUGGER_DATA64 of the dump, which stand in for its symbols.
_VARIABLES = {
    "PsLoadedModuleList": "PsLoadedModuleList",
    "PsActiveProcessHead": "PsActiveProcessHead",
    "KiProcessorBlock": "KiProcessorBlock",
    "KiBugCheckData": "KiBugCheckData",
    "MmPfnDatabase": "MmPfnDatabase",
}


def symbols(made: Machine, shared_data: Path, directory: Path) -> Path:
    """A directory with the table of the made kernel: the types of its generation, and its variables."""
    table = json.loads(lzma.decompress((shared_data / "layouts" / "ntkrnlmp-22000-arm64.json.xz").read_bytes()))
    debugger = made.small.debugger
    assert debugger is not None
    addresses = {name: debugger[field] or 0 for name, field in _VARIABLES.items()}
    addresses["KdDebuggerDataBlock"] = made.small.header.kd_debugger_data_block or 0
    table["symbols"] = {name: {"address": address - KERNEL} for name, address in addresses.items()}
    table["metadata"]["windows"]["pdb"].update(GUID=GUID, age=1)
    place = directory / "ntkrnlmp.pdb" / f"{GUID}-1.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(table))
    return directory


def runs_on(made: Machine) -> None:
    """Have the kernel record no bug check, as a machine that goes on."""
    debugger = made.small.debugger
    assert debugger is not None
    made.put(debugger["KiBugCheckData"] or 0, bytes(40))


def regions(made: Machine) -> dict[int, dict[str, int]]:
    """The registers of each processor that the dump has, by number; Self of their KPCRs is put into memory."""
    states = {}
    for processor in processors(made.small):
        assert processor.prcb is not None and processor.context is not None
        region = processor.prcb - 0x980
        assert processor.context.registers["x18"] == region
        made.put(region + 0x18, region.to_bytes(8, "little"))
        states[processor.number] = dict(processor.context.registers)
    return states


def notes(states: Iterable[Mapping[str, int]]) -> bytes:
    """NT_PRSTATUS and NT_PRFPREG of each processor, as QEMU writes them (``target/arm/arch_dump.c``)."""
    written = b""
    for number, registers in enumerate(states, 1):
        values = [registers[f"x{index}"] for index in range(29)]
        values += [registers[name] for name in ("fp", "lr", "sp", "pc", "cpsr")]
        status = bytes(32) + struct.pack("<I", number) + bytes(76) + struct.pack("<34QII", *values, 1, 0)
        for kind, data in ((1, status), (2, bytes(528))):
            written += struct.pack("<III", 5, len(data), kind) + b"CORE\0\0\0\0" + data
    return written


def elf(made: Machine, path: Path, states: Iterable[Mapping[str, int]] = (), machine: int = 183) -> Path:
    """``dump-guest-memory``: a segment of notes, then one for each stretch of memory."""
    ranges = [
        (first * PAGE, b"".join(bytes(made.memory.pages[frame]) for frame in range(first, first + count)))
        for first, count in made.memory.runs()
    ]
    path.write_bytes(elf_core(notes(states), ranges, machine))
    return path


def kdump(made: Machine, path: Path, states: Iterable[Mapping[str, int]] = ()) -> Path:
    """``dump-guest-memory -z``, not flattened: blocks, and so pages, of 64 KB, as QEMU has them on ARM64."""
    block, memory, noted = 0x10000, made.memory.pages, notes(states)
    frames = sorted({frame >> 4 for frame in memory})
    half = -(-(frames[-1] + 1) // 8 // block)
    bitmap = packing.bits_of(frames, half * block * 8)
    head, sub = bytearray(block), bytearray(block)
    struct.pack_into("<8si", head, 0, b"KDUMP   ", 6)
    struct.pack_into("<IiIII", head, 428, block, 1, 2 * half, frames[-1] + 1, 0)
    struct.pack_into("<QQ", sub, 48, block + 0x100, len(noted))
    struct.pack_into("<Q", sub, 96, frames[-1] + 1)
    sub[0x100 : 0x100 + len(noted)] = noted
    offset = (2 + 2 * half) * block + 24 * len(frames)
    descriptors, body = b"", b""
    for frame in frames:
        packed = zlib.compress(b"".join(bytes(memory.get(frame << 4 | n, bytes(PAGE))) for n in range(16)), 1)
        descriptors += struct.pack("<qIIQ", offset + len(body), len(packed), 1, 0)
        body += packed
    path.write_bytes(bytes(head) + bytes(sub) + bytes(bitmap) * 2 + descriptors + body)
    return path
