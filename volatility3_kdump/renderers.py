"""``-r windbg``: KD's own text from the same values that the other renderers show as tables.

Hosts from 2.28 on find renderers of plugins; ``kdump vol ...`` serves older ones.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from volatility3.cli import text_renderer

from volatility3_kdump.views.grid import KdumpGrid


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
