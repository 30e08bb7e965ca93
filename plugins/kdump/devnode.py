"""The tree of devices."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.device_tree import node_grid, tree_grid


class Devnode(KdumpPlugin):
    """Shows the tree of devices, the nodes of a service, or one node (KD: !devnode)."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="One DEVICE_NODE", optional=True),
            requirements.StringRequirement(
                name="service", description="Only the nodes of this service, and what stands below them", optional=True
            ),
            requirements.BooleanRequirement(name="problems", description="Only nodes with problems", optional=True),
        ]

    def grid(self, target):
        if self.option("address"):
            return node_grid(target, parse_address(self.option("address"), target))
        return tree_grid(target, service=self.option("service"), only_problems=bool(self.option("problems")))
