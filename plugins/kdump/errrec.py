"""Hardware error records."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.hardware import error_record_grid, sources_grid

_HARDWARE_ERROR = 0x124


class Errrec(KdumpPlugin):
    """Shows a hardware error record, WHEA_ERROR_RECORD (KD: !errrec); by default that of bug check 124."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="The record's address", optional=True),
            requirements.BooleanRequirement(
                name="sources", description="The sources of hardware errors instead (KD: !whea)", optional=True
            ),
        ]

    def grid(self, target):
        if self.option("sources"):
            return sources_grid(target)
        if self.option("address"):
            return error_record_grid(target.memory, parse_address(self.option("address"), target))
        bug_check = header_bug_check(target)
        address = bug_check.arguments[1].value if bug_check and bug_check.code == _HARDWARE_ERROR else None
        if not address:
            raise KdumpError(f"{target.name}: its bug check is not 124, which names a record: use --address")
        return error_record_grid(target.memory, address)
