"""Driver Verifier."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.verifier import deadlock_grid, verifier_grid


class Verifier(KdumpPlugin):
    """Shows what Driver Verifier counts and verifies, or the deadlock that it reported (KD: !verifier, !deadlock)."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="driver", description="Only this driver", optional=True),
            requirements.BooleanRequirement(
                name="deadlock", description="The locks of a reported deadlock", optional=True
            ),
        ]

    def grid(self, target):
        if self.option("deadlock"):
            return deadlock_grid(target)
        return verifier_grid(target, driver=self.option("driver"))
