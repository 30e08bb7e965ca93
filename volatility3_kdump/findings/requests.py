"""What IRPs and dispatch tables mean: who holds a request, and which routines are not a driver's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import Unreadable
from volatility3_kdump.windows.io.devices import DeviceObject, DriverObject, Routines, read_device
from volatility3_kdump.windows.io.requests import Irp, StackLocation, power_request, read_file_name

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Where a routine lies: in the driver's image, in the kernel, in another module, in none.
OWN, KERNEL, OTHER, NOWHERE = "own image", "kernel", "other module", "no module"

_DEVICE_CONTROL = (14, 15)


@dataclass(frozen=True)
class LocationView:
    """A stack location with names: its driver, the completion routine that the driver above set in it, and what its
    parameters ask for; ``None`` where that is not known or not special."""

    location: StackLocation
    device: DeviceObject | None
    driver: str | None
    completion: str | None
    meaning: str | None


@dataclass(frozen=True)
class IrpView:
    """An IRP with names. ``holder`` says which driver has it, ``request`` what is asked of that driver; ``thread`` and
    ``file`` are in words. ``notes`` are contradictions and gaps."""

    irp: Irp
    locations: tuple[LocationView, ...]
    holder: str | None
    request: str | None
    thread: str | None
    file: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Dispatch:
    """An entry of a dispatch table. ``where`` is one of :data:`OWN`, :data:`KERNEL`, :data:`OTHER`, :data:`NOWHERE`;
    ``None`` where the entry, or the range of the driver's image, is not known. ``note`` explains a foreign one."""

    major: int
    address: int | None
    name: str | None
    where: str | None
    note: str = ""

    @property
    def foreign(self) -> bool:
        return self.where in (OTHER, NOWHERE)


def view_irp(target: Target, irp: Irp) -> IrpView:
    """An IRP with the names of everything it points at."""
    locations = tuple(_view_location(target, location) for location in irp.locations)
    current = next((view for view in locations if view.location.address == irp.current_address), None)
    notes = list(irp.notes)
    missing = (irp.stack_count or 0) - len(irp.locations)
    if missing > 0 and not any("claims" in note for note in irp.notes):
        notes.append(f"{missing} of its {irp.stack_count} stack locations are not in the dump")
    name = read_file_name(target, irp.file) if irp.file else None
    return IrpView(
        irp,
        locations,
        _holder(irp, current),
        current.location.request if current else None,
        _thread(target, irp.thread) if irp.thread else None,
        f"{irp.file:#x} {name}" if irp.file and name else None,
        tuple(notes),
    )


def _view_location(target: Target, location: StackLocation) -> LocationView:
    device = None
    driver = None
    if location.device:
        try:
            device = read_device(target, location.device)
            driver = (device.driver.name if device.driver else None) or device.driver_text
        except Unreadable:
            driver = None
    routine = location.completion_routine
    completion = (target.name_of(routine) or hex(routine)) if routine else None
    return LocationView(location, device, driver, completion, power_request(location) or _control_code(location))


def _control_code(location: StackLocation) -> str | None:
    """A device control code in its parts (CTL_CODE of ``wdm.h``)."""
    code = location.parameters[2] if location.major in _DEVICE_CONTROL and len(location.parameters) > 2 else None
    if code is None:
        return None
    code &= 0xFFFFFFFF
    return (
        f"control code {code:#010x}: device type {code >> 16:#x}, function {code >> 2 & 0xFFF:#x}, "
        f"method {('buffered', 'in direct', 'out direct', 'neither')[code & 3]}"
    )


def _holder(irp: Irp, current: LocationView | None) -> str | None:
    if irp.current_location is not None and irp.stack_count is not None and irp.current_location > irp.stack_count:
        return "no driver: it is completed, or not yet sent"
    if current is None:
        return None
    if current.device is not None and current.device.driver is not None:
        return f"{current.device.driver.text}, device {current.device.address:#x}"
    if current.location.device:
        return f"the driver of device {current.location.device:#x}, which is not in the dump"
    return None


def _thread(target: Target, address: int) -> str | None:
    from volatility3_kdump.windows.processes.processes import read_process
    from volatility3_kdump.windows.processes.threads import read_thread

    thread = read_thread(target, address)
    if thread.pid is None or thread.tid is None:
        return None
    process = read_process(target, thread.process) if thread.process else None
    name = process.name if process else None
    return f"{address:#x}, Cid {thread.pid:04x}.{thread.tid:04x}" + (f" of {name}" if name else "")


def judge_dispatch(target: Target, driver: DriverObject, routines: Routines) -> list[Dispatch]:
    """The dispatch table of a driver, each routine with where it lies.

    A routine in another module is common where a class or port driver, or the framework, takes the requests; one in no
    module at all never is.
    """
    return [_judge(target, driver, major, routine) for major, routine in enumerate(routines.dispatch)]


def _judge(target: Target, driver: DriverObject, major: int, routine: int | None) -> Dispatch:
    if routine is None:
        return Dispatch(major, None, None, None)
    if routine == 0:
        return Dispatch(major, 0, None, None, "null")
    name = target.name_of(routine)
    module = target.names.module_of(routine)
    start = driver.module.base if driver.module else driver.start
    size = driver.module.size if driver.module else driver.size
    if start and size and start <= routine < start + size:
        return Dispatch(major, routine, name, OWN)
    if module is None:
        unloaded = next(
            (
                unloaded_module.name
                for unloaded_module in target.unloaded_modules
                if unloaded_module.start <= routine < unloaded_module.end
            ),
            None,
        )
        where = f"where {unloaded} was unloaded" if unloaded else "in no loaded module"
        return Dispatch(major, routine, name, NOWHERE, f"foreign: {where}")
    if target.modules and module.base == target.modules[0].base:
        return Dispatch(major, routine, name, KERNEL)
    if not start:
        return Dispatch(major, routine, name, None)
    return Dispatch(major, routine, name, OTHER, f"foreign: in {module.image_name}")
