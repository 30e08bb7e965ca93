"""What the dump is: KD's load banner with every value in it."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.info import info_grid
from volatility3_kdump.views.tagged import tagged_grid


class Info(KdumpPlugin):
    """Shows what a crash dump is and holds: type, Windows, kernel, times, pages, tagged data.

    KD: vertarget, .enumtag.
    """

    @classmethod
    def options(cls):
        return [
            requirements.BooleanRequirement(
                name="tagged", description="The bytes of the tagged data instead (.enumtag)", optional=True
            )
        ]

    def grid(self, target):
        return tagged_grid(target) if self.option("tagged") else info_grid(target)
