"""Tables for the host's renderers: typed rows, absent values, escaped text, and KD's text beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from volatility3.framework import renderers

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable, terminal_line
from volatility3_kdump.memory import ReadLimit

Row = tuple[int, tuple[Any, ...]]
_Value = TypeVar("_Value")


class KdumpGrid(renderers.TreeGrid):  # type: ignore[misc]
    """A TreeGrid that can also be shown as KD's text by ``-r windbg``.

    ``kd_lines`` yields the lines of that text from the same values as the rows.
    """

    def __init__(
        self,
        columns: list[tuple[str, type]],
        rows: Iterable[Row],
        kd_lines: Callable[[], Iterable[str]],
    ) -> None:
        super().__init__(columns, self._guarded(lambda: _escaped(rows)))
        self._kd_lines = kd_lines
        #: What to raise for an error of ours while rows and lines are made, which is when somebody asks for them.
        self.failure: Callable[[Exception], BaseException] | None = None

    def kd_lines(self) -> Iterator[str]:
        """KD's text, every line escaped for a terminal."""
        return self._guarded(lambda: map(terminal_line, self._kd_lines()))

    def _guarded(self, make: Callable[[], Iterable[_Value]]) -> Iterator[_Value]:
        try:
            yield from make()
        except (KdumpError, ReadLimit) as error:
            if self.failure is None:
                raise
            raise self.failure(error) from error


def _escaped(rows: Iterable[Row]) -> Iterator[Row]:
    for level, values in rows:
        yield level, tuple(printable(value) if type(value) is str else value for value in values)
