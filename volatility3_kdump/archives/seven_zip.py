"""7-Zip archives, read by py7zr."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from volatility3_kdump.archives.archive import CHUNK, Archive, Member, shown
from volatility3_kdump.archives.damage import MOST_DICTIONARY, MOST_DIRECTORY, damage
from volatility3_kdump.errors import CorruptContainer, UnsupportedContainer


class SevenZip(Archive):
    kind = "a 7-Zip archive"
    quick_heads = False

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        try:
            import py7zr
        except ImportError as error:
            raise UnsupportedContainer(
                "this is a 7-Zip archive, which needs py7zr: pip install 'volatility3-kdump[7z]', "
                "or extract the dump first"
            ) from error
        file.seek(0)
        head = file.read(32)
        # What the list of files takes unpacked is bounded by the reader.
        if len(head) == 32 and int.from_bytes(head[20:28], "little") > MOST_DIRECTORY:
            raise UnsupportedContainer("the list of files of the 7-Zip archive is too long for one of dumps")
        file.seek(0)
        with damage("the list of files of the 7-Zip archive"):
            self._archive = py7zr.SevenZipFile(file)
            self._files = [entry for entry in self._archive.files if not entry.is_directory]
            packed = os.fstat(file.fileno()).st_size
            self.members = tuple(
                Member(number, entry.filename, entry.uncompressed or 0, packed)
                for number, entry in enumerate(self._files, 1)
            )

    def stream(self, member: Member, start: int = 0, before: bytes = b"") -> Iterator[bytes]:
        # py7zr extracts files under their names and in pieces of up to 128 MB, so its decoders are driven from here.
        wanted = self._files[member.number - 1]
        if wanted.emptystream:
            return
        what = f"{shown(member.name)} in the 7-Zip archive"
        with damage(what):
            folder = wanted.folder
            for coder in folder.coders:
                if _dictionary_of(coder) > MOST_DICTIONARY:
                    raise UnsupportedContainer(
                        f"{what} needs {_dictionary_of(coder):,} bytes of memory to decompress: extract it first"
                    )
            streams = self._archive.header.main_streams
            number = next(index for index, other in enumerate(streams.unpackinfo.folders) if other is folder)
            first = sum(
                sum(coder["numinstreams"] for coder in other.coders) - len(other.bindpairs)
                for other in streams.unpackinfo.folders[:number]
            )
            start_of_folder = (
                self._archive.afterheader + streams.packinfo.packpos + sum(streams.packinfo.packsizes[:first])
            )
            self.file.seek(start_of_folder)
            folder.decompressor = None
            decoder = folder.get_decompressor(streams.packinfo.packsizes[first])
            packed = _Sips(self.file)
            for entry in (entry for entry in self._archive.files if entry.folder is folder):
                found, left = 0, entry.uncompressed
                while left > 0:
                    position = self.file.tell()
                    data = decoder.decompress(packed, min(left, 8 * CHUNK))
                    if not data and self.file.tell() == position:
                        raise EOFError
                    left -= len(data)
                    if entry.id == wanted.id:
                        found = zlib.crc32(data, found)
                        yield bytes(data)
                if entry.id == wanted.id:
                    if entry.crc32 is not None and entry.crc32 != found:
                        raise CorruptContainer(f"{what} has the checksum {found:#010x}, not {entry.crc32:#010x}")
                    return


class _Sips:
    """A file that gives little at a time, so that a decoder is not fed faster than it is drained."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 1 << 13))


def _dictionary_of(coder: dict[str, Any]) -> int:
    """The bytes of dictionary that an LZMA (03 01 01) or LZMA2 (21) coder of 7z asks for; 0 for others."""
    properties = coder.get("properties") or b""
    if coder["method"] == b"\x21" and len(properties) == 1:
        exponent = properties[0]
        return (1 << 32) - 1 if exponent >= 40 else (2 | exponent & 1) << exponent // 2 + 11
    if coder["method"] == b"\x03\x01\x01" and len(properties) == 5:
        return int.from_bytes(properties[1:], "little")
    return 0
