"""What the dump is: KD's load banner with every value in it."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.info import info_grid


class Info(KdumpPlugin):
    """Shows what a crash dump is and holds: type, Windows, kernel, times, pages, tagged data (KD: vertarget)."""

    def grid(self, target):
        return info_grid(target)
