"""Power requests that nobody completes: 0x9F."""

from __future__ import annotations

import dataclasses
import struct

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.dispatch import DPCS
from kdump_sample.scene import KernelStructure, Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import add, interrupted
from kdump_sample.scenes.workers import Device, Stack, device_stack, power_irp, third_party, waiting
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed
from volatility3_kdump.layout import Layouts

_SIGNATURE = 0x8000
_D3 = 4
_SECONDS = 300

_IRP = 0xFFFF91894EF3A010
_PDO, _FILTER, _FDO = 0xFFFF91894EF40060, 0xFFFF91894EF41A40, 0xFFFF91894EF42B10
_PCI, _ACPI, _RTSPER = 0xFFFF91894EF43E30, 0xFFFF91894EF44E30, 0xFFFF91894EF45E30
_NODE, _NAMES = 0xFFFF91894EF46010, 0xFFFFD80248B01000
_TRIAGE, _ENTRY, _QUEUE = 0xFFFF91894EF49800, 0xFFFF91894EF4A010, 0xFFFF91894EF4B100
_WORKER_1, _WORKER_2 = 0xFFFF91894EF4D010, 0xFFFF91894EF4D050
_HOLDER, _HOLDER_STACK, _EVENT = 0xFFFF91894C2E1040, 0xFFFFD48F77C1C000, 0xFFFF91894EF4C2A0
_INSTANCE = "PCI\\VEN_10EC&DEV_525A&SUBSYS_382517AA&REV_01\\00000001004CE00000"

_WATCHDOG = (
    *(function for function in DPCS if function.name != "KiRetireDpcList"),
    Function(
        "KiRetireDpcList",
        (*pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0x180)),
        (Call(0x5DD, "KiProcessExpiredTimerList"),),
    ),
)
_IRP_WATCHDOG = (
    *_WATCHDOG,
    Function(
        "KiProcessExpiredTimerList",
        (*pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0xB0)),
        (Call(0x172, "PopIrpWatchdog"),),
    ),
    Function("PopIrpWatchdog", (Allocate(0x28),), (Call(0x22, "PopIrpWatchdogBugcheck"),)),
    Function(
        "PopIrpWatchdogBugcheck", (*pushes("rbx", "rsi"), Allocate(0x48)), (Call(0x122, "KeBugCheckEx"),), returns=False
    ),
)
_PNP_WATCHDOG = (
    *_WATCHDOG,
    Function(
        "KiProcessExpiredTimerList",
        (*pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0xB0)),
        (Call(0x172, "PopBuildDeviceNotifyListWatchdog"),),
    ),
    Function("PopBuildDeviceNotifyListWatchdog", (Allocate(0x28),), (Call(0x16, "PnpBugcheckPowerTimeout"),)),
    Function("PnpBugcheckPowerTimeout", (*pushes("rbx"), Allocate(0x30)), (Call(0x76, "KeBugCheckEx"),), returns=False),
)

#: A card reader's driver: its handling of Plug and Play requests waits for an event.
_CARD_READER = third_party(
    "RtsPer.sys",
    0xFFFFF80060EA0000,
    {
        0x1400: Function(
            "DispatchPnp", (*pushes("rbx", "rdi"), Allocate(0x38)), (Call(0x4C, "import:KeWaitForSingleObject"),)
        )
    },
    ("KeWaitForSingleObject", "IofCallDriver"),
)


def _watchdog(functions: tuple[Function, ...], last: tuple[str, ...]) -> Scene:
    """A timer's DPC that runs while some thread does something else."""
    frames = [Frame("KiProcessExpiredTimerList"), *(Frame(name) for name in last)]
    made = interrupted(frames, functions, lambda processor: processor.idle_stack_base - 0x1000)
    return dataclasses.replace(made, drivers=(*made.drivers, _CARD_READER))


def card_reader_devices(made: Scene, layouts: Layouts, below: str = "pci", above: str = "RtsPer") -> Stack:
    """The device stack: the drivers ``below`` (of the physical device) and ``above``, between them ACPI's filter."""
    images = {**{driver.stem: driver for driver in made.drivers}, "RtsPer": _CARD_READER}
    devices = (
        Device(_PDO, _PCI, _NAMES, f"\\Driver\\{below}", images[below]),
        Device(_FILTER, _ACPI, _NAMES + 0x80, "\\Driver\\ACPI", images["ACPI"]),
        Device(_FDO, _RTSPER, _NAMES + 0x100, f"\\Driver\\{above}", images[above]),
    )
    return device_stack(devices, _NODE, _INSTANCE, "RtsPer", layouts)


