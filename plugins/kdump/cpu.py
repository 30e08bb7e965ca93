"""Processors."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.processors import dpcs_grid, processors_grid


class Cpu(KdumpPlugin):
    """Shows the control regions and blocks of the processors, and their models (KD: !pcr, !prcb, !cpuinfo, !dpcs)."""

    @classmethod
    def options(cls):
        return [
            list_option("cpu", "Numbers of processors", int),
            requirements.BooleanRequirement(
                name="dpcs", description="Deferred procedure calls that are queued, and those that run", optional=True
            ),
        ]

    def grid(self, target):
        return dpcs_grid(target) if self.option("dpcs") else processors_grid(target, self.option("cpu") or [])
