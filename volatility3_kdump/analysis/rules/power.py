"""Power and Plug and Play: 0x9F, 0xA0, 0xCA, 0x1C8.

The structures that 0x9F hands over (``_TRIAGE_9F_POWER``, ``_TRIAGE_9F_PNP`` and what they lead to) are those of the
public kernel symbols; the meaning of the arguments is that of Microsoft's bug check reference.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.arguments import (
    device_reasoning,
    driver_culprit,
    follow,
    hexadecimal,
    irp_reasoning,
    node_of,
    service_culprit,
    subtype,
    thread_text,
)
from volatility3_kdump.analysis.owners import microsoft_modules
from volatility3_kdump.analysis.reasoning import Case, Finding, Reasoning, attempt, rule
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.io import requests as io
from volatility3_kdump.windows.io.devices import (
    DeviceNode,
    DeviceObject,
    DriverObject,
    device_stack,
    read_device,
    read_node,
)
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.structures import layouts_of, read_fields

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_IRPS = 256
#: IRP_MN_WAIT_WAKE.
_WAIT_WAKE = 0
_MOST_NAMED = 16
#: What the parts of a hardware id are joined with.
_SEPARATORS = re.compile(r"[^0-9A-Za-z_]")

_UNHELD = "which driver holds the IRP cannot be told"
_UNKNOWN_BELOW = "whose device lies below is not in the dump, and a driver of Windows waits for that"

#: SYSTEM_POWER_STATE arguments of 0xA0, and the argument that is the thread to look at.
_TIMEOUTS = (0xD, 0xF, 0xF0, 0xF1)


@rule(0x9F)
def driver_power_state_failure(case: Case) -> Reasoning:
    """A power transition that does not end. P1 tells who waits for what."""
    kind = case.argument(1)
    shown = f"{kind:x}" if kind is not None else "not in the dump"
    base = Reasoning((Finding("DRVPOWERSTATE_SUBCODE", shown, kind),))
    if kind == 3:
        return base + _blocked_irp(case)
    if kind == 4:
        return base + _pnp_timeout(case)
    return base + Reasoning(specifiers=subtype(case)) + follow(case)


# P1 = 3 -------------------------------------------------------------------------------------------------------------


def _blocked_irp(case: Case) -> Reasoning:
    """P2: the PDO of the stack, P3: _TRIAGE_9F_POWER, P4: the IRP."""
    target = case.target
    reasoning = attempt(lambda: _holder(case), "the blocked IRP")
    stack = attempt(lambda: _devices(case), "the device stack")
    others = attempt(lambda: _power_irps(target, case.pointer(3), case.pointer(4)), "the list of power IRPs")
    return reasoning + stack + others + Reasoning(specifiers=("3",))


def _holder(case: Case) -> Reasoning:
    """The driver that has the IRP, which is the one that must complete it or pass it down."""
    target = case.target
    address, pdo_address = case.pointer(4), case.pointer(2)
    if address is None:
        return _without_irp(case, "the bug check names no IRP")
    reasoning = irp_reasoning(target, address)
    try:
        current = io.read_irp(target, address).current
        device = read_device(target, current.device) if current is not None and current.device else None
    except KdumpError:
        current = device = None
    if device is None or device.driver is None:
        return reasoning + _without_irp(case, "the dump does not hold the IRP, its stack location, device and driver")
    pdo = _read_device(target, pdo_address)
    culprit = reasoning.culprit
    driver_name = device.driver.text
    sentences = [
        f"The IRP {hexadecimal(target, address)} waits for {driver_name}, "
        "which has neither completed it nor passed it on."
    ]
    request = reasoning.finding("IRP_REQUEST")
    if request is not None:
        sentences.append(f"The IRP asks for {request.value}.")
    specifiers = _bucket_words(target, _name_of(device), pdo)
    notes = reasoning.notes
    if current is not None and current.major not in (None, io.IRP_MJ_POWER):
        notes += (
            f"the IRP {hexadecimal(target, address)} of argument 4 is no power IRP: it asks for {current.request}",
        )
    if culprit is not None:
        culprit = replace(culprit, why=f"{driver_name} has the power IRP that was not completed in time")
    owner = _third_party_below(device, pdo)
    if owner is not None and culprit is not None:
        why = f"its device has the power IRP that was not completed in time; {driver_name} above it is Windows' own"
        culprit = driver_culprit(owner, why) or culprit
        sentences[0] = (
            f"The IRP {hexadecimal(target, address)} is at {driver_name}, "
            f"which waits for the device of {owner.text} below it."
        )
    # Who is asked next by a driver of Windows is not known where the device at the bottom is not in the dump.
    uncertain = _UNKNOWN_BELOW if pdo is None and _of_windows(device.driver) else None
    return replace(
        reasoning,
        sentences=tuple(sentences),
        notes=notes,
        specifiers=specifiers,
        culprit=culprit,
        uncertain=uncertain,
    )


def _of_windows(driver: DriverObject | None) -> bool:
    module = driver.module if driver is not None else None
    return module is not None and module.name.lower() in set(microsoft_modules())


def _third_party_below(holder: DeviceObject, pdo: DeviceObject | None) -> DriverObject | None:
    """The driver of the physical device, where that is a third party's and the holder of the IRP one of Windows'.

    Class drivers such as disk.sys pass requests on as others: the IRP stays with them until the device has answered.
    """
    if pdo is None or pdo.driver is None or pdo.driver.module is None or pdo.address == holder.address:
        return None
    return pdo.driver if _of_windows(holder.driver) and not _of_windows(pdo.driver) else None


def _without_irp(case: Case, why: str) -> Reasoning:
    """Who else can be named: the driver of the device's service, else the first one above the PDO."""
    target = case.target
    pdo = _read_device(target, case.pointer(2))
    if pdo is None:
        sentence = f"Which driver holds the IRP cannot be told: {why}, nor its physical device object."
        return Reasoning(sentences=(sentence,), specifiers=("3",))
    unknown = f"Which driver holds the IRP cannot be told ({why})"
    node = node_of(target, pdo)
    devices = [device for device in device_stack(target, pdo.address) if device.driver is not None]
    above = list(itertools.takewhile(lambda device: device.address != pdo.address, devices))
    service = node.service if node is not None else None
    holder = next((device for device in above if service and _has_driver(device, service)), None)
    if holder is None and node is not None and service:
        sentence = f"{unknown}; the device belongs to the service {service}."
        culprit = service_culprit(target, node)
        name = culprit.module_name if culprit is not None and culprit.module_name else service
        words = _bucket_words(target, name, pdo)
        return Reasoning(sentences=(sentence,), specifiers=words, culprit=culprit, uncertain=_UNHELD)
    if holder is None and above:
        holder = above[-1]
    if holder is None or holder.driver is None:
        return Reasoning(sentences=(f"{unknown}.",), specifiers=("3",))
    driver_name = holder.driver.text
    why = f"{driver_name} drives the device whose power IRP was not completed in time"
    sentence = f"{unknown}; {driver_name} drives its device"
    culprit = driver_culprit(holder.driver, why)
    owner = _third_party_below(holder, pdo)
    if owner is not None:
        culprit = (
            driver_culprit(owner, f"{why}, but is Windows' own; the device itself is that of {owner.text}") or culprit
        )
        sentence += f", which is that of {owner.text}"
    return Reasoning(
        sentences=(f"{sentence}.",),
        specifiers=_bucket_words(target, _name_of(holder), pdo),
        culprit=culprit,
        uncertain=_UNHELD,
    )


