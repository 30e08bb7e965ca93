"""Requests on their way through drivers: IRPs and their stack locations.

Small memory dumps hold only some of these structures, or parts of them, so every field stands for itself: ``None`` is
"not in the dump", and a null pointer is 0.

The structures are those of ``wdm.h``. Drivers are compiled against them, so they have not moved in any 64-bit version
of Windows; where the kernel's own symbols are not at hand, those of the shipped kernel table serve as well.

Drivers and devices are in :mod:`volatility3_kdump.windows.io.devices`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables
from volatility3_kdump.errors import Unreadable
from volatility3_kdump.layout import LayoutError
from volatility3_kdump.windows.io.devices import TYPE_FILE, TYPE_IRP, read_object
from volatility3_kdump.windows.structures import layouts_of, read_fields

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: SL_PENDING_RETURNED and SL_INVOKE_ON_* in IO_STACK_LOCATION.Control.
PENDING, ON_CANCEL, ON_SUCCESS, ON_ERROR = 0x01, 0x20, 0x40, 0x80
#: StackCount is a signed byte.
_MOST_LOCATIONS = 127
#: The major function of power requests.
IRP_MJ_POWER = 22


@dataclass(frozen=True)
class StackLocation:
    """An IO_STACK_LOCATION: one driver's share of an IRP.

    ``number`` counts from 1 at the lowest device, 0 if it is not known. ``parameters`` are the four pointer-sized
    arguments. ``device`` is an address; :func:`~volatility3_kdump.windows.io.devices.read_device` reads the device.
    """

    number: int
    address: int
    major: int | None
    minor: int | None
    flags: int | None
    control: int | None
    parameters: tuple[int | None, ...]
    device: int | None
    file: int | None
    completion_routine: int | None
    context: int | None

    @property
    def request(self) -> str | None:
        """``IRP_MJ_POWER, IRP_MN_SET_POWER``; ``None`` when the location is not in the dump."""
        return None if self.major is None else request_name(self.major, self.minor)


@dataclass(frozen=True)
class Irp:
    """An IRP. ``locations`` are its stack locations from the lowest device upwards, as far as they are in the dump.

    ``current_location`` counts from 1; ``stack_count`` + 1 means that no driver has the IRP. ``current_address`` is
    Tail.Overlay.CurrentStackLocation. ``notes`` are contradictions, one line each.
    """

    address: int
    size: int | None
    flags: int | None
    thread: int | None
    stack_count: int | None
    current_location: int | None
    current_address: int | None
    pending_returned: int | None
    cancelled: int | None
    cancel_routine: int | None
    mdl: int | None
    system_buffer: int | None
    status: int | None
    information: int | None
    file: int | None
    locations: tuple[StackLocation, ...]
    notes: tuple[str, ...]

    @property
    def current(self) -> StackLocation | None:
        """The location of the driver that has the IRP; ``None`` when no driver has it, or it is not in the dump."""
        return next((location for location in self.locations if location.address == self.current_address), None)


# reading ------------------------------------------------------------------------------------------------------------


def read_file_name(target: Target, address: int) -> str | None:
    """FILE_OBJECT.FileName, empty for none; ``None`` when there is no file object in the dump at the address."""
    try:
        read_object(target, "_FILE_OBJECT", TYPE_FILE, address, {"device": "DeviceObject"})
    except (Unreadable, LayoutError):
        return None
    return target.memory.unicode_string(address + layouts_of(target).offset("_FILE_OBJECT", "FileName"))


def read_irp(target: Target, address: int) -> Irp:
    """The IRP at an address with its stack locations. Raises :class:`Unreadable` when there is none in the dump."""
    layouts = layouts_of(target)
    values = read_object(
        target,
        "_IRP",
        TYPE_IRP,
        address,
        {
            "size": "Size",
            "mdl": "MdlAddress",
            "flags": "Flags",
            "system_buffer": "AssociatedIrp.SystemBuffer",
            "status": "IoStatus.Status",
            "information": "IoStatus.Information",
            "pending_returned": "PendingReturned",
            "stack_count": "StackCount",
            "current_location": "CurrentLocation",
            "cancelled": "Cancel",
            "cancel_routine": "CancelRoutine",
            "thread": "Tail.Overlay.Thread",
            "current_address": "Tail.Overlay.CurrentStackLocation",
            "file": "Tail.Overlay.OriginalFileObject",
        },
    )
    notes: list[str] = []
    count, current = values["stack_count"], values["current_location"]
    if count is not None and not 1 <= count <= _MOST_LOCATIONS:
        notes.append(f"the IRP at {address:#x} claims {count} stack locations")
        count = None
    first, step = address + layouts.size_of("_IRP"), layouts.size_of("_IO_STACK_LOCATION")
    locations = [_location(target, first + index * step, index + 1) for index in range(count or 0)]
    at = values["current_address"]
    if at and count is not None and current is not None and at != first + (current - 1) * step:
        notes.append(
            f"the IRP at {address:#x} is at stack location {current} of {count}, which is at "
            f"{first + (current - 1) * step:#x}, but points at {at:#x}"
        )
    if at and count is None:
        # Not all of the IRP is there to say how many locations it has, but the one that matters may be.
        locations.append(_location(target, at, current or 0))
    return Irp(
        address,
        values["size"],
        values["flags"],
        values["thread"],
        values["stack_count"],
        current,
        at,
        values["pending_returned"],
        values["cancelled"],
        values["cancel_routine"],
        values["mdl"],
        values["system_buffer"],
        None if values["status"] is None else values["status"] & 0xFFFFFFFF,
        values["information"],
        values["file"],
        tuple(location for location in locations if location is not None),
        tuple(notes),
    )


def _location(target: Target, address: int, number: int) -> StackLocation | None:
    layouts = layouts_of(target)
    try:
        values = read_fields(
            target,
            "_IO_STACK_LOCATION",
            address,
            {
                "major": "MajorFunction",
                "minor": "MinorFunction",
                "flags": "Flags",
                "control": "Control",
                "device": "DeviceObject",
                "file": "FileObject",
                "routine": "CompletionRoutine",
                "context": "Context",
            },
        )
    except Unreadable:
        return None
    width = target.memory.pointer_size
    start = address + layouts.offset("_IO_STACK_LOCATION", "Parameters")
    parameters = tuple(target.memory.pointer(start + index * width) for index in range(4))
    return StackLocation(
        number,
        address,
        values["major"],
        values["minor"],
        values["flags"],
        values["control"],
        parameters,
        values["device"],
        values["file"],
        values["routine"],
        values["context"],
    )


# words --------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _requests() -> dict[int, dict[str, Any]]:
    return {record["major"]: record for record in tables.json_lines("irps.jsonl")}


def request_name(major: int, minor: int | None) -> str:
    """The names of a request's function codes (``wdm.h``, ``ntifs.h``), numbers where they have none."""
    record = _requests().get(major)
    if record is None:
        return f"major function {major:#x}" + (f", minor function {minor:#x}" if minor else "")
    minors = record.get("minor", {})
    if minor is None or (not minors and minor == 0):
        return str(record["name"])
    return f"{record['name']}, {minors.get(str(minor), f'minor function {minor:#x}')}"


