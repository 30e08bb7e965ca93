"""The samples of the DPC watchdog."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.dpc_watchdog import dpc_watchdog_grid


class DpcWatchdog(KdumpPlugin):
    """Shows what each processor ran while the DPC watchdog sampled it, by module and place.

    Only for bug check 133, whose arguments name the samples. KD: !dpcwatchdog.
    """

    def grid(self, target):
        return dpc_watchdog_grid(target)