def _has_driver(device: DeviceObject, service: str) -> bool:
    """Whether a device belongs to the driver of a service: driver objects are named after those."""
    name = device.driver.name if device.driver is not None else None
    return name is not None and name.rsplit("\\", 1)[-1].lower() == service.lower()


def _name_of(device: DeviceObject) -> str | None:
    """What the debugger calls a device's driver: its module, else its driver object."""
    driver = device.driver
    if driver is None:
        return None
    return driver.module.name if driver.module else (driver.name or "").rsplit("\\", 1)[-1] or None


def _bucket_words(target: Target, name: str | None, pdo: DeviceObject | None) -> tuple[str, ...]:
    """``3``, the driver, for ACPI devices their hardware id, and the image of the physical device's driver."""
    pieces = ["3", name] if name else ["3"]
    if pdo is None or pdo.driver is None or pdo.driver.module is None:
        return tuple(pieces)
    node = node_of(target, pdo)
    parts = (node.instance_path or "").split("\\") if node is not None else []
    if len(parts) > 1 and parts[0].upper() == "ACPI":
        pieces += ["DEV", parts[1]]
    return (*pieces, "IMAGE", pdo.driver.module.image_name)


def _read_device(target: Target, address: int | None) -> DeviceObject | None:
    if not address:
        return None
    try:
        return read_device(target, address)
    except KdumpError:
        return None