def _with_devices(made: Scene, layouts: Layouts) -> Scene:
    stack = card_reader_devices(made, layouts)
    return add(made, structures=stack.structures, records=stack.records, blocks=stack.blocks)


def _links(forward: int, backward: int) -> bytes:
    return struct.pack("<QQ", forward, backward)


@scene("blocked-power-irp")
def blocked_power_irp(layouts: Layouts) -> Scene:
    """0x9F, P1 = 3: RtsPer.sys does not complete the request to go to D3. Its stack: RtsPer, ACPI filter, pci."""
    made = _with_devices(_watchdog(_IRP_WATCHDOG, ("PopIrpWatchdog", "PopIrpWatchdogBugcheck")), layouts)
    # One location more than there are devices: the power manager keeps the topmost for itself.
    irp = power_irp(_IRP, 4, 3, _FDO, _D3, layouts)
    made = add(made, structures=irp.structures, blocks=irp.blocks)
    head = made.kernel_base + (layouts.symbol("PopIrpList") or 0)
    made = add(
        made,
        structures=(
            KernelStructure("_TRIAGE_9F_POWER", _TRIAGE, {"Signature": _SIGNATURE, "Revision": 1, "IrpList": head}),
        ),
        records=(
            Record(head, _links(_ENTRY, _ENTRY)),
            Record(_ENTRY, _links(head, head) + struct.pack("<QQ", _IRP, _PDO)),
        ),
        blocks=((head, 0x10), (_ENTRY, 0x20)),
    )
    made = _with_workers(made, layouts)
    if layouts.has_type("_TRIAGE_9F_POWER"):
        made = add(made, blocks=((_TRIAGE, layouts.size_of("_TRIAGE_9F_POWER")),))
    return crashed(made, 0x9F, (3, _PDO, _TRIAGE, _IRP))


def _with_workers(made: Scene, layouts: Layouts) -> Scene:
    """The power manager's own record of the request, and its threads, of which the second serves it."""
    static, busy = made.processes[0].threads[0].address, _HOLDER
    head = made.kernel_base + (layouts.symbol("PopIrpThreadList") or 0)
    action = made.kernel_base + (layouts.symbol("PopAction") or 0)
    structures = (
        KernelStructure(
            "_POP_IRP_DATA",
            _ENTRY,
            {
                "CurrentDevice": _FDO,
                "TargetDevice": _FDO,
                "MinorFunction": 2,
                "PowerStateType": 1,
                "PowerState.DeviceState": _D3,
            },
        ),
        KernelStructure("_POP_IRP_WORKER_ENTRY", _WORKER_1, {"Thread": static, "Irp": 0, "Device": 0, "Static": 1}),
        KernelStructure("_POP_IRP_WORKER_ENTRY", _WORKER_2, {"Thread": busy, "Irp": _IRP, "Device": _FDO, "Static": 0}),
        KernelStructure(
            "_POP_POWER_ACTION",
            action,
            {
                "State": 0,
                "Updates": 0,
                "Action": 0,
                "LightestState": 0,
                "Flags": 0x10000003,
                "IrpMinor": 0,
                "SystemState": 0,
                "HiberContext": 0,
            },
        ),
    )
    records = (
        Record(head, _links(_WORKER_1, _WORKER_2)),
        Record(_WORKER_1, _links(_WORKER_2, head)),
        Record(_WORKER_2, _links(head, _WORKER_1)),
    )
    return add(made, structures=structures, records=records)


@scene("pnp-timeout")
def pnp_timeout(layouts: Layouts) -> Scene:
    """0x9F, P1 = 4: a worker thread holds the Plug and Play lock while RtsPer.sys makes it wait."""
    made = _watchdog(_PNP_WATCHDOG, ("PopBuildDeviceNotifyListWatchdog", "PnpBugcheckPowerTimeout"))
    made = _with_devices(made, layouts)
    made = waiting(made, _HOLDER, _HOLDER_STACK, (Frame("RtsPer!DispatchPnp"),), _EVENT)
    made = add(
        made,
        structures=(
            KernelStructure(
                "_TRIAGE_9F_PNP", _TRIAGE, {"Signature": _SIGNATURE, "Revision": 1, "CompletionQueue": _QUEUE}
            ),
        ),
        records=(
            Record(_QUEUE, _links(_ENTRY, _ENTRY)),
            Record(_ENTRY, _links(_QUEUE, _QUEUE) + struct.pack("<Q", _NODE)),
        ),
        blocks=((_QUEUE, 0x10), (_ENTRY, 0x18), (_HOLDER, layouts.size_of("_ETHREAD"))),
    )
    return crashed(made, 0x9F, (4, _SECONDS, _HOLDER, _TRIAGE))
