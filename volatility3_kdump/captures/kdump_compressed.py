"""Kdump-compressed files, as QEMU's ``dump-guest-memory -z|-l|-s`` and ``virsh dump --format kdump-*`` write them.

Layout: ``diskdump_mod.h`` and ``IMPLEMENTATION`` of makedumpfile; ``include/sysemu/dump.h`` of QEMU. QEMU writes the
flattened form: blocks with their offset in front of each, big-endian.
"""

from __future__ import annotations

import bisect
import struct
from array import array

from volatility3_kdump.captures.blocks import LZO, SNAPPY, STORED, ZLIB, ZSTD, BlockSource, require
from volatility3_kdump.captures.capture import Capture, page_map
from volatility3_kdump.captures.notes import header_in, notes_in, processors_of
from volatility3_kdump.cpu.state import ProcessorState
from volatility3_kdump.dump import Segment, Source
from volatility3_kdump.errors import CorruptDump, UnsupportedDump

MAGIC, FLAT_MAGIC = b"KDUMP   ", b"makedumpfile\0"
_FLAT_HEADER, _FLAT_BLOCK = 0x1000, struct.Struct(">qq")
_PAGE = 0x1000
#: Bytes of a block, which is a page of the file: QEMU takes the largest page of the architecture, 64 KB on ARM64
#: (``page_size`` in its ``target/arm/arch_dump.c``).
_BLOCKS = (0x1000, 0x10000)
#: block_size, sub_hdr_size, bitmap_blocks, max_mapnr: where 64-bit writers have them, and 32-bit ones.
_HEADER, _PLACES = struct.Struct("<IiII"), (428, 416)
_NOTE = struct.Struct("<QQ")
#: offset_note and size_note of kdump_sub_header, and max_mapnr_64.
_NOTE_AT, _FRAMES_AT = 48, 96
_DESCRIPTOR = struct.Struct("<qIIQ")
_METHODS = {0: STORED, 1: ZLIB, 2: LZO, 4: SNAPPY, 0x20: ZSTD}
_MOST_NOTES, _MOST_FRAMES = 16 << 20, 1 << 34
_DESCRIPTORS_AT_ONCE = 1 << 16


def read_kdump(source: Source) -> Capture:
    """The memory in a kdump-compressed file, flattened or not.

    Raises :class:`CorruptDump`, and :class:`UnsupportedContainer` where there is no library for its compression.
    """
    file: Source = source
    warnings: list[str] = []
    if source.read(0, len(FLAT_MAGIC)) == FLAT_MAGIC:
        file = _Flattened(source, warnings)
    head = file.read(0, _PAGE)
    if head[: len(MAGIC)] != MAGIC:
        raise CorruptDump("no kdump header ('KDUMP   ') at its begin: the file is damaged")
    if len(head) < _PAGE:
        raise CorruptDump(f"the file ends at {source.size:#x}, inside the kdump header: the copy is truncated")
    for place in _PLACES:
        block, sub_header, bitmap_blocks, frames = _HEADER.unpack_from(head, place)
        if block in _BLOCKS:
            break
    else:
        raise UnsupportedDump(
            "the kdump header has no block size of 4 or 64 KB: another architecture than x86 and ARM64"
        )
    sub = file.read(block, _PAGE)
    version = int.from_bytes(head[8:12], "little", signed=True)
    if version >= 6 and len(sub) >= _FRAMES_AT + 8 and place == _PLACES[0]:
        frames = int.from_bytes(sub[_FRAMES_AT : _FRAMES_AT + 8], "little") or frames
    states: list[ProcessorState] = []
    complaints: list[str] = []
    header = None
    if version >= 4 and place == _PLACES[0] and len(sub) >= _NOTE_AT + _NOTE.size:
        offset, size = _NOTE.unpack_from(sub, _NOTE_AT)
        broken: list[str] = []
        notes = list(notes_in(file.read(offset, min(size, _MOST_NOTES)), broken))
        states, complaints = processors_of(notes)
        complaints += broken
        header = header_in(notes)
    bitmap = _second_bitmap(file, block, 1 + sub_header, bitmap_blocks, frames, source.size)
    unpacked, ranges = _pages(file, bitmap, (1 + sub_header + bitmap_blocks) * block, block, warnings)
    pages = page_map(unpacked, ranges, "pages of the kdump file", [*warnings, *complaints])
    return Capture(
        "kdump-compressed file",
        unpacked,
        pages,
        tuple(states),
        "" if states else "the kdump file has no notes of processors that are understood here",
        header=header,
    )


