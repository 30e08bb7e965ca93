"""What user mode says of processes."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.expressions import parse_id
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.user_mode import peb_grid
from volatility3_kdump.windows.listing.processes import ProcessChoice


class Peb(KdumpPlugin):
    """Shows command line, environment and modules of processes, by their PEBs (KD: !peb, !dlls).

    For dumps that hold user mode. Ids are decimal, or hexadecimal with 0x.
    """

    @classmethod
    def options(cls):
        return [
            list_option("pid", "Process ids, decimal or 0x..."),
            list_option("name", "Parts of image names"),
            requirements.BooleanRequirement(name="no-modules", description="Without modules", optional=True),
        ]

    def grid(self, target):
        chosen = ProcessChoice((), [parse_id(pid) for pid in self.option("pid") or []], self.option("name") or [])
        return peb_grid(target, chosen, not self.option("no-modules"), self._progress_callback)
