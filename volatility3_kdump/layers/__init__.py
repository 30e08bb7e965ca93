"""Volatility layers over crash dumps. Importing this package makes the host aware of its stackers and kernel finder."""

from volatility3_kdump.layers import container, crash, kernel, stackers, triage

__all__ = ["container", "crash", "kernel", "stackers", "triage"]