def _devices(case: Case) -> Reasoning:
    """The device stack from the top down to the PDO, each device with its driver."""
    target = case.target
    pdo_address = case.pointer(2)
    if pdo_address is None:
        return Reasoning()
    shown = hexadecimal(target, pdo_address)
    try:
        stack = device_stack(target, pdo_address)
    except KdumpError as error:
        return Reasoning((Finding("PHYSICAL_DEVICE_OBJECT", shown, pdo_address, str(error)),))
    findings = [Finding("PHYSICAL_DEVICE_OBJECT", shown, pdo_address, stack[-1].driver_text or "")]
    pdo = next(device for device in stack if device.address == pdo_address)
    node = node_of(target, pdo)
    sentences: tuple[str, ...] = ()
    if node is not None and node.instance_path:
        service = f"service {node.service}" if node.service else ""
        findings.append(Finding("DEVICE_NODE", node.instance_path, node.address, service))
        sentences = (f"The device is {node.instance_path}{f', driven by {node.service}' if node.service else ''}.",)
    for device in stack:
        driver = device.driver_text or "driver not in the dump"
        role = "physical device" if device.address == pdo_address else ""
        findings.append(
            Finding(
                "DEVICE_STACK",
                hexadecimal(target, device.address),
                device.address,
                f"{driver}{f', {role}' if role else ''}",
            )
        )
    top = stack[0]
    if top.above:
        findings.append(
            Finding("DEVICE_STACK", f"{hexadecimal(target, top.above)} above these is not in the dump", top.above)
        )
    return Reasoning(tuple(findings), sentences)


def _power_irps(target: Target, address: int | None, blocked: int | None) -> Reasoning:
    """The power IRPs under way, from _TRIAGE_9F_POWER.IrpList."""
    if address is None:
        return Reasoning()
    shown = hexadecimal(target, address)
    try:
        values = read_fields(target, "_TRIAGE_9F_POWER", address, {"signature": "Signature", "irps": "IrpList"})
    except KdumpError as error:
        return Reasoning((Finding("TRIAGE_9F_POWER", shown, address, str(error)),))
    if values["signature"] == 0:
        return Reasoning(notes=("P3 leads to no _TRIAGE_9F_POWER: the signature there is zero",))
    findings = []
    listed = list(_listed_irps(target, values["irps"])) if values["irps"] else []
    listed = [(irp, pdo) for irp, pdo in listed if irp == blocked or not _waits_to_wake(target, irp)]
    for irp, pdo in listed[:_MOST_NAMED]:
        note = _irp_summary(target, irp)
        device = _read_device(target, pdo)
        node = node_of(target, device) if device is not None else None
        if node is not None and node.instance_path:
            note = f"{note}; device {node.instance_path}" if note else f"device {node.instance_path}"
        findings.append(Finding("POWER_IRP", hexadecimal(target, irp), irp, note))
    if len(listed) > _MOST_NAMED:
        findings.append(Finding("POWER_IRP", f"{len(listed) - _MOST_NAMED} more", None))
    notes: tuple[str, ...] = ()
    if blocked is not None and listed and all(irp != blocked for irp, _ in listed):
        notes = (f"the IRP {hexadecimal(target, blocked)} of P4 is not in the list of power IRPs at P3",)
    return Reasoning(tuple(findings), notes=notes)


