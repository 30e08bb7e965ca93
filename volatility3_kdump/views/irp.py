"""Rows of ``kdump.irp``."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from volatility3_kdump.errors import KdumpError, SymbolsNotFound, Unreadable
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.findings.pending_requests import PendingRequest, PendingRequests
from volatility3_kdump.findings.requests import Dispatch, IrpView, LocationView, judge_dispatch, view_irp
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import irp as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, FLAG, HEX, NUMBER, POINTER, TEXT, Column, Part, Table, table
from volatility3_kdump.views.thread import OWNER
from volatility3_kdump.windows.io.drivers import driver_objects
from volatility3_kdump.windows.io.requests import (
    DeviceObject,
    DriverObject,
    Irp,
    Routines,
    device_stack,
    driver_devices,
    major_name,
    minor_name,
    read_device,
    read_driver,
    read_irp,
    read_node,
    read_routines,
)
from volatility3_kdump.windows.processes.namespace import object_name


def _parameter(index: int) -> Callable[[LocationView], object]:
    return lambda view: view.location.parameters[index]


def _current_driver(view: IrpView) -> str | None:
    current = view.irp.current
    return next((place.driver for place in view.locations if current and place.location is current), None)


def _major(major: int | None) -> str | None:
    return None if major is None else major_name(major)


def _minor(major: int | None, minor: int | None) -> object:
    if major is None or minor is None:
        return None
    return minor_name(major, minor) or (BLANK if minor == 0 else f"{minor:#x}")


_LOCATION = Part[LocationView](
    "",
    keys.LOCATION(lambda view: view.location.number),
    Column("Current", FLAG, "whether its driver has the IRP now"),
    keys.MAJOR(lambda view: _major(view.location.major)),
    keys.MINOR(lambda view: _minor(view.location.major, view.location.minor)),
    keys.FLAGS(lambda view: view.location.flags, "of the stack location"),
    Column("Control", HEX, "of the stack location", lambda view: view.location.control),
    keys.DEVICE_OBJECT(lambda view: view.location.device),
    keys.DRIVER(lambda view: view.driver),
    keys.FILE_OBJECT(lambda view: view.location.file),
    Column(
        "CompletionRoutine",
        POINTER,
        "routine that the driver above has set",
        lambda view: view.location.completion_routine,
    ),
    Column("CompletionSymbol", TEXT, "its name", lambda view: BLANK if view.completion is None else view.completion),
    Column("Context", HEX, "its argument", lambda view: view.location.context),
    *(
        key(_parameter(index), "Parameters of the stack location as pointers")
        for index, key in enumerate(keys.ARGUMENTS)
    ),
)
_IRP = Part[Irp]("", keys.IRP(lambda irp: irp.address))
_STATE = Part[Irp](
    "",
    keys.THREAD(lambda irp: irp.thread, "of the IRP"),
    keys.STATUS(lambda irp: irp.status, "of the IRP"),
    keys.HELD_BY(more="in the row of the current location"),
    keys.NOTES(more="what the parameters ask for: power states, control codes"),
)
IRP = Table("kdump.irp --address", _IRP, _LOCATION, _STATE)

_REQUEST = Part[PendingRequest](
    "",
    keys.IRP(lambda request: request.address),
    keys.THREAD(lambda request: request.thread.thread.address),
    keys.TID(lambda request: request.thread.thread.tid),
)
_VIEW = Part[IrpView](
    "",
    keys.MAJOR(lambda view: _major(view.irp.current.major) if view.irp.current else BLANK, "of the current location"),
    keys.MINOR(lambda view: _minor(view.irp.current.major, view.irp.current.minor) if view.irp.current else BLANK),
    keys.LOCATION(lambda view: view.irp.current_location, "the current one"),
    Column("StackCount", NUMBER, "its stack locations", lambda view: view.irp.stack_count),
    keys.DEVICE_OBJECT(lambda view: view.irp.current.device if view.irp.current else None),
    keys.DRIVER(_current_driver),
    keys.FILE_OBJECT(lambda view: view.irp.file),
    Column("FileName", TEXT, "of the file object", lambda view: view.file.partition(" ")[2] if view.file else None),
    keys.HELD_BY(lambda view: view.holder),
    keys.NOTES(lambda view: view.notes),
)
PENDING = Table("kdump.irp --pending", _REQUEST, OWNER, _VIEW)

DEVICES = table(
    "kdump.irp --device",
    keys.DEVICE_OBJECT(lambda device: device.address),
    Column("AskedFor", FLAG, "whether it is the device that was named"),
    keys.DEVICE(),
    keys.DRIVER_OBJECT(lambda device: device.driver_address),
    keys.DRIVER(lambda device: device.driver.name if device.driver else None),
    keys.IMAGE(lambda device: device.driver.image_name if device.driver else None),
    Column("Extension", POINTER, "its device extension", lambda device: device.extension),
    Column("DeviceType", HEX, "FILE_DEVICE_...", lambda device: device.device_type),
    keys.FLAGS(lambda device: device.flags, "DO_..."),
    Column("StackSize", NUMBER, "stack locations that an IRP for it needs", lambda device: device.stack_size),
    Column("CurrentIrp", POINTER, "DEVICE_OBJECT.CurrentIrp", lambda device: device.current_irp),
    Column("DeviceNode", POINTER, "its DEVICE_NODE", lambda device: device.node),
    Column("Instance", TEXT, "instance path of the device node"),
    Column("Service", TEXT, "service of the device node"),
    keys.NOTES(),
)

DRIVER = table(
    "kdump.irp --driver",
    keys.DRIVER_OBJECT(),
    keys.DRIVER(),
    keys.IMAGE(),
    keys.KIND(more="`routine`, `table`, `dispatch`, `device`, `extension`, `note`"),
    keys.NAME(more="the routine, the major function, the device, the identification of an extension"),
    keys.ADDRESS(more="null where there is none"),
    keys.SYMBOL(),
    Column("Where", TEXT, "`own image`, `kernel`, `other module`, `no module`"),
    Column(
        "Foreign",
        FLAG,
        "in another module, which is common for drivers whose class or port driver takes the requests, or in none, "
        "which never is",
    ),
    keys.NOTES(),
)

_ADDRESS = re.compile(r"(0x)?[0-9a-f`]+(\+.*)?|.*[!+].*", re.IGNORECASE)


def _wrapped(target: Target, error: KdumpError) -> KdumpError:
    return KdumpError(f"{target.name}: {error}")


# one IRP --------------------------------------------------------------------------------------------------------------


def irp_grid(target: Target, at: int) -> KdumpGrid:
    """One IRP, a row for each stack location, the lowest first. Raises :class:`KdumpError` if there is none."""
    try:
        view = view_irp(target, read_irp(target, at))
    except (Unreadable, SymbolsNotFound) as error:
        raise _wrapped(target, error) from error
    size = target.memory.pointer_size
    return IRP.grid(_irp_rows(view), lambda: words.irp_lines(view, size))


def _irp_rows(view: IrpView) -> Iterator[Row]:
    irp = view.irp
    placed = False
    for place in view.locations:
        current = place.location.address == irp.current_address
        placed = placed or current
        yield IRP.row(
            0,
            {_IRP: irp, _LOCATION: place, _STATE: irp},
            Current=current,
            HeldBy=view.holder if current else BLANK,
            Notes=[place.meaning or "", *(view.notes if current else ())],
        )
    if not placed:
        cells = {"Location": irp.current_location, "Current": False, "HeldBy": view.holder, "Notes": view.notes}
        yield IRP.row(0, {_IRP: irp, _STATE: irp}, **cells)


# pending --------------------------------------------------------------------------------------------------------------


def pending_grid(target: Target, progress: Progress | None = None) -> KdumpGrid:
    """The IRPs of all threads, each with its process and the driver that has it."""
    pending = functools.lru_cache(maxsize=1)(lambda: PendingRequests(target, progress))
    return PENDING.grid(_pending_rows(pending), lambda: _pending_lines(pending(), target.memory.pointer_size))


def _pending_rows(pending: Callable[[], PendingRequests]) -> Iterator[Row]:
    for request in pending().requests:
        records: dict[Part[Any], Any] = {_REQUEST: request, OWNER: request.thread}
        if request.view is not None:
            yield PENDING.row(0, {**records, _VIEW: request.view})
        else:
            unknown = dict.fromkeys((column.name for column in _VIEW.columns), None)
            yield PENDING.row(0, records, **{**unknown, "Notes": [request.reason]})
    for problem in pending().problems:
        yield PENDING.row(0, Notes=[problem])


def _pending_lines(pending: PendingRequests, size: int) -> Iterator[str]:
    requests, problems = pending.requests, pending.problems
    if requests:
        yield words.pending_header(size)
    for request in requests:
        thread = request.thread.thread
        pid = "?" if thread.pid is None else f"{thread.pid:04x}"
        cid = f"{pid}.{'?' if thread.tid is None else f'{thread.tid:04x}'}"
        process = request.thread.image or "?"
        if request.view is None:
            yield f"{request.address:x} {thread.address:x} {cid:<11} {process:<18} {request.reason}"
        else:
            yield words.pending_line(request.view, process, cid, size)
    if requests or not problems:
        yield f"{len(requests)} pending IRP{'' if len(requests) == 1 else 's'}"
    else:
        yield "No pending IRP was found, which does not say that there was none"
    for problem in problems:
        yield f"NOTE: {problem}"


# device stacks --------------------------------------------------------------------------------------------------------


def stack_grid(target: Target, at: int) -> KdumpGrid:
    """The device stack that a device belongs to, topmost first. Raises :class:`KdumpError` if there is no device."""
    try:
        stack = device_stack(target, at)
    except (Unreadable, SymbolsNotFound) as error:
        raise _wrapped(target, error) from error
    notes = stack_notes(stack)
    return DEVICES.grid(_stack_rows(target, stack, at, notes), lambda: _stack_lines(target, stack, at, notes))


def device_lines(target: Target, at: int) -> Iterator[str]:
    """``!devobj``. Raises :class:`KdumpError` if there is no device."""
    try:
        device = read_device(target, at)
    except (Unreadable, SymbolsNotFound) as error:
        raise _wrapped(target, error) from error
    below, above = (_driver_name(target, link) for link in (device.below, device.above))
    return words.device_lines(device, object_name(target, at), below, above, target.memory.pointer_size)


def _driver_name(target: Target, device: int | None) -> str | None:
    if not device:
        return None
    try:
        return read_device(target, device).driver_text
    except KdumpError:
        return None


def stack_notes(stack: list[DeviceObject]) -> list[str]:
    """Where a device stack is torn or does not agree with itself."""
    notes = []
    addresses = [device.address for device in stack]
    for upper, lower in itertools.pairwise(stack):
        if lower.above is not None and lower.above != upper.address:
            notes.append(f"{lower.address:#x} has {lower.above:#x} attached, not {upper.address:#x}")
        if upper.below is not None and upper.below != lower.address:
            notes.append(f"{upper.address:#x} is attached to {upper.below:#x}, not to {lower.address:#x}")
    for end, link, word in ((stack[0], stack[0].above, "above"), (stack[-1], stack[-1].below, "below")):
        if link:
            why = "the stack is cyclic" if link in addresses else "which is no device in the dump"
            notes.append(f"{word} {end.address:#x} lies {link:#x}: {why}")
    return notes


def _stack_lines(target: Target, stack: list[DeviceObject], at: int, notes: list[str]) -> Iterator[str]:
    size = target.memory.pointer_size
    yield words.stack_header(size)
    for device in stack:
        yield words.stack_line(device, object_name(target, device.address), device.address == at, size)
    node = stack[-1].node
    if node:
        try:
            yield from words.node_lines(read_node(target, node), size)
        except KdumpError as error:
            yield f"!DevNode {node:x} : {error}"
    for note in notes:
        yield f"NOTE: {note}"


def _stack_rows(target: Target, stack: list[DeviceObject], at: int, notes: list[str]) -> Iterator[Row]:
    for device in stack:
        instance: object = BLANK
        service: object = BLANK
        own = [note for note in notes if f"{device.address:#x}" in note]
        if device.node:
            instance = service = None
            try:
                node = read_node(target, device.node)
                instance, service = node.instance_path, node.service
            except KdumpError as error:
                own.insert(0, str(error))
        yield DEVICES.row(
            0,
            device,
            AskedFor=device.address == at,
            Device=object_name(target, device.address),
            Instance=instance,
            Service=service,
            Notes=own,
        )


# driver objects -------------------------------------------------------------------------------------------------------


def driver_grid(target: Target, wanted: str) -> KdumpGrid:
    """The driver object of a name (``\\Driver\\disk``, ``disk``) or at an address: routines, devices, dispatch table.

    Raises :class:`KdumpError` if there is none.
    """
    try:
        driver = _find_driver(target, wanted)
        routines = read_routines(target, driver.address)
    except (Unreadable, SymbolsNotFound) as error:
        raise _wrapped(target, error) from error
    devices, problem = driver_devices(target, driver)
    notes = _driver_notes(target, driver) + ([problem] if problem else [])
    table = judge_dispatch(target, driver, routines)
    size = target.memory.pointer_size
    names = {
        label: target.name_of(value) or ""
        for label, value in (
            ("DriverEntry", routines.entry),
            ("DriverStartIo", routines.start_io),
            ("DriverUnload", routines.unload),
            ("AddDevice", routines.add_device),
        )
        if value
    }
    return DRIVER.grid(
        _driver_rows(target, driver, routines, table, devices, notes),
        lambda: words.driver_lines(driver, routines, table, devices, names, notes, size),
    )


def _driver_notes(target: Target, driver: DriverObject) -> list[str]:
    module = driver.module
    if module is None:
        return ["its image is no loaded module"] if driver.start else []
    if module.entry is not None and driver.section is not None and driver.section != module.entry:
        return [f"DriverSection {driver.section:#x} is not the loader entry {module.entry:#x} of {module.image_name}"]
    return []


def _find_driver(target: Target, wanted: str) -> DriverObject:
    listed = driver_objects(target)
    name = wanted.lower()
    matches = [
        item.driver
        for item in listed.found
        if item.driver.name and name in (item.driver.name.lower(), item.driver.name.lower().rsplit("\\", 1)[-1])
    ]
    if not matches:
        matches = [
            item.driver
            for item in listed.found
            if item.driver.module and name in (item.driver.module.name.lower(), item.driver.module.image_name.lower())
        ]
    if matches:
        return matches[0]
    # The name of a module alone is its base address elsewhere, where no driver object can be.
    if not _ADDRESS.fullmatch(wanted):
        if listed.problems:
            known = f"of the driver objects that could be found none is named {wanted}"
            raise KdumpError(f"{target.name}: {known} ({listed.problems[0]})")
        raise KdumpError(f"{target.name}: no driver object is named {wanted}")
    return read_driver(target, parse_address(wanted, target))


def _driver_rows(
    target: Target,
    driver: DriverObject,
    routines: Routines,
    dispatch: list[Dispatch],
    devices: list[int],
    notes: list[str],
) -> Iterator[Row]:
    def row(kind: str, name: object, **cells: object) -> Row:
        named = {"DriverObject": driver.address, "Driver": driver.name, "Image": driver.image_name}
        return DRIVER.row(0, **named, Kind=kind, Name=name, **cells)

    for name, value in (
        ("DriverEntry", routines.entry),
        ("DriverStartIo", routines.start_io),
        ("DriverUnload", routines.unload),
        ("AddDevice", routines.add_device),
        ("FastIoDispatch", routines.fast_io),
    ):
        symbol = target.name_of(value) if value else BLANK
        yield row("routine" if name != "FastIoDispatch" else "table", name, Address=_routine(value), Symbol=symbol)
    for entry in dispatch:
        yield row(
            "dispatch",
            major_name(entry.major),
            Address=_routine(entry.address),
            Symbol=entry.name if entry.address else BLANK,
            Where=entry.where,
            Foreign=entry.foreign,
            Notes=[entry.note],
        )
    for device in devices:
        yield row("device", object_name(target, device) or BLANK, Address=device)
    for identification, at in routines.extensions or ():
        yield row("extension", f"{identification:#x}", Address=at)
    for note in notes:
        yield row("note", BLANK, Notes=[note])


def _routine(address: int | None) -> object:
    return BLANK if address == 0 else address
