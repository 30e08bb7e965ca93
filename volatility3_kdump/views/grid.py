"""Tables for the host's renderers: typed rows, absent values, escaped text, and KD's text beside them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from volatility3.framework import interfaces, renderers
from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError, ReadLimit
from volatility3_kdump.escape import printable, terminal_line
from volatility3_kdump.notebook import html_table

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
        self._escaped = self._guarded(lambda: _escaped(rows))
        super().__init__(columns, self._escaped)
        self._kd_lines = kd_lines
        #: What to raise for an error of ours while rows and lines are made, which is when somebody asks for them.
        self.failure: Callable[[Exception], BaseException] | None = None

    def records(self) -> Iterator[dict[str, Any]]:
        """The rows as plain values, made as they are asked for; they are asked for once, here or by the host.

        Blank cells are left out, unknown ones are ``None``; ``Missing`` says why where that is known, and ``Level`` how
        deep the row stands below others, where it does.
        """
        names = [column.name for column in self.columns]
        for level, cells in self._escaped:
            record: dict[str, Any] = {"Level": level} if level else {}
            missing: dict[str, str] = {}
            for name, cell in zip(names, cells, strict=True):
                if isinstance(cell, renderers.NotApplicableValue):
                    continue
                absent = isinstance(cell, interfaces.renderers.BaseAbsentValue)
                reason = str(getattr(cell, "reason", "")) if absent else ""
                if reason:
                    missing[name] = printable(reason)
                record[name] = None if absent else _plain(cell)
            if missing:
                record["Missing"] = missing
            yield record

    def kd_lines(self) -> Iterator[str]:
        """KD's text, every line escaped for a terminal."""
        return self._guarded(lambda: map(terminal_line, self._kd_lines()))

    def _repr_html_(self) -> str:
        """The rows, for notebooks; those below others are indented; ``-`` is not known, with its reason."""
        headers = [column.name for column in self.columns]
        rows: list[list[object]] = []

        def visit(node: Any, _: None) -> None:
            shown = [_in_notebook(cell) for cell in node.values]
            rows.append(["\u2003" * node.path_depth + shown[0], *shown[1:]])

        if not self.populated:
            self.populate(visit, None)
        else:
            self.visit(None, visit, None)
        return html_table(headers, rows)

    def _guarded(self, make: Callable[[], Iterable[_Value]]) -> Iterator[_Value]:
        try:
            yield from make()
        except (KdumpError, ReadLimit) as error:
            if self.failure is None:
                raise
            raise self.failure(error) from error


def _in_notebook(cell: Any) -> str:
    if isinstance(cell, renderers.NotApplicableValue):
        return ""
    if isinstance(cell, interfaces.renderers.BaseAbsentValue):
        reason = str(getattr(cell, "reason", ""))
        return f"- ({reason})" if reason else "-"
    return f"{cell:#x}" if isinstance(cell, format_hints.Hex) else str(cell)


def _plain(cell: Any) -> Any:
    if isinstance(cell, datetime.datetime):
        return cell.isoformat()
    return str(cell) if isinstance(cell, str) else cell


def _escaped(rows: Iterable[Row]) -> Iterator[Row]:
    for level, values in rows:
        yield level, tuple(printable(value) if type(value) is str else value for value in values)
