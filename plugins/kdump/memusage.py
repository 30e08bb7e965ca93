"""Physical memory by list and by use."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.memusage import memusage_grid


class Memusage(KdumpPlugin):
    """Shows what physical memory is used for: pages by list, and by file, process, driver and pool.

    KD: !memusage.
    """

    @classmethod
    def options(cls):
        return [
            requirements.BooleanRequirement(
                name="summary",
                description="No more than the memory manager's own counters, without the page-frame database "
                "(KD: !memusage 8)",
                optional=True,
            )
        ]

    def grid(self, target):
        return memusage_grid(target, bool(self.option("summary")), self._progress_callback)
