"""CAB archives: CFHEADER, CFFOLDER, CFFILE and CFDATA ([MS-CAB] sections 2.1 to 2.4).

Stored and MSZIP folders are read here. A folder is one stream of blocks of at most 32 KiB, and a file a range of it;
MSZIP blocks ([MS-MCI]) are ``CK`` and a deflate stream of their own whose window is the output before them. LZX and
Quantum folders need libmspack. A cabinet that goes on in another one is refused.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from volatility3_kdump.archives.archive import CHUNK, Archive, Member, shown
from volatility3_kdump.archives.child import MOST_SILENCE, OWN_MEMORY, Watch, decode
from volatility3_kdump.errors import CorruptContainer, UnsupportedContainer

MAGIC = b"MSCF"

_BLOCK = 0x8000
_HEADER = struct.Struct("<4sIIIIIBBHHHHH")
_FOLDER = struct.Struct("<IHH")
_FILE = struct.Struct("<IIHHHH")
_DATA = struct.Struct("<IHH")
_HAS_PREVIOUS, _HAS_NEXT, _HAS_RESERVE = 1, 2, 4
_UTF8_NAME = 0x80
#: Values of iFolder from here on say that the file starts or ends in another cabinet.
_CONTINUED = 0xFFFD
_LONGEST_NAME = 256

STORED, MSZIP, QUANTUM, LZX = range(4)
_COMPRESSION = {STORED: "stored", MSZIP: "MSZIP", QUANTUM: "Quantum", LZX: "LZX"}


@dataclass(frozen=True)
class _Folder:
    """A CFFOLDER; ``end`` is the file offset that its data blocks may not pass."""

    number: int
    start: int
    blocks: int
    compression: int
    end: int

    @property
    def method(self) -> int:
        return self.compression & 0xF


@dataclass(frozen=True)
class _Block:
    """A CFDATA: its number in the folder, where it stands in the cabinet, and what it unpacks to."""

    number: int
    offset: int
    head: bytes
    packed_size: int
    size: int
    checksum: int


class Cabinet(Archive):
    """A CAB archive."""

    kind = "a CAB archive"
    quick_heads = False

    def __init__(self, file: BinaryIO, scratch: Path) -> None:
        """Read the lists of folders and files.

        ``scratch`` is a directory for what libmspack unpacks. Raises
        :class:`~volatility3_kdump.errors.CorruptContainer`, and
        :class:`~volatility3_kdump.errors.UnsupportedContainer` for a part of a set.
        """
        self.file = file
        self._scratch = scratch
        self._size = file.seek(0, 2)
        head = self._read(0, _HEADER.size, "the cabinet header")
        (_, _, length, _, first_file, _, minor, major, folders, files, flags, _, index) = _HEADER.unpack(head)
        if flags & (_HAS_PREVIOUS | _HAS_NEXT):
            raise UnsupportedContainer(
                f"this is part {index + 1} of a set of CAB archives: extract the dump with all parts at hand"
            )
        if (major, minor) != (1, 3):
            raise UnsupportedContainer(f"the version of the CAB archive is {major}.{minor}, not 1.3")
        if length > self._size:
            raise CorruptContainer(
                f"the CAB archive ends at offset {self._size:#x}, but its header says {length:#x}: it is truncated"
            )
        position = _HEADER.size
        folder_reserve = self._data_reserve = 0
        if flags & _HAS_RESERVE:
            header_reserve, folder_reserve, self._data_reserve = struct.unpack(
                "<HBB", self._read(position, 4, "the cabinet header")
            )
            position += 4 + header_reserve
        self._folders = self._read_folders(position, folders, folder_reserve)
        first_data = position + folders * (_FOLDER.size + folder_reserve)
        if any(folder.start < first_data for folder in self._folders if folder.blocks):
            raise CorruptContainer("a folder of the CAB archive has its data inside the cabinet header")
        self.members, self._places = self._read_files(first_file, files)

    def _read(self, offset: int, length: int, what: str) -> bytes:
        self.file.seek(offset)
        data = self.file.read(length)
        if len(data) < length:
            raise CorruptContainer(f"the CAB archive ends inside {what} at offset {offset:#x}: it is truncated")
        return data

    def _read_folders(self, position: int, count: int, reserve: int) -> list[_Folder]:
        step = _FOLDER.size + reserve
        table = self._read(position, count * step, "the list of folders")
        raw = [_FOLDER.unpack_from(table, number * step) for number in range(count)]
        starts = sorted(start for start, blocks, _ in raw if blocks)
        if len(set(starts)) < len(starts):
            raise CorruptContainer("two folders of the CAB archive have the same data")
        following = dict(zip(starts, [*starts[1:], self._size], strict=True)) if starts else {}
        return [
            _Folder(number, start, blocks, compression, following.get(start, self._size))
            for number, (start, blocks, compression) in enumerate(raw)
        ]

    def _read_files(self, position: int, count: int) -> tuple[tuple[Member, ...], dict[int, tuple[_Folder, int]]]:
        """The members, and for each by its number: the folder and the offset in it."""
        self.file.seek(position)
        table = self.file.read(count * (_FILE.size + _LONGEST_NAME))
        members = []
        places = {}
        cursor = 0
        for number in range(1, count + 1):
            name_end = table.find(b"\0", cursor + _FILE.size, cursor + _FILE.size + _LONGEST_NAME)
            if name_end < 0:
                raise CorruptContainer(
                    f"entry {number} of {count} in the list of files of the CAB archive, at offset "
                    f"{position + cursor:#x}, has no end: damaged or truncated"
                )
            size, start, index, _, _, attributes = _FILE.unpack_from(table, cursor)
            raw = table[cursor + _FILE.size : name_end]
            name = raw.decode("utf-8" if attributes & _UTF8_NAME else "latin-1", "replace")
            cursor = name_end + 1
            if index >= _CONTINUED:
                raise UnsupportedContainer(
                    f"{shown(name)} goes on in another CAB archive: extract it with all parts of the set at hand"
                )
            if index >= len(self._folders):
                raise CorruptContainer(f"{shown(name)} is in folder {index}, but the archive has {len(self._folders)}")
            folder = self._folders[index]
            if start + size > folder.blocks * _BLOCK:
                raise CorruptContainer(
                    f"{shown(name)} ends at offset {start + size:#x} of folder {index}, which holds at most "
                    f"{folder.blocks * _BLOCK:#x} bytes"
                )
            members.append(Member(number, name, size, max(0, folder.end - folder.start)))
            places[number] = (folder, start)
        return tuple(members), places

    # streams --------------------------------------------------------------------------------------------------------

    def resume_point(self, member: Member, length: int) -> int:
        folder, start = self._places[member.number]
        if folder.method not in (STORED, MSZIP):
            return 0
        # From the start of a block, with the window of 32 KiB before it inside the member.
        point = (start + length) // _BLOCK * _BLOCK - start
        return point if point >= _BLOCK else 0

    def stream(self, member: Member, start: int = 0, before: bytes = b"") -> Iterator[bytes]:
        folder, first = self._places[member.number]
        assert member.size is not None
        if member.size == 0:
            return
        if folder.method == STORED:
            pieces = self._stored(folder, first + start)
        elif folder.method == MSZIP:
            pieces = self._inflated(folder, first + start if start else 0, before)
        elif folder.method in _COMPRESSION:
            yield from self._by_libmspack(folder, first, member)
            return
        else:
            raise UnsupportedContainer(f"{shown(member.name)} is compressed by an unknown method ({folder.method})")
        # (offset in the folder, bytes): cut out what belongs to the member.
        begin, end = first + start, first + member.size
        reached = begin
        for offset, data in pieces:
            if offset + len(data) <= begin:
                continue
            if offset < begin or offset + len(data) > end:
                data = data[max(0, begin - offset) : end - offset]
            yield data
            reached += len(data)
            if reached >= end:
                return
        raise CorruptContainer(
            f"folder {folder.number} of the CAB archive ends at {reached - first:#x} of the {member.size:#x} bytes of "
            f"{shown(member.name)}"
        )

    def _blocks(self, folder: _Folder, skip: int = 0) -> Iterator[tuple[int, _Block, bytes]]:
        """(offset in the folder, block, its data, verified) of a folder, those that end before ``skip`` left out."""
        from numpy import bitwise_xor, frombuffer

        def checksum(data: bytes) -> int:
            """[MS-CAB] 3.1: exclusive or of little-endian words; bytes left over make a word, first byte highest."""
            whole = len(data) & ~3
            folded = int(bitwise_xor.reduce(frombuffer(data, "<u4", whole >> 2))) if whole else 0
            return folded if whole == len(data) else folded ^ int.from_bytes(data[whole:], "big")

        file = self.file
        head_size = _DATA.size + self._data_reserve
        where = folder.start
        offset = 0
        file.seek(where)
        for number in range(folder.blocks):
            head = file.read(head_size)
            if len(head) < head_size:
                raise CorruptContainer(
                    f"the CAB archive ends inside block {number} of folder {folder.number} at offset {where:#x}"
                )
            expected, packed, size = _DATA.unpack_from(head)
            if size > _BLOCK or where + head_size + packed > folder.end:
                raise CorruptContainer(
                    f"block {number} of folder {folder.number} at offset {where:#x} of the CAB archive claims "
                    f"{packed:#x} bytes for {size:#x}, which do not fit"
                )
            block = _Block(number, where, head, packed, size, expected)
            where += head_size + packed
            if offset + size <= skip:
                file.seek(packed, 1)
                offset += size
                continue
            data = file.read(packed)
            if len(data) < packed:
                raise CorruptContainer(
                    f"the CAB archive ends inside block {number} of folder {folder.number} at offset {block.offset:#x}"
                )
            if expected:
                sum_of_block = checksum(data) ^ int.from_bytes(head[4:8], "little")
                # Whether the reserved bytes count depends on who wrote the archive.
                if sum_of_block != expected and sum_of_block ^ checksum(head[_DATA.size :]) != expected:
                    raise CorruptContainer(
                        f"block {number} of folder {folder.number} at offset {block.offset:#x} of the CAB archive has "
                        f"the checksum {sum_of_block:#010x}, not {expected:#010x}: it is damaged"
                    )
            yield offset, block, data
            offset += size

    def _stored(self, folder: _Folder, skip: int) -> Iterator[tuple[int, bytes]]:
        for offset, block, data in self._blocks(folder, skip):
            if len(data) != block.size:
                raise CorruptContainer(
                    f"block {block.number} of folder {folder.number} at offset {block.offset:#x} of the CAB archive is "
                    f"stored, but {block.packed_size:#x} bytes cannot be {block.size:#x}"
                )
            yield offset, data

    def _inflated(self, folder: _Folder, skip: int, window: bytes) -> Iterator[tuple[int, bytes]]:
        for offset, block, data in self._blocks(folder, skip):
            try:
                if data[:2] != b"CK":
                    raise zlib.error("no 'CK' in front")
                decoder = zlib.decompressobj(-15, zdict=window)
                # One byte more than it should be, to see whether it is.
                output = decoder.decompress(memoryview(data)[2:], block.size + 1)
                if len(output) != block.size:
                    raise zlib.error(f"not the {block.size:#x} bytes that it should be")
            except zlib.error as error:
                raise CorruptContainer(
                    f"block {block.number} of folder {folder.number} at offset {block.offset:#x} of the CAB archive "
                    f"does not decompress: {error}"
                ) from error
            window = output if len(output) == _BLOCK else (window + output)[-_BLOCK:]
            yield offset, output

    def _by_libmspack(self, folder: _Folder, first: int, member: Member) -> Iterator[bytes]:
        method = _COMPRESSION[folder.method]
        try:
            import pylibmspack
        except ImportError as error:
            raise UnsupportedContainer(
                f"{shown(member.name)} is compressed with {method}, which needs pylibmspack: "
                "pip install 'volatility3-kdump[lzx]', or extract it with cabextract first"
            ) from error
        assert member.size is not None
        with tempfile.TemporaryDirectory(prefix="lzx-", dir=self._scratch) as directory:
            single = Path(directory) / "single.cab"
            self._write_single(single, folder, first, member.size)
            try:
                if hasattr(os, "mkfifo"):
                    yield from _piped(single, Path(directory))
                    return
                what = f"folder {folder.number} of the CAB archive ({method})"
                arguments = {"single": str(single), "directory": directory, "size": member.size}
                yield from decode(unpack_single, what, arguments)
            except pylibmspack.MspackError as error:
                raise CorruptContainer(
                    f"folder {folder.number} of the CAB archive ({method}) does not decompress: {error}"
                ) from error

    def _write_single(self, path: Path, folder: _Folder, first: int, size: int) -> None:
        """A cabinet of this folder alone with the one file ``member``: names of the archive reach no file system."""
        reserve = struct.pack("<HBB", 0, 0, self._data_reserve) if self._data_reserve else b""
        name = b"member\0"
        files = _HEADER.size + len(reserve) + _FOLDER.size
        start = files + _FILE.size + len(name)
        with path.open("wb") as out:
            out.seek(start)
            for _, block, data in self._blocks(folder):
                out.write(block.head)
                out.write(data)
            length = out.tell()
            out.seek(0)
            flags = _HAS_RESERVE if reserve else 0
            out.write(_HEADER.pack(MAGIC, 0, length, 0, files, 0, 3, 1, 1, 1, flags, 0, 0))
            out.write(reserve)
            out.write(_FOLDER.pack(start, folder.blocks, folder.compression))
            out.write(_FILE.pack(size, first, 0, 0, 0, 0) + name)


def unpack_single(single: str, directory: str, size: int) -> Iterator[bytes]:
    """Runs in a child: the only member of a cabinet, through a file, for systems without named pipes."""
    import pylibmspack

    try:
        unpacked = pylibmspack.CabArchive(single).extract("member", directory, max_size=size)
    except pylibmspack.MspackError as error:
        raise CorruptContainer(f"the CAB archive does not decompress: {error}") from error
    Path(single).unlink()
    with Path(unpacked).open("rb") as stream:
        while data := stream.read(CHUNK):
            yield data


#: Opens its end of the pipe before it imports anything, so that the other end is never waited at for nothing. The
#: module search path is that of the process that starts it: not the working directory, where evidence lies.
_UNPACK = """
import os, sys
single, directory, memory, *sys.path = sys.argv[1:]
pipe = os.open(os.path.join(directory, "member"), os.O_WRONLY)
os.write(1, b"!")
from volatility3_kdump.archives.child import limit_memory
limit_memory(int(memory))
import pylibmspack
try:
    pylibmspack.CabArchive(single).extract("member", directory, max_size=(1 << 64) - 1)
