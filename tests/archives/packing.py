"""Crash dumps packed by hand from the published layouts: no reader or writer of the package has a part in them.

Offsets are those of DUMP_HEADER64, DUMP_HEADER32 and the structures behind them (Windows SDK ``mindumpdef.h``, and what
debuggers write). Every header starts as the ``PAGE`` fill, as the kernel leaves it.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence

PAGE = 0x1000

#: Header field: (offset, struct code); arrays of bytes are (offset, size).
FIELDS_64: dict[str, tuple[int, str]] = {
    "Signature": (0x0, "I"),
    "ValidDump": (0x4, "I"),
    "MajorVersion": (0x8, "I"),
    "MinorVersion": (0xC, "I"),
    "DirectoryTableBase": (0x10, "Q"),
    "PfnDataBase": (0x18, "Q"),
    "PsLoadedModuleList": (0x20, "Q"),
    "PsActiveProcessHead": (0x28, "Q"),
    "MachineImageType": (0x30, "I"),
    "NumberProcessors": (0x34, "I"),
    "BugCheckCode": (0x38, "I"),
    "BugCheckParameter1": (0x40, "Q"),
    "BugCheckParameter2": (0x48, "Q"),
    "BugCheckParameter3": (0x50, "Q"),
    "BugCheckParameter4": (0x58, "Q"),
    "VersionUser": (0x60, "32s"),
    "KdDebuggerDataBlock": (0x80, "Q"),
    "NumberOfRuns": (0x88, "I"),
    "NumberOfPages": (0x90, "Q"),
    "ContextRecord": (0x348, "3000s"),
    "Exception": (0xF00, "152s"),
    "DumpType": (0xF98, "I"),
    "RequiredDumpSpace": (0xFA0, "Q"),
    "SystemTime": (0xFA8, "Q"),
    "Comment": (0xFB0, "128s"),
    "SystemUpTime": (0x1030, "Q"),
    "MiniDumpFields": (0x1038, "I"),
    "SecondaryDataState": (0x103C, "I"),
    "ProductType": (0x1040, "I"),
    "SuiteMask": (0x1044, "I"),
    "WriterStatus": (0x1048, "I"),
    "KdSecondaryVersion": (0x104D, "B"),
    "Attributes": (0x1050, "I"),
    "BootId": (0x1054, "I"),
}
FIELDS_32: dict[str, tuple[int, str]] = {
    "Signature": (0x0, "I"),
    "ValidDump": (0x4, "I"),
    "MajorVersion": (0x8, "I"),
    "MinorVersion": (0xC, "I"),
    "DirectoryTableBase": (0x10, "I"),
    "PfnDataBase": (0x14, "I"),
    "PsLoadedModuleList": (0x18, "I"),
    "PsActiveProcessHead": (0x1C, "I"),
    "MachineImageType": (0x20, "I"),
    "NumberProcessors": (0x24, "I"),
    "BugCheckCode": (0x28, "I"),
    "BugCheckParameter1": (0x2C, "I"),
    "BugCheckParameter2": (0x30, "I"),
    "BugCheckParameter3": (0x34, "I"),
    "BugCheckParameter4": (0x38, "I"),
    "VersionUser": (0x3C, "32s"),
    "PaeEnabled": (0x5C, "B"),
    "KdSecondaryVersion": (0x5D, "B"),
    "KdDebuggerDataBlock": (0x60, "I"),
    "NumberOfRuns": (0x64, "I"),
    "NumberOfPages": (0x68, "I"),
    "ContextRecord": (0x320, "1200s"),
    "Exception": (0x7D0, "80s"),
    "Comment": (0x820, "128s"),
    "Attributes": (0x8A0, "I"),
    "BootId": (0x8A4, "I"),
    "DumpType": (0xF88, "I"),
    "MiniDumpFields": (0xF8C, "I"),
    "SecondaryDataState": (0xF90, "I"),
    "ProductType": (0xF94, "I"),
    "SuiteMask": (0xF98, "I"),
    "WriterStatus": (0xF9C, "I"),
    "RequiredDumpSpace": (0xFA0, "Q"),
    "SystemUpTime": (0xFB8, "Q"),
    "SystemTime": (0xFC0, "Q"),
}
FIELDS = {64: FIELDS_64, 32: FIELDS_32}
HEADER_SIZE = {64: 0x2000, 32: 0x1000}
RUNS = {64: (0x98, "QQ"), 32: (0x6C, "II")}


def fill(size: int) -> bytearray:
    """What the kernel writes before it sets fields."""
    return bytearray((b"PAGE" * (size // 4 + 1))[:size])


def header(bits: int, dump_type: int | None, **values: int | bytes) -> bytearray:
    """A header with the fields that every writer sets, and those given."""
    block = fill(HEADER_SIZE[bits])
    block[4:8] = b"DU64" if bits == 64 else b"DUMP"
    defaults: dict[str, int | bytes] = {
        "MajorVersion": 0xF,
        "MinorVersion": 19041,
        "MachineImageType": 0x8664 if bits == 64 else 0x14C,
        "NumberProcessors": 2,
        "BugCheckCode": 0xD1,
        "BugCheckParameter1": 0x1000,
        "BugCheckParameter2": 2,
        "BugCheckParameter3": 0,
        "BugCheckParameter4": 0,
        "DirectoryTableBase": 0x1AD000,
        "SystemTime": 132584062000000000,
        "SystemUpTime": 37470000,
    }
    if dump_type is not None:
        defaults["DumpType"] = dump_type
    for name, value in {**defaults, **values}.items():
        put(block, bits, name, value)
    return block


def put(block: bytearray, bits: int, name: str, value: int | bytes) -> None:
    """Set a header field, by its published name."""
    offset, code = FIELDS[bits][name]
    struct.pack_into("<" + code, block, offset, value)


def page(pfn: int) -> bytes:
    """The content that page frame ``pfn`` has in every dump made here: no two pages are alike."""
    return struct.pack("<QQ", pfn, ~pfn & (1 << 64) - 1) * (PAGE // 16)


def pages(pfns: Iterable[int], memory: Mapping[int, bytes] | None = None) -> bytes:
    held = memory or {}
    return b"".join(held.get(pfn) or page(pfn) for pfn in pfns)


def runs_of(pfns: Iterable[int]) -> list[tuple[int, int]]:
    """Page frames as (first, count) runs."""
    runs: list[tuple[int, int]] = []
    for pfn in sorted(pfns):
        if runs and sum(runs[-1]) == pfn:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((pfn, 1))
    return runs


def full(
    runs: Sequence[tuple[int, int]], bits: int = 64, memory: Mapping[int, bytes] | None = None, **values: int | bytes
) -> bytearray:
    """DumpType 1: runs in the header, pages packed behind it."""
    block = header(bits, 1, NumberOfRuns=len(runs), NumberOfPages=sum(count for _, count in runs), **values)
    first, code = RUNS[bits]
    for index, run in enumerate(runs):
        struct.pack_into("<" + code, block, first + index * struct.calcsize(code), *run)
    return block + pages((pfn for base, count in runs for pfn in range(base, base + count)), memory)


def bits_of(pfns: Iterable[int], bits: int, padding: int = 0) -> bytearray:
    """A bitmap, least significant bit first; bits behind its end are set if ``padding`` is not zero."""
    bitmap = bytearray((bits + 7) // 8)
    for pfn in pfns:
        bitmap[pfn // 8] |= 1 << pfn % 8
    if padding and bits % 8:
        bitmap[-1] |= 0xFF << bits % 8 & 0xFF
    return bitmap


def bitmap(
    pfns: Sequence[int],
    size: int,
    dump_type: int = 5,
    bits: int = 64,
    first: int | None = None,
    memory: Mapping[int, bytes] | None = None,
    magic: bytes = b"FDMP",
    padding: int = 0,
    declared: int | None = None,
    **values: int | bytes,
) -> bytearray:
    """DumpType 5 or 6: a bitmap of ``size`` page frames at 0x38 behind the header; pages from ``first`` on."""
    block = header(bits, dump_type, **values)
    start = len(block)
    table = bits_of(pfns, size, padding)
    if first is None:
        first = (start + 0x38 + len(table) + PAGE - 1) // PAGE * PAGE
    head = fill(0x38)
    head[0:8] = magic + b"DUMP"
    struct.pack_into("<QQQ", head, 0x20, first, len(pfns) if declared is None else declared, size)
    block += head + table
    return block + bytes(first - len(block)) + pages(sorted(pfns), memory)


def summary(
    pfns: Sequence[int],
    size: int,
    bits: int = 64,
    memory: Mapping[int, bytes] | None = None,
    **values: int | bytes,
) -> bytearray:
    """DumpType 2: 32-bit counts, and a bitmap behind an RTL_BITMAP whose buffer pointer is the live system's."""
    block = header(bits, 2, **values)
    table = bits_of(pfns, size)
    table += bytes(-len(table) % 4)
    width = 0x28 if bits == 64 else 0x20
    first = (len(block) + width + len(table) + PAGE - 1) // PAGE * PAGE
    head = bytearray(width)
    struct.pack_into("<4s4sIIIII", head, 0, b"SDMP", b"DUMP", 1, first, size, len(pfns), size)
    if bits == 64:
        struct.pack_into("<Q", head, 0x20, 0xFFFF9C8123456000)
    else:
        struct.pack_into("<I", head, 0x1C, 0x81234000)
    block += head + table
    return block + bytes(first - len(block)) + pages(sorted(pfns), memory)


