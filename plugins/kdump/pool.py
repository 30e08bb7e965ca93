"""The kernel's pool."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.findings.pool_search import POOLS, PoolSearch, TagPattern
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.pool import ORDERS, big_grid, block_grid, usage_grid
from volatility3_kdump.views.pool_search import found_grid


class Pool(KdumpPlugin):
    """Shows how much pool each tag uses, or with --address the block that an address lies in (KD: !poolused, !pool).

    Drivers whose code has a tag are candidates for its owner; --pooltag-file names the debugger's pooltag.txt.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(
                name="address", description="The block that this address lies in (KD: !pool)", optional=True
            ),
            requirements.ChoiceRequirement(
                name="sort", choices=list(ORDERS), description="Order of the tags", default=ORDERS[0], optional=True
            ),
            requirements.StringRequirement(
                name="tag", description="Only tags that fit: ? is one character, * any", optional=True
            ),
            requirements.BooleanRequirement(
                name="find", description="The blocks of the tag --tag (KD: !poolfind)", optional=True
            ),
            requirements.ChoiceRequirement(
                name="pool",
                choices=list(POOLS),
                description="With --find: which pool",
                default="nonpaged",
                optional=True,
            ),
            requirements.BooleanRequirement(name="big", description="The table of big pages", optional=True),
            requirements.BooleanRequirement(
                name="free", description="With --big, also entries of allocations that are gone", optional=True
            ),
            requirements.BooleanRequirement(
                name="verbose",
                description="Allocations and frees since the start as well (KD: !poolused 1)",
                optional=True,
            ),
            requirements.StringRequirement(
                name="pooltag-file",
                description="Names of tags, in the format of pooltag.txt; by default KDUMP_POOLTAG",
                optional=True,
            ),
        ]

    def grid(self, target):
        tag_file, tag = self.option("pooltag-file"), self.option("tag")
        if self.option("address") and self.option("big"):
            raise KdumpError("choose one of --address ADDRESS and --big")
        if self.option("free") and not self.option("big"):
            raise KdumpError("--free needs --big")
        if self.option("find"):
            if not tag or self.option("address") or self.option("big"):
                raise KdumpError("--find needs --tag, and goes with neither --address nor --big")
            search = PoolSearch(
                target, TagPattern(tag), (self.option("pool") or "nonpaged",), progress=self._progress_callback
            )
            return found_grid(search)
        if self.option("address"):
            where = parse_address(self.option("address"), target)
            return block_grid(target, where, tag_file, self._progress_callback)
        if self.option("big"):
            return big_grid(target, tag, tag_file, bool(self.option("free")), self._progress_callback)
        order = self.option("sort") or ORDERS[0]
        return usage_grid(target, order, tag, tag_file, bool(self.option("verbose")), self._progress_callback)