def major_name(major: int) -> str:
    """``IRP_MJ_POWER``; ``major function 0x1c`` where there is no such."""
    record = _requests().get(major)
    return f"major function {major:#x}" if record is None else str(record["name"])


def minor_name(major: int, minor: int) -> str | None:
    """``IRP_MN_SET_POWER``, ``None`` where the function code has no name."""
    name: str | None = _requests().get(major, {}).get("minor", {}).get(str(minor))
    return name


def power_request(location: StackLocation) -> str | None:
    """What a power IRP asks for: ``device power state D3``, ``system power state Shutdown``; ``None`` if it is none, or
    if its parameters are not in the dump."""
    if location.major != IRP_MJ_POWER or location.minor not in (2, 3):
        return None
    kind, state = location.parameters[1:3]
    if kind is None or state is None:
        return None
    kind, state = kind & 0xFFFFFFFF, state & 0xFFFFFFFF
    if kind == 0:
        return f"system power state {_SYSTEM_STATES.get(state, state)}"
    if kind == 1:
        return f"device power state {_DEVICE_STATES.get(state, state)}"
    return None


#: SYSTEM_POWER_STATE and DEVICE_POWER_STATE of ``wdm.h``.
_SYSTEM_STATES = {0: "unspecified", 1: "S0", 2: "S1", 3: "S2", 4: "S3", 5: "hibernate (S4)", 6: "shutdown (S5)"}
_DEVICE_STATES = {0: "unspecified", 1: "D0", 2: "D1", 3: "D2", 4: "D3"}


def system_power_state(state: int) -> str | None:
    """The name of a SYSTEM_POWER_STATE."""
    return _SYSTEM_STATES.get(state)
