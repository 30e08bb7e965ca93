"""Executive resources."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.locks import locks_grid


class Locks(KdumpPlugin):
    """Shows the executive resources (ERESOURCE) that are owned or waited for, and who blocks whom (KD: !locks).

    Below each resource are its owners and waiters; wait chains and deadlocks are followed through every kind of wait.
    """

    @classmethod
    def options(cls):
        return [
            requirements.BooleanRequirement(
                name="all", description="Every resource, free ones too (KD: !locks -d)", optional=True
            ),
            requirements.BooleanRequirement(
                name="verbose",
                description="The threads with all that is known of them, and stacks (KD: !locks -v)",
                optional=True,
            ),
            requirements.StringRequirement(name="address", description="One resource", optional=True),
        ]

    def grid(self, target):
        one = self.option("address")
        return locks_grid(
            target,
            bool(self.option("all")),
            bool(self.option("verbose")),
            parse_address(one, target) if one else None,
            self._progress_callback,
        )
