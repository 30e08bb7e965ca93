"""Drivers and their devices: driver objects, device objects, device stacks and device nodes.

Small memory dumps hold only some of these structures, or parts of them, so every field stands for itself: ``None`` is
"not in the dump", and a null pointer is 0. The structures are those of ``wdm.h``, as for
:mod:`volatility3_kdump.windows.io.requests`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import Unreadable
from volatility3_kdump.images.modules import Module
from volatility3_kdump.layout import FieldPath, LayoutError
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.structures import layouts_of, read_fields

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: IO_TYPE_* of ``wdm.h``: the first field of each structure.
TYPE_DEVICE, TYPE_DRIVER, TYPE_FILE, TYPE_IRP = 3, 4, 5, 6
_KINDS = {TYPE_DEVICE: "device object", TYPE_DRIVER: "driver object", TYPE_FILE: "file object", TYPE_IRP: "IRP"}
#: Longest device stack that is followed; real ones have less than twenty devices.
_MOST_DEVICES = 64
#: Most devices of one driver that are listed.
_MOST_OF_DRIVER = 4096
#: Most IRPs of a device's queue.
_MOST_QUEUED = 4096


@dataclass(frozen=True)
class DriverObject:
    """A DRIVER_OBJECT: its object ``name`` (``\\Driver\\disk``), where its image starts, its size in bytes, and the
    loaded module that this is, ``None`` when the start is not known or lies in no loaded module.

    ``section`` is DriverSection, the loader entry of its image, and ``device`` its first device object, 0 for none.
    """

    address: int
    name: str | None
    start: int | None
    size: int | None
    module: Module | None
    section: int | None = None
    device: int | None = None

    @property
    def image_name(self) -> str | None:
        """File name of its image."""
        return self.module.image_name if self.module else None

    @property
    def text(self) -> str:
        """The best name that there is: ``\\Driver\\disk (disk.sys)``, or less."""
        if self.name and self.image_name:
            return f"{self.name} ({self.image_name})"
        return self.name or self.image_name or f"driver object {self.address:#x}"


@dataclass(frozen=True)
class DeviceNode:
    """A DEVICE_NODE: its instance path (``PCI\\VEN_8086&DEV_15E2\\3&11583659&0&FE``) and the service that drives it."""

    address: int
    device: int | None
    instance_path: str | None
    service: str | None


@dataclass(frozen=True)
class DeviceObject:
    """A DEVICE_OBJECT.

    ``above`` is the device attached on top of it (AttachedDevice), ``below`` the one that it is attached to, ``node``
    the DEVICE_NODE of a physical device object, ``following`` the next device of the same driver: each an address, 0
    for none. ``driver_address`` is what the device points at, ``driver`` that driver if it could be read. ``more`` is
    its DEVOBJ_EXTENSION with ``extension_flags``; ``busy`` says that its device queue is, ``queued`` are its IRPs.
    """

    address: int
    driver_address: int | None
    driver: DriverObject | None
    above: int | None
    below: int | None
    node: int | None
    current_irp: int | None
    device_type: int | None
    flags: int | None
    characteristics: int | None
    extension: int | None
    stack_size: int | None
    following: int | None = None
    references: int | None = None
    security: int | None = None
    more: int | None = None
    extension_flags: int | None = None
    busy: bool | None = None
    queued: tuple[int, ...] = ()

    @property
    def driver_text(self) -> str | None:
        """Its driver in words, ``None`` when the dump does not even hold the driver object's address."""
        if self.driver is not None:
            return self.driver.text
        return f"driver object {self.driver_address:#x}, not in the dump" if self.driver_address else None


def read_object(
    target: Target, type_name: str, kind: int, address: int, paths: Mapping[str, FieldPath]
) -> dict[str, Any]:
    """The fields of a structure that starts with a type number, which must be the right one if it is in the dump."""
    values = read_fields(target, type_name, address, {"kind": "Type", **paths})
    stored = values.pop("kind")
    if stored is not None and stored != kind:
        raise Unreadable(f"no {_KINDS[kind]} at {address:#x}: its type is {stored & 0xFFFF}, not {kind}")
    return values


def read_driver(target: Target, address: int) -> DriverObject:
    """The driver object at an address. Raises :class:`Unreadable` when there is none in the dump."""
    values = read_object(
        target,
        "_DRIVER_OBJECT",
        TYPE_DRIVER,
        address,
        {"start": "DriverStart", "size": "DriverSize", "section": "DriverSection", "device": "DeviceObject"},
    )
    start: int | None = values["start"] or None
    name = target.memory.unicode_string(address + layouts_of(target).offset("_DRIVER_OBJECT", "DriverName"))
    module = target.names.module_of(start) if start is not None else None
    return DriverObject(address, name or None, start, values["size"], module, values["section"], values["device"])


