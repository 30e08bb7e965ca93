"""Symbols by name and by address."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.symbols import matching_grid, nearest_grid


class Symbols(KdumpPlugin):
    """Lists the symbols that a pattern fits, or those around an address (KD: x, ln)."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="match", description="module!pattern, with wildcards", optional=True),
            requirements.StringRequirement(name="near", description="An address", optional=True),
        ]

    def grid(self, target):
        if self.option("near"):
            return nearest_grid(target, parse_address(self.option("near"), target))
        if not self.option("match"):
            raise KdumpError("use --match 'nt!Ke*' or --near ADDRESS")
        return matching_grid(target, self.option("match"))