def ranges(
    table: Sequence[tuple[int, int]],
    dump_type: int = 8,
    total: int | None = None,
    spare: int = 0,
    memory: Mapping[int, bytes] | None = None,
    **values: int | bytes,
) -> bytearray:
    """DumpType 8, 9 or 0xA: page ranges; ``spare`` entries of zeros end the table."""
    block = header(64, dump_type, **values)
    entries = b"".join(struct.pack("<QQ", *entry) for entry in table) + bytes(16 * spare)
    metadata = 0x10 + len(entries)
    count = sum(pages for _, pages in table) if total is None else total
    block += struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, metadata, 0x2020 + metadata)
    block += struct.pack("<IIQ", len(table), 0, count) + entries
    return block + pages((pfn for base, pages_ in table for pfn in range(base, base + pages_)), memory)


def tagged(blobs: Sequence[tuple[uuid.UUID, bytes, int, int]], header_size: int = 0x20) -> bytes:
    """Tagged secondary data: (GUID, data, padding before, padding behind) of each blob."""
    parts = [struct.pack("<4s4sII", b"Dump", b"Blob", 0x10, 0xF0004A61)]
    for tag, data, before, after in blobs:
        head = struct.pack("<I16sIII", header_size, tag.bytes_le, len(data), before, after)
        parts += [head.ljust(header_size, b"\0"), b"\xaa" * before, data, b"\xbb" * after]
    return b"".join(parts)


