"""Virtual address descriptors."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.vads import vad_grid
from volatility3_kdump.windows.listing.handles import process_named
from volatility3_kdump.windows.memory.vads import process_vads, read_vads, vads_with
from volatility3_kdump.windows.processes.crashed import crash_process


class Vad(KdumpPlugin):
    """Shows the regions of a process's address space (KD: !vad); by default of the process that crashed."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="pid", description="Process id, decimal or 0x...", optional=True),
            requirements.StringRequirement(
                name="address", description="The region of this user address, or a tree's root", optional=True
            ),
        ]

    def grid(self, target):
        address = parse_address(self.option("address"), target) if self.option("address") else 0
        if target.is_kernel_address(address):
            return vad_grid(target, read_vads(target, address))
        pid = self.option("pid")
        crashed = crash_process(target)
        if pid is None and crashed is None:
            raise KdumpError(f"{target.name}: the dump does not say which process crashed: use --pid")
        tree = process_vads(target, crashed.address if pid is None else process_named(target, parse_id(pid)))
        return vad_grid(target, vads_with(target, tree, address) if address else tree)
