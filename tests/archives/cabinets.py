"""CAB archives packed by hand from [MS-CAB] and [MS-MCI]: no reader of the package has a part in them."""

from __future__ import annotations

import functools
import operator
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

BLOCK = 0x8000
STORED, MSZIP, LZX = 0, 1, 0x1503  # LZX with a window of 2 MiB

#: Frames of 32 KiB in a block of :func:`lzx`, whose size has 24 bits.
_LZX_FRAMES = 256

#: (bytes in the archive, bytes unpacked)
Data = list[tuple[bytes, int]]


def stored(content: bytes) -> Data:
    return [(content[at : at + BLOCK], len(content[at : at + BLOCK])) for at in range(0, len(content), BLOCK)]


def mszip(content: bytes) -> Data:
    """Blocks that refer to the 32 KiB before them."""
    blocks = []
    for at in range(0, len(content), BLOCK):
        plain = content[at : at + BLOCK]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=content[max(0, at - BLOCK) : at])
        blocks.append((b"CK" + packer.compress(plain) + packer.flush(), len(plain)))
    return blocks


def lzx(content: bytes) -> Data:
    """Uncompressed LZX blocks: type 3 (3 bits), size (24 bits), padding, R0 to R2, bytes.

    In front of the first, a bit says that no calls are translated.
    """
    frames = stored(content)
    for number in range(0, len(frames), _LZX_FRAMES):
        size = sum(length for _, length in frames[number : number + _LZX_FRAMES])
        head = 3 << 29 - (number == 0) | size << 5 - (number == 0)
        start = struct.pack("<HHIII", head >> 16, head & 0xFFFF, 1, 1, 1)
        frames[number] = (start + frames[number][0], frames[number][1])
    return frames


@dataclass
class File:
    name: bytes
    size: int
    start: int
    folder: int = 0
    attributes: int = 0x20


@dataclass
class Folder:
    data: Data
    compression: int
    blocks: int | None = None
    start: int | None = None


@dataclass
class Cabinet:
    folders: list[Folder]
    files: list[File]
    header: dict[str, int] = field(default_factory=dict)
    checksums: bool = True

    def pack(self) -> bytes:
        names = b"".join(
            struct.pack("<IIHHHH", file.size, file.start, file.folder, 0x5A21, 0x6000, file.attributes)
            + file.name
            + b"\0"
            for file in self.files
        )
        first_file = 36 + 8 * len(self.folders)
        position = first_file + len(names)
        table, blocks = b"", bytearray()
        for folder in self.folders:
            start = position + len(blocks) if folder.start is None else folder.start
            count = len(folder.data) if folder.blocks is None else folder.blocks
            table += struct.pack("<IHH", start, count, folder.compression)
            for packed, size in folder.data:
                sizes = struct.pack("<HH", len(packed), size)
                checksum = words(packed) ^ words(sizes) if self.checksums else 0
                blocks += struct.pack("<I", checksum) + sizes + packed
        values = {
            "length": position + len(blocks),
            "first_file": first_file,
            "minor": 3,
            "major": 1,
            "folders": len(self.folders),
            "files": len(self.files),
            "flags": 0,
            "set": 1234,
            "index": 0,
            **self.header,
        }
        head = struct.pack(
            "<4sIIIIIBBHHHHH",
            *(b"MSCF", 0, values["length"], 0, values["first_file"], 0, values["minor"], values["major"]),
            *(values["folders"], values["files"], values["flags"], values["set"], values["index"]),
        )
        return head + table + names + blocks


def words(data: bytes) -> int:
    """The checksum of [MS-CAB], word by word."""
    count, left = divmod(len(data), 4)
    result = functools.reduce(operator.xor, struct.unpack_from(f"<{count}I", data), 0)
    return result ^ (int.from_bytes(data[-left:], "big") if left else 0)


def cabinet(
    members: Sequence[tuple[str | bytes, bytes]], pack: Callable[[bytes], Data] = mszip, compression: int | None = None
) -> Cabinet:
    """A cabinet with all members in one folder."""
    known = {stored: STORED, mszip: MSZIP, lzx: LZX}
    files, content = [], b""
    for name, data in members:
        files.append(File(name if isinstance(name, bytes) else name.encode("latin-1"), len(data), len(content)))
        content += data
    return Cabinet([Folder(pack(content), known[pack] if compression is None else compression)], files)
