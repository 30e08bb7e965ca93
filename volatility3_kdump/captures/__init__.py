"""Images of a machine's memory that are no crash dumps: what responders' tools and hypervisors write.

A reader for each container gives its pages as a page map, and the processors that it holds. No Volatility here, and
nothing of Windows: what runs in the machine is found out by :mod:`volatility3_kdump.layers.machine`.
"""

from __future__ import annotations

from volatility3_kdump.captures.capture import Capture
from volatility3_kdump.captures.raw import RAW
from volatility3_kdump.captures.recognise import open_capture, open_raw

__all__ = ["RAW", "Capture", "open_capture", "open_raw"]
