"""I/O requests, device stacks and driver objects."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.findings.irp_search import IrpSearch, parse_criterion
from volatility3_kdump.findings.pool_search import POOLS
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.irp import driver_grid, irp_grid, pending_grid, stack_grid
from volatility3_kdump.views.pool_search import irps_grid


class Irp(KdumpPlugin):
    """Shows an I/O request, a device stack, a driver object, or all requests (KD: !irp, !irpfind, !devstack, !drvobj).

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
            requirements.BooleanRequirement(
                name="find", description="Every IRP in nonpaged pool (KD: !irpfind)", optional=True
            ),
            requirements.ListRequirement(
                name="with",
                description="With --find: one of arg, device, fileobject, mdlprocess, thread, userevent, and a value",
                element_type=str,
                optional=True,
                default=[],
            ),
            requirements.ChoiceRequirement(
                name="pool",
                choices=list(POOLS),
                description="With --find: which pool",
                default="nonpaged",
                optional=True,
            ),
        ]

    def grid(self, target):
        chosen = [name for name in ("address", "device", "driver", "pending", "find") if self.option(name)]
        if len(chosen) != 1:
            raise KdumpError("choose one of --address IRP, --device DEVICE, --driver NAME, --pending and --find")
        if self.option("with") and not self.option("find"):
            raise KdumpError("--with needs --find")
        if self.option("find"):
            criterion_parts = self.option("with")
            if criterion_parts and len(criterion_parts) != 2:
                raise KdumpError("--with takes a criterion and a value")
            criterion = (
                parse_criterion(criterion_parts[0], parse_address(criterion_parts[1], target))
                if criterion_parts
                else None
            )
            pools = (self.option("pool") or "nonpaged",)
            return irps_grid(IrpSearch(target, pools, 0, criterion, self._progress_callback))
        if self.option("pending"):
            return pending_grid(target, self._progress_callback)
        if self.option("driver"):
            return driver_grid(target, self.option("driver"))
        if self.option("device"):
            return stack_grid(target, parse_address(self.option("device"), target))
        return irp_grid(target, parse_address(self.option("address"), target))
