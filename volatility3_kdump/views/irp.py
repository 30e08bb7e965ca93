"""Rows of ``kdump.irp``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from volatility3_kdump.errors import KdumpError, SymbolsNotFound, Unreadable
from volatility3_kdump.findings.device_stacks import DeviceStack, ListedDevice, listed_stack
from volatility3_kdump.findings.driver_choice import driver_notes, find_driver
from volatility3_kdump.findings.pending_requests import PendingRequest, PendingRequests
from volatility3_kdump.findings.requests import Dispatch, IrpView, LocationView, judge_dispatch, view_irp
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import irp as words
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, FLAG, HEX, NUMBER, POINTER, TEXT, Column, Part, Table, table
from volatility3_kdump.views.thread import OWNER
from volatility3_kdump.windows.io.devices import (
    DeviceNode,
    DriverObject,
    Routines,
    driver_devices,
    fast_io_routines,
    read_device,
    read_routines,
    routine_names,
)
from volatility3_kdump.windows.io.requests import Irp, major_name, minor_name, read_irp
from volatility3_kdump.windows.processes.namespace import object_name

FastIo = list[tuple[str, "int | None", "str | None"]]


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


def _of_node(listed: ListedDevice, get: Callable[[DeviceNode], str | None]) -> object:
    if not listed.device.node:
        return BLANK
    return None if listed.node is None else get(listed.node)


DEVICES = table(
    "kdump.irp --device",
    keys.DEVICE_OBJECT(lambda listed: listed.device.address),
    Column("AskedFor", FLAG, "whether it is the device that was named", lambda listed: listed.asked_for),
    keys.DEVICE(lambda listed: listed.name),
    keys.DRIVER_OBJECT(lambda listed: listed.device.driver_address),
    keys.DRIVER(lambda listed: listed.device.driver.name if listed.device.driver else None),
    keys.IMAGE(lambda listed: listed.device.driver.image_name if listed.device.driver else None),
    Column("Extension", POINTER, "its device extension", lambda listed: listed.device.extension),
    Column("DeviceType", HEX, "FILE_DEVICE_...", lambda listed: listed.device.device_type),
    keys.FLAGS(lambda listed: listed.device.flags, "DO_..."),
    Column("StackSize", NUMBER, "stack locations that an IRP for it needs", lambda listed: listed.device.stack_size),
    Column("CurrentIrp", POINTER, "DEVICE_OBJECT.CurrentIrp", lambda listed: listed.device.current_irp),
    Column("DeviceNode", POINTER, "its DEVICE_NODE", lambda listed: listed.device.node),
    Column(
        "Instance",
        TEXT,
        "instance path of the device node",
        lambda listed: _of_node(listed, lambda node: node.instance_path),
    ),
    Column("Service", TEXT, "service of the device node", lambda listed: _of_node(listed, lambda node: node.service)),
    keys.NOTES(lambda listed: [listed.node_problem or "", *listed.notes]),
)

DRIVER = table(
    "kdump.irp --driver",
    keys.DRIVER_OBJECT(),
    keys.DRIVER(),
    keys.IMAGE(),
    keys.KIND(more="`routine`, `table`, `dispatch`, `fast I/O`, `device`, `extension`, `note`"),
    keys.NAME(
        more="the routine, the major function, the fast I/O routine, the device, the identification of an extension"
    ),
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
        stack = listed_stack(target, at)
    except (Unreadable, SymbolsNotFound) as error:
        raise _wrapped(target, error) from error
    rows = (DEVICES.row(0, listed) for listed in stack.devices)
    return DEVICES.grid(rows, lambda: _stack_lines(stack, target.memory.pointer_size))


def device_named(target: Target, name: str) -> int | None:
    """The device object of a name or path; a name alone is one in ``\\Device``. ``None`` where there is none."""
    from volatility3_kdump.windows.processes.objects import find_object, read_object

    path = name if name.startswith("\\") else f"\\Device\\{name}"
    try:
        device = find_object(target, path)
        return device if device is not None and read_object(target, device).type_name == "Device" else None
    except KdumpError:
        return None


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


def _stack_lines(stack: DeviceStack, size: int) -> Iterator[str]:
    yield words.stack_header(size)
    for listed in stack.devices:
        yield words.stack_line(listed.device, listed.name, listed.asked_for, size)
    lowest = stack.devices[-1]
    if lowest.node is not None:
        yield from words.node_lines(lowest.node, size)
    elif lowest.node_problem is not None:
        yield f"!DevNode {lowest.device.node or 0:x} : {lowest.node_problem}"
    for note in stack.notes:
        yield f"NOTE: {note}"


# driver objects -------------------------------------------------------------------------------------------------------


def driver_grid(target: Target, wanted: str, with_devices: bool = True, with_dispatch: bool = True) -> KdumpGrid:
    """The driver object of a name (``\\Driver\\disk``, ``disk``) or at an address: routines, devices, dispatch table.

    Raises :class:`KdumpError` if there is none.
    """
    try:
        driver = find_driver(target, wanted)
        routines = read_routines(target, driver.address)
    except (Unreadable, SymbolsNotFound) as error:
        raise _wrapped(target, error) from error
    devices, problem = driver_devices(target, driver)
    fast_io, missing = _fast_io(target, routines.fast_io)
    notes = driver_notes(driver) + [note for note in (problem, missing) if note]
    table = judge_dispatch(target, driver, routines)
    size = target.memory.pointer_size
    names = routine_names(target, routines)
    return DRIVER.grid(
        _driver_rows(target, driver, routines, names, table, fast_io, devices, notes),
        lambda: words.driver_lines(
            driver, routines, table, fast_io, devices, names, notes, size, with_devices, with_dispatch
        ),
    )


def _fast_io(target: Target, table: int | None) -> tuple[FastIo, str | None]:
    """A driver's fast I/O routines, and why they are not known."""
    if not table:
        return [], "its FastIoDispatch is not in the dump" if table is None else None
    try:
        return fast_io_routines(target, table), None
    except KdumpError as error:
        return [], f"fast I/O routines: {error}"


def driver_stacks(target: Target, wanted: str) -> Iterator[str]:
    """``!drvobj`` with flag 4: the stack of each device of a driver."""
    devices, _ = driver_devices(target, find_driver(target, wanted))
    yield ""
    yield "Device Object stacks:"
    for device in devices:
        yield ""
        yield f"!devstack {pointer(device, target.memory.pointer_size, tick=False)} :"
        yield from stack_grid(target, device).kd_lines()
    yield ""
    yield f"Processed {len(devices)} device objects."


def _driver_rows(
    target: Target,
    driver: DriverObject,
    routines: Routines,
    names: Mapping[str, str | None],
    dispatch: list[Dispatch],
    fast_io: FastIo,
    devices: list[int],
    notes: list[str],
) -> Iterator[Row]:
    def row(kind: str, name: object, **cells: object) -> Row:
        named = {"DriverObject": driver.address, "Driver": driver.name, "Image": driver.image_name}
        return DRIVER.row(0, **named, Kind=kind, Name=name, **cells)

    for name, value in routines.named.items():
        symbol = names[name] if value else BLANK
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
    for name, value, symbol in fast_io:
        yield row("fast I/O", name, Address=_routine(value), Symbol=symbol if value else BLANK)
    for device in devices:
        yield row("device", object_name(target, device) or BLANK, Address=device)
    for identification, at in routines.extensions or ():
        yield row("extension", f"{identification:#x}", Address=at)
    for note in notes:
        yield row("note", BLANK, Notes=[note])


def _routine(address: int | None) -> object:
    return BLANK if address == 0 else address
