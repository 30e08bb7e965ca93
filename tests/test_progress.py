"""Progress on a terminal."""

from __future__ import annotations

import io

from volatility3_kdump.progress import ProgressLine


def test_it_makes_way_for_text() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = ProgressLine(stream)
    progress(12.5, "Walking \x1bstacks")
    progress.clear()
    progress.clear()
    shown = "\r 12.5 % Walking \\x1bstacks"
    assert stream.getvalue() == f"{shown}\r{' ' * (len(shown) - 1)}\r"
    silent = io.StringIO()
    ProgressLine(silent)(50.0, "Walking stacks")
    assert silent.getvalue() == ""
