"""Error codes by name."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import evaluate
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.error_codes import error_grid


class Error(KdumpPlugin):
    """Says what numbers mean as NTSTATUS, Win32 error or HRESULT, without a dump (KD: !error)."""

    needs_dump = False

    @classmethod
    def options(cls):
        return [
            list_option("code", "Error codes: hexadecimal, 0n... for decimal ones"),
            requirements.BooleanRequirement(
                name="status", description="They are NTSTATUS values, whatever else they can be", optional=True
            ),
        ]

    def grid(self, target):
        codes = [evaluate(code) for code in self.option("code") or []]
        if not codes:
            raise KdumpError("--code takes one or more error codes, hexadecimal")
        return error_grid(codes, bool(self.option("status")))
