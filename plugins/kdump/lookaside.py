"""Lookaside lists."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.kernel_state import lookasides_grid


class Lookaside(KdumpPlugin):
    """Shows the lookaside lists of the kernel and of drivers: sizes, tags, hits (KD: !lookaside -all)."""

    def grid(self, target):
        return lookasides_grid(target)