def _second_bitmap(file: Source, block: int, first: int, blocks: int, frames: int, end: int) -> bytes:
    """The bitmap of the pages that are stored, in a file that ends at ``end``; the first one is of all pages."""
    half = blocks // 2 * block
    if not 0 < frames <= _MOST_FRAMES or half * 8 < min(frames, 1) or half > _MOST_FRAMES // 8:
        raise CorruptDump(f"the kdump header claims {blocks:,} blocks of bitmaps for {frames:,} pages: it is damaged")
    bitmap = file.read(first * block + half, half) if (first * block + 2 * half) <= file.size else b""
    if len(bitmap) < half:
        raise CorruptDump(
            f"the bitmaps of the kdump file, {blocks:,} blocks at {first * block:#x}, lie behind its end at {end:#x}: "
            "the copy is truncated, or the header is damaged"
        )
    return bitmap


def _pages(
    file: Source, bitmap: bytes, descriptors: int, block: int, warnings: list[str]
) -> tuple[BlockSource, list[Segment]]:
    """Note where each stored page is packed, and which page frames they are."""
    import numpy as np

    frames = np.flatnonzero(np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little"))
    unpacked = BlockSource(file)
    unknown: set[int] = set()
    methods: set[str] = set()
    have = 0
    for start in range(0, len(frames), _DESCRIPTORS_AT_ONCE):
        count = min(_DESCRIPTORS_AT_ONCE, len(frames) - start)
        data = file.read(descriptors + start * _DESCRIPTOR.size, count * _DESCRIPTOR.size)
        data = data[: len(data) // _DESCRIPTOR.size * _DESCRIPTOR.size]
        for offset, size, flags, _ in _DESCRIPTOR.iter_unpack(data):
            method = _METHODS.get(flags)
            if method is None or not 0 < size <= block or offset < 0:
                unknown.add(flags)
                method = STORED
            methods.add(method)
            unpacked.add(max(offset, 0), size, block, method)
        have += len(data) // _DESCRIPTOR.size
        if len(data) < count * _DESCRIPTOR.size:
            warnings.append(f"the file is truncated: it describes {have:,} of {len(frames):,} pages")
            break
    for method in methods:
        require(method)
    if unknown:
        warnings.append(f"pages with unknown flags {', '.join(f'{flags:#x}' for flags in sorted(unknown)[:4])}")
    frames = frames[:have]
    firsts = np.flatnonzero(np.concatenate(([True], np.diff(frames) != 1)))[: len(frames)]
    stops = np.append(firsts[1:], len(frames))
    return unpacked, [
        Segment(int(frames[first]) * block, int(first) * block, int(stop - first) * block)
        for first, stop in zip(firsts, stops, strict=True)
        if stop > first
    ]


class _Flattened:
    """A flattened file as it would be: blocks are where they say."""

    def __init__(self, source: Source, warnings: list[str]) -> None:
        self.name = source.name
        self._source = source
        self._starts, self._sizes, self._places = array("Q"), array("Q"), array("Q")
        position = _FLAT_HEADER
        ordered = True
        while True:
            head = source.read(position, _FLAT_BLOCK.size)
            if len(head) < _FLAT_BLOCK.size:
                warnings.append(f"the flattened file ends at {source.size:#x} without its end mark: it is truncated")
                break
            offset, size = _FLAT_BLOCK.unpack(head)
            position += _FLAT_BLOCK.size
            if offset == -1 or size < 0:
                break
            if offset < 0:
                raise CorruptDump(f"the block at {position:#x} of the flattened file is damaged")
            # A block that the end of the file cuts is there as far as it goes, and the last one.
            size = min(size, source.size - position)
            if self._starts and offset < self._starts[-1] + self._sizes[-1]:
                ordered = False
            self._starts.append(offset)
            self._sizes.append(size)
            self._places.append(position)
            position += size
        if not ordered:
            self._sort()
        self.size = self._starts[-1] + self._sizes[-1] if self._starts else 0

    def _sort(self) -> None:
        """By offset. Of blocks at one offset the last counts: writers come back to the header."""
        latest = {start: index for index, start in enumerate(self._starts)}
        order = [latest[start] for start in sorted(latest)]
        self._starts, self._sizes, self._places = (
            array("Q", (column[index] for index in order)) for column in (self._starts, self._sizes, self._places)
        )

    def read(self, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        length = min(length, self.size - offset)
        index = bisect.bisect_right(self._starts, offset) - 1
        while length > 0:
            following = self._starts[index + 1] if index + 1 < len(self._starts) else self.size
            within = offset - self._starts[index] if index >= 0 else self._sizes[0]
            step = min(self._sizes[index] - within, following - offset) if index >= 0 else 0
            if step > 0:
                step = min(step, length)
                parts.append(self._source.read(self._places[index] + within, step))
                if len(parts[-1]) < step:
                    break
            else:
                # What nobody wrote is empty.
                step = min(following - offset, length)
                if step <= 0:
                    break
                parts.append(bytes(step))
            offset += step
            length -= step
            if offset >= following:
                index += 1
        return b"".join(parts)
