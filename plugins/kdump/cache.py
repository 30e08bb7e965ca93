"""Cached files."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.kernel_data import file_cache_grid


class Cache(KdumpPlugin):
    """Shows the files that the system cache maps, the largest first (KD: !filecache)."""

    def grid(self, target):
        return file_cache_grid(target)