def _listed_irps(target: Target, head: int) -> Iterator[tuple[int, int]]:
    """(IRP, PDO) of every _TRIAGE_POP_IRP_DATA in a list; the kernel's own _POP_IRP_DATA starts in the same way."""
    layouts = layouts_of(target)
    type_name = "_TRIAGE_POP_IRP_DATA" if layouts.has_type("_TRIAGE_POP_IRP_DATA") else "_POP_IRP_DATA"
    for entry in walk_list(target.memory, head, _MOST_IRPS, "the list of IRPs").entries:
        try:
            values = read_fields(target, type_name, entry, {"irp": "Irp", "pdo": "Pdo"})
        except KdumpError:
            continue
        if values["irp"]:
            yield values["irp"], values["pdo"] or 0


def _waits_to_wake(target: Target, address: int) -> bool:
    """Whether an IRP is IRP_MN_WAIT_WAKE: these are pending as long as a device may wake the system."""
    try:
        current = io.read_irp(target, address).current
    except KdumpError:
        return False
    return current is not None and current.major == io.IRP_MJ_POWER and current.minor == _WAIT_WAKE


def _irp_summary(target: Target, address: int) -> str:
    try:
        current = io.read_irp(target, address).current
    except KdumpError as error:
        return str(error)
    if current is None:
        return "its stack location is not in the dump"
    pieces = [current.request or "unknown request"]
    power = io.power_request(current)
    if power:
        pieces.append(power)
    device = _read_device(target, current.device)
    if device is not None and device.driver_text:
        pieces.append(f"at {device.driver_text}")
    return ", ".join(pieces)


# P1 = 4 -------------------------------------------------------------------------------------------------------------


def _pnp_timeout(case: Case) -> Reasoning:
    """P2: seconds, P3: the thread that holds the PnP lock, P4: _TRIAGE_9F_PNP."""
    target = case.target
    seconds, thread = case.argument(2), case.pointer(3)
    findings = []
    sentences = []
    if thread is None:
        sentences.append(
            "A power transition timed out while it waited for Plug and Play; the bug check names no thread."
        )
    else:
        shown = thread_text(target, thread)
        findings.append(Finding("FAULTING_THREAD", hexadecimal(target, thread), thread, shown))
        within = f" for {seconds} seconds" if seconds else ""
        sentences.append(
            f"A power transition waited{within} for Plug and Play, whose lock thread {hexadecimal(target, thread)} "
            "holds: what that thread waits for is the reason."
        )
    reasoning = Reasoning(tuple(findings), tuple(sentences), specifiers=("4",), thread=thread)
    reasoning += attempt(lambda: _pending_devices(target, case.pointer(4)), "the PnP completion queue")
    # What the thread waits for says more than the device that is pending, if its stack is there.
    return replace(reasoning, culprit=None) if thread is not None and _has_stack(target, thread) else reasoning


def _has_stack(target: Target, thread: int) -> bool:
    limits = stack_limits(target, thread)
    return limits is not None and target.memory.read(limits[1] - target.memory.pointer_size, 1) is not None


