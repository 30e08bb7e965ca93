"""The power manager."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.power import power_grid


class Power(KdumpPlugin):
    """Shows the power action, the power requests that are not completed, and who serves them (KD: !poaction)."""

    def grid(self, target):
        return power_grid(target)
