"""Disassembly."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.analysis.failure import find_failure
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.disasm import disasm_grid


class Disasm(KdumpPlugin):
    """Disassembles code with symbolised targets (KD: u, ub).

    Addresses are expressions as KD has them; without one it is the code at the failure.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="Where to start", optional=True),
            requirements.IntRequirement(name="count", description="How many instructions", optional=True, default=8),
            requirements.BooleanRequirement(
                name="before", description="The instructions that end at the address instead (KD: ub)", optional=True
            ),
        ]

    def grid(self, target):
        count = self.option("count")
        count = 8 if count is None else count
        if not 1 <= count <= 100000:
            raise KdumpError(f"--count is {count}: use a number from 1 to 100000")
        return disasm_grid(target, self._start(target), count, bool(self.option("before")))

    def _start(self, target):
        if self.option("address"):
            return parse_address(self.option("address"), target)
        failure = find_failure(target, header_bug_check(target))
        if failure is None or failure.context.ip is None:
            raise KdumpError(f"{target.name}: the dump holds no registers: name an --address")
        return failure.context.ip
