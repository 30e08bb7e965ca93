"""The base of the plugins."""

from __future__ import annotations

from volatility3.framework import contexts

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.target import Target
from volatility3_kdump.views.grid import KdumpGrid


class Plain(KdumpPlugin):
    needs_dump = False

    def grid(self, target: Target | None) -> KdumpGrid:
        self._progress_callback(50.0, "Comparing \x1b]0;owned\x07\u202e.sys")
        return KdumpGrid([("Name", str)], [], lambda: [])


def test_progress_is_fit_for_a_terminal() -> None:
    """The host prints it as it is, and modules of the dump are named in it."""
    told: list[tuple[float, str | None]] = []
    plugin = Plain(contexts.Context(), "plugins.Plain", lambda percent, what: told.append((percent, what)))
    plugin.run()
    assert told == [(50.0, "Comparing \\x1b]0;owned\\x07\\u202e.sys")]
    Plain(contexts.Context(), "plugins.Plain").run()
