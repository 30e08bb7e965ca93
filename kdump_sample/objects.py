"""Kernel objects: headers and types, dispatcher objects and the waits on them, drivers, devices and requests."""

from __future__ import annotations

from kdump_sample.images import Images
from kdump_sample.pool_blocks import IN_USE, Block, block_units, write_header
from kdump_sample.scene import Device, DriverObject, PendingRequest, Request, Thread
from kdump_sample.structures import Structure, Value
from kdump_sample.workspace import Workspace
from volatility3_kdump.layout import FieldPath

#: ObHeaderCookie, which hides type indexes since Windows 10.
_COOKIE = 0x3C

#: The first types of ObTypeIndexTable of Windows 10 19041, from index 2 on; index 0 is empty and 1 holds a marker.
_TYPE_NAMES = (
    *("Type", "Directory", "SymbolicLink", "Token", "Job", "Process", "Thread", "Partition", "UserApcReserve"),
    *("IoCompletionReserve", "ActivityReference", "PsSiloContextPaged", "PsSiloContextNonPaged", "DebugObject"),
    *("Event", "Mutant", "Callback", "Semaphore", "Timer", "IRTimer", "Profile", "KeyedEvent", "WindowStation"),
    *("Desktop", "Composition", "RawInputManager", "CoreMessaging", "ActivationObject", "TpWorkerFactory", "Adapter"),
    *("Controller", "Device", "Driver", "IoCompletion", "WaitCompletionPacket", "File"),
)
_TYPES = {name: index for index, name in enumerate(_TYPE_NAMES, 2)}
_MARKER = 0xBAD0B0B0

EVENT, MUTANT, PROCESS, QUEUE, SEMAPHORE, THREAD = 1, 2, 3, 4, 5, 6
#: DISPATCHER_HEADER.Size of a _KQUEUE and of smaller objects, in 32-bit words.
_QUEUE_SIZE, _EVENT_SIZE = 0x10, 6
#: What threads wait for besides events: structure and object type.
_AWAITED = {
    QUEUE: ("_KQUEUE", "IoCompletion"),
    MUTANT: ("_KMUTANT", "Mutant"),
    SEMAPHORE: ("_KSEMAPHORE", "Semaphore"),
}

_IRP_TYPE, _FILE_TYPE, _DRIVER_TYPE, _DEVICE_TYPE = 6, 5, 4, 3
_DEVICE_CONTROL = 14
_MAJOR_FUNCTIONS = 28

#: Optional headers in front of OBJECT_HEADER, the nearest first: the bits of its InfoMask.
_INFORMATION = (
    "_OBJECT_HEADER_CREATOR_INFO",
    "_OBJECT_HEADER_NAME_INFO",
    "_OBJECT_HEADER_HANDLE_INFO",
    "_OBJECT_HEADER_QUOTA_INFO",
    "_OBJECT_HEADER_PROCESS_INFO",
)
_NAME_INFORMATION = 2
_HASH_BUCKETS = 37
_POOL_HEADER = 0x10
_ATTACHED_FLAGS = 0x2040


#: A device node that is started: states are those of the kernels of Windows 7 to 11 21H2.
_STARTED_NODE: dict[FieldPath, Value] = {
    "State": 0x308,
    "PreviousState": 0x30D,
    "StateHistory[0]": 0x301,
    "StateHistory[1]": 0x308,
    "StateHistory[2]": 0x30C,
    "StateHistory[3]": 0x30D,
    "StateHistoryEntry": 4,
    "Flags": 0x6C0000F0,
    "CapabilityFlags": 0x2000,
}