def read_device(target: Target, address: int) -> DeviceObject:
    """The device object at an address, with its driver. Raises :class:`Unreadable` when there is none in the dump."""
    values = read_object(
        target,
        "_DEVICE_OBJECT",
        TYPE_DEVICE,
        address,
        {
            "driver": "DriverObject",
            "above": "AttachedDevice",
            "irp": "CurrentIrp",
            "device_type": "DeviceType",
            "flags": "Flags",
            "characteristics": "Characteristics",
            "extension": "DeviceExtension",
            "stack_size": "StackSize",
            "more": "DeviceObjectExtension",
            "following": "NextDevice",
            "references": "ReferenceCount",
            "security": "SecurityDescriptor",
            "busy": "DeviceQueue.Busy",
        },
    )
    below = node = extension_flags = None
    if values["more"]:
        with contextlib.suppress(Unreadable, LayoutError):
            more = read_fields(
                target,
                "_DEVOBJ_EXTENSION",
                values["more"],
                {"below": "AttachedTo", "node": "DeviceNode", "flags": "ExtensionFlags"},
            )
            below, node, extension_flags = more["below"], more["node"], more["flags"]
    driver = None
    if values["driver"]:
        with contextlib.suppress(Unreadable):
            driver = read_driver(target, values["driver"])
    return DeviceObject(
        address,
        values["driver"],
        driver,
        values["above"],
        below,
        node,
        values["irp"],
        values["device_type"],
        values["flags"],
        values["characteristics"],
        values["extension"],
        values["stack_size"],
        values["following"],
        values["references"],
        values["security"],
        values["more"],
        extension_flags,
        None if values["busy"] is None else bool(values["busy"]),
        _queued(target, address) if values["busy"] else (),
    )


def _queued(target: Target, device: int) -> tuple[int, ...]:
    """The IRPs in the device queue that IoStartPacket fills."""
    layouts = layouts_of(target)
    head = layouts.find("_DEVICE_OBJECT", "DeviceQueue.DeviceListHead")
    entry = layouts.find("_IRP", "Tail.Overlay.DeviceQueueEntry")
    if head is None or entry is None:
        return ()
    walk = walk_list(target.memory, device + head.offset, _MOST_QUEUED, "DeviceQueue")
    return tuple(link - entry.offset for link in walk.entries)


def driver_devices(target: Target, driver: DriverObject) -> tuple[list[int], str | None]:
    """The addresses of a driver's device objects, and why the list ends early, ``None`` if it does not."""
    following = driver.device
    devices: list[int] = []
    while following:
        if following in devices:
            return devices, f"the device list of {driver.text} is cyclic at {following:#x}"
        if len(devices) >= _MOST_OF_DRIVER:
            return devices, f"{driver.text} has more than {_MOST_OF_DRIVER} devices"
        devices.append(following)
        try:
            following = read_device(target, following).following
        except Unreadable as error:
            return devices, str(error)
    return devices, None if following == 0 else f"the device list of {driver.text} is not in the dump as a whole"


def fast_io_routines(target: Target, table: int) -> list[tuple[str, int | None, str | None]]:
    """(name, address, symbol) of the routines that a FAST_IO_DISPATCH has room for by its own size, 0 for none.

    ``None`` stands for what the dump does not hold. Raises :class:`Unreadable` where it holds nothing of the table.
    """
    layouts, memory = layouts_of(target), target.memory
    if not layouts.has_type("_FAST_IO_DISPATCH"):
        raise LayoutError(f"{layouts.origin}: no type _FAST_IO_DISPATCH")
    length = memory.unsigned(table, 4)
    if length is None:
        raise Unreadable.at(table, "_FAST_IO_DISPATCH", memory.why_unreadable(table))
    fields = sorted(
        (field.offset, name)
        for name in layouts.field_names("_FAST_IO_DISPATCH")
        if (field := layouts.find("_FAST_IO_DISPATCH", name)) is not None and field.offset
    )
    routines: list[tuple[str, int | None, str | None]] = []
    for offset, name in fields:
        if offset + memory.pointer_size > length:
            break
        address = memory.pointer(table + offset)
        routines.append((name, address, target.name_of(address) if address else None))
    return routines


