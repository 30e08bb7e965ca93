"""Compressed files: gzip, xz, bzip2. Each holds one member, and no list of files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from volatility3_kdump.archives.archive import CHUNK, Archive, Member
from volatility3_kdump.archives.damage import MOST_DICTIONARY, damage, pieces


class CompressedFile(Archive):
    """A compressed file: one member without a directory."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self._size = file.seek(0, os.SEEK_END)
        self.members = (Member(1, path.stem, None, self._size),)

    def stream(self, member: Member, start: int = 0, before: bytes = b"") -> Iterator[bytes]:
        self.file.seek(0)
        with damage(self.kind.partition(" ")[2]):
            yield from self._decoded()

    def _decoded(self) -> Iterator[bytes]:
        raise NotImplementedError


class Gzip(CompressedFile):
    kind = "a gzip file"

    def _decoded(self) -> Iterator[bytes]:
        return pieces(gzip.GzipFile(fileobj=self.file, mode="rb"))


class Bzip2(CompressedFile):
    kind = "a bzip2 file"

    def _decoded(self) -> Iterator[bytes]:
        return pieces(bz2.BZ2File(self.file, "rb"))


class Xz(CompressedFile):
    kind = "an xz file"

    def _decoded(self) -> Iterator[bytes]:
        # Not LZMAFile, which takes any dictionary that a file asks for.
        while True:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_DICTIONARY)
            packed = self.file.read(1 << 16)
            while not decoder.eof:
                if decoder.needs_input and not packed:
                    raise EOFError
                data = decoder.decompress(packed, CHUNK)
                packed = self.file.read(1 << 16) if decoder.needs_input and not decoder.eof else b""
                if data:
                    yield data
            # Padding of zeros, then perhaps another stream.
            self.file.seek(-len(decoder.unused_data), 1)
            while (byte := self.file.read(1)) == b"\0":
                pass
            if not byte:
                return
            self.file.seek(-1, 1)
