"""Writes dump files: one writer per dump type, packed from the layout of the format.

Header fields that the kernel does not set keep the fill ``PAGE``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from kdump_sample.physical import PAGE, PhysicalMemory

HEADER_SIZE = 0x2000
FULL, SUMMARY, TRIAGE, BITMAP_FULL, BITMAP_KERNEL = 1, 2, 4, 5, 6
KERNEL_RANGES, KERNEL_AND_USER_RANGES, COMPLETE_RANGES = 8, 9, 10
DUMP_TYPES = (FULL, SUMMARY, TRIAGE, BITMAP_FULL, BITMAP_KERNEL, KERNEL_RANGES, KERNEL_AND_USER_RANGES, COMPLETE_RANGES)

#: Types that leave user-mode pages out.
KERNEL_ONLY = (SUMMARY, BITMAP_KERNEL, KERNEL_RANGES)

_MAXIMUM_RUNS = 42
_BREAKPOINT = 0x80000003


@dataclass(frozen=True)
class Header:
    """Values of DUMP_HEADER64, whatever the type.

    Complete dumps have been seen with the PFN database's address in PfnDataBase, others with the address of the
    variable that points at it: types 1 and 2 are written in the first way, all others in the second.
    """

    build: int
    directory_table_base: int
    pfn_database_pointer: int
    pfn_database: int
    loaded_module_list: int
    active_process_head: int
    processors: int
    code: int
    parameters: tuple[int, int, int, int]
    debugger_data: int
    context: bytes
    exception_address: int
    system_time: int
    uptime: int
    product_type: int
    suite: int


@dataclass(frozen=True)
class Blob:
    """Tagged secondary data."""

    tag: UUID
    data: bytes


@dataclass(frozen=True)
class DriverEntry:
    path: str
    base: int
    size: int
    checksum: int
    timestamp: int


@dataclass(frozen=True)
class UnloadedEntry:
    name: str
    start: int
    end: int


@dataclass(frozen=True)
class TriageContents:
    """What a triage dump copies: addresses and sizes of blobs and blocks, and the driver lists."""

    processor_block: tuple[int, int]
    process: tuple[int, int]
    thread: tuple[int, int]
    stack: tuple[int, int]
    debugger_data: tuple[int, int]
    blocks: Sequence[tuple[int, int]]
    drivers: Sequence[DriverEntry]
    unloaded: Sequence[UnloadedEntry]
    read: Callable[[int, int], bytes]


@dataclass(frozen=True)
class Contents:
    """Everything that a dump file is made of."""

    header: Header
    physical: PhysicalMemory
    triage: TriageContents
    blobs: Sequence[Blob] = field(default_factory=tuple)
    lists_memory: bool = False


def write(path: Path, dump_type: int, contents: Contents) -> None:
    """Write a dump file of one of :data:`DUMP_TYPES`."""
    if dump_type == TRIAGE:
        data = _triage(contents)
        if contents.lists_memory:
            data = _with_runs(data, list(contents.physical.installed))
    else:
        pages = contents.physical.pages
        pfns = sorted(pages if dump_type not in KERNEL_ONLY else pages.keys() - contents.physical.user_pages)
        body = _PAGE_WRITERS[dump_type](contents, pfns)
        data = b"".join((bytes(header(contents, dump_type)), *body))
        if dump_type == FULL:
            data = _with_runs(data, contents.physical.runs(pfns))
        elif dump_type == SUMMARY:
            data = _with_runs(data, list(contents.physical.installed))
    if dump_type != TRIAGE:
        data = data[:0xFA0] + struct.pack("<Q", len(data)) + data[0xFA8:]
    path.write_bytes(data)


def header(contents: Contents, dump_type: int) -> bytearray:
    """DUMP_HEADER64: 0x2000 bytes."""
    facts = contents.header
    old = dump_type in (FULL, SUMMARY)
    pfn_database = facts.pfn_database if old else facts.pfn_database_pointer
    block = bytearray(b"PAGE" * (HEADER_SIZE // 4))
    pack = struct.pack_into
    pack("<4s4sII", block, 0x00, b"PAGE", b"DU64", 0xF, facts.build)
    pack(
        "<QQQQ",
        block,
        0x10,
        facts.directory_table_base,
        pfn_database,
        facts.loaded_module_list,
        facts.active_process_head,
    )
    pack("<III", block, 0x30, 0x8664, facts.processors, facts.code)
    pack("<4Q", block, 0x40, *facts.parameters)
    pack("<Q", block, 0x80, facts.debugger_data)
    block[0x348:0xF00] = facts.context.ljust(3000, b"\0")
    pack("<IIQQI", block, 0xF00, _BREAKPOINT, 1, 0, facts.exception_address, 0)
    pack("<I", block, 0xF98, dump_type)
    pack("<Q", block, 0xFA8, facts.system_time)
    pack("<Q", block, 0x1030, facts.uptime)
    pack("<II", block, 0x1040, facts.product_type, facts.suite)
    pack("<I", block, 0x1048, 0)
    block[0x104D] = 0
    return block


def _with_runs(data: bytes, runs: Sequence[tuple[int, int]]) -> bytes:
    """Put a PHYSICAL_MEMORY_DESCRIPTOR64 into a header."""
    if len(runs) > _MAXIMUM_RUNS:
        raise ValueError(f"{len(runs)} runs do not fit in a dump header")
    descriptor = struct.pack("<IIQ", len(runs), 0x45474150, sum(count for _, count in runs))
    descriptor += b"".join(struct.pack("<QQ", *run) for run in runs)
    return data[:0x88] + descriptor + data[0x88 + len(descriptor) :]


def _pages(contents: Contents, pfns: Iterable[int]) -> bytes:
    pages = contents.physical.pages
    return b"".join(pages[pfn] for pfn in pfns)


def _full(contents: Contents, pfns: Sequence[int]) -> list[bytes]:
    return [_pages(contents, pfns), secondary_data(contents)]


def _bitmap(pfns: Sequence[int], bits: int) -> bytes:
    bitmap = bytearray((bits + 7) // 8)
    for pfn in pfns:
        bitmap[pfn >> 3] |= 1 << (pfn & 7)
    return bytes(bitmap)


def _bitmap_dump(magic: bytes) -> Callable[[Contents, Sequence[int]], list[bytes]]:
    def body(contents: Contents, pfns: Sequence[int]) -> list[bytes]:
        bits = contents.physical.highest_pfn + 1
        bitmap = _bitmap(pfns, bits)
        first = _page_aligned(HEADER_SIZE + 0x38 + len(bitmap))
        start = bytearray(b"PAGE" * 14)
        struct.pack_into("<4s4s", start, 0, magic, b"DUMP")
        struct.pack_into("<QQQ", start, 0x20, first, len(pfns), bits)
        gap = bytes(first - HEADER_SIZE - 0x38 - len(bitmap))
        return [bytes(start), bitmap, gap, _pages(contents, pfns), secondary_data(contents)]

    return body


def _summary(contents: Contents, pfns: Sequence[int]) -> list[bytes]:
    bits = contents.physical.highest_pfn + 1
    length = (bits + 31) // 32 * 4
    bitmap = _bitmap(pfns, bits).ljust(length, b"\0")
    first = _page_aligned(HEADER_SIZE + 0x28 + len(bitmap))
    start = struct.pack("<4s4sIIIIIIQ", b"SDMP", b"DUMP", 1, first, bits, len(pfns), bits, 0, 0xFFFFF88000A00028)
    return [start, bitmap, bytes(first - HEADER_SIZE - 0x28 - len(bitmap)), _pages(contents, pfns)]


def _ranges(contents: Contents, pfns: Sequence[int]) -> list[bytes]:
    runs = contents.physical.runs(pfns)
    metadata = 0x10 + 16 * len(runs)
    start = struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, metadata, 0x2020 + metadata)
    counts = struct.pack("<IIQ", len(runs), 0, len(pfns))
    return [start, counts, b"".join(struct.pack("<QQ", *run) for run in runs), _pages(contents, pfns)]


_PAGE_WRITERS: dict[int, Callable[[Contents, Sequence[int]], list[bytes]]] = {
    FULL: _full,
    SUMMARY: _summary,
    BITMAP_FULL: _bitmap_dump(b"FDMP"),
    BITMAP_KERNEL: _bitmap_dump(b"SDMP"),
    KERNEL_RANGES: _ranges,
    KERNEL_AND_USER_RANGES: _ranges,
    COMPLETE_RANGES: _ranges,
}


def secondary_data(contents: Contents) -> bytes:
    """The ``DumpBlob`` region: file header, then each blob with a header of 0x20 bytes, padded to 8."""
    parts = [struct.pack("<4s4sII", b"Dump", b"Blob", 0x10, 0xF0000000 | contents.header.build)]
    for blob in contents.blobs:
        padding = -len(blob.data) % 8
        parts.append(struct.pack("<I16sIII", 0x20, blob.tag.bytes_le, len(blob.data), 0, padding))
        parts.append(blob.data + bytes(padding))
    return b"".join(parts)


# triage -------------------------------------------------------------------------------------------------------------


def _triage(contents: Contents) -> bytes:
    """Header, MM storage, unloaded drivers, PRCB, EPROCESS, ETHREAD, stack, KDBG, driver list, string pool, block
    table, blocks, padding, marker, tagged data: the order of kernel-written files."""
    triage, read = contents.triage, contents.triage.read
    data = header(contents, TRIAGE) + bytes(0x80)
    offsets: dict[int, int] = {}

    def append(field_offset: int, part: bytes, alignment: int = 8) -> int:
        data.extend(bytes(-len(data) % alignment))
        offsets[field_offset] = len(data)
        data.extend(part)
        return offsets[field_offset]

    append(0x14, struct.pack("<II", 1, 0x50) + bytes(0x48))
    append(0x18, _unloaded(triage.unloaded))
    append(0x1C, read(*triage.processor_block))
    append(0x20, read(*triage.process))
    append(0x24, read(*triage.thread))
    append(0x28, read(*triage.stack))
    offsets[0x2C] = triage.stack[1]
    append(0x70, read(*triage.debugger_data))
    offsets[0x74] = triage.debugger_data[1]
    names = [_dump_string(driver.path) for driver in triage.drivers]
    list_offset = len(data) + -len(data) % 8
    position = list_offset + 0x90 * len(names)
    pool_offset = position
    entries = []
    for driver, name in zip(triage.drivers, names, strict=True):
        entries.append(_driver_entry(driver, position))
        position += len(name)
    append(0x30, b"".join(entries))
    offsets[0x34] = len(entries)
    append(0x38, b"".join(names))
    offsets[0x3C] = position - pool_offset
    offsets[0x44] = 0xFFFFFFFF
    table = len(data) + -len(data) % 8
    block_offset = table + 16 * len(triage.blocks)
    rows, blocks = [], []
    for address, size in triage.blocks:
        rows.append(struct.pack("<QII", address, block_offset, size))
        blocks.append(read(address, size))
        block_offset += size
    append(0x78, b"".join(rows))
    offsets[0x7C] = len(rows)
    data.extend(b"".join(blocks))
    data.extend(bytes(-len(data) % 4 + 12))
    offsets[0x08] = len(data)
    data.extend(b"TRGD")
    offsets[0x04] = len(data)
    offsets.update({0x00: 0, 0x0C: 0x348, 0x10: 0xF00})
    for field_offset, value in offsets.items():
        struct.pack_into("<I", data, HEADER_SIZE + field_offset, value)
    struct.pack_into("<Q", data, HEADER_SIZE + 0x48, triage.stack[0])
    struct.pack_into("<Q", data, 0xFA0, len(data) + 0x40000)
    struct.pack_into("<I", data, 0x1038, 0xCFF)
    return bytes(data) + secondary_data(contents)


def _unloaded(entries: Sequence[UnloadedEntry]) -> bytes:
    parts = [struct.pack("<Q", len(entries))]
    for entry in entries:
        name = entry.name.encode("utf-16-le")[:24]
        parts.append(struct.pack("<HHIQ24sQQ", len(name), len(name), 0, 0, name, entry.start, entry.end))
    return b"".join(parts)


def _dump_string(text: str) -> bytes:
    """Count of UTF-16 units, units, NUL, padding to 8."""
    part = struct.pack("<I", len(text)) + text.encode("utf-16-le") + b"\0\0"
    return part + bytes(-len(part) % 8)


def _driver_entry(driver: DriverEntry, name_offset: int) -> bytes:
    entry = bytearray(0x90)
    struct.pack_into("<I", entry, 0, name_offset)
    struct.pack_into("<Q", entry, 0x38, driver.base)
    struct.pack_into("<I", entry, 0x48, driver.size)
    struct.pack_into("<I", entry, 0x80, driver.checksum)
    struct.pack_into("<I", entry, 0x88, driver.timestamp)
    return bytes(entry)


def _page_aligned(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE
