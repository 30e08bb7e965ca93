"""The power of a device object: what its ``_DEVOBJ_EXTENSION`` keeps for the power manager.

``PowerFlags`` has the SYSTEM_POWER_STATE that the device was last told in its lowest four bits, and its own
DEVICE_POWER_STATE in the next four; ``Dope`` is there for devices with an idle detection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.io.devices import DeviceObject, read_device
from volatility3_kdump.windows.structures import read_fields

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class IdleState:
    """A ``_DEVICE_OBJECT_POWER_EXTENSION``: counts as they are, times in seconds, states as numbers."""

    address: int
    idle: int | None
    busy: int | None
    conservation: int | None
    performance: int | None
    state: int | None
    current: int | None


@dataclass(frozen=True)
class DevicePower:
    """A device object with its power flags, and its idle detection or why there is none."""

    device: DeviceObject
    flags: int | None
    idle: IdleState | None
    why_no_idle: str | None

    @property
    def system_state(self) -> int | None:
        """A SYSTEM_POWER_STATE; 0 is unspecified, 1 S0."""
        return None if self.flags is None else self.flags & 0xF

    @property
    def device_state(self) -> int | None:
        """A DEVICE_POWER_STATE; 0 is unspecified, 1 D0."""
        return None if self.flags is None else self.flags >> 4 & 0xF


def device_power(target: Target, address: int) -> DevicePower:
    """The power of a device object. Raises a KdumpError where there is none in the dump."""
    device = read_device(target, address)
    if not device.more:
        return DevicePower(device, None, None, "the device's extension is not in the dump")
    fields = read_fields(target, "_DEVOBJ_EXTENSION", device.more, {"flags": "PowerFlags", "idle": "Dope"})
    if not fields["idle"]:
        why = "it registered no idle detection" if fields["idle"] == 0 else "its address is not in the dump"
        return DevicePower(device, fields["flags"], None, why)
    paths = {
        "idle": "IdleCount",
        "busy": "BusyCount",
        "conservation": "ConservationIdleTime",
        "performance": "PerformanceIdleTime",
        "state": "IdleState",
        "current": "CurrentState",
    }
    try:
        row = read_fields(target, "_DEVICE_OBJECT_POWER_EXTENSION", fields["idle"], paths)
    except KdumpError as error:
        return DevicePower(device, fields["flags"], None, str(error))
    return DevicePower(device, fields["flags"], IdleState(fields["idle"], *row.values()), None)
