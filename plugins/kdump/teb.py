"""What user mode says of threads."""

from volatility3_kdump.expressions import parse_id
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.user_mode import teb_grid
from volatility3_kdump.windows.listing.processes import ProcessChoice


class Teb(KdumpPlugin):
    """Shows the TEBs of threads: user stack, last error and status (KD: !teb, !gle).

    For dumps that hold user mode. Ids are decimal, or hexadecimal with 0x.
    """

    @classmethod
    def options(cls):
        return [
            list_option("pid", "Process ids, decimal or 0x..."),
            list_option("name", "Parts of image names"),
        ]

    def grid(self, target):
        chosen = ProcessChoice((), [parse_id(pid) for pid in self.option("pid") or []], self.option("name") or [])
        return teb_grid(target, chosen, self._progress_callback)