class Objects:
    """Makes the objects of a machine."""

    def __init__(self, work: Workspace, images: Images) -> None:
        self._work = work
        self._images = images
        #: Addresses of the object directories by name in lower case.
        self._directories: dict[str, int] = {}
        devices = [device for driver in work.scene.driver_objects for device in driver.devices]
        self._devices = {device.address: device for device in devices}
        self._above = {device.below: device.address for device in devices if device.below}
        self._root_device_node: Structure | None = None
        self._types()
        self._information_offsets()
        self._root = self._directory("", 0)
        work.variable("ObpRootDirectoryObject", self._root)

    def _types(self) -> None:
        work = self._work
        table = work.symbol("ObTypeIndexTable")
        size = work.structures.size("_OBJECT_TYPE", 0xD8)
        work.variable("ObHeaderCookie", _COOKIE, 1)
        if table is not None:
            work.memory.write(table, bytes(8) + _MARKER.to_bytes(8, "little"))
        for name, index in _TYPES.items():
            address = work.pool("nonpaged", size + 0x40, "ObjT") + 0x40
            made = work.structure("_OBJECT_TYPE", address, {"Index": index})
            made.unicode("Name", name, work.pool("paged", 2 * len(name) + 2, "ObNm"))
            work.empty_list(address)
            if table is not None:
                work.memory.write(table + 8 * index, address.to_bytes(8, "little"))
            if name in ("Process", "Thread"):
                work.variable(f"Ps{name}Type", address)

    def _information_offsets(self) -> None:
        """ObpInfoMaskToOffset: how far in front of a header the highest of the optional headers of a mask begins."""
        work = self._work
        sizes = [work.structures.size(name) for name in _INFORMATION]
        offsets = (sum(size for bit, size in enumerate(sizes) if mask >> bit & 1) for mask in range(1 << len(sizes)))
        work.variable("ObpInfoMaskToOffset", bytes(offsets))

    def _directory(self, name: str, parent: int) -> int:
        """An empty object directory below another."""
        work = self._work
        size = work.structures.size("_OBJECT_DIRECTORY", 0x158)
        address = work.pool("paged", size + 0x80, "Dire") + 0x80
        work.memory.write(address, bytes(size))
        self._directories[name.lower()] = address
        self.header(address, "Directory", 0, name=name, directory=parent)
        if parent:
            self._enter(self._root, name, address)
        return address

    def _enter(self, directory: int, name: str, body: int) -> None:
        """List an object in a directory."""
        work = self._work
        bucket = sum(map(ord, name.upper())) % _HASH_BUCKETS
        field = work.layouts.find("_OBJECT_DIRECTORY", "HashBuckets")
        place = directory + (field.offset if field else 0) + 8 * bucket
        entry = work.pool("paged", max(work.structures.size("_OBJECT_DIRECTORY_ENTRY"), 0x18), "ObDi")
        first = int.from_bytes(work.memory.read(place, 8) or bytes(8), "little")
        work.structure("_OBJECT_DIRECTORY_ENTRY", entry, {"ChainLink": first, "Object": body, "HashValue": bucket})
        work.memory.write(place, entry.to_bytes(8, "little"))

    def name(self, path: str, body: int, type_name: str) -> None:
        """Give an object a name, and list it in its directory, which is made where there is none."""
        *parents, name = path.strip("\\").split("\\")
        parent = parents[0] if parents else ""
        existing = self._directories.get(parent.lower())
        directory = existing or self._directory(parent, self._root)
        self.header(body, type_name, 0, name=name, directory=directory)
        self._enter(directory, name, body)

    def header(
        self, body: int, type_name: str, handles: int = 1, pointers: int = 2, name: str = "", directory: int = 0
    ) -> None:
        """The OBJECT_HEADER in front of an object. Windows 10 hides the type index with a cookie and the address."""
        work = self._work
        field = work.layouts.find("_OBJECT_HEADER", "Body")
        address = body - (0x30 if field is None else field.offset)
        index = _TYPES[type_name]
        if work.layouts.symbol("ObHeaderCookie") is not None:
            index ^= _COOKIE ^ (address >> 8 & 0xFF)
        work.structure(
            "_OBJECT_HEADER", address, {"PointerCount": pointers, "HandleCount": handles, "TypeIndex": index}
        ).set("InfoMask", _NAME_INFORMATION if name else 0)
        if name:
            size = work.structures.size("_OBJECT_HEADER_NAME_INFO", 0x20)
            made = work.structure("_OBJECT_HEADER_NAME_INFO", address - size, {"Directory": directory})
            made.unicode("Name", name, work.pool("paged", 2 * len(name) + 2, "ObNm"))

    def dispatcher_header(self, made: Structure, path: str, kind: int) -> None:
        """A DISPATCHER_HEADER inside a structure: type, and nobody waiting."""
        made.set(f"{path}.Type", kind)
        self._work.empty_list(made.place(f"{path}.WaitListHead"))

    def wait(self, made: Structure, thread: Thread) -> None:
        """The wait blocks of a thread, linked with the objects that it waits for."""
        work = self._work
        for index, waited in enumerate(thread.wait_objects):
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
                    "Object": waited.address,
                },
            )
            if work.layouts.has("_KWAIT_BLOCK", "NextWaitBlock"):
                # Windows 7: the blocks are a ring
                following = made.place(f"Tcb.WaitBlock[{(index + 1) % len(thread.wait_objects)}]")
                work.structure("_KWAIT_BLOCK", block, {"NextWaitBlock": following or 0})
            type_name, kind = _AWAITED.get(waited.kind, ("_KEVENT", "Event"))
            awaited = work.structure(type_name, waited.address)
            awaited.fill(
                {"Header.Type": waited.kind, "Header.Size": _QUEUE_SIZE if waited.kind == QUEUE else _EVENT_SIZE}
            )
            head = awaited.place("Header.WaitListHead")
            if head is not None:
                work.structures.link(head, [block])
            # processes and threads have the headers that they were made with
            if waited.kind not in (PROCESS, THREAD):
                self.header(waited.address, kind)
        if thread.wait_objects:
            made.set("Tcb.WaitBlockList", made.place("Tcb.WaitBlock[0]") or 0)
            made.set("Tcb.WaitBlockCount", len(thread.wait_objects))

    def driver(self, driver: DriverObject) -> None:
        """A DRIVER_OBJECT, its DRIVER_EXTENSION and its devices."""
        work = self._work
        module = self._images.module(driver.module)
        base = module.image.base
        size = work.structures.size("_DRIVER_OBJECT", 0x150)
        made = work.structure(
            "_DRIVER_OBJECT",
            driver.address,
            {
                "Type": _DRIVER_TYPE,
                "Size": size,
                "DeviceObject": driver.device,
                "Flags": 0x12,
                "DriverStart": base,
                "DriverSize": module.image.size,
                "DriverSection": module.loader_entry,
                "DriverExtension": driver.address + size,
                "DriverInit": base + module.image.entry_point,
            },
        )
        invalid = work.symbol("IopInvalidDeviceRequest") or 0
        for major in range(_MAJOR_FUNCTIONS):
            made.set(f"MajorFunction[{major}]", invalid)
        if driver.dispatch:
            for major in (0, 2, _DEVICE_CONTROL):
                made.set(f"MajorFunction[{major}]", base + module.functions[driver.dispatch].rva)
        for major, routine in driver.majors.items():
            place = base + routine if isinstance(routine, int) else self._images.address(routine)
            made.set(f"MajorFunction[{major}]", place)
        made.unicode("DriverName", driver.name, work.pool("paged", 2 * len(driver.name) + 2, "ObNm"))
        extension = work.structure("_DRIVER_EXTENSION", driver.address + size, {"DriverObject": driver.address})
        service = driver.name.rsplit("\\", 1)[-1]
        extension.unicode("ServiceKeyName", service, work.pool("nonpaged", 2 * len(service) + 2))
        self._pool_header(driver.address, size)
        if driver.hidden:
            self.header(driver.address, "Driver", 0, name=service)
        else:
            self.name(driver.name, driver.address, "Driver")
        devices = driver.devices or ((Device(driver.device, driver.device_type),) if driver.device else ())
        for device, following in zip(devices, [*(entry.address for entry in devices[1:]), 0], strict=True):
            self._device(driver, device, following)

    def _pool_header(self, body: int, size: int) -> None:
        """The pool header of a named driver object: the host's scans look for its tag."""
        work = self._work
        front = (
            work.layouts.offset("_OBJECT_HEADER", "Body")
            + work.structures.size("_OBJECT_HEADER_NAME_INFO")
            + _POOL_HEADER
        )
        made = work.structure("_POOL_HEADER", body - front, {"PoolType": IN_USE})
        made.set("BlockSize", (size + front + _POOL_HEADER - 1) // _POOL_HEADER)
        made.set("PoolTag", int.from_bytes(b"Driv", "little"))

    def _device(self, driver: DriverObject, device: Device, following: int) -> None:
        """A DEVICE_OBJECT, attached where it says so, with its extension for the I/O manager and its device node."""
        work = self._work
        size = work.structures.size("_DEVICE_OBJECT", 0x150)
        depth, lower = 1, device
        while lower.below in self._devices:
            depth, lower = depth + 1, self._devices[lower.below]
        more = work.pool("nonpaged", max(work.structures.size("_DEVOBJ_EXTENSION"), 0x70))
        work.memory.write(more, bytes(max(work.structures.size("_DEVOBJ_EXTENSION"), 0x70)))
        work.structure(
            "_DEVICE_OBJECT",
            device.address,
            {
                "Type": _DEVICE_TYPE,
                "Size": size,
                "ReferenceCount": 1,
                "DriverObject": driver.address,
                "NextDevice": following,
                "AttachedDevice": self._above.get(device.address, 0),
                "Flags": _ATTACHED_FLAGS if device.below else 0x40,
                "DeviceExtension": device.extension,
                "DeviceType": device.device_type,
                "StackSize": depth,
                "DeviceObjectExtension": more,
            },
        )
        work.structure(
            "_DEVOBJ_EXTENSION",
            more,
            {
                "Type": 13,
                "DeviceObject": device.address,
                "AttachedTo": device.below,
                "DeviceNode": device.node.address if device.node else 0,
            },
        )
        if device.name:
            self.name(device.name, device.address, "Device")
        else:
            self.header(device.address, "Device", 0)
        if device.node is not None:
            self._node(device)

    def _node(self, device: Device) -> None:
        """A DEVICE_NODE, the first child of the root of the device tree."""
        work, node = self._work, device.node
        assert node is not None
        root = self._root_node()
        first = work.memory.read(root.place("Child") or 0, 8) or bytes(8)
        made = work.structure(
            "_DEVICE_NODE",
            node.address,
            {
                "PhysicalDeviceObject": device.address,
                "Parent": root.address,
                "Child": 0,
                **_STARTED_NODE,
                "Sibling": int.from_bytes(first, "little"),
            },
        )
        root.set("Child", node.address)
        for path, string in (("InstancePath", node.instance_path), ("ServiceName", node.service)):
            made.unicode(path, string, work.pool("paged", 2 * len(string) + 2))

    def _root_node(self) -> Structure:
        work = self._work
        if self._root_device_node is None:
            address = work.pool("nonpaged", work.structures.size("_DEVICE_NODE", 0x310), "PpDn")
            self._root_device_node = work.structure("_DEVICE_NODE", address)
            self._root_device_node.fill(
                {"Child": 0, "Sibling": 0, "Parent": 0, "PhysicalDeviceObject": 0, **_STARTED_NODE}
            )
            path = "HTREE\\ROOT\\0"
            self._root_device_node.unicode("InstancePath", path, work.pool("paged", 2 * len(path) + 2))
            work.variable("IopRootDeviceNode", address)
        return self._root_device_node

    def pending(self, request: PendingRequest) -> None:
        """An IRP with several stack locations, on its thread's list."""
        work = self._work
        size = work.structures.size("_IRP", 0xD0)
        step = work.structures.size("_IO_STACK_LOCATION", 0x48)
        first = request.address + size
        made = work.structure(
            "_IRP",
            request.address,
            {
                "Type": _IRP_TYPE,
                "Size": size + step * len(request.locations),
                "Flags": request.flags,
                "RequestorMode": 1,
                "StackCount": len(request.locations),
                "CurrentLocation": request.current,
                "Tail.Overlay.Thread": request.thread,
                "Tail.Overlay.CurrentStackLocation": first + (request.current - 1) * step,
                "Tail.Overlay.OriginalFileObject": request.file,
            },
        )
        for index, entry in enumerate(request.locations):
            routine = 0
            if entry.completion is not None:
                routine = self._images.module(entry.completion[0]).image.base + entry.completion[1]
            location = work.structure(
                "_IO_STACK_LOCATION",
                first + index * step,
                {
                    "MajorFunction": entry.major,
                    "MinorFunction": entry.minor,
                    "Flags": entry.flags,
                    "Control": entry.control,
                    "DeviceObject": entry.device,
                    "FileObject": request.file,
                    "CompletionRoutine": routine,
                    "Context": entry.context,
                },
            )
            for number, value in enumerate(entry.parameters, 1):
                location.set(f"Parameters.Others.Argument{number}", value)
        opened = work.structure(
            "_FILE_OBJECT",
            request.file,
            {
                "Type": _FILE_TYPE,
                "Size": work.structures.size("_FILE_OBJECT"),
                "DeviceObject": request.locations[0].device,
                "Flags": 0x40002,
            },
        )
        opened.unicode("FileName", request.path, work.pool("paged", 2 * len(request.path) + 2, "IoNm"))
        self.header(request.file, "File")
        self._irp_header(request.address, size + step * len(request.locations))
        self._list(request.thread, made)

    def _irp_header(self, address: int, size: int) -> None:
        """The pool header of an IRP."""
        block = Block("nonpaged", address - _POOL_HEADER, _POOL_HEADER * block_units(size), "Irp ")
        write_header(self._work.structures, block, 0, IN_USE)

    def _list(self, thread: int, irp: Structure) -> None:
        """Put an IRP on its thread's list."""
        work = self._work
        head = work.layouts.find("_ETHREAD", "IrpList")
        entry = irp.place("ThreadListEntry")
        if head is not None and entry is not None:
            work.structures.link(thread + head.offset, [entry])

    def request(self, request: Request) -> None:
        """An IRP with one stack location, on its thread's list."""
        work = self._work
        size = work.structures.size("_IRP", 0xD0)
        location = request.address + size
        made = work.structure(
            "_IRP",
            request.address,
            {
                "Type": _IRP_TYPE,
                "Size": size + work.structures.size("_IO_STACK_LOCATION", 0x48),
                "Flags": 0x60000,
                "RequestorMode": 1,
                "StackCount": 1,
                "CurrentLocation": 1,
                "Tail.Overlay.Thread": request.thread,
                "Tail.Overlay.CurrentStackLocation": location,
                "Tail.Overlay.OriginalFileObject": request.file,
            },
        )
        work.structure(
            "_IO_STACK_LOCATION",
            location,
            {
                "MajorFunction": _DEVICE_CONTROL,
                "Flags": 5,
                "Parameters.DeviceIoControl.OutputBufferLength": 0,
                "Parameters.DeviceIoControl.InputBufferLength": request.input_length,
                "Parameters.DeviceIoControl.IoControlCode": request.control_code,
                "DeviceObject": request.device,
                "FileObject": request.file,
            },
        )
        work.structure(
            "_FILE_OBJECT",
            request.file,
            {
                "Type": _FILE_TYPE,
                "Size": work.structures.size("_FILE_OBJECT"),
                "DeviceObject": request.device,
                "Flags": 0x40002,
            },
        )
        self.header(request.file, "File")
        self._irp_header(request.address, size + work.structures.size("_IO_STACK_LOCATION", 0x48))
        self._list(request.thread, made)
