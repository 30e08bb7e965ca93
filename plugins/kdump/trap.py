"""Registers at a trap, a context record or an exception."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.analysis.bugcheck import header_bug_check
from volatility3_kdump.analysis.failure import failure_at_context, failure_at_trap, find_failure
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.trap import exception_grid, failure_grid
from volatility3_kdump.windows.machine.exceptions import read_exception_record


class Trap(KdumpPlugin):
    """Shows the registers and the code where a trap, a context record or the crash happened (KD: .trap, .cxr, .exr, r).

    Registers that a trap frame does not hold are recovered by unwinding to it where the stack allows. Addresses are
    expressions as KD has them; without one it is the failure of the crash.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="A trap frame (KD: .trap)", optional=True),
            requirements.StringRequirement(name="context", description="A context record (KD: .cxr)", optional=True),
            requirements.StringRequirement(name="exception", description="An exception record (.exr)", optional=True),
        ]

    def grid(self, target):
        if self.option("exception"):
            return self._exception(target, parse_address(self.option("exception"), target))
        if self.option("address"):
            return failure_grid(target, failure_at_trap(target, parse_address(self.option("address"), target)))
        if self.option("context"):
            return failure_grid(target, failure_at_context(target, parse_address(self.option("context"), target)))
        failure = find_failure(target, header_bug_check(target))
        if failure is None:
            raise KdumpError(f"{target.name}: the dump header holds no registers")
        return failure_grid(target, failure)

    @staticmethod
    def _exception(target, address):
        record = read_exception_record(target, address)
        return exception_grid(target, address, record)
