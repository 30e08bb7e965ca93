"""Processors."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.descriptors import idt_grid
from volatility3_kdump.views.processors import dpcs_grid, processors_grid
from volatility3_kdump.views.queues import queued_locks_grid, timers_grid


class Cpu(KdumpPlugin):
    """Shows the control regions and blocks of the processors, and their models (KD: !pcr, !prcb, !cpuinfo).

    Or what they have queued (KD: !dpcs, !timer, !qlocks), or the interrupt handlers of one (KD: !idt).
    """

    @classmethod
    def options(cls):
        return [
            list_option("cpu", "Numbers of processors", int),
            requirements.BooleanRequirement(
                name="dpcs", description="Deferred procedure calls that are queued, and those that run", optional=True
            ),
            requirements.BooleanRequirement(name="timers", description="Timers that are set", optional=True),
            requirements.BooleanRequirement(
                name="idt", description="The interrupt handlers of the one processor of --cpu", optional=True
            ),
            requirements.BooleanRequirement(
                name="spin-locks", description="Numbered queued spin locks: who owns each, who waits", optional=True
            ),
        ]

    def grid(self, target):
        if self.option("idt"):
            chosen = self.option("cpu") or [0]
            if len(chosen) != 1:
                raise KdumpError("--idt takes one processor: --cpu N")
            return idt_grid(target, chosen[0])
        for name, grid in (("dpcs", dpcs_grid), ("timers", timers_grid), ("spin-locks", queued_locks_grid)):
            if self.option(name):
                return grid(target)
        return processors_grid(target, self.option("cpu") or [])
