"""KDDEBUGGER_DATA64: where the kernel keeps its lists, and a few structure offsets, without any symbol table.

The block carries its own size, and kernels differ in how much of it they have: a field behind the size is absent.
Layout: Windows SDK ``wdbgexts.h``, the same for 32- and 64-bit targets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from volatility3_kdump import tables

ReadMemory = Callable[[int, int], "bytes | None"]

_TYPE = "_KDDEBUGGER_DATA64"
_TAG = b"KDBG"
_SMALLEST = 0x208
_MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class DebuggerData:
    """The decoded block. ``address`` is its virtual address, ``size`` the bytes that its own header claims."""

    address: int
    size: int
    data: bytes

    def __getitem__(self, name: str) -> int | None:
        """A field by its SDK name; ``None`` when this kernel's block is too short to have it, or it is zero."""
        field = tables.structures().field(_TYPE, name)
        if field.offset + field.size > len(self.data):
            return None
        return int.from_bytes(self.data[field.offset : field.offset + field.size], "little") or None

    @property
    def kernel_base(self) -> int | None:
        return self["KernBase"]

    @property
    def paging_levels(self) -> int | None:
        """Levels of the page tables (4 or 5), bits 2 to 5 of PaeEnabled; ``None`` where they are not reported."""
        flags = self["PaeEnabled"] or 0
        return (flags >> 2) & 0xF or None


def read_debugger_data(read: ReadMemory, address: int | None) -> DebuggerData | None:
    """The block at an address, ``None`` when it is not in the dump or still encoded (no ``KDBG`` tag)."""
    if not address:
        return None
    layouts = tables.structures()
    head = read(address, 0x18)
    if head is None:
        return None
    return parse_debugger_data(head, address, lambda size: read(address, min(size, layouts.size_of(_TYPE))))


def parse_debugger_data(head: bytes, address: int, rest: Callable[[int], bytes | None]) -> DebuggerData | None:
    """As :func:`read_debugger_data`, from the first 0x18 bytes and a function that reads so many from the start."""
    row = tables.structures().reader(_TYPE, tag="OwnerTag", size="Size").unpack(head)
    if row.tag.to_bytes(4, "little") != _TAG or not _SMALLEST <= row.size <= 0x1000:
        return None
    data = rest(row.size)
    return None if data is None else DebuggerData(address, row.size, data)


def read_encoded_data(
    read: ReadMemory, address: int | None, symbol: Callable[[str], int | None]
) -> DebuggerData | None:
    """The block of a kernel that keeps it encoded: the keys are variables that ``symbol`` locates.

    ``address`` is that of the block where the dump header has it. ``None`` where the keys are not to be had.
    """
    address = address or symbol("KdDebuggerDataBlock")
    flag, never, always = symbol("KdpDataBlockEncoded"), symbol("KiWaitNever"), symbol("KiWaitAlways")
    if address is None or flag is None or never is None or always is None:
        return None
    keys = [read(place, 8) for place in (never, always)]
    if keys[0] is None or keys[1] is None:
        return None
    first, second = (int.from_bytes(key, "little") for key in (keys[0], keys[1]))
    return decode_debugger_data(read, address, first, second, flag)


def decode_debugger_data(
    read: ReadMemory, address: int, wait_never: int, wait_always: int, encoded_flag: int
) -> DebuggerData | None:
    """A block that the kernel still keeps encoded, as it does unless the system was started with debugging on.

    ``wait_never`` and ``wait_always`` are the values of nt!KiWaitNever and nt!KiWaitAlways, ``encoded_flag`` is the
    address of nt!KdpDataBlockEncoded. ``None`` when the bytes are not in the dump, or decode to no kernel base.
    """
    whole = tables.structures().size_of(_TYPE)
    head = read(address, 0x18)
    if head is None:
        return None
    keys = wait_never, wait_always, encoded_flag
    size = int.from_bytes(_decoded(head, *keys)[0x14:0x18], "little")
    if not _SMALLEST <= size <= 0x1000:
        return None
    data = read(address, min(size, whole) & ~7)
    if data is None:
        return None
    block = _decoded(data, *keys)
    decoded = parse_debugger_data(block[:0x18], address, lambda _: block)
    base = decoded.kernel_base if decoded else None
    return decoded if base and base & 0xFFF == 0 else None


def recover_debugger_data(
    read: ReadMemory, address: int | None, kernel_base: int, pointers: Mapping[str, int]
) -> DebuggerData | None:
    """A block that the kernel keeps encoded, without its keys: found by what must stand in it.

    A qword is encoded by swapping its bytes, turning it by one of 64 amounts, and an exclusive or with a number that is
    the same for the whole block. ``kernel_base`` gives that number for each amount; the tag, the size and ``pointers``,
    fields whose values are known otherwise, say which amount it is. ``None`` where none or several fit, or no pointer
    is known.
    """
    layouts = tables.structures()
    whole = layouts.size_of(_TYPE)
    data = read(address, _SMALLEST) if address and pointers else None
    if address is None or data is None:
        return None
    at = layouts.offset(_TYPE, "KernBase")
    encoded = int.from_bytes(data[at : at + 8], "little")
    known = {**pointers, "KernBase": kernel_base}
    blocks: dict[bytes, DebuggerData] = {}
    for turn in range(64):
        mixed_in = encoded ^ _turned(_swapped(kernel_base & _MASK), -turn)
        start = _plain(data, turn, mixed_in)
        row = layouts.reader(_TYPE, tag="OwnerTag", size="Size").unpack(start[:0x18])
        if row.tag.to_bytes(4, "little") != _TAG or not _SMALLEST <= row.size <= 0x1000:
            continue
        rest = read(address, min(row.size, whole) & ~7)
        if rest is None:
            continue
        block = DebuggerData(address, row.size, _plain(rest, turn, mixed_in))
        if all(block[name] == value & _MASK for name, value in known.items()):
            blocks[block.data] = block
    return next(iter(blocks.values())) if len(blocks) == 1 else None


def _turned(value: int, bits: int) -> int:
    """A qword turned to the left."""
    bits &= 63
    return (value << bits | value >> (64 - bits)) & _MASK


def _swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(8, "little"), "big")


def _plain(data: bytes, turn: int, mixed_in: int) -> bytes:
    words = [_swapped(_turned(word ^ mixed_in, turn)) for (word,) in struct.iter_unpack("<Q", data)]
    return struct.pack(f"<{len(words)}Q", *words)


def _decoded(data: bytes, wait_never: int, wait_always: int, encoded_flag: int) -> bytes:
    """Undo the encoding of each qword: xor, rotate, xor, byte swap, xor."""
    turn = wait_never & 0x3F
    quadwords = [
        _swapped(_turned(word ^ wait_never, turn) ^ encoded_flag) ^ wait_always
        for (word,) in struct.iter_unpack("<Q", data)
    ]
    return struct.pack(f"<{len(quadwords)}Q", *quadwords)