def _pending_devices(target: Target, address: int | None) -> Reasoning:
    """The devices whose PnP requests are not completed, from _TRIAGE_9F_PNP.CompletionQueue."""
    if address is None:
        return Reasoning()
    shown = hexadecimal(target, address)
    try:
        values = read_fields(target, "_TRIAGE_9F_PNP", address, {"signature": "Signature", "queue": "CompletionQueue"})
    except KdumpError as error:
        return Reasoning((Finding("TRIAGE_9F_PNP", shown, address, str(error)),))
    if values["signature"] == 0:
        return Reasoning(notes=("P4 leads to no _TRIAGE_9F_PNP: the signature there is zero",))
    if not values["queue"]:
        return Reasoning()
    findings = []
    nodes: list[DeviceNode] = []
    width = target.memory.pointer_size
    # The queue starts with DispatchedList, its requests with their list entry and DeviceNode.
    for entry in walk_list(target.memory, values["queue"], _MOST_IRPS, "DispatchedList").entries[:_MOST_NAMED]:
        pointer = target.memory.pointer(entry + 2 * width)
        if not pointer:
            continue
        try:
            node = read_node(target, pointer)
        except KdumpError as error:
            findings.append(Finding("DEVICE_NODE", hexadecimal(target, pointer), pointer, str(error)))
            continue
        nodes.append(node)
        service = f"service {node.service}" if node.service else ""
        findings.append(Finding("DEVICE_NODE", node.instance_path or "not in the dump", pointer, service))
    if len(nodes) != 1 or not nodes[0].instance_path:
        return Reasoning(tuple(findings))
    sentence = f"Plug and Play waits for the device {nodes[0].instance_path}."
    return Reasoning(tuple(findings), (sentence,), culprit=service_culprit(target, nodes[0]))


# the others ---------------------------------------------------------------------------------------------------------


@rule(0xA0)
def internal_power_error(case: Case) -> Reasoning:
    """An error of power management; where a transition timed out, the thread that carries it out."""
    reasoning = Reasoning(specifiers=subtype(case)) + follow(case)
    kind = case.argument(1)
    if kind not in _TIMEOUTS:
        return reasoning
    state = case.argument(2)
    name = io.system_power_state(state) if state is not None else None
    if name is not None:
        finding = Finding("SYSTEM_POWER_STATE", name, None, "P2: system power state being entered")
        reasoning += Reasoning((finding,))
    if kind != 0xD:
        reasoning = replace(reasoning, thread=case.pointer(4))
    return reasoning


@rule(0x15F)
def connected_standby_watchdog(case: Case) -> Reasoning:
    """Too little sleep. P1 = 2: a device keeps the machine awake, P2 its TRIAGE_POP_FX_DEVICE; P1 = 3: a veto."""
    reasoning = Reasoning(specifiers=subtype(case)) + follow(case)
    node = reasoning.finding("DEVICE_NODE")
    if case.argument(1) == 2 and node is not None and node.address is not None and node.note:
        reasoning += Reasoning(sentences=(f"The device {node.value} keeps the machine out of its deepest idle state.",))
        image = reasoning.culprit.image_name if reasoning.culprit is not None else None
        kind, *rest = node.value.split("\\")
        if image is not None and rest:
            # Published: DEVICE_USB_VID_0C27_PID_CCDA_MI_00_IMAGE_hidusb.sys.
            hardware = _SEPARATORS.sub("_", f"{kind}_{rest[0]}")
            reasoning = replace(reasoning, specifiers=("DEVICE", hardware, "IMAGE", image))
    return reasoning


@rule(0xCA)
def pnp_detected_fatal_error(case: Case) -> Reasoning:
    """A fatal error that Plug and Play found: the driver of the PDO that an argument names."""
    reasoning = Reasoning(specifiers=subtype(case)) + follow(case)
    device = case.pointer(2)
    if device is not None and reasoning.finding("DEVICE_OBJECT") is None:
        # Kinds that the table does not know yet: P2 has been a device object in all of them.
        named = attempt(lambda: device_reasoning(case.target, device, "P2"), "P2")
        if named.finding("DRIVER_OBJECT") is not None:
            reasoning += replace(named, culprit=None)
    return reasoning


@rule(0x1C8)
def power_button_hold(case: Case) -> Reasoning:
    """The user held the power button: whatever hangs did so before."""
    held = case.argument(1)
    findings: tuple[Finding, ...] = ()
    if held is not None:
        findings = (Finding("POWER_BUTTON_HELD", f"{held} ms", None, "P1: how long the power button was held"),)
    sentences = (
        "The user crashed the system by holding the power button, most likely because it no longer responded: the "
        "crashing thread is not the reason, look at what the other processors and threads wait for.",
    )
    return Reasoning(findings, sentences)
