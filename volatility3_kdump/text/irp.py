"""IRPs, device stacks and driver objects in the words of KD's ``!irp``, ``!devstack`` and ``!drvobj``.

What the dump does not hold is a question mark, and notes of our own start with ``NOTE:``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from volatility3_kdump.findings.requests import NOWHERE, Dispatch, IrpView, LocationView
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.io.devices import DeviceNode, DeviceObject, DriverObject, Routines
from volatility3_kdump.windows.io.requests import (
    ON_CANCEL,
    ON_ERROR,
    ON_SUCCESS,
    PENDING,
    Irp,
    StackLocation,
    major_name,
    minor_name,
)

_CONTROL = ((ON_SUCCESS, "Success"), (ON_ERROR, "Error"), (ON_CANCEL, "Cancel"), (PENDING, "pending"))


def irp_lines(view: IrpView, size: int = 8) -> Iterator[str]:
    """``!irp``."""
    irp = view.irp
    yield _state(irp, size)
    yield _buffers(irp, size)
    yield "     cmd  flg cl Device   File     Completion-Context"
    for location in view.locations:
        yield from _location(location, irp.current_address == location.location.address, size)
    if view.holder:
        yield f"Held by: {view.holder}"
    if view.file:
        yield f"File: {view.file}"
    if view.thread:
        yield f"Thread: {view.thread}"
    for note in view.notes:
        yield f"NOTE: {note}"


def _state(irp: Irp, size: int) -> str:
    count, current = irp.stack_count, irp.current_location
    if count is None or current is None:
        return f"Irp at {pointer(irp.address, size, tick=False)}: its stack count is not in the dump"
    if current > count:
        return f"Irp is complete (CurrentLocation {current} > StackCount {count})"
    place = pointer(irp.current_address, size, tick=False)
    return f"Irp is active with {count} stacks {current} is current (= 0x{place})"


def _buffers(irp: Irp, size: int) -> str:
    mdl = " Mdl not known" if irp.mdl is None else f" Mdl={short(irp.mdl, size)}" if irp.mdl else " No Mdl"
    buffer = irp.system_buffer
    system = (
        " System Buffer not known"
        if buffer is None
        else f" System buffer={short(buffer, size)}"
        if buffer
        else " No System Buffer"
    )
    return f"{mdl}:{system}: Thread {short(irp.thread, size)}:  Irp stack trace.  "


def _location(view: LocationView, current: bool, size: int) -> Iterator[str]:
    location = view.location
    yield f"{'>' if current else ' '}[{_request(location)}]"
    routine = f"{short(location.completion_routine, size)}-{short(location.context, size)}"
    control = location.control or 0
    flags = " ".join(word for bit, word in _CONTROL if control & bit)
    yield (
        f"            {_hex(location.flags)} {_hex(location.control)} "
        f"{short(location.device, size)} {short(location.file, size)} {routine} {flags}"
    ).rstrip()
    if view.driver or view.completion:
        yield f"\t       {view.driver or '?'}" + (f"\t{view.completion}" if view.completion else "")
    values = " ".join("?" if value is None else _argument(value, size) for value in location.parameters)
    yield f"\t\t\tArgs: {values}"
    if view.meaning:
        yield f"\t\t\t{view.meaning}"


def _request(item: StackLocation) -> str:
    if item.major is None:
        return "?, ?"
    unused = not item.device and not item.completion_routine and item.major == 0 and not item.minor
    if unused:
        return "N/A(0), N/A(0)"
    minor = item.minor or 0
    return f"{major_name(item.major)}({item.major:x}), {minor_name(item.major, minor) or 'N/A'}({minor:x})"


def short(value: int | None, size: int) -> str:
    """An address, eight zeros for none."""
    return "00000000" if value == 0 else pointer(value, size, tick=False)


def _argument(value: int, size: int) -> str:
    return f"{value & ((1 << 8 * size) - 1):08x}"


def _hex(value: int | None) -> str:
    return "??" if value is None else f"{value:2x}"


# lists --------------------------------------------------------------------------------------------------------------


def pending_header(size: int = 8) -> str:
    """The heading of the list of pending IRPs, which is our own."""
    width = 2 * size
    return f"{'Irp':<{width}} {'Thread':<{width}} {'Cid':<11} {'Process':<18} {'Request':<44} Held by"


def pending_line(view: IrpView, process: str, cid: str, size: int = 8) -> str:
    """A row of that list."""
    irp = view.irp
    return (
        f"{pointer(irp.address, size, tick=False)} {pointer(irp.thread, size, tick=False)} {cid:<11} {process:<18} "
        f"{view.request or '?':<44} {view.holder or '?'}"
    ).rstrip()


# device stacks --------------------------------------------------------------------------------------------------------


def stack_header(size: int = 8) -> str:
    """The heading of ``!devstack``."""
    width = 2 * size
    return f"  {'!DevObj':<{width}}  {'!DrvObj':<18} {'!DevExt':<{width}} ObjectName"


def stack_line(device: DeviceObject, name: str | None, asked: bool, size: int = 8) -> str:
    """A device of a stack, the topmost first."""
    driver = device.driver.name if device.driver else None
    return (
        f"{'>' if asked else ' '} {pointer(device.address, size, tick=False)}  {driver or '?':<18} "
        f"{short(device.extension, size):<{2 * size}} {'?' if name is None else name}"
    ).rstrip()


def device_lines(
    device: DeviceObject, name: str | None, below: str | None, above: str | None, size: int = 8
) -> Iterator[str]:
    """``!devobj``: one device. ``below`` and ``above`` are the drivers of its neighbours in the device stack."""
    driver = device.driver.name if device.driver else None
    yield f"Device object ({pointer(device.address, size, tick=False)}) is for:"
    where = "not in the dump" if device.driver_address is None else pointer(device.driver_address, size, tick=False)
    yield " " + " ".join(filter(None, (name, driver or "?", f"DriverObject {where}")))
    numbers = (device.device_type, device.flags)
    kind, flags = ("?" * 8 if value is None else f"{value:08x}" for value in numbers)
    yield f"Current Irp {short(device.current_irp, size)} Type {kind} Flags {flags}"
    node = "" if device.node is None else f" DevNode {short(device.node, size)}"
    yield f"DevExt {short(device.extension, size)}{node}"
    traits = "?" * 8 if device.characteristics is None else f"{device.characteristics:08x}"
    yield f"Characteristics (0x{traits})"
    for label, link, owner in (("Upper", device.above, above), ("Lower", device.below, below)):
        if link:
            attached = "AttachedDevice" if label == "Upper" else "AttachedTo"
            yield f"{attached} ({label}) {pointer(link, size, tick=False)} {owner or '?'}"


def node_lines(node: DeviceNode, size: int = 8) -> Iterator[str]:
    """The device node below a stack."""
    yield f"!DevNode {pointer(node.address, size, tick=False)} :"
    yield f'  DeviceInst is "{"?" if node.instance_path is None else node.instance_path}"'
    if node.service:
        yield f'  ServiceName is "{node.service}"'


# driver objects -------------------------------------------------------------------------------------------------------


def driver_lines(
    driver: DriverObject,
    routines: Routines,
    dispatch: list[Dispatch],
    devices: list[int],
    names: Mapping[str, str | None],
    notes: list[str],
    size: int = 8,
    with_devices: bool = True,
    with_dispatch: bool = True,
) -> Iterator[str]:
    """``!drvobj``; foreign pointers are marked. ``names`` are those of the routines that are no dispatch routines."""
    yield f"Driver object ({pointer(driver.address, size, tick=False)}) is for:"
    yield f" {driver.name or '?'}"
    if with_devices:
        yield from _extensions_and_devices(routines, devices, size)
    if with_dispatch:
        yield from _routines_lines(routines, dispatch, names, size)
    for note in notes:
        yield f"NOTE: {note}"


def _extensions_and_devices(routines: Routines, devices: list[int], size: int) -> Iterator[str]:
    yield "Driver Extension List: (id , addr)"
    for identification, address in routines.extensions or ():
        yield f"({pointer(identification, size, tick=False)} {pointer(address, size, tick=False)})"
    if routines.extensions is None:
        yield "not known"
    yield ""
    yield "Device Object list:"
    for start in range(0, len(devices), 4):
        yield "  ".join(pointer(device, size, tick=False) for device in devices[start : start + 4])
    yield ""


def _routines_lines(
    routines: Routines, dispatch: list[Dispatch], names: Mapping[str, str | None], size: int
) -> Iterator[str]:
    for label, value in (
        ("DriverEntry", routines.entry),
        ("DriverStartIo", routines.start_io),
        ("DriverUnload", routines.unload),
        ("AddDevice", routines.add_device),
    ):
        yield f"{f'{label}:':<14} {short(value, size)}\t{names.get(label) or ''}".rstrip()
    yield ""
    yield "Dispatch routines:"
    for routine in dispatch:
        name = (routine.name or "") + (f"\t<- {routine.note}" if routine.note else "")
        yield f"[{routine.major:02x}] {major_name(routine.major):<34} {short(routine.address, size)}\t{name}".rstrip()
    foreign = [routine for routine in dispatch if routine.foreign]
    if foreign:
        nowhere = sum(routine.where == NOWHERE for routine in foreign)
        beyond = f", {nowhere} of them in no module at all" if nowhere else ""
        yield f"NOTE: {len(foreign)} dispatch routines lie outside of the driver's image and of the kernel{beyond}"
