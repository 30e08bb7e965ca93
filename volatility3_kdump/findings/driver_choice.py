"""The driver object that a name or an address means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.windows.io.devices import DriverObject, read_driver
from volatility3_kdump.windows.io.drivers import driver_objects

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_ADDRESS = re.compile(r"(0x)?[0-9a-f`]+(\+.*)?|.*[!+].*", re.IGNORECASE)


def find_driver(target: Target, wanted: str) -> DriverObject:
    """A driver object by its name (``\\Driver\\disk``, ``disk``), its module's, or its address.

    Raises :class:`KdumpError` if there is none.
    """
    listed = driver_objects(target)
    name = wanted.lower()
    matches = [
        driver.driver
        for driver in listed.found
        if driver.driver.name and name in (driver.driver.name.lower(), driver.driver.name.lower().rsplit("\\", 1)[-1])
    ]
    if not matches:
        matches = [
            driver.driver
            for driver in listed.found
            if (module := driver.driver.module) and name in (module.name.lower(), module.image_name.lower())
        ]
    if matches:
        return matches[0]
    # The name of a module alone is its base address elsewhere, where no driver object can be.
    if not _ADDRESS.fullmatch(wanted):
        if listed.problems:
            reason = f"of the driver objects that could be found none is named {wanted}"
            raise KdumpError(f"{target.name}: {reason} ({listed.problems[0]})")
        raise KdumpError(f"{target.name}: no driver object is named {wanted}")
    return read_driver(target, parse_address(wanted, target))


def driver_notes(driver: DriverObject) -> list[str]:
    """Where a driver object does not fit its module."""
    module = driver.module
    if module is None:
        return ["its image is no loaded module"] if driver.start else []
    if module.entry is not None and driver.section is not None and driver.section != module.entry:
        return [f"DriverSection {driver.section:#x} is not the loader entry {module.entry:#x} of {module.image_name}"]
    return []
