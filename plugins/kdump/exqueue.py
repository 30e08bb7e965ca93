"""The executive's work queues."""

from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.queues import exqueue_grid


class Exqueue(KdumpPlugin):
    """Shows the work queues of the executive, their worker threads and the items that wait (KD: !exqueue)."""

    @classmethod
    def options(cls):
        return [list_option("queue", "Names of queues: Critical, Delayed, HyperCritical, ExPoolUntrusted...")]

    def grid(self, target):
        return exqueue_grid(target, self.option("queue") or ())
