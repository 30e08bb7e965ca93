"""A dump that is planned and not written, opened as a file is: a slice of a memory image is a slice of such a dump."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from volatility3_kdump.dump import PAGE_SIZE, DumpType
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import settle
from volatility3_kdump.writing.crash_dump import Plan, changed_pages, plan

if TYPE_CHECKING:
    from volatility3_kdump.options import Options
    from volatility3_kdump.progress import Progress


class PlannedSource:
    """The bytes that a planned dump would have as a file."""

    def __init__(self, planned: Plan) -> None:
        source = planned.target.dump.source
        self.name = source.name
        self.size = planned.size
        self._source = source
        self._planned = planned
        #: Where each stretch of pages begins in the dump, and behind the last one where the tagged data does.
        self._starts = [len(planned.preamble)]
        for stretch in planned.stretches:
            self._starts.append(self._starts[-1] + stretch.count * PAGE_SIZE)

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`~volatility3_kdump.dump.source.Source.read`."""
        if offset < 0:
            return b""
        parts = []
        end = min(offset + length, self.size)
        while offset < end:
            data = self._piece(offset, end - offset)
            if not data:
                break
            parts.append(data)
            offset += len(data)
        return b"".join(parts)

    def _piece(self, offset: int, length: int) -> bytes:
        """Some bytes at an offset, as many as lie in one part of the dump."""
        planned = self._planned
        if offset < self._starts[0]:
            return planned.preamble[offset : offset + length]
        if offset < self._starts[-1]:
            number = bisect.bisect_right(self._starts, offset) - 1
            stretch, within = planned.stretches[number], offset - self._starts[number]
            length = min(length, self._starts[number + 1] - offset)
            assert stretch.offset is not None
            if not planned.changes:
                return self._source.read(stretch.offset + within, length)
            # Changes are of whole pages' places: what is read is widened to pages, and cut again.
            first = within & -PAGE_SIZE
            last = -(-(within + length) // PAGE_SIZE) * PAGE_SIZE
            data = self._source.read(stretch.offset + first, last - first)
            data = changed_pages(planned.changes, stretch.pfn * PAGE_SIZE + first, data)
            return data[within - first : within - first + length]
        behind = offset - self._starts[-1]
        if behind < planned.tail[1]:
            return self._source.read(planned.tail[0] + behind, min(length, planned.tail[1] - behind))
        behind -= planned.tail[1]
        return planned.behind[behind : behind + length]


def dump_of(target: Target, options: Options, progress: Progress | None = None) -> Target:
    """A memory image as the crash dump with all of its pages that could be written of it.

    Raises :class:`~volatility3_kdump.errors.KdumpError` where none could.
    """
    planned = plan(target, DumpType.BITMAP_FULL, progress)
    return settle(Target.over_source(target.name, PlannedSource(planned), options))