except pylibmspack.MspackError as error:
    os.write(1, str(error).encode()[:500])
os.write(1, b"!")
"""


def _piped(single: Path, directory: Path) -> Iterator[bytes]:
    """The only member of a cabinet, unpacked by a process of its own through a named pipe.

    libmspack takes a file name and returns when it is done, without letting the interpreter go: through the pipe its
    output can be counted and stopped, needs no room on the disk, and what kills the decoder kills nothing else.
    Raises ``pylibmspack.MspackError``.
    """
    import pylibmspack

    pipe = directory / "member"
    os.mkfifo(pipe, 0o600)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        places = [place for place in sys.path if place]
        command = [sys.executable, "-I", "-c", _UNPACK, str(single), str(directory), str(OWN_MEMORY), *places]
        with (
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process,
            Watch(process, MOST_SILENCE) as watch,
        ):
            assert process.stdout is not None
            if process.stdout.read(1) != b"!":
                raise pylibmspack.MspackError("the process that unpacks cannot be started")
            os.set_blocking(reader, True)
            while data := os.read(reader, CHUNK):
                watch.alive()
                yield data
            said = process.stdout.read()
            if watch.silent:
                raise pylibmspack.MspackError(f"the decoder gave nothing for {MOST_SILENCE:.0f} seconds")
            if said != b"!":
                reason = said[:-1].decode("utf-8", "replace") if said.endswith(b"!") else "the decoder crashed"
                raise pylibmspack.MspackError(reason)
    finally:
        os.close(reader)
