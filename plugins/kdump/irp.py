"""I/O requests, device stacks and driver objects."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.irp import driver_grid, irp_grid, pending_grid, stack_grid


class Irp(KdumpPlugin):
    """Shows an I/O request, a device stack, a driver object, or all pending requests (KD: !irp, !devstack, !drvobj).

    Addresses are expressions as KD has them. Dispatch routines outside of a driver's image are marked.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="An IRP (KD: !irp)", optional=True),
            requirements.StringRequirement(
                name="device", description="A device object, whose stack is shown (KD: !devstack)", optional=True
            ),
            requirements.StringRequirement(
                name="driver", description="A driver object, by name or address (KD: !drvobj)", optional=True
            ),
            requirements.BooleanRequirement(name="pending", description="The IRPs of all threads", optional=True),
        ]

    def grid(self, target):
        chosen = [name for name in ("address", "device", "driver", "pending") if self.option(name)]
        if len(chosen) != 1:
            raise KdumpError("choose one of --address IRP, --device DEVICE, --driver NAME and --pending")
        if self.option("pending"):
            return pending_grid(target, self._progress_callback)
        if self.option("driver"):
            return driver_grid(target, self.option("driver"))
        if self.option("device"):
            return stack_grid(target, parse_address(self.option("device"), target))
        return irp_grid(target, parse_address(self.option("address"), target))
