"""Threads."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.thread import thread_grid
from volatility3_kdump.views.waits import waits_grid
from volatility3_kdump.windows.listing.threads import ThreadChoice


class Thread(KdumpPlugin):
    """Shows threads: state, wait objects, requests, times, stack (KD: !thread).

    Without options it is the thread of the crash. Ids are decimal, or hexadecimal with 0x; addresses are hexadecimal.
    """

    @classmethod
    def options(cls):
        return [
            list_option("address", "ETHREAD addresses"),
            list_option("tid", "Thread ids, decimal or 0x..."),
            list_option("pid", "Threads of these processes"),
            list_option("state", "Threads in these states: Ready, Running, Standby, Waiting..."),
            list_option("cpu", "Threads of these processors", int),
            requirements.BooleanRequirement(name="all", description="Every thread", optional=True),
            requirements.BooleanRequirement(name="no-stack", description="Without stacks", optional=True),
            requirements.BooleanRequirement(
                name="waits", description="Who waits for whom, and deadlocks, instead", optional=True
            ),
        ]

    def grid(self, target):
        chosen = ThreadChoice(
            [parse_address(address, target) for address in self.option("address") or []],
            [parse_id(tid) for tid in self.option("tid") or []],
            [parse_id(pid) for pid in self.option("pid") or []],
            self.option("state") or [],
            self.option("cpu") or [],
            bool(self.option("all")),
        )
        if self.option("waits"):
            return waits_grid(target, chosen, self._progress_callback)
        return thread_grid(target, chosen, not self.option("no-stack"), self._progress_callback)
