"""Threads."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.thread import Threads, thread_grid
from volatility3_kdump.views.waits import waits_grid


class Thread(KdumpPlugin):
    """Shows threads: state, wait objects, requests, times, stack (KD: !thread).

    Without options it is the thread of the crash. Ids are decimal, or hexadecimal with 0x; addresses are hexadecimal.
    """

    @classmethod
    def options(cls):
        return [
            requirements.ListRequirement(
                name="address", element_type=str, description="ETHREAD addresses", optional=True, default=[]
            ),
            requirements.ListRequirement(
                name="tid", element_type=str, description="Thread ids, decimal or 0x...", optional=True, default=[]
            ),
            requirements.ListRequirement(
                name="pid", element_type=str, description="Threads of these processes", optional=True, default=[]
            ),
            requirements.ListRequirement(
                name="state",
                element_type=str,
                description="Threads in these states: Ready, Running, Standby, Waiting...",
                optional=True,
                default=[],
            ),
            requirements.ListRequirement(
                name="cpu", element_type=int, description="Threads of these processors", optional=True, default=[]
            ),
            requirements.BooleanRequirement(name="all", description="Every thread", optional=True),
            requirements.BooleanRequirement(name="no-stack", description="Without stacks", optional=True),
            requirements.BooleanRequirement(
                name="waits", description="Who waits for whom, and deadlocks, instead", optional=True
            ),
        ]

    def grid(self, target):
        chosen = Threads(
            [parse_address(text, target) for text in self.option("address") or []],
            [parse_id(text) for text in self.option("tid") or []],
            [parse_id(text) for text in self.option("pid") or []],
            self.option("state") or [],
            self.option("cpu") or [],
            bool(self.option("all")),
        )
        if self.option("waits"):
            return waits_grid(target, chosen, self._progress_callback)
        return thread_grid(target, chosen, not self.option("no-stack"), self._progress_callback)
