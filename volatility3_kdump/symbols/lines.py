"""Source lines of code: where in which file a place of an image was written, whoever recorded it."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import NamedTuple, Protocol

#: No function is longer; what says so is damaged.
LONGEST_FUNCTION = 1 << 24
_MOST_LINES = 4_000_000


class SourceLine(NamedTuple):
    """A line of a source file, as the compiler wrote its path."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file} @ {self.line}"


class Lines(Protocol):
    """Gives the source lines of one image."""

    def line_of(self, rva: int) -> SourceLine | None:
        """The line that the instruction at an RVA belongs to; ``None`` where none is recorded."""


class LineTable:
    """Source lines in memory, from (RVA, file, line) in any order; no line is where a range without one begins."""

    def __init__(self, entries: Iterable[tuple[int, SourceLine | None]]) -> None:
        at: dict[int, SourceLine | None] = {}
        for rva, line in entries:
            # The end of one function is often the start of the next one.
            if line is not None or rva not in at:
                at[rva] = line
            if len(at) > _MOST_LINES:
                break
        self._starts = sorted(at)
        self._lines = [at[start] for start in self._starts]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def line_of(self, rva: int) -> SourceLine | None:
        """The line that the instruction at an RVA belongs to; ``None`` where none is recorded."""
        index = bisect.bisect_right(self._starts, rva) - 1
        return None if index < 0 else self._lines[index]
