"""Running and ready threads."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.ready import ready_grid


class Ready(KdumpPlugin):
    """Shows what each processor runs, what it runs next and what is ready to run, with IRQL and DPCs.

    KD: !running -i and !ready.
    """

    def grid(self, target):
        return ready_grid(target)