#: TRIAGE_DUMP64 and TRIAGE_DUMP32: field and offset from the end of the dump header; pointers are "P".
TRIAGE_64 = {
    "ServicePackBuild": 0x00,
    "SizeOfDump": 0x04,
    "ValidOffset": 0x08,
    "ContextOffset": 0x0C,
    "ExceptionOffset": 0x10,
    "MmOffset": 0x14,
    "UnloadedDriversOffset": 0x18,
    "PrcbOffset": 0x1C,
    "ProcessOffset": 0x20,
    "ThreadOffset": 0x24,
    "CallStackOffset": 0x28,
    "SizeOfCallStack": 0x2C,
    "DriverListOffset": 0x30,
    "DriverCount": 0x34,
    "StringPoolOffset": 0x38,
    "StringPoolSize": 0x3C,
    "BrokenDriverOffset": 0x40,
    "TriageOptions": 0x44,
    "TopOfStack": 0x48,
    "DataPageAddress": 0x60,
    "DataPageOffset": 0x68,
    "DataPageSize": 0x6C,
    "DebuggerDataOffset": 0x70,
    "DebuggerDataSize": 0x74,
    "DataBlocksOffset": 0x78,
    "DataBlocksCount": 0x7C,
}
TRIAGE_32 = {
    **{name: offset for name, offset in TRIAGE_64.items() if offset <= 0x44},
    "TopOfStack": 0x48,
    "DataPageAddress": 0x4C,
    "DataPageOffset": 0x50,
    "DataPageSize": 0x54,
    "DebuggerDataOffset": 0x58,
    "DebuggerDataSize": 0x5C,
    "DataBlocksOffset": 0x60,
    "DataBlocksCount": 0x64,
}
TRIAGE = {64: (TRIAGE_64, 0x80), 32: (TRIAGE_32, 0x68)}
POINTERS = ("TopOfStack", "DataPageAddress")
DRIVER_STRIDE = {64: 0x90, 32: 0x4C}
UNLOADED_STRIDE = {64: 0x38, 32: 0x28}


def put_triage(block: bytearray, bits: int, name: str, value: int) -> None:
    """Set a field of the triage header, by its published name."""
    code = ("<Q" if bits == 64 else "<I") if name in POINTERS else "<I"
    struct.pack_into(code, block, HEADER_SIZE[bits] + TRIAGE[bits][0][name], value)


