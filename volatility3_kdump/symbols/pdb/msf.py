"""MSF: the container of a PDB file, whose numbered streams lie in blocks scattered over the file.

A file of 0x1A00 bytes with blocks of 0x200: block 0 is the super block, which says where the list of the directory's
blocks lies; the directory gives the size of each stream and then the block numbers of all of them in turn.
Layout: "The MSF File Format" of LLVM's documentation, and Microsoft's published ``msf.cpp`` (``MSF_HDR``). Only the
format of 1999 and later ("MSF 7.00") is read.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from volatility3_kdump.errors import KdumpError

MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"

#: Behind the magic: block size, free block map, number of blocks, bytes of the directory, unused; then the numbers of
#: the blocks that list the directory's blocks.
_SUPER = struct.Struct("<5I")
_BLOCK_SIZES = tuple(1 << bits for bits in range(9, 17))
_ABSENT = 0xFFFFFFFF
_MOST_STREAMS = 1 << 20
#: The largest streams of browsers' PDBs have some hundred MB. A sparse file of 4 GB costs its author nothing.
_LONGEST_STREAM = 1 << 29


class CorruptPdb(KdumpError):
    """A PDB file that is damaged, cut short or contradicts itself."""


class MsfFile:
    """The streams of an open MSF file. No stream can be larger than the file, and no block is in two of them."""

    def __init__(self, file: BinaryIO) -> None:
        """Read super block and directory. Raises :class:`CorruptPdb`."""
        self._file = file
        self._length = file.seek(0, 2)
        file.seek(0)
        head = file.read(len(MAGIC) + _SUPER.size)
        if head[: len(MAGIC)] != MAGIC or len(head) < len(MAGIC) + _SUPER.size:
            raise CorruptPdb("it does not start as a PDB of the format 7.00")
        self._block_size, _, self._blocks, directory_size, _ = _SUPER.unpack_from(head, len(MAGIC))
        if self._block_size not in _BLOCK_SIZES:
            raise CorruptPdb(f"its blocks would have {self._block_size:#x} bytes")
        if self._blocks * self._block_size > self._length:
            raise CorruptPdb(
                f"it should have {self._blocks} blocks of {self._block_size:#x} bytes, but ends at {self._length:#x}: "
                "truncated"
            )
        if directory_size > self._length:
            raise CorruptPdb(f"its stream directory would have {directory_size:#x} bytes, more than the file")
        if directory_size > 4 * (1 + _MOST_STREAMS + self._blocks):
            raise CorruptPdb(
                f"its stream directory would have {directory_size:#x} bytes, more than its {self._blocks:#x} "
                "blocks need"
            )
        count = self._count(directory_size)
        listing = file.read(4 * self._count(4 * count))
        lists = self._joined(_numbers(listing), 4 * count)
        self._sizes, self._places = self._parse(self._joined(_numbers(lists), directory_size))

    @property
    def stream_count(self) -> int:
        return len(self._sizes)

    def size(self, number: int) -> int | None:
        """Bytes of a stream, ``None`` where there is none of that number."""
        return self._sizes[number] if 0 <= number < len(self._sizes) else None

    def read(self, number: int, most: int | None = None) -> bytes | None:
        """A stream, or its first ``most`` bytes; ``None`` where there is none of that number."""
        size = self.size(number)
        if size is None:
            return None
        wanted = size if most is None else min(most, size)
        if wanted > _LONGEST_STREAM:
            raise CorruptPdb(f"its stream {number} has {wanted:#x} bytes: more than {_LONGEST_STREAM:#x} are not read")
        return self._joined(_numbers(self._places[number]), wanted)

    def _count(self, size: int) -> int:
        count: int = -(-size // self._block_size)
        return count

    def _parse(self, directory: bytes) -> tuple[list[int | None], list[bytes]]:
        """The size of each stream, and the part of the directory that lists its blocks."""
        if len(directory) < 4:
            raise CorruptPdb("its stream directory is empty")
        (count,) = struct.unpack_from("<I", directory)
        if count > _MOST_STREAMS or 4 + 4 * count > len(directory):
            raise CorruptPdb(f"its stream directory of {len(directory):#x} bytes cannot list {count} streams")
        sizes: list[int | None] = []
        places: list[bytes] = []
        position = 4 + 4 * count
        for number, size in enumerate(struct.unpack_from(f"<{count}I", directory, 4)):
            if size == _ABSENT:
                sizes.append(None)
                places.append(b"")
                continue
            length = self._count(size)
            if size > self._length or position + 4 * length > len(directory):
                raise CorruptPdb(f"stream {number} would have {size:#x} bytes, which the directory does not list")
            sizes.append(size)
            places.append(directory[position : position + 4 * length])
            position += 4 * length
        return sizes, places

    def _joined(self, blocks: tuple[int, ...], size: int) -> bytes:
        """The first ``size`` bytes of a list of blocks; neighbours are read at once."""
        parts = []
        index = 0
        wanted = min(len(blocks), self._count(size))
        while index < wanted:
            following = index + 1
            while following < wanted and blocks[following] == blocks[following - 1] + 1:
                following += 1
            if blocks[index] + following - index > self._blocks:
                raise CorruptPdb(f"it refers to block {blocks[following - 1]:#x} of {self._blocks:#x}")
            self._file.seek(blocks[index] * self._block_size)
            parts.append(self._file.read(min(following * self._block_size, size) - index * self._block_size))
            index = following
        data = b"".join(parts)
        if len(data) < size:
            raise CorruptPdb(f"{size:#x} bytes were expected where {len(data):#x} are: truncated")
        return data


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}I", data[: len(data) & ~3])
