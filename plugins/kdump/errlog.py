"""The I/O error log."""

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.error_log import errlog_grid


class Errlog(KdumpPlugin):
    """Shows the entries of the I/O error log that were pending at the crash, decoded (KD: !errlog).

    What drivers last complained about: time, driver and device, error code and status with their names, dump data and
    strings.
    """

    def grid(self, target):
        return errlog_grid(target, self._progress_callback)