def get_triage(block: bytes, bits: int, name: str) -> int:
    code = ("<Q" if bits == 64 else "<I") if name in POINTERS else "<I"
    return int(struct.unpack_from(code, block, HEADER_SIZE[bits] + TRIAGE[bits][0][name])[0])


def triage(
    bits: int = 64,
    drivers: Sequence[tuple[str, int, int, int, int]] = (),
    unloaded: Sequence[tuple[str, int, int]] = (),
    blocks: Sequence[tuple[int, bytes]] = (),
    stack: tuple[int, bytes] | None = None,
    debugger_data: bytes = b"",
    copies: Mapping[str, bytes] | None = None,
    broken_driver: str | None = None,
    block_stride: int = 16,
    blobs: bytes = b"",
    **values: int | bytes,
) -> bytearray:
    """DumpType 4, in the order in which the kernel lays it out.

    ``drivers`` are (path, base, size, checksum, timestamp); ``copies`` maps PrcbOffset, ProcessOffset and ThreadOffset
    to bytes; data blocks are (address, bytes) and their table has entries of ``block_stride`` bytes.
    """
    block = header(bits, 4, MiniDumpFields=0xCFF, **values)
    block += bytes(TRIAGE[bits][1])
    width = bits // 8
    put_triage(block, bits, "ContextOffset", FIELDS[bits]["ContextRecord"][0])
    put_triage(block, bits, "ExceptionOffset", FIELDS[bits]["Exception"][0])
    put_triage(block, bits, "TriageOptions", 0xFFFFFFFF)

    def place(name: str, data: bytes) -> int:
        block.extend(bytes(-len(block) % 8))
        put_triage(block, bits, name, len(block))
        offset = len(block)
        block.extend(data)
        return offset

    entries = b""
    for name, start, end in unloaded:
        encoded = name.encode("utf-16-le")[:24]
        entry = bytearray(UNLOADED_STRIDE[bits])
        struct.pack_into("<HH", entry, 0, len(encoded), 24)
        struct.pack_into("<24s", entry, 0x10 if bits == 64 else 8, encoded)
        struct.pack_into("<QQ" if bits == 64 else "<II", entry, 0x28 if bits == 64 else 0x20, start, end)
        entries += entry
    place("UnloadedDriversOffset", len(unloaded).to_bytes(width, "little") + entries)
    for name, data in (copies or {}).items():
        place(name, data)
    if stack:
        place("CallStackOffset", stack[1])
        put_triage(block, bits, "SizeOfCallStack", len(stack[1]))
        put_triage(block, bits, "TopOfStack", stack[0])
    if debugger_data:
        place("DebuggerDataOffset", debugger_data)
        put_triage(block, bits, "DebuggerDataSize", len(debugger_data))
    stride = DRIVER_STRIDE[bits]
    list_offset = place("DriverListOffset", bytes(stride * len(drivers)))
    put_triage(block, bits, "DriverCount", len(drivers))
    pool = place("StringPoolOffset", b"")

    def string(text: str) -> int:
        block.extend(bytes(-len(block) % 8))
        offset = len(block)
        encoded = text.encode("utf-16-le")
        block.extend(struct.pack("<I", len(encoded) // 2) + encoded + b"\0\0")
        return offset

    for index, (path, base, size, checksum, timestamp) in enumerate(drivers):
        entry = list_offset + index * stride
        struct.pack_into("<I", block, entry, string(path))
        if bits == 64:
            struct.pack_into("<QQI", block, entry + 0x38, base, 0, size)
            struct.pack_into("<I", block, entry + 0x80, checksum)
            struct.pack_into("<I", block, entry + 0x88, timestamp)
        else:
            struct.pack_into("<III", block, entry + 0x1C, base, 0, size)
            struct.pack_into("<II", block, entry + 0x44, checksum, timestamp)
    if broken_driver is not None:
        put_triage(block, bits, "BrokenDriverOffset", string(broken_driver))
    put_triage(block, bits, "StringPoolSize", len(block) - pool)
    table = place("DataBlocksOffset", bytes(block_stride * len(blocks)))
    put_triage(block, bits, "DataBlocksCount", len(blocks))
    for index, (address, data) in enumerate(blocks):
        code = "<QII" if block_stride == 16 else "<III"
        struct.pack_into(code, block, table + index * block_stride, address, len(block), len(data))
        block.extend(data)
    block.extend(bytes(-len(block) % 4))
    put_triage(block, bits, "ValidOffset", len(block))
    block += b"TRGD"
    put_triage(block, bits, "SizeOfDump", len(block))
    return block + blobs
