"""``-r windbg``: KD's own text from the same values that the other renderers show as tables; and ``-r csv``, made safe.

Hosts from 2.28 on find renderers of plugins; ``kdump vol ...`` serves older ones.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from volatility3.cli import text_renderer

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
        try:
            for line in grid.kd_lines():
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (head, a pager) has seen enough; Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        super().render(grid)


def inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text
