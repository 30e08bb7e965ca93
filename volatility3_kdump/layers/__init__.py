"""Volatility layers over crash dumps. Importing this package makes the host aware of its stackers and kernel finder."""

from volatility3.framework import constants

from volatility3_kdump.layers import container, crash, kernel, stackers, triage
from volatility3_kdump.stores.servers import offline_by_default

if offline_by_default():
    # Whoever forbids our questions to servers by KDUMP_OFFLINE means those of the host about the same dump, too.
    constants.OFFLINE = True

__all__ = ["container", "crash", "kernel", "stackers", "triage"]
