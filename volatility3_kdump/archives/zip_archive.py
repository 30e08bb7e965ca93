"""zip archives, read by the standard library, with Deflate64 besides."""

from __future__ import annotations

import importlib.util
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from volatility3_kdump.archives.archive import Archive, Member, shown
from volatility3_kdump.archives.cache_files import identify
from volatility3_kdump.archives.child import decode, open_unchanged
from volatility3_kdump.archives.damage import MOST_DIRECTORY, damage, pieces
from volatility3_kdump.errors import CorruptContainer, UnsupportedContainer

_DEFLATE64 = 9


class Zip(Archive):
    kind = "a zip archive"

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self._path = path
        _refuse_large_directory(file)
        with damage("the list of files of the zip archive"):
            self._zip = zipfile.ZipFile(file)
        # Not ZipInfo.is_dir(), which fails for an empty name before Python 3.12.
        self._infos = [entry for entry in self._zip.infolist() if not entry.filename.endswith("/")]
        self.members = tuple(
            Member(number, entry.filename, entry.file_size, entry.compress_size)
            for number, entry in enumerate(self._infos, 1)
        )

    def stream(self, member: Member, start: int = 0, before: bytes = b"") -> Iterator[bytes]:
        entry = self._infos[member.number - 1]
        what = f"{shown(member.name)} in the zip archive"
        if entry.flag_bits & 1:
            raise UnsupportedContainer(f"{what} is encrypted: extract it with its password first")
        if entry.compress_type == _DEFLATE64:
            yield from self._inflate64(entry, what)
            return
        with damage(what), self._zip.open(entry) as stream:
            yield from pieces(stream)

    def _inflate64(self, info: zipfile.ZipInfo, what: str) -> Iterator[bytes]:
        """Deflate64, which Windows Explorer uses for files beyond 2 GiB; Python has no decoder of it."""
        if importlib.util.find_spec("inflate64") is None:
            raise UnsupportedContainer(
                f"{what} is compressed with Deflate64, which needs inflate64: pip install 'volatility3-kdump[7z]', "
                "or extract the dump first"
            )
        self.file.seek(info.header_offset)
        head = self.file.read(30)
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise CorruptContainer(f"{what} has no header at offset {info.header_offset:#x}")
        name_length, extra_length = struct.unpack_from("<HH", head, 26)
        checksum, given = 0, 0
        for data in decode(
            inflate64,
            what,
            {
                "path": str(self._path.absolute()),
                "identity": identify(self.file),
                "offset": info.header_offset + len(head) + name_length + extra_length,
                "size": info.compress_size,
                "what": what,
            },
        ):
            checksum = zlib.crc32(data, checksum)
            given += len(data)
            if given > info.file_size:
                break
            yield data
        if given != info.file_size or checksum != info.CRC:
            raise CorruptContainer(f"{what} does not have the size and checksum that the archive says: it is damaged")


def inflate64(path: str, identity: str, offset: int, size: int, what: str) -> Iterator[bytes]:
    """Runs in a child: what ``size`` bytes at an offset of the archive inflate to."""
    from inflate64 import Inflater

    with open_unchanged(path, identity) as file:
        file.seek(offset)
        decoder = Inflater()
        while size > 0 and not decoder.eof:
            # At most a thousandfold comes out of what goes in.
            packed = file.read(min(size, 1 << 13))
            if not packed:
                raise CorruptContainer(f"{what} is cut short: the archive is truncated")
            size -= len(packed)
            with damage(what):
                yield decoder.inflate(packed)


def _refuse_large_directory(file: BinaryIO) -> None:
    """Look at the end of central directory record (APPNOTE 4.3.16, 4.3.14 for zip64): zipfile reads it all at once."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22 - 20))
    tail = file.read()
    where = tail.rfind(b"PK\x05\x06")
    if where < 0 or where + 22 > len(tail):
        return
    length = struct.unpack_from("<I", tail, where + 12)[0]
    if length == 0xFFFFFFFF and where >= 20 and tail[where - 20 : where - 16] == b"PK\x06\x07":
        file.seek(min(size, struct.unpack_from("<Q", tail, where - 12)[0]))
        record = file.read(56)
        length = struct.unpack_from("<Q", record, 40)[0] if len(record) == 56 else length
    if length > MOST_DIRECTORY:
        raise UnsupportedContainer("the list of files of the zip archive is too long for one of dumps")
