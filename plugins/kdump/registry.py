"""The registry."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.registry import hives_grid, key_grid, open_keys_grid


class Registry(KdumpPlugin):
    """Shows the hives of the registry, a key with its values, or the keys that are open (KD: !reg)."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(
                name="key", description=r"A key by its path: '\REGISTRY\MACHINE\SYSTEM\Select'", optional=True
            ),
            requirements.BooleanRequirement(name="open", description="The keys that are open", optional=True),
        ]

    def grid(self, target):
        if self.option("key"):
            return key_grid(target, self.option("key"))
        return open_keys_grid(target) if self.option("open") else hives_grid(target)
