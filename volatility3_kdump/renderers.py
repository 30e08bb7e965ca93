"""``-r windbg``: KD's own text from the same values that the other renderers show as tables; and ``-r csv``, made safe.

Hosts from 2.28 on find renderers of plugins; ``kdump vol ...`` serves older ones.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from volatility3.cli import text_renderer

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.views.grid import KdumpGrid

#: What spreadsheets take for the beginning of a formula (OWASP, "CSV Injection"); plain numbers are none.
_FORMULA = re.compile(r"[=+\-@\t\r](?![\d.]*$)")


class WindbgRenderer(text_renderer.CLIRenderer):
    """Prints what KD would print; tables of other plugins fall back on the host's ``pretty`` renderer."""

    name = "windbg"
    structured_output = True

    def get_render_options(self) -> list[Any]:
        return []

    def render(self, grid: Any) -> None:
        if not isinstance(grid, KdumpGrid):
            fallback = text_renderer.PrettyTextRenderer()
            fallback.filter = self.filter
            fallback.column_hide_list = self.column_hide_list
            fallback.render(grid)
            return
        with _output(grid):
            for line in grid.kd_lines():
                sys.stdout.write(f"{line}\n")


class SafeCSVRenderer(text_renderer.CSVRenderer):
    """The host's ``csv``; in our tables no text that comes from a dump is a formula for a spreadsheet.

    Such a cell has an apostrophe in front, which spreadsheets take for "this is text". Tables of other plugins are
    printed as the host does.
    """

    name = "csv"
    structured_output = True

    def render(self, grid: Any) -> None:
        if isinstance(grid, KdumpGrid):
            host: dict[Any, Any] = text_renderer.CSVRenderer._type_renderers
            self._type_renderers = {**host, str: text_renderer.optional(inert)}
        with _output(grid):
            super().render(grid)


@contextlib.contextmanager
def _output(grid: Any) -> Iterator[None]:
    """Standard output for one table: what it cannot take is one line and status 1; a reader may leave."""
    try:
        if sys.stdout is None:
            # The process was started without one, so that nobody reads.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        yield
        sys.stdout.flush()
    except OSError as error:
        # Python would complain once more of what is left when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            failure = getattr(grid, "failure", None)
            if failure is None:
                raise
            raise failure(KdumpError(f"the output cannot be written: {error.strerror or error}")) from error


def inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text
