"""The modules of ``kdump.drivers``: what their images say, whose they are, and their driver objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.vendors import Vendor, vendor_of
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.io.drivers import (
    DriverDetails,
    DriverObjects,
    FoundDriver,
    driver_objects,
    read_details,
)
from volatility3_kdump.windows.listing.modules import chosen_modules, chosen_unloaded

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


class DriverList:
    """The modules of these names, or all; what is said of them is read when it is first shown."""

    def __init__(self, target: Target, names: Sequence[str], progress: Progress | None) -> None:
        self.target = target
        self.unloaded = chosen_unloaded(target, names)
        self._modules = chosen_modules(target, names)
        self._progress = progress
        self._details: list[tuple[DriverDetails, Vendor]] | None = None
        self._objects: DriverObjects | None = None

    @property
    def details(self) -> list[tuple[DriverDetails, Vendor]]:
        """The loaded modules, each with whose it is."""
        if self._details is None:
            self._details = []
            for index, module in enumerate(self._modules):
                if self._progress is not None:
                    self._progress(100 * index / len(self._modules), "Reading images")
                details = read_details(self.target, module)
                self._details.append((details, vendor_of(module.name, details.company)))
        return self._details

    @property
    def unowned(self) -> list[FoundDriver]:
        """Driver objects whose image is no loaded module."""
        owned = {
            driver_object.driver.address for module in self.target.modules for driver_object in self.objects.of(module)
        }
        return [driver_object for driver_object in self.objects.found if driver_object.driver.address not in owned]

    @property
    def objects(self) -> DriverObjects:
        """The driver objects of the system."""
        if self._objects is None:
            self._objects = driver_objects(self.target)
        return self._objects
