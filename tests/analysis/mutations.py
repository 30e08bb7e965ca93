"""Small memory dumps of 64-bit machines, changed so that they stay plausible: what damage, copying and luck leave.

Each is bytes; nothing is written. Offsets are those of TRIAGE_DUMP64 and DUMP_HEADER64 (:mod:`tests.archives.packing`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.archives import packing

_DRIVER = packing.DRIVER_STRIDE[64]
_CODE, _FIRST = packing.FIELDS_64["BugCheckCode"][0], packing.FIELDS_64["BugCheckParameter1"][0]
_AV = 0xFFFFFFFFC0000005


def other_codes(data: bytes, ip: int, sp: int, thread: int, process: int) -> Iterator[tuple[str, bytes]]:
    """Other bug checks, with arguments of the kinds that they have; what they lead to is not there."""
    for name, code, arguments in (
        ("null read", 0xD1, (0x18, 2, 0, ip)),
        ("write to the stack", 0xD1, (sp, 2, 1, ip)),
        ("not canonical", 0x0A, (0xF000F80000001000, 2, 0, ip)),
        ("fetch of code that is there", 0x50, (ip, 0x11, ip, 2)),
        ("context that is garbage", 0x3B, (0xC0000005, ip, 0x1234567, 0)),
        ("breakpoint", 0x1E, (0xFFFFFFFF80000003, ip, 0, 0)),
        ("records that are stack", 0x7E, (_AV, ip, sp, sp + 0x40)),
        ("trap without arguments", 0x7F, (0, 0, 0, 0)),
        ("double fault", 0x7F, (8, sp, sp, ip)),
        ("watchdog without its block", 0x133, (1, 0x1E00, 0xFFFFF80012345678, 0)),
        ("watchdog's block is stack", 0x133, (0, 0x501, 0x500, sp)),
        ("power IRP that is stack", 0x9F, (3, sp, sp + 0x40, sp + 0x80)),
        ("machine check that is stack", 0x124, (0, sp, 0, 0xB2)),
        ("fast fail", 0x139, (3, sp, sp, 0)),
        ("process", 0xEF, (process or sp, 0, 0, 0)),
        ("process that is none", 0xEF, (0xFFFF800011112222, 0, 0, 0)),
        ("a PTE with one bit", 0x1A, (0x41792, 0xFFFFF68000000008, 0x2000000000, 0)),
        ("display", 0x116, (sp, ip, 0xFFFFFFFFC000009A, 4)),
        ("a stuck thread", 0xEA, (thread or sp, sp, sp, sp)),
        ("cookie", 0xF7, (0x1111, 0x2222, 0xFFFFFFFFFFFFDDDD, 0)),
        ("no public code", 0x0BADC0DE, (1, 2, 3, 4)),
    ):
        changed = bytearray(data)
        struct.pack_into("<I", changed, _CODE, code)
        struct.pack_into("<4Q", changed, _FIRST, *(value & (1 << 64) - 1 for value in arguments))
        yield f"code {code:x}: {name}", bytes(changed)


def other_modules(data: bytes, fault: int, kernel: int) -> Iterator[tuple[str, bytes]]:
    """Lists that lack a module or end early, and sizes that lie."""
    count, start = (packing.get_triage(data, 64, name) for name in ("DriverCount", "DriverListOffset"))
    for what, base in (("fault", fault), ("kernel", kernel)):
        for index in range(count):
            entry = start + index * _DRIVER
            if struct.unpack_from("<Q", data, entry + 0x38)[0] != base:
                continue
            for size in (0, 0x1000, 0xFFFFFFFF):
                changed = bytearray(data)
                struct.pack_into("<I", changed, entry + 0x48, size)
                yield f"module of {what}: size {size:x}", bytes(changed)
            changed = bytearray(data)
            end = start + count * _DRIVER
            changed[entry : end - _DRIVER] = data[entry + _DRIVER : end]
            packing.put_triage(changed, 64, "DriverCount", count - 1)
            yield f"module of {what}: missing", bytes(changed)
    for name, value in (("half", count // 2), ("none", 0), ("too many", 0x7FFFFFFF)):
        changed = bytearray(data)
        packing.put_triage(changed, 64, "DriverCount", value)
        yield f"modules: {name}", bytes(changed)


def other_registers(data: bytes, architecture: str, ip: int, sp: int) -> Iterator[tuple[str, bytes]]:
    context = packing.FIELDS_64["ContextRecord"][0]
    place, stack = (0x108, 0x100) if architecture == "arm64" else (0xF8, 0x98)
    for name, offset, value in (
        ("pc unmapped", place, 0xFFFFF80077777770),
        ("pc in user mode", place, 0x7FF612345678),
        ("pc zero", place, 0),
        ("pc not canonical", place, 0x6FFFF80077777770),
        ("pc one further", place, ip + 1),
        ("sp unmapped", stack, 0xFFFFF80077777778),
        ("sp odd", stack, sp + 3),
        ("sp further up", stack, sp + 0x100),
    ):
        changed = bytearray(data)
        struct.pack_into("<Q", changed, context + offset, value & (1 << 64) - 1)
        yield f"registers: {name}", bytes(changed)


def other_parts(data: bytes, ip: int) -> Iterator[tuple[str, bytes]]:
    """Parts that are absent or fill, code that is absent or has one other bit, and copies that end early."""
    for name in ("PrcbOffset", "ProcessOffset", "ThreadOffset", "CallStackOffset", "DebuggerDataOffset", "MmOffset"):
        changed = bytearray(data)
        packing.put_triage(changed, 64, name, 0)
        yield f"without {name}", bytes(changed)
        start = packing.get_triage(data, 64, name)
        for fill in (b"\0", b"\xff", b"PAGE") if start else ():
            yield f"{name}: {fill!r}", data[:start] + (fill * 0x800)[:0x800] + data[start + 0x800 :]
    changed = bytearray(data)
    packing.put_triage(changed, 64, "DataBlocksCount", 0)
    yield "without blocks", bytes(changed)
    changed = bytearray(data)
    packing.put(changed, 64, "KdDebuggerDataBlock", 0)
    yield "without KdDebuggerDataBlock", bytes(changed)
    table, count = (packing.get_triage(data, 64, name) for name in ("DataBlocksOffset", "DataBlocksCount"))
    absent, flipped = bytearray(data), bytearray(data)
    for index in range(count):
        address, offset, size = struct.unpack_from("<QII", data, table + 16 * index)
        if address <= ip < address + size:
            struct.pack_into("<QII", absent, table + 16 * index, 0x1000, offset, 0)
            flipped[offset + ip - address] ^= 1 << 5
    yield "code absent", bytes(absent)
    yield "code with one other bit", bytes(flipped)
    for end in range(0x10000, len(data), max(0x10000, len(data) // 0x50000 * 0x10000)):
        yield f"cut at {end:x}", data[:end]