@dataclass(frozen=True)
class Routines:
    """What a driver has entered into its DRIVER_OBJECT: addresses, 0 where it has none.

    ``dispatch`` is MajorFunction, by IRP_MJ code. ``add_device`` and ``extensions`` come from its DRIVER_EXTENSION; the
    latter are (identification address, address) of its client extensions, ``None`` where symbols do not describe them.
    """

    entry: int | None
    start_io: int | None
    unload: int | None
    fast_io: int | None
    add_device: int | None
    dispatch: tuple[int | None, ...]
    extensions: tuple[tuple[int, int], ...] | None

    @property
    def named(self) -> dict[str, int | None]:
        """Those that are no dispatch routines, by what they are called."""
        return {
            "DriverEntry": self.entry,
            "DriverStartIo": self.start_io,
            "DriverUnload": self.unload,
            "AddDevice": self.add_device,
            "FastIoDispatch": self.fast_io,
        }


def routine_names(target: Target, routines: Routines) -> dict[str, str | None]:
    """The symbols of those of :attr:`Routines.named` that there are, ``None`` where nothing names one."""
    return {label: target.name_of(address) for label, address in routines.named.items() if address}


def read_routines(target: Target, address: int) -> Routines:
    """The routines of the driver object at an address. Raises :class:`Unreadable` when there is none in the dump."""
    layouts, memory = layouts_of(target), target.memory
    values = read_object(
        target,
        "_DRIVER_OBJECT",
        TYPE_DRIVER,
        address,
        {
            "entry": "DriverInit",
            "start_io": "DriverStartIo",
            "unload": "DriverUnload",
            "fast_io": "FastIoDispatch",
            "extension": "DriverExtension",
        },
    )
    field = layouts.field("_DRIVER_OBJECT", "MajorFunction")
    step = memory.pointer_size
    dispatch = tuple(memory.pointer(address + field.offset + step * index) for index in range(field.size // step))
    add_device: int | None = None
    extensions: tuple[tuple[int, int], ...] | None = None
    if values["extension"]:
        with contextlib.suppress(Unreadable, LayoutError):
            more = read_fields(
                target,
                "_DRIVER_EXTENSION",
                values["extension"],
                {"add_device": "AddDevice", "clients": "ClientDriverExtension"},
            )
            add_device = more["add_device"]
            extensions = _client_extensions(target, more["clients"])
    return Routines(
        values["entry"],
        values["start_io"],
        values["unload"],
        values["fast_io"],
        add_device,
        dispatch,
        extensions,
    )


def _client_extensions(target: Target, first: int | None) -> tuple[tuple[int, int], ...] | None:
    """The list of IO_CLIENT_EXTENSION: what IoAllocateDriverObjectExtension has allocated."""
    if not first:
        return () if first == 0 else None
    layouts = layouts_of(target)
    if not layouts.has_type("_IO_CLIENT_EXTENSION"):
        return None
    extensions: dict[int, int] = {}
    following: int | None = first
    while following and following not in extensions and len(extensions) < _MOST_DEVICES:
        try:
            values = read_fields(
                target,
                "_IO_CLIENT_EXTENSION",
                following,
                {"next": "NextExtension", "identification": "ClientIdentificationAddress"},
            )
        except Unreadable:
            break
        extensions[following] = values["identification"] or 0
        following = values["next"]
    size = layouts.size_of("_IO_CLIENT_EXTENSION")
    return tuple((identification, address + size) for address, identification in extensions.items())


def device_stack(target: Target, address: int) -> list[DeviceObject]:
    """The devices attached to each other, the topmost first, as far as they are in the dump.

    Starts at any device of the stack. Raises :class:`Unreadable` when there is none at the address.
    """
    here = read_device(target, address)
    seen = {address}
    below: list[DeviceObject] = []
    above: list[DeviceObject] = []
    for devices, link in ((below, "below"), (above, "above")):
        following = getattr(here, link)
        while following and following not in seen and len(seen) < _MOST_DEVICES:
            seen.add(following)
            try:
                device = read_device(target, following)
            except Unreadable:
                break
            devices.append(device)
            following = getattr(device, link)
    return [*reversed(above), here, *below]


def read_node(target: Target, address: int) -> DeviceNode:
    """The device node at an address. Raises :class:`Unreadable` when it is not in the dump.

    Also reads the TRIAGE_DEVICE_NODE of small memory dumps, which starts with the same fields.
    """
    layouts = layouts_of(target)
    type_name = "_DEVICE_NODE" if layouts.has_type("_DEVICE_NODE") else "_TRIAGE_DEVICE_NODE"
    values = read_fields(target, type_name, address, {"device": "PhysicalDeviceObject"})

    def text(path: str) -> str | None:
        return target.memory.unicode_string(address + layouts.offset(type_name, path)) or None

    return DeviceNode(address, values["device"], text("InstancePath"), text("ServiceName"))
