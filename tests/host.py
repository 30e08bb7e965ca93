"""The made machine's kernel as the host sees it, on the host's own layers and objects: an oracle for every layout."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from volatility3.framework import contexts, interfaces
from volatility3.framework.layers import crash, intel, physical
from volatility3.framework.symbols import windows

#: The host's addresses have 48 bits.
ADDRESS = 0xFFFFFFFFFFFF

#: Where the made machine's kernel lies, and the page tables of its System process.
BASE = 0xFFFFF80062600000 & ADDRESS
SYSTEM_DIRECTORY = 0x1AD000


def host_kernel(dump: Path, table: Path) -> Any:
    """The kernel of a full dump as a module of the host's, without any part of the package."""
    context = contexts.Context()
    context.config["file.location"] = dump.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    context.add_layer(crash.WindowsCrashDump64Layer(context, "dump", "dump"))
    context.config["virtual.memory_layer"] = "dump"
    context.config["virtual.page_map_offset"] = SYSTEM_DIRECTORY
    context.config["virtual.kernel_virtual_offset"] = BASE
    context.add_layer(intel.WindowsIntel32e(context, "virtual", "virtual"))
    context.symbol_space.append(
        windows.WindowsKernelIntermedSymbols(context, "symbols", "nt", isf_url=table.as_uri(), validate=False)
    )
    return context.module("nt", "virtual", BASE)


def plain(value: Any) -> Any:
    """A value of the host's: ``None`` for its marks of absence."""
    if isinstance(value, interfaces.renderers.BaseAbsentValue):
        return None
    return value if isinstance(value, (datetime.datetime, str)) else int(value)


def whole_seconds(value: datetime.datetime | None) -> datetime.datetime | None:
    """A time as the host gives it, which drops fractions of a second."""
    return None if value is None else value.replace(microsecond=0)
