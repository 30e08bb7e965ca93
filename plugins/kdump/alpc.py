"""ALPC ports."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.jobs import ports_grid
from volatility3_kdump.windows.listing.handles import process_named


class Alpc(KdumpPlugin):
    """Shows the ALPC ports of the system: kinds, names, owners, connections (KD: !alpc /lpp)."""

    @classmethod
    def options(cls):
        return [requirements.IntRequirement(name="pid", description="Only those of this process", optional=True)]

    def grid(self, target):
        pid = self.option("pid")
        return ports_grid(target, None if pid is None else process_named(target, pid))
