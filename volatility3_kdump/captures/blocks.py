"""Bytes that are stored in compressed blocks, read as if they lay unpacked one after another."""

from __future__ import annotations

import bisect
import collections
import threading
import zlib
from array import array
from collections.abc import Callable

from volatility3_kdump.dump import Source
from volatility3_kdump.errors import CorruptDump, KdumpError, UnsupportedContainer

STORED, ZLIB, LZO, SNAPPY, ZSTD = "stored", "zlib", "lzo", "snappy", "zstd"
#: Unpacked bytes that are remembered.
_REMEMBERED = 32 << 20
_LARGEST_BLOCK = 1 << 20


class BlockSource:
    """A source over blocks of another one. ``name`` is that of the file, ``size`` counts unpacked bytes."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.size = 0
        self._source = source
        self._starts = array("Q")
        self._places = array("Q")
        self._stored = array("Q")
        self._sizes = array("Q")
        self._methods: list[str] = []
        self._unpacked: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def add(self, place: int, stored: int, size: int, method: str) -> int:
        """Append a block of ``stored`` bytes at a place of the file that unpacks to ``size``; where that begins."""
        start = self.size
        self._starts.append(start)
        self._places.append(place)
        self._stored.append(stored)
        self._sizes.append(size)
        self._methods.append(method)
        self.size += size
        return start

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`Source.read`. Raises :class:`KdumpError` for a block that cannot be unpacked."""
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        index = bisect.bisect_right(self._starts, offset) - 1
        within = offset - self._starts[index]
        block = self._block(index)
        if within + length <= len(block):
            return block[within : within + length]
        parts = [block[within:]]
        missing = length - len(parts[0])
        while missing > 0:
            index += 1
            parts.append(self._block(index)[:missing])
            missing -= len(parts[-1])
        return b"".join(parts)

    def _block(self, index: int) -> bytes:
        with self._lock:
            block = self._unpacked.get(index)
            if block is not None:
                self._unpacked.move_to_end(index)
                return block
        place, size = self._places[index], self._sizes[index]
        stored = self._source.read(place, self._stored[index])
        if len(stored) < self._stored[index]:
            raise CorruptDump(f"the file ends inside the block at {place:#x}: the copy is truncated")
        block = unpack(stored, self._methods[index], size, place)
        with self._lock:
            if index not in self._unpacked:
                self._unpacked[index] = block
                self._held += len(block)
            while self._held > _REMEMBERED:
                _, old = self._unpacked.popitem(last=False)
                self._held -= len(old)
        return block


def unpack(data: bytes, method: str, size: int, place: int) -> bytes:
    """What a block unpacks to. Raises :class:`KdumpError`; ``place`` in the file is for its message."""
    if size > _LARGEST_BLOCK:
        raise CorruptDump(f"the block at {place:#x} claims to unpack to {size:,} bytes: it is damaged")
    try:
        block = _unpacker(method)(data, size)
    except KdumpError:
        raise
    except Exception as error:
        # Each of the libraries has exceptions of its own.
        raise CorruptDump(f"the block at {place:#x} cannot be unpacked ({method}): {error}") from error
    if len(block) != size:
        raise CorruptDump(f"the block at {place:#x} unpacks to {len(block):,} bytes, not {size:,}: it is damaged")
    return block


def require(method: str) -> None:
    """Raise :class:`UnsupportedContainer` where there is no library for a method."""
    _unpacker(method)


def _unpacker(method: str) -> Callable[[bytes, int], bytes]:
    if method == STORED:
        return lambda data, size: data
    if method == ZLIB:
        return lambda data, size: zlib.decompressobj().decompress(data, size + 1)
    try:
        if method == LZO:
            import lzallright

            return lambda data, size: bytes(lzallright.LZOCompressor.decompress(data, output_size_hint=size))
        if method == SNAPPY:
            return _snappy()
        if method == ZSTD:
            import cramjam

            return lambda data, size: _into(cramjam.zstd.decompress_into, data, size)
    except ImportError as error:
        package = "lzallright" if method == LZO else "cramjam"
        raise UnsupportedContainer(
            f"its pages are compressed with {method}, for which there is no library here: "
            f"pip install 'volatility3-kdump[images]' ({package})"
        ) from error
    raise CorruptDump(f"no such compression: {method}")


def _snappy() -> Callable[[bytes, int], bytes]:
    """The package, else the library that the host uses where the system has one."""
    try:
        import cramjam
    except ImportError:
        from volatility3.framework.layers import avml

        if not avml.HAS_SNAPPY:
            raise
        return lambda data, size: bytes(avml.uncompress(data))
    return lambda data, size: _into(cramjam.snappy.decompress_raw_into, data, size)


def _into(decompress: Callable[[bytes, bytearray], int], data: bytes, size: int) -> bytes:
    """Unpack into room that is measured beforehand: what claims to be more does not fit."""
    room = bytearray(size)
    return bytes(room[: decompress(data, room)])
