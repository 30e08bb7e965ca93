"""Bitmap crash dumps of large machines, written as sparse files.

Layout: DUMP_HEADER64, bitmap header (``FDMP``), bitmap, pages packed in page-frame order. Page data that no one gives
stays a hole, so that the dump of a 64 GB machine has its apparent size but takes up a few megabytes of disk.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

PAGE = 0x1000
PAGES_PER_GIGABYTE = 1 << 18

_HEADER_SIZE = 0x2000
_BITMAP = _HEADER_SIZE + 0x38
_FULL_BITMAP = 5

Run = tuple[int, int]


def dense(pages: int) -> bytes:
    """A bitmap with every page present. The bits past ``pages`` in its last byte are clear."""
    bitmap = b"\xff" * (pages >> 3)
    return bitmap + bytes([(1 << (pages & 7)) - 1]) if pages & 7 else bitmap


def fragmented(pages: int) -> bytes:
    """A bitmap with a tenth of the pages present, in runs of 4 on average: 400,000 runs in 64 GB."""
    choose = random.Random(pages)
    bitmap = bytearray(pages + 7 >> 3)
    pfn = choose.randint(1, 71)
    while pfn < pages - 8:
        for present in range(pfn, pfn + choose.randint(1, 7)):
            bitmap[present >> 3] |= 1 << (present & 7)
        pfn = present + 1 + choose.randint(1, 71)
    return bytes(bitmap)


def runs_of_varied_length(pages: int) -> list[Run]:
    """(first page frame, pages) of runs from 1 page to 8 MB that add up to ``pages``, with gaps between them."""
    choose = random.Random(pages)
    runs = []
    pfn = 1
    while pages:
        count = min(pages, int(2 ** choose.uniform(0, 11)))
        runs.append((pfn, count))
        pfn += count + choose.randint(1, 200)
        pages -= count
    return runs


def bitmap_of(runs: Iterable[Run]) -> bytes:
    """The bitmap that has the page frames of some runs set."""
    bits = 0
    for first, count in runs:
        bits |= ((1 << count) - 1) << first
    return bits.to_bytes(bits.bit_length() + 7 >> 3, "little")


def write_bitmap_dump(path: Path, bitmap: bytes, bits: int | None = None) -> int:
    """Write a dump of DumpType 5 whose pages are holes; returns the file offset of its first page.

    ``bits`` is the number of page frames that the bitmap covers, by default all of it.
    """
    header = bytearray(b"PAGE" * (_HEADER_SIZE // 4))
    struct.pack_into("<4s4sII", header, 0, b"PAGE", b"DU64", 0xF, 19041)
    struct.pack_into("<QQQQ", header, 0x10, 0x1AD000, 0xFFFFF80000010000, 0xFFFFF80000020000, 0xFFFFF80000030000)
    struct.pack_into("<III", header, 0x30, 0x8664, 8, 0xD1)
    struct.pack_into("<I", header, 0xF98, _FULL_BITMAP)
    return _write(path, bytes(header), bitmap, len(bitmap) * 8 if bits is None else bits)


def fill_with_pages(path: Path, first_page: int, pages: int) -> None:
    """Replace the holes of a dump by pages that differ from each other."""
    megabyte = random.Random(0).randbytes(1 << 20)
    with path.open("r+b") as file:
        file.seek(first_page)
        for start in range(0, pages * PAGE, len(megabyte)):
            file.write((struct.pack("<Q", start) + megabyte[8:])[: pages * PAGE - start])


def enlarge(sample: Path, path: Path, bitmap: bytes) -> int:
    """Write the dump that the machine of ``sample``, a bitmap dump, would give with the memory of ``bitmap``.

    The pages of the sample keep their page frames, all others are zeros. Returns the number of pages present.
    """
    data = sample.read_bytes()
    first, count, bits = struct.unpack_from("<QQQ", data, _HEADER_SIZE + 0x20)
    own = int.from_bytes(data[_BITMAP : _BITMAP + (bits + 7 >> 3)], "little")
    merged = int.from_bytes(bitmap, "little") | own
    whole = merged.to_bytes(len(bitmap), "little")
    first_page = _write(path, data[:_HEADER_SIZE], whole, len(bitmap) * 8)
    with path.open("r+b") as file:
        for index, pfn in enumerate(_set_bits(own)):
            rank = int.from_bytes(whole[: pfn >> 3], "little").bit_count()
            rank += (whole[pfn >> 3] & ((1 << (pfn & 7)) - 1)).bit_count()
            file.seek(first_page + rank * PAGE)
            file.write(data[first + index * PAGE :][:PAGE])
        file.seek(0, os.SEEK_END)
        file.write(data[first + count * PAGE :])  # tagged data
    return merged.bit_count()


def _write(path: Path, header: bytes, bitmap: bytes, bits: int) -> int:
    pages = int.from_bytes(bitmap, "little").bit_count()
    first_page = (_BITMAP + len(bitmap) + PAGE - 1) // PAGE * PAGE
    start = bytearray(b"PAGE" * 14)
    struct.pack_into("<4s4s", start, 0, b"FDMP", b"DUMP")
    struct.pack_into("<QQQ", start, 0x20, first_page, pages, bits)
    with path.open("wb") as file:
        file.write(header)
        file.write(start)
        file.write(bitmap)
        file.truncate(first_page + pages * PAGE)
    return first_page


def _set_bits(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
