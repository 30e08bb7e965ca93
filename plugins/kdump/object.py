"""Objects, directories and handles."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.objects import handles_grid, object_grid
from volatility3_kdump.windows.listing.handles import process_named
from volatility3_kdump.windows.processes.crashed import crash_process


class Object(KdumpPlugin):
    """Shows an object's header, what a directory holds, or the handles of a process (KD: !object, !handle).

    Without options it is the root directory.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="An object's address", optional=True),
            requirements.StringRequirement(name="path", description="An object's path: \\Driver", optional=True),
            requirements.BooleanRequirement(
                name="handles", description="Handles, by default of the process that crashed", optional=True
            ),
            requirements.StringRequirement(name="pid", description="The process of --handles", optional=True),
        ]

    def grid(self, target):
        if self.option("handles"):
            pid = self.option("pid")
            crashed = crash_process(target)
            if pid is None and crashed is None:
                raise KdumpError(f"{target.name}: the dump does not say which process crashed: use --pid")
            return handles_grid(target, crashed.address if pid is None else process_named(target, parse_id(pid)))
        if self.option("address"):
            return object_grid(target, parse_address(self.option("address"), target))
        return object_grid(target, self.option("path") or "\\")
