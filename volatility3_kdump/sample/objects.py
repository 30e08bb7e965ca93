"""Kernel objects: headers and types, dispatcher objects and the waits on them, drivers, devices and requests."""

from __future__ import annotations

from volatility3_kdump.sample.images import Images
from volatility3_kdump.sample.scene import DriverObject, Request, Thread
from volatility3_kdump.sample.structures import Structure
from volatility3_kdump.sample.workspace import Workspace

#: ObHeaderCookie, which hides type indexes since Windows 10.
_COOKIE = 0x3C

#: Types with their index in ObTypeIndexTable of Windows 10 19041.
_TYPES = {
    "Type": 2,
    "Directory": 3,
    "Token": 5,
    "Process": 7,
    "Thread": 8,
    "Event": 16,
    "IoCompletion": 35,
    "Device": 34,
    "Driver": 33,
    "File": 37,
}

EVENT, QUEUE, PROCESS, THREAD = 1, 4, 3, 6

_IRP_TYPE, _FILE_TYPE, _DRIVER_TYPE, _DEVICE_TYPE = 6, 5, 4, 3
_DEVICE_CONTROL = 14


class Objects:
    """Makes the objects of a machine."""

    def __init__(self, work: Workspace, images: Images) -> None:
        self._work = work
        self._images = images
        self._types()

    def _types(self) -> None:
        work = self._work
        table = work.symbol("ObTypeIndexTable")
        size = work.structures.size("_OBJECT_TYPE", 0xD8)
        work.variable("ObHeaderCookie", _COOKIE, 1)
        for name, index in _TYPES.items():
            address = work.pool("nonpaged", size + 0x40) + 0x40
            made = work.structure("_OBJECT_TYPE", address, {"Index": index})
            made.unicode("Name", name, work.pool("paged", 2 * len(name) + 2))
            work.empty_list(address)
            if table is not None:
                work.memory.write(table + 8 * index, address.to_bytes(8, "little"))
            if name in ("Process", "Thread"):
                work.variable(f"Ps{name}Type", address)

    def header(self, body: int, type_name: str, handles: int = 1, pointers: int = 2) -> None:
        """The OBJECT_HEADER in front of an object. Windows 10 hides the type index with a cookie and the address."""
        work = self._work
        field = work.layouts.find("_OBJECT_HEADER", "Body")
        address = body - (0x30 if field is None else field.offset)
        index = _TYPES[type_name]
        if work.layouts.symbol("ObHeaderCookie") is not None:
            index ^= _COOKIE ^ (address >> 8 & 0xFF)
        work.structure(
            "_OBJECT_HEADER", address, {"PointerCount": pointers, "HandleCount": handles, "TypeIndex": index}
        )

    def dispatcher_header(self, made: Structure, path: str, kind: int) -> None:
        """A DISPATCHER_HEADER inside a structure: type, and nobody waiting."""
        made.set(f"{path}.Type", kind)
        self._work.empty_list(made.place(f"{path}.WaitListHead"))

    def wait(self, made: Structure, thread: Thread) -> None:
        """The wait blocks of a thread, linked with the objects that it waits for."""
        work = self._work
        for index, item in enumerate(thread.wait_objects):
            block = made.place(f"Tcb.WaitBlock[{index}]")
            if block is None:
                return
            work.structure(
                "_KWAIT_BLOCK",
                block,
                {
                    "WaitType": 1,
                    "BlockState": 4,
                    "WaitKey": index,
                    "Thread": thread.address,
                    "Object": item.address,
                },
            )
            queue = item.kind == QUEUE
            awaited = work.structure("_KQUEUE" if queue else "_KEVENT", item.address)
            awaited.fill({"Header.Type": item.kind, "Header.Size": 0x10 if queue else 6})
            head = awaited.place("Header.WaitListHead")
            if head is not None:
                work.structures.link(head, [block])
            self.header(item.address, "IoCompletion" if queue else "Event")
        if thread.wait_objects:
            made.set("Tcb.WaitBlockList", made.place("Tcb.WaitBlock[0]") or 0)
            made.set("Tcb.WaitBlockCount", len(thread.wait_objects))

    def driver(self, item: DriverObject) -> None:
        """A DRIVER_OBJECT and its one DEVICE_OBJECT."""
        work = self._work
        module = self._images.module(item.module)
        dispatch = module.image.base + module.functions[item.dispatch].rva
        made = work.structure(
            "_DRIVER_OBJECT",
            item.address,
            {
                "Type": _DRIVER_TYPE,
                "Size": work.structures.size("_DRIVER_OBJECT"),
                "DeviceObject": item.device,
                "Flags": 0x12,
                "DriverStart": module.image.base,
                "DriverSize": module.image.size,
                "DriverSection": module.loader_entry,
                "DriverInit": module.image.base + module.image.entry_point,
            },
        )
        for major in (0, 2, _DEVICE_CONTROL):
            made.set(f"MajorFunction[{major}]", dispatch)
        made.unicode("DriverName", item.name, work.pool("paged", 2 * len(item.name) + 2))
        work.structure(
            "_DEVICE_OBJECT",
            item.device,
            {
                "Type": _DEVICE_TYPE,
                "Size": work.structures.size("_DEVICE_OBJECT"),
                "ReferenceCount": 1,
                "DriverObject": item.address,
                "Flags": 0x40,
                "DeviceType": item.device_type,
                "StackSize": 1,
            },
        )
        self.header(item.address, "Driver", 0)
        self.header(item.device, "Device", 0)

    def request(self, item: Request) -> None:
        """An IRP with one stack location, on its thread's list."""
        work = self._work
        size = work.structures.size("_IRP", 0xD0)
        location = item.address + size
        made = work.structure(
            "_IRP",
            item.address,
            {
                "Type": _IRP_TYPE,
                "Size": size + work.structures.size("_IO_STACK_LOCATION", 0x48),
                "Flags": 0x60000,
                "RequestorMode": 1,
                "StackCount": 1,
                "CurrentLocation": 1,
                "Tail.Overlay.Thread": item.thread,
                "Tail.Overlay.CurrentStackLocation": location,
                "Tail.Overlay.OriginalFileObject": item.file,
            },
        )
        work.structure(
            "_IO_STACK_LOCATION",
            location,
            {
                "MajorFunction": _DEVICE_CONTROL,
                "Flags": 5,
                "Parameters.DeviceIoControl.OutputBufferLength": 0,
                "Parameters.DeviceIoControl.InputBufferLength": item.input_length,
                "Parameters.DeviceIoControl.IoControlCode": item.control_code,
                "DeviceObject": item.device,
                "FileObject": item.file,
            },
        )
        work.structure(
            "_FILE_OBJECT",
            item.file,
            {
                "Type": _FILE_TYPE,
                "Size": work.structures.size("_FILE_OBJECT"),
                "DeviceObject": item.device,
                "Flags": 0x40002,
            },
        )
        self.header(item.file, "File")
        head = work.layouts.find("_ETHREAD", "IrpList")
        entry = made.place("ThreadListEntry")
        if head is not None and entry is not None:
            work.structures.link(item.thread + head.offset, [entry])
