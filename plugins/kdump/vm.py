"""Virtual memory: page files, commit by consumer and by process, limits."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.vm import vm_grid


class Vm(KdumpPlugin):
    """Shows what the memory manager counts: page files, free and modified pages, pools, commit, and what runs out.

    KD: !vm.
    """

    @classmethod
    def options(cls):
        return [
            requirements.BooleanRequirement(
                name="no-processes", description="Leave out the commit of each process (KD: !vm 1)", optional=True
            )
        ]

    def grid(self, target):
        return vm_grid(target, not self.option("no-processes"), self._progress_callback)
