"""What an address belongs to."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.regions import region_grid


class Address(KdumpPlugin):
    """Says what an address belongs to: image, stack, pool, region of the kernel (KD: !address)."""

    @classmethod
    def options(cls):
        return [requirements.StringRequirement(name="address", description="A virtual address", optional=True)]

    def grid(self, target):
        if not self.option("address"):
            raise KdumpError("--address takes a virtual address: regions are not listed")
        return region_grid(target, parse_address(self.option("address"), target))
