"""The bug check: code, name, and what its arguments mean."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.bugcheck import bug_check_grid, shown_bug_check


class Bugcheck(KdumpPlugin):
    """Explains the bug check of a crash dump and its four arguments (KD: .bugcheck, !analyze -show).

    With --show CODE [P1 P2 P3 P4] (hexadecimal) it explains any bug check, without a dump.
    """

    @property
    def needs_dump(self):
        return not self.option("show")

    @classmethod
    def options(cls):
        return [
            requirements.ListRequirement(
                name="show",
                element_type=str,
                description="Explain this bug check instead: CODE [P1 P2 P3 P4], hexadecimal",
                optional=True,
                max_elements=5,
            )
        ]

    def grid(self, target):
        if target is None:
            return shown_bug_check(self.option("show"))
        return bug_check_grid(target)
