"""Who holds a machine up."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.hang import hang_grid


class Hang(KdumpPlugin):
    """Shows who most probably holds up a machine that hangs, with the evidence (KD: !analyze -hang).

    What runs on the processors, spin locks, starved threads, deadlocks, threads in one place, pending requests, worker
    queues, memory at its limits, timers and DPCs.
    """

    @classmethod
    def options(cls):
        return [requirements.BooleanRequirement(name="verbose", description="With stacks", optional=True)]

    def grid(self, target):
        return hang_grid(target, bool(self.option("verbose")), self._progress_callback)
