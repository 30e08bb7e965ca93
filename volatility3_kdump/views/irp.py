"""Rows of ``kdump.irp``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.errors import KdumpError, SymbolsNotFound, Unreadable
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.findings.requests import IrpView, judge_dispatch, view_irp
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import irp as words
from volatility3_kdump.views.cells import number
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address, text
from volatility3_kdump.windows.io.drivers import driver_objects
from volatility3_kdump.windows.io.requests import (
    DeviceObject,
    DriverObject,
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
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.namespace import object_name
from volatility3_kdump.windows.processes.processes import process_addresses, read_process, thread_addresses
from volatility3_kdump.windows.processes.threads import read_thread

_IRP_COLUMNS: list[tuple[str, type]] = [
    ("Irp", format_hints.Hex),
    ("Location", int),
    ("Current", bool),
    ("Major", str),
    ("Minor", str),
    ("Flags", format_hints.Hex),
    ("Control", format_hints.Hex),
    ("Device", format_hints.Hex),
    ("Driver", str),
    ("File", format_hints.Hex),
    ("Completion", format_hints.Hex),
    ("Completion routine", str),
    ("Context", format_hints.Hex),
    ("Arg1", format_hints.Hex),
    ("Arg2", format_hints.Hex),
    ("Arg3", format_hints.Hex),
    ("Arg4", format_hints.Hex),
    ("Thread", format_hints.Hex),
    ("Status", format_hints.Hex),
    ("Held by", str),
    ("Note", str),
]

_PENDING_COLUMNS: list[tuple[str, type]] = [
    ("Irp", format_hints.Hex),
    ("Thread", format_hints.Hex),
    ("PID", int),
    ("TID", int),
    ("Process", str),
    ("Major", str),
    ("Minor", str),
    ("Location", int),
    ("Stack count", int),
    ("Device", format_hints.Hex),
    ("Driver", str),
    ("File", format_hints.Hex),
    ("File name", str),
    ("Held by", str),
    ("Note", str),
]

_STACK_COLUMNS: list[tuple[str, type]] = [
    ("Device", format_hints.Hex),
    ("Asked for", bool),
    ("Name", str),
    ("Driver object", format_hints.Hex),
    ("Driver", str),
    ("Image", str),
    ("Extension", format_hints.Hex),
    ("Type", format_hints.Hex),
    ("Flags", format_hints.Hex),
    ("Stack size", int),
    ("Current IRP", format_hints.Hex),
    ("Device node", format_hints.Hex),
    ("Instance", str),
    ("Service", str),
    ("Note", str),
]

_DRIVER_COLUMNS: list[tuple[str, type]] = [
    ("Driver object", format_hints.Hex),
    ("Driver", str),
    ("Image", str),
    ("Kind", str),
    ("Name", str),
    ("Address", format_hints.Hex),
    ("Symbol", str),
    ("Where", str),
    ("Foreign", bool),
    ("Note", str),
]

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
    return KdumpGrid(_IRP_COLUMNS, _irp_rows(view), lambda: words.irp_lines(view, size))


def _irp_rows(view: IrpView) -> Iterator[Row]:
    irp = view.irp
    notes = "; ".join(view.notes)
    for item in view.locations:
        location = item.location
        current = location.address == irp.current_address
        yield (
            0,
            (
                format_hints.Hex(irp.address),
                location.number,
                current,
                *_codes(location.major, location.minor),
                address(location.flags),
                address(location.control),
                address(location.device),
                text(item.driver),
                address(location.file),
                address(location.completion_routine),
                absent() if item.completion is None else item.completion,
                address(location.context),
                *(address(value) for value in location.parameters),
                address(irp.thread),
                address(irp.status),
                text(view.holder) if current else absent(),
                "; ".join(filter(None, (item.meaning or "", notes if current else ""))),
            ),
        )
    if not any(item.location.address == irp.current_address for item in view.locations):
        blank = (absent(),) * 14
        yield (
            0,
            (
                format_hints.Hex(irp.address),
                number(irp.current_location),
                False,
                *blank,
                address(irp.thread),
                address(irp.status),
                text(view.holder),
                notes,
            ),
        )


def _codes(major: int | None, minor: int | None) -> tuple[Any, Any]:
    if major is None:
        return address(None), address(None)
    if minor is None:
        return major_name(major), address(None)
    return major_name(major), minor_name(major, minor) or (absent() if minor == 0 else f"{minor:#x}")


#: Threads of which it is said one by one why their IRPs are not known.
_MOST_SILENT = 8

# pending --------------------------------------------------------------------------------------------------------------


def pending_grid(target: Target, progress: Progress | None = None) -> KdumpGrid:
    """The IRPs of all threads, each with its process and the driver that has it."""
    found: list[tuple[IrpView | None, int, int, str]] = []
    problems: list[str] = []

    def views() -> list[tuple[IrpView | None, int, int, str]]:
        if not found and not problems:
            found.extend(_pending(target, problems, progress))
        return found

    return KdumpGrid(
        _PENDING_COLUMNS, _pending_rows(target, views, problems), lambda: _pending_lines(target, views, problems)
    )


def _pending(
    target: Target, problems: list[str], progress: Progress | None
) -> Iterator[tuple[IrpView | None, int, int, str]]:
    """(view, thread, IRP, why there is no view) of each IRP."""
    processes = list(process_addresses(target))
    if target.dump.triage is not None:
        problems.append("a small memory dump holds few threads besides the crashing one: other IRPs are not in it")
    elif not processes:
        problems.append(f"no process list: it needs the kernel's symbols ({target.symbol_status})")
    threads = [thread for process in processes for thread in thread_addresses(target, process)]
    crashed = crash_thread(target)
    if crashed is not None and crashed.address not in threads:
        threads.append(crashed.address)
    seen: set[int] = set()
    silent = 0
    for index, address_ in enumerate(threads):
        if progress is not None and index % 64 == 0:
            progress(100 * index / len(threads), "Reading IRPs")
        thread = read_thread(target, address_)
        unread = _why_unread(target, address_)
        if unread:
            silent += 1
            problems += [f"thread {address_:#x}: {unread}"] if silent <= _MOST_SILENT else []
        problems += [f"thread {address_:#x}: {note}" for note in thread.notes if "IrpList" in note]
        for pending in thread.irps:
            if pending.address in seen:
                continue
            seen.add(pending.address)
            try:
                yield view_irp(target, read_irp(target, pending.address)), address_, pending.address, ""
            except KdumpError as error:
                yield None, address_, pending.address, str(error)
    if silent > _MOST_SILENT:
        problems.append(f"the IRPs of {silent - _MOST_SILENT} more threads are not known")


def _why_unread(target: Target, thread: int) -> str | None:
    """Why it is not known whether a thread has IRPs."""
    nt = target.nt
    field = nt.find("_ETHREAD", "IrpList") if nt is not None and nt.has_type("_ETHREAD") else None
    if field is None:
        return f"its IRPs are not known without the kernel's symbols ({target.symbol_status})"
    place = thread + field.offset
    if target.memory.pointer(place) is None:
        return f"its IRPs are not known: IrpList at {place:#x}: {target.memory.why_unreadable(place)}"
    return None


def _pending_lines(target: Target, views: Any, problems: list[str]) -> Iterator[str]:
    size = target.memory.pointer_size
    found = views()
    if found:
        yield words.pending_header(size)
    for view, thread, irp, reason in found:
        pid, tid, process = _owner(target, thread)
        cid = f"{'?' if pid is None else f'{pid:04x}'}.{'?' if tid is None else f'{tid:04x}'}"
        if view is None:
            yield f"{irp:x} {thread:x} {cid:<11} {process or '?':<18} {reason}"
        else:
            yield words.pending_line(view, process or "?", cid, size)
    if found or not problems:
        yield f"{len(found)} pending IRP{'' if len(found) == 1 else 's'}"
    else:
        yield "No pending IRP was found, which does not say that there was none"
    for problem in problems:
        yield f"NOTE: {problem}"


def _owner(target: Target, thread: int) -> tuple[int | None, int | None, str | None]:
    found = read_thread(target, thread)
    process = read_process(target, found.process) if found.process else None
    return found.pid, found.tid, process.name if process else None


def _pending_rows(target: Target, views: Any, problems: list[str]) -> Iterator[Row]:
    for view, thread, irp, reason in views():
        pid, tid, process = _owner(target, thread)
        head = (format_hints.Hex(irp), format_hints.Hex(thread), number(pid), number(tid), text(process))
        if view is None:
            yield 0, (*head, *((address(None),) * 9), reason)
            continue
        current = view.irp.current
        item = next((item for item in view.locations if item.location is current), None) if current else None
        name = view.file.partition(" ")[2] if view.file else None
        yield (
            0,
            (
                *head,
                *(_codes(current.major, current.minor) if current else (absent(), absent())),
                number(view.irp.current_location),
                number(view.irp.stack_count),
                address(current.device if current else None),
                text(item.driver if item else None),
                address(view.irp.file),
                text(name),
                text(view.holder),
                "; ".join(view.notes),
            ),
        )
    for problem in problems:
        yield 0, (*((absent(),) * 14), problem)


# device stacks --------------------------------------------------------------------------------------------------------


def stack_grid(target: Target, at: int) -> KdumpGrid:
    """The device stack that a device belongs to, topmost first. Raises :class:`KdumpError` if there is no device."""
    try:
        stack = device_stack(target, at)
    except (Unreadable, SymbolsNotFound) as error:
        raise _wrapped(target, error) from error
    notes = stack_notes(stack)
    return KdumpGrid(
        _STACK_COLUMNS, _stack_rows(target, stack, at, notes), lambda: _stack_lines(target, stack, at, notes)
    )


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
        instance = service = None
        problem = ""
        if device.node:
            try:
                node = read_node(target, device.node)
                instance, service = node.instance_path, node.service
            except KdumpError as error:
                problem = str(error)
        driver = device.driver
        yield (
            0,
            (
                format_hints.Hex(device.address),
                device.address == at,
                text(object_name(target, device.address)),
                address(device.driver_address),
                text(driver.name if driver else None),
                text(driver.image_name if driver else None),
                address(device.extension),
                address(device.device_type),
                address(device.flags),
                number(device.stack_size),
                address(device.current_irp),
                address(device.node),
                absent() if not device.node else text(instance),
                absent() if not device.node else text(service),
                "; ".join(filter(None, [problem, *(note for note in notes if f"{device.address:#x}" in note)])),
            ),
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
    return KdumpGrid(
        _DRIVER_COLUMNS,
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
    target: Target, driver: DriverObject, routines: Routines, table: Any, devices: list[int], notes: list[str]
) -> Iterator[Row]:
    head = (format_hints.Hex(driver.address), text(driver.name), text(driver.image_name))

    def row(kind: str, name: str, value: int | None, symbol: str | None, note: str = "") -> Row:
        shown = text(symbol) if value else absent()
        return 0, (*head, kind, name, address(value), shown, absent(), absent(), note)

    for name, value in (
        ("DriverEntry", routines.entry),
        ("DriverStartIo", routines.start_io),
        ("DriverUnload", routines.unload),
        ("AddDevice", routines.add_device),
        ("FastIoDispatch", routines.fast_io),
    ):
        yield row(
            "routine" if name != "FastIoDispatch" else "table", name, value, target.name_of(value) if value else None
        )
    for item in table:
        yield (
            0,
            (
                *head,
                "dispatch",
                major_name(item.major),
                address(item.address),
                text(item.name) if item.address else absent(),
                text(item.where),
                item.foreign,
                item.note,
            ),
        )
    for device in devices:
        yield row("device", object_name(target, device) or "", device, None)
    for identification, at in routines.extensions or ():
        yield row("extension", f"{identification:#x}", at, None)
    for note in notes:
        yield 0, (*head, "note", "", *((absent(),) * 4), note)
