"""Which pages of a dump are read: a source that remembers, put between the layers and the file while it is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from volatility3_kdump.dump.pagemap import PAGE_SHIFT, Extent, PageMap, extents
from volatility3_kdump.dump.source import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHUNK = 1 << PAGE_SHIFT
_RECORDER: ContextVar[Recorder | None] = ContextVar("kdump recorder", default=None)


class RecordingSource:
    """Another source's bytes; what is read is told to a recorder."""

    def __init__(self, source: Source, recorder: Recorder) -> None:
        self.name = source.name
        self.size = source.size
        self._source = source
        self._recorder = recorder

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`Source.read`."""
        data = self._source.read(offset, length)
        if data:
            self._recorder.note(offset, len(data))
        return data

    def read_fragment(self, offset: int, length: int, address: int) -> bytes:
        """As :meth:`read`, of bytes at a physical address: they alone are kept, not their page."""
        data = self._source.read(offset, length)
        self.keep_fragment(address, data)
        return data

    def keep_fragment(self, address: int, data: bytes) -> None:
        """Keep bytes at a physical address that a slice has and not their page."""
        self._recorder.fragments[address] = data


class Recorder:
    """Remembers which parts of a file were read, in pieces of a page.

    ``fragments`` are bytes by physical address that were wanted without their pages.
    """

    def __init__(self) -> None:
        self.fragments: dict[int, bytes] = {}
        self._chunks: set[int] = set()
        self._skew = 0

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Record what is read of every dump that is opened in here, for as long as that dump is used."""
        token = _RECORDER.set(self)
        try:
            yield
        finally:
            _RECORDER.reset(token)

    def over(self, source: Source, page_map: PageMap) -> RecordingSource:
        """A source that tells what is read; its pieces begin where pages do, not always at a page of the file."""
        first = page_map.next_present(0)
        place = None if first is None else page_map.offset_of(first)
        self._skew = (place or 0) % _CHUNK
        return RecordingSource(source, self)

    def note(self, offset: int, length: int) -> None:
        """Bytes of the file that were read."""
        offset -= self._skew
        first, last = offset // _CHUNK, (offset + length - 1) // _CHUNK
        if first == last:
            self._chunks.add(first)
        else:
            self._chunks.update(range(first, last + 1))

    def pages(self, page_map: PageMap) -> NDArray[np.bool_]:
        """For each page frame up to the highest that is stored, whether any of it was read."""
        import numpy as np

        frames = (page_map.highest or 0) + 1
        read = np.zeros(frames, np.bool_)
        chunks = np.sort(np.fromiter(self._chunks, np.int64, len(self._chunks)))
        for stretch in extents(page_map, 0, frames):
            _mark(read, stretch, chunks, self._skew)
        return read


def _mark(read: NDArray[np.bool_], stretch: Extent, chunks: NDArray[np.int64], skew: int) -> None:
    """Mark the pages of a stretch that lie in pieces of the file that were read."""
    import numpy as np

    assert stretch.offset is not None
    first, rest = divmod(stretch.offset - skew, _CHUNK)
    # Where pages do not begin at a piece, each lies in two of them.
    low, high = np.searchsorted(chunks, (first, first + stretch.count + bool(rest)))
    numbers = chunks[low:high] - first
    read[stretch.pfn + numbers[numbers < stretch.count]] = True
    if rest:
        read[stretch.pfn + numbers[numbers > 0] - 1] = True


def recorded(source: Source, page_map: PageMap) -> Source:
    """The source itself, or where somebody records, one that tells what is read."""
    recorder = _RECORDER.get()
    return source if recorder is None else recorder.over(source, page_map)
