"""The analysis of the crash."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.analyze import analyze_grid


class Analyze(KdumpPlugin):
    """Analyses a crash: bug check, process, registers and instruction at the failure, module (KD: !analyze -v)."""

    def grid(self, target):
        return analyze_grid(target)
