"""What scenes about devices have in common: system threads, a driver of somebody else, devices and requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdump_sample.code import Function
from kdump_sample.myfault import high_irql_fault
from kdump_sample.pe import READ_ONLY, Codeview, Section
from kdump_sample.pool_blocks import HEADER as POOL_HEADER
from kdump_sample.pool_blocks import IN_USE, block_units, tag_value
from kdump_sample.scene import Driver, KernelStructure, Record, Scene, Thread
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashing, with_thread
from volatility3_kdump.layout import Layouts

_RUNNING = 2
_DEVICE_TYPE, _DRIVER_TYPE, _IRP_TYPE = 3, 4, 6
_POWER, _SET_POWER = 22, 2
_DEVICE_POWER_STATE = 1

_EXPORTS = Section(".edata", 0x9000, 0x1000, READ_ONLY)

#: The frames under a work item.
WORKER = (Frame("KiStartSystemThread"), Frame("PspSystemThreadStartup"), Frame("ExpWorkerThread"))


def on_worker(
    frames: Sequence[Frame], kernel_functions: Sequence[Function] = (), drivers: Sequence[Driver] = ()
) -> Scene:
    """The demonstration's machine without NotMyFault: a worker thread of the system process crashes in these frames."""
    scene = high_irql_fault()
    victim, _ = crashing(scene)
    system = scene.processes[0]
    scene = dataclasses.replace(
        scene,
        processes=tuple(process for process in scene.processes if process is not victim),
        drivers=(*scene.drivers, *drivers),
        kernel_functions=tuple(kernel_functions),
        requests=(),
        paged_out=(),
    )
    thread = dataclasses.replace(
        system.threads[0],
        address=0xFFFF91894C2D9040,
        tid=0x1D4,
        stack_base=0xFFFFD48F77C0E000,
        frames=(*WORKER, *frames),
        state=_RUNNING,
        processor=scene.bug_check.processor,
        wait_objects=(),
        wait_reason=0,
        created=54.0,
    )
    return with_thread(scene, system, thread)


def waiting(scene: Scene, address: int, stack_base: int, frames: Sequence[Frame], awaited: int) -> Scene:
    """The scene with another thread of the system process, which waits for an event."""
    system = scene.processes[0]
    thread: Thread = dataclasses.replace(
        system.threads[0],
        address=address,
        tid=0x250,
        stack_base=stack_base,
        frames=(
            *WORKER,
            *frames,
            Frame("KeWaitForSingleObject"),
            Frame("KiCommitThreadWait"),
            Frame("KiSwapThread"),
            Frame("KiSwapContext"),
            Frame("SwapContext"),
        ),
        wait_objects=(dataclasses.replace(system.threads[0].wait_objects[0], address=awaited, kind=0),),
        wait_reason=0,
        created=50.0,
    )
    return with_thread(scene, system, thread)


def third_party(
    name: str, base: int, functions: Mapping[int, Function], imports: Sequence[str] = (), exported: bool = False
) -> Driver:
    """A driver of somebody else, with the sections of NotMyFault's, and one for its exports if there are any."""
    model = next(driver for driver in high_irql_fault().drivers if driver.stem == "myfault")
    return dataclasses.replace(
        model,
        name=name,
        base=base,
        size=model.size + _EXPORTS.size if exported else model.size,
        sections=(*model.sections, _EXPORTS) if exported else model.sections,
        timestamp=0x5B8F2A61,
        checksum=0xC4D1,
        codeview=Codeview(f"d:\\build\\{name.rsplit('.', 1)[0]}.pdb", "7C9E1F3B5D2A44688F6E4D2C0B1A9918", 1),
        directory="\\SystemRoot\\System32\\drivers\\",
        version=(10, 0, 370, 107),
        description="Card reader driver",
        company="Contoso",
        functions=dict(functions),
        imports=tuple(imports),
        exported=exported,
    )


def named(address: int, text: str) -> tuple[bytes, Record]:
    """A UNICODE_STRING of 64-bit kernels whose characters are the record at an address."""
    data = text.encode("utf-16-le")
    head = len(data).to_bytes(2, "little") + (len(data) + 2).to_bytes(2, "little") + bytes(4)
    return head + address.to_bytes(8, "little"), Record(address, data + b"\0\0")


@dataclass(frozen=True)
class Device:
    """A device of a stack: addresses of its object, its driver object and the characters of the driver's name; the
    driver's object name; where the driver's image is."""

    address: int
    driver: int
    name_buffer: int
    name: str
    image: Driver


