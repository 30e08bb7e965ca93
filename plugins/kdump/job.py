"""Jobs."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.jobs import jobs_grid


class Job(KdumpPlugin):
    """Shows the jobs of the system with their limits and processes (KD: !job)."""

    def grid(self, target):
        return jobs_grid(target)
