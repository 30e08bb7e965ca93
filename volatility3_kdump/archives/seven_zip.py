"""7-Zip archives, read by py7zr in a process of its own: several of its decoders are native."""

from __future__ import annotations

import importlib.util
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from volatility3_kdump.archives.archive import CHUNK, Archive, Member, shown
from volatility3_kdump.archives.cache_files import identify
from volatility3_kdump.archives.child import decode, open_unchanged
from volatility3_kdump.archives.damage import MOST_DICTIONARY, MOST_DIRECTORY, damage
from volatility3_kdump.errors import CorruptContainer, UnsupportedContainer

_LIST = "the list of files of the 7-Zip archive"


class SevenZip(Archive):
    kind = "a 7-Zip archive"
    quick_heads = False

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        try:
            # None in sys.modules, as for a module that may not be imported, has no spec.
            missing = importlib.util.find_spec("py7zr") is None
        except ValueError:
            missing = True
        if missing:
            raise UnsupportedContainer(
                "this is a 7-Zip archive, which needs py7zr: pip install 'volatility3-kdump[7z]', "
                "or extract the dump first"
            )
        file.seek(0)
        head = file.read(32)
        if len(head) == 32 and int.from_bytes(head[20:28], "little") > MOST_DIRECTORY:
            raise UnsupportedContainer(f"{_LIST} is too long for one of dumps")
        self._place = {"path": str(path.absolute()), "identity": identify(file)}
        listing = b"".join(decode(list_entries, _LIST, self._place))
        packed = os.fstat(file.fileno()).st_size
        entries = [json.loads(line) for line in listing.splitlines()]
        self._indices = [index for index, _, _ in entries]
        self.members = tuple(Member(number, name, size, packed) for number, (_, name, size) in enumerate(entries, 1))

    def stream(self, member: Member, start: int = 0, before: bytes = b"") -> Iterator[bytes]:
        what = f"{shown(member.name)} in the 7-Zip archive"
        index = self._indices[member.number - 1]
        yield from decode(decode_entry, what, {**self._place, "index": index, "what": what}, MOST_DICTIONARY)


def _open(path: str, identity: str) -> tuple[BinaryIO, Any]:
    """The archive as py7zr has it. Raises :class:`~volatility3_kdump.errors.KdumpError`."""
    import py7zr

    file = open_unchanged(path, identity)
    with damage(_LIST):
        return file, py7zr.SevenZipFile(file)


def list_entries(path: str, identity: str) -> Iterator[bytes]:
    """Runs in a child: a JSON array of index, name and size in bytes for each file, one a line."""
    _, archive = _open(path, identity)
    with damage(_LIST):
        for index, entry in enumerate(archive.files):
            if not entry.is_directory:
                yield json.dumps([index, entry.filename, entry.uncompressed or 0]).encode("ascii") + b"\n"


def decode_entry(path: str, identity: str, index: int, what: str) -> Iterator[bytes]:
    """Runs in a child: the bytes of a file, its checksum verified.

    py7zr extracts files under their names and in pieces of up to 128 MB, so its decoders are driven from here.
    """
    file, archive = _open(path, identity)
    with damage(what):
        wanted = list(archive.files)[index]
        if wanted.emptystream:
            return
        folder = wanted.folder
        for coder in folder.coders:
            if _dictionary_of(coder) > MOST_DICTIONARY:
                raise UnsupportedContainer(
                    f"{what} needs {_dictionary_of(coder):,} bytes of memory to decompress: extract it first"
                )
        streams = archive.header.main_streams
        number = next(index for index, other in enumerate(streams.unpackinfo.folders) if other is folder)
        first = sum(
            sum(coder["numinstreams"] for coder in other.coders) - len(other.bindpairs)
            for other in streams.unpackinfo.folders[:number]
        )
        start_of_folder = archive.afterheader + streams.packinfo.packpos + sum(streams.packinfo.packsizes[:first])
        file.seek(start_of_folder)
        folder.decompressor = None
        decoder = folder.get_decompressor(streams.packinfo.packsizes[first])
        packed = _Sips(file)
        for entry in (entry for entry in archive.files if entry.folder is folder):
            checksum, left = 0, entry.uncompressed
            while left > 0:
                position = file.tell()
                data = decoder.decompress(packed, min(left, 8 * CHUNK))
                if not data and file.tell() == position:
                    raise EOFError
                left -= len(data)
                if entry.id == wanted.id:
                    checksum = zlib.crc32(data, checksum)
                    yield bytes(data)
            if entry.id == wanted.id:
                if entry.crc32 is not None and entry.crc32 != checksum:
                    raise CorruptContainer(f"{what} has the checksum {checksum:#010x}, not {entry.crc32:#010x}")
                return


class _Sips:
    """A file that gives little at a time, so that a decoder is not fed faster than it is drained."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 1 << 13))


def _dictionary_of(coder: dict[str, Any]) -> int:
    """The bytes that a coder of 7z asks for: LZMA (03 01 01), LZMA2 (21), PPMd (03 04 01); 0 for others."""
    properties = coder.get("properties") or b""
    if coder["method"] == b"\x21" and len(properties) == 1:
        exponent = properties[0]
        return (1 << 32) - 1 if exponent >= 40 else (2 | exponent & 1) << exponent // 2 + 11
    if coder["method"] in (b"\x03\x01\x01", b"\x03\x04\x01") and len(properties) == 5:
        return int.from_bytes(properties[1:], "little")
    return 0
