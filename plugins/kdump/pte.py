"""Page table entries."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.translation import pte_grid, vtop_grid
from volatility3_kdump.windows.memory.translation import directory_of
from volatility3_kdump.windows.processes.crashed import crash_process


class Pte(KdumpPlugin):
    """Shows how an address is translated: the page table entries of every level (KD: !pte, !vtop)."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="A virtual address", optional=True),
            requirements.StringRequirement(
                name="directory",
                description="Physical address of the page directory; by default of the process that crashed",
                optional=True,
            ),
            requirements.BooleanRequirement(name="vtop", description="KD's text is that of !vtop", optional=True),
        ]

    def grid(self, target):
        if not self.option("address"):
            raise KdumpError("--address takes the virtual address that is translated")
        address = parse_address(self.option("address"), target)
        crashed = crash_process(target)
        if self.option("directory"):
            directory = parse_address(self.option("directory"), target)
        else:
            directory = directory_of(target, crashed.address if crashed else None)
        return (vtop_grid if self.option("vtop") else pte_grid)(target, address, directory)