@dataclass(frozen=True)
class Stack:
    """A device stack and what belongs to it, from the physical device upwards."""

    structures: tuple[KernelStructure, ...]
    records: tuple[Record, ...]
    blocks: tuple[tuple[int, int], ...]


def device_stack(devices: Sequence[Device], node: int, instance: str, service: str, layouts: Layouts) -> Stack:
    """Devices attached to each other, the physical device first, and the device node behind that."""
    structures: list[KernelStructure] = []
    records: list[Record] = []
    blocks: list[tuple[int, int]] = []
    size, more = layouts.size_of("_DEVICE_OBJECT"), layouts.size_of("_DEVOBJ_EXTENSION")
    for index, device in enumerate(devices):
        above = devices[index + 1].address if index + 1 < len(devices) else 0
        below = devices[index - 1].address if index else 0
        name, characters = named(device.name_buffer, device.name)
        structures += [
            KernelStructure(
                "_DEVICE_OBJECT",
                device.address,
                {
                    "Type": _DEVICE_TYPE,
                    "Size": size + 0x80,
                    "ReferenceCount": 0,
                    "DriverObject": device.driver,
                    "AttachedDevice": above,
                    "Flags": 0x2040,
                    "DeviceType": 0x22,
                    "StackSize": index + 1,
                    "DeviceObjectExtension": device.address + size,
                    "Reserved": 0,
                },
            ),
            KernelStructure(
                "_DEVOBJ_EXTENSION",
                device.address + size,
                {
                    "Type": 13,
                    "DeviceObject": device.address,
                    "DeviceNode": 0 if index else node,
                    "AttachedTo": below,
                    ("VerifierContext", "DependentList"): 0,
                },
            ),
            KernelStructure(
                "_DRIVER_OBJECT",
                device.driver,
                {
                    "Type": _DRIVER_TYPE,
                    "Size": layouts.size_of("_DRIVER_OBJECT"),
                    "DeviceObject": device.address,
                    "DriverStart": device.image.base,
                    "DriverSize": device.image.size,
                    "DriverName": name,
                    "MajorFunction[27]": device.image.base + 0x1000,
                },
            ),
        ]
        records.append(characters)
        blocks += [
            (device.address, size + more),
            (device.driver, layouts.size_of("_DRIVER_OBJECT")),
            (device.name_buffer, len(characters.data)),
        ]
    path, path_text = named(node + 0x800, instance)
    service_name, service_text = named(node + 0x900, service)
    structures.append(
        KernelStructure(
            "_DEVICE_NODE",
            node,
            {
                "PhysicalDeviceObject": devices[0].address,
                "InstancePath": path,
                "ServiceName": service_name,
                ("DirectedDripsState", "StateFlags", "OverrideFlags"): 0,
            },
        )
    )
    records += [path_text, service_text]
    blocks += [
        (node, layouts.offset("_DEVICE_NODE", "ServiceName") + 0x10),
        (node + 0x800, len(path_text.data)),
        (node + 0x900, len(service_text.data)),
    ]
    return Stack(tuple(structures), tuple(records), tuple(blocks))


def power_irp(address: int, count: int, current: int, device: int, state: int, layouts: Layouts) -> Stack:
    """A power IRP with ``count`` stack locations, of which number ``current`` (from 1) is at a device."""
    irp, location = layouts.size_of("_IRP"), layouts.size_of("_IO_STACK_LOCATION")
    at = address + irp + (current - 1) * location
    size = irp + count * location
    structures = (
        KernelStructure(
            "_POOL_HEADER",
            address - POOL_HEADER,
            {"BlockSize": block_units(size), "PoolType": IN_USE, "PoolTag": tag_value("Irp ")},
        ),
        KernelStructure(
            "_IRP",
            address,
            {
                "Type": _IRP_TYPE,
                "Size": size,
                "StackCount": count,
                "CurrentLocation": current,
                "IoStatus.Status": 0xC00000BB,
                "Tail.Overlay.CurrentStackLocation": at,
            },
        ),
        KernelStructure(
            "_IO_STACK_LOCATION",
            at,
            {
                "MajorFunction": _POWER,
                "MinorFunction": _SET_POWER,
                "Control": 0xE1,
                "Parameters.Power.SystemContext": 0x51100,
                "Parameters.Power.Type": _DEVICE_POWER_STATE,
                "Parameters.Power.State": state,
                "Parameters.Power.ShutdownType": 2,
                "DeviceObject": device,
            },
        ),
    )
    return Stack(structures, (), ((address, size),))
