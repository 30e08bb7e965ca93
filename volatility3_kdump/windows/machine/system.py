"""The machine and its Windows, as the debugger presents them when it has loaded a dump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.dump import DumpHeader
from volatility3_kdump.windows.machine.releases import listed_version, release
from volatility3_kdump.windows.machine.shared_data import SharedData, shared_data
from volatility3_kdump.windows.machine.version import build_lab

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class System:
    """What is known of a system by its dump; ``None`` is not in the dump.

    ``kernel_version`` is the version of the kernel's image and ``release`` the name of that Windows; ``kernel_base`` is
    where the kernel is loaded. ``whole`` says that the dump holds physical memory.
    """

    header: DumpHeader
    shared: SharedData | None
    build_lab: str | None
    kernel_version: str | None
    release: str | None
    kernel_base: int | None
    whole: bool

    @property
    def product_type(self) -> int | None:
        """NtProductType, from the header or the shared data page."""
        own = self.header.product_type
        return self.shared.product_type if own is None and self.shared is not None else own

    @property
    def suite_mask(self) -> int | None:
        """SuiteMask, from the header or the shared data page."""
        own = self.header.suite_mask
        return self.shared.suite_mask if own is None and self.shared is not None else own

    @property
    def time_zone_bias(self) -> int | None:
        """UTC minus local time, in 100 ns; 0 where the page that says it is not in the dump."""
        return self.shared.time_zone_bias if self.shared is not None else 0


def read_system(target: Target) -> System:
    """The system of a dump."""
    version = listed_version(target)
    return System(
        target.header,
        shared_data(target),
        build_lab(target),
        None if version is None else version.text,
        None if version is None else release(target),
        None if target.kernel is None else target.kernel.base,
        target.physical_layer_name is not None,
    )
