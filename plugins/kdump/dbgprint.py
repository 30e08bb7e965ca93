"""Debug output."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.kernel_data import debug_print_grid


class Dbgprint(KdumpPlugin):
    """Shows the last of what drivers and the kernel printed with DbgPrint (KD: !dbgprint)."""

    def grid(self, target):
        return debug_print_grid(target)
