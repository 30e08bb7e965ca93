"""What the arguments of a bug check point at, by the kind that ``bugchecks.jsonl`` gives each of them.

Codes such as 0xC4 or 0x10D have hundreds of combinations. The table says of every argument whether it is an IRP, a
device object, code of the driver, a pool tag ...; this module follows the pointer and names what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.bugcheck import Argument
from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning
from volatility3_kdump.cpu.exception import code_name, code_text
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.regions import region_of
from volatility3_kdump.images.modules import Module, debugger_name
from volatility3_kdump.windows.io import requests as io
from volatility3_kdump.windows.io.devices import (
    DeviceNode,
    DeviceObject,
    DriverObject,
    read_device,
    read_driver,
    read_node,
)
from volatility3_kdump.windows.memory.pool_header import tag_text
from volatility3_kdump.windows.processes.dispatcher import why_no_dispatcher
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.structures import read_fields

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Modules that only pass on what a driver did: no argument makes them the culprit.
_MESSENGERS = {"nt", "hal", "verifierext", "vrfcore", "wdf01000", "dxgkrnl", "dxgmms1", "dxgmms2"}
_LONGEST_TEXT = 256
_IRQLS = {0: "PASSIVE_LEVEL", 1: "APC_LEVEL", 2: "DISPATCH_LEVEL"}
_HIGH_LEVEL = {"x64": 15, "x86": 31, "arm64": 15}


@dataclass(frozen=True)
class Named:
    """What an argument turned out to be: findings, and the driver that it names with the strength of that (more is
    better), a sentence without a full stop, and the address."""

    findings: tuple[Finding, ...]
    culprit: Culprit | None = None
    strength: int = 0


def follow(case: Case, numbers: Iterable[int] = (2, 3, 4)) -> Reasoning:
    """Findings for the arguments of these numbers, and the culprit that one of them names best."""
    pieces: list[Named] = []
    for number in numbers:
        argument = case.bug_check.arguments[number - 1]
        named = _follow(case, argument)
        if named is not None:
            pieces.append(named)
    culprits = [named for named in pieces if named.culprit is not None]
    best = max(culprits, key=lambda named: named.strength, default=None)
    findings = tuple(dict.fromkeys(finding for named in pieces for finding in named.findings))
    return Reasoning(findings, culprit=best.culprit if best else None)


def subtype(case: Case) -> tuple[str, ...]:
    """The first argument as a word of the bucket: hexadecimal, without leading zeros; empty when it was never set."""
    value = case.argument(1)
    return () if value is None else (f"{value:x}",)


# the kinds of arguments ---------------------------------------------------------------------------------------------

_Reader = Callable[[Case, int, str], "Named | None"]


def _follow(case: Case, argument: Argument) -> Named | None:
    value = case.argument(argument.number)
    if value is None:
        return None
    reader = KINDS[argument.kind] if argument.kind is not None else _symbolised
    return reader(case, argument.number, argument.meaning or "")


def _note(number: int, meaning: str) -> str:
    return f"P{number}: {meaning}" if meaning else f"P{number}"


def hexadecimal(target: Target, address: int) -> str:
    """An address in the debugger's width."""
    width = 2 * target.memory.pointer_size
    return f"{address & ((1 << 4 * width) - 1):0{width}x}"


def _irp(case: Case, number: int, meaning: str) -> Named | None:
    address = case.pointer(number)
    if address is None:
        return None
    reasoning = irp_reasoning(case.target, address, _note(number, meaning))
    return Named(reasoning.findings, reasoning.culprit, 2)


def irp_reasoning(target: Target, address: int, note: str = "") -> Reasoning:
    """An IRP: what it asks for and the driver that has it. The culprit is that driver."""
    shown = hexadecimal(target, address)
    try:
        irp = io.read_irp(target, address)
    except KdumpError as error:
        return Reasoning((Finding("IRP_ADDRESS", shown, address, _join(note, str(error))),))
    findings = [Finding("IRP_ADDRESS", shown, address, note)]
    current = irp.current
    if current is None:
        count, position = irp.stack_count, irp.current_location
        if count is not None and position is not None and position > count:
            findings.append(Finding("IRP_STACK", "no driver has the IRP", irp.current_address))
        else:
            findings.append(Finding("IRP_STACK", "not in the dump", irp.current_address))
        return Reasoning(tuple(findings), notes=irp.notes)
    request = current.request or "unknown request"
    power = io.power_request(current)
    where = f"location {current.number} of {irp.stack_count}" if current.number and irp.stack_count else ""
    findings.append(Finding("IRP_REQUEST", f"{request}{f' ({power})' if power else ''}", current.address, where))
    if not current.device:
        state = "none" if current.device == 0 else "not in the dump"
        findings.append(Finding("DEVICE_OBJECT", state, None, "of the current stack location"))
        return Reasoning(tuple(findings), notes=irp.notes)
    device = device_reasoning(target, current.device, "of the current stack location")
    culprit = device.culprit
    if culprit is not None:
        why = f"the IRP at {shown} is at its device: {request}"
        culprit = Culprit(culprit.image_name, culprit.module_name, culprit.address, why)
    return Reasoning((*findings, *device.findings), notes=irp.notes, culprit=culprit)


def _device(case: Case, number: int, meaning: str) -> Named | None:
    address = case.pointer(number)
    if address is None:
        return None
    reasoning = device_reasoning(case.target, address, _note(number, meaning))
    return Named(reasoning.findings, reasoning.culprit, 3)


def device_reasoning(target: Target, address: int, note: str = "") -> Reasoning:
    """A device object, its device node if it has one, and its driver, which is the culprit."""
    shown = hexadecimal(target, address)
    try:
        device = read_device(target, address)
    except KdumpError as error:
        return Reasoning((Finding("DEVICE_OBJECT", shown, address, _join(note, str(error))),))
    findings = [Finding("DEVICE_OBJECT", shown, address, note)]
    node = node_of(target, device)
    if node is not None and node.instance_path:
        service = f"service {node.service}" if node.service else ""
        findings.append(Finding("DEVICE_NODE", node.instance_path, node.address, service))
    if device.driver is None:
        why = f"not in the dump, address {device.driver_address:#x}" if device.driver_address else "not in the dump"
        findings.append(Finding("DRIVER_OBJECT", why, device.driver_address or None))
        return Reasoning(tuple(findings))
    role = f"driver of the device {shown}"
    driver = _driver_reasoning(target, device.driver, role, f"it is the {role}")
    return Reasoning((*findings, *driver.findings), culprit=driver.culprit)


def node_of(target: Target, device: DeviceObject) -> DeviceNode | None:
    """The device node of a physical device object, ``None`` when it has none or it is not in the dump."""
    if not device.node:
        return None
    try:
        return read_node(target, device.node)
    except KdumpError:
        return None


def service_culprit(target: Target, node: DeviceNode) -> Culprit | None:
    """The loaded driver that has the name of a device's service."""
    wanted = (node.service or "").lower()
    for module in target.modules:
        if module.image_name.lower().rsplit(".", 1)[0] == wanted:
            why = f"the device {node.instance_path or ''} belongs to the service {node.service}".replace("  ", " ")
            return Culprit(module.image_name, module.name, module.base, why)
    return None


def _node(case: Case, number: int, meaning: str) -> Named | None:
    address = case.pointer(number)
    if address is None:
        return None
    try:
        node = read_node(case.target, address)
    except KdumpError as error:
        note = _join(_note(number, meaning), str(error))
        return Named((Finding("DEVICE_NODE", hexadecimal(case.target, address), address, note),))
    return Named((_node_finding(case.target, node, _note(number, meaning)),), service_culprit(case.target, node), 3)


def _node_finding(target: Target, node: DeviceNode, note: str) -> Finding:
    service = f"service {node.service}" if node.service else ""
    return Finding(
        "DEVICE_NODE", node.instance_path or hexadecimal(target, node.address), node.address, _join(note, service)
    )


def _power_device(case: Case, number: int, meaning: str) -> Named | None:
    """A POP_FX_DEVICE or the short form of it in small memory dumps: its IRP and its device node."""
    target, address = case.target, case.pointer(number)
    if address is None:
        return None
    shown, note = hexadecimal(target, address), _note(number, meaning)
    layouts = target.nt
    names = ("_POP_FX_DEVICE", "_TRIAGE_POP_FX_DEVICE")
    structure = next((name for name in names if layouts is not None and layouts.has(name, "Irp")), None)
    if structure is None:
        return Named((Finding("POWER_DEVICE", shown, address, _join(note, "its layout is not in the symbols")),))
    try:
        values = read_fields(target, structure, address, {"irp": "Irp", "node": ("DevNode", "DeviceNode")})
        node = read_node(target, values["node"]) if values["node"] else None
    except KdumpError as error:
        return Named((Finding("POWER_DEVICE", shown, address, _join(note, str(error))),))
    findings = [Finding("POWER_DEVICE", shown, address, note)]
    if node is not None:
        findings.append(_node_finding(target, node, ""))
    if values["irp"]:
        findings += irp_reasoning(target, values["irp"], "of the power device").findings
    return Named(tuple(findings), service_culprit(target, node) if node is not None else None, 3)


def _driver(case: Case, number: int, meaning: str) -> Named | None:
    address = case.pointer(number)
    if address is None:
        return None
    try:
        driver = read_driver(case.target, address)
    except KdumpError as error:
        note = _join(_note(number, meaning), str(error))
        return Named((Finding("DRIVER_OBJECT", hexadecimal(case.target, address), address, note),))
    note = _note(number, meaning)
    reasoning = _driver_reasoning(case.target, driver, note, note)
    return Named(reasoning.findings, reasoning.culprit, 5)


def _driver_reasoning(target: Target, driver: DriverObject, note: str, why: str) -> Reasoning:
    shown = hexadecimal(target, driver.address)
    findings = (Finding("DRIVER_OBJECT", shown, driver.address, _join(driver.text, note)),)
    return Reasoning(findings, culprit=driver_culprit(driver, why))


def driver_culprit(driver: DriverObject, why: str) -> Culprit | None:
    """A driver object as the culprit; ``None`` for the kernel's own drivers and where nothing names it."""
    if driver.module is not None:
        return module_culprit(driver.module, driver.start, why)
    if driver.name is None:
        return None
    name = driver.name.rsplit("\\", 1)[-1]
    return Culprit(None, debugger_name(name), driver.start, why) if name else None


def module_culprit(module: Module | None, address: int | None, why: str) -> Culprit | None:
    """A module as the culprit; ``None`` for the kernel and the libraries that drivers call."""
    if module is None or module.name.lower() in _MESSENGERS:
        return None
    return Culprit(module.image_name, module.name, address, why)


def _code(case: Case, number: int, meaning: str) -> Named | None:
    address = case.pointer(number)
    if address is None:
        return None
    return code_named(case.target, address, "CODE_ADDRESS", number, meaning, 4)


def code_named(target: Target, address: int, tag: str, number: int, meaning: str, strength: int) -> Named:
    """An argument that is an address in code: its symbol and its module, also of one that has been unloaded."""
    note = _note(number, meaning)
    short = meaning.split(" (", maxsplit=1)[0]
    label = f"P{number} ({short})" if short else f"P{number}"
    name = target.name_of(address)
    region = region_of(target, address)
    value = name or hexadecimal(target, address)
    finding = Finding(tag, value, address, note if name else _join(note, region.text))
    why = f"{label} is {value}"
    if region.unloaded is not None:
        unloaded = region.unloaded
        stem = unloaded.name.rsplit(".", 1)[0]
        culprit = Culprit(unloaded.name, stem, address, f"{label} lies in {unloaded.name}, which had been unloaded")
        return Named((finding,), culprit, strength)
    return Named((finding,), module_culprit(target.names.module_of(address), address, why), strength)


def _symbolised(case: Case, number: int, meaning: str) -> Named | None:
    """Whatever the argument is: where it lies in a driver, that is worth telling."""
    address = case.pointer(number)
    if address is None or case.target.names.module_of(address) is None:
        return None
    named = code_named(case.target, address, f"ARGUMENT{number}", number, meaning, 1)
    return Named(named.findings)


def _tag(case: Case, number: int, meaning: str) -> Named | None:
    value = case.argument(number)
    if not value or value >> 32:
        return None
    tag = tag_text(value)
    return Named((Finding("POOL_TAG", tag if tag else f"{value:#x}, no printable tag", None, _note(number, meaning)),))


def irql_name(target: Target, value: int) -> str | None:
    """The name of an IRQL (``wdm.h``); the levels between are those of devices."""
    high = _HIGH_LEVEL.get(target.header.architecture)
    return "HIGH_LEVEL" if value == high else _IRQLS.get(value)


def _irql(case: Case, number: int, meaning: str) -> Named | None:
    value = case.argument(number)
    if value is None or value > _HIGH_LEVEL.get(case.target.header.architecture, 31):
        return None
    name = irql_name(case.target, value)
    return Named((Finding("IRQL", f"{value:x}{f' ({name})' if name else ''}", None, _note(number, meaning)),))


def pool_type_name(target: Target, value: int) -> str | None:
    """The name of a POOL_TYPE, from the kernel's symbols."""
    if target.nt is None or value > 0xFFFFFFFF:
        return None
    return target.nt.enum("_POOL_TYPE").get(value)


def _pool_type(case: Case, number: int, meaning: str) -> Named | None:
    value = case.argument(number)
    if value is None:
        return None
    name = pool_type_name(case.target, value)
    return Named((Finding("POOL_TYPE", f"{value:x}{f' ({name})' if name else ''}", None, _note(number, meaning)),))


def _status(case: Case, number: int, meaning: str) -> Named | None:
    value = case.argument(number)
    if value is None:
        return None
    status = value & 0xFFFFFFFF
    name = code_name(status) or code_text(status)
    return Named((Finding("STATUS_CODE", f"{status:#x}{f' ({name})' if name else ''}", None, _note(number, meaning)),))


def _thread(case: Case, number: int, meaning: str) -> Named | None:
    address = case.pointer(number)
    if address is None:
        return None
    shown = thread_text(case.target, address)
    return Named((Finding("THREAD", hexadecimal(case.target, address), address, _join(_note(number, meaning), shown)),))


def thread_text(target: Target, address: int) -> str:
    """A thread in words: client id and process, or why that is not known."""
    against = why_no_dispatcher(target, address, "thread")
    if against is not None:
        return f"no thread: {against}"
    thread = read_thread(target, address)
    if thread.tid is None:
        return target.memory.why_unreadable(address) if target.memory.read(address, 1) is None else "no symbols"
    process = read_process(target, thread.process) if thread.process else None
    name = process.name if process else None
    return f"thread {thread.pid or 0:x}.{thread.tid:x}{f' of {name}' if name else ''}"


def _process(case: Case, number: int, meaning: str) -> Named | None:
    address = case.pointer(number)
    if address is None:
        return None
    against = why_no_dispatcher(case.target, address, "process")
    name = read_process(case.target, address).name if against is None else f"no process: {against}"
    note = _join(_note(number, meaning), name or "")
    return Named((Finding("PROCESS", hexadecimal(case.target, address), address, note),))


def _text(case: Case, number: int, meaning: str) -> Named | None:
    """A text: 8-bit or UTF-16, or a UNICODE_STRING."""
    address = case.pointer(number)
    if address is None:
        return None
    string = text_at(case.target, address)
    if string is None:
        why = case.target.memory.why_unreadable(address) if case.target.memory.read(address, 1) is None else "no text"
        return Named((Finding("TEXT", "not in the dump", address, _join(_note(number, meaning), why)),))
    return Named((Finding("TEXT", string, address, _note(number, meaning)),))


def text_at(target: Target, address: int) -> str | None:
    """The printable text at an address, in whichever of the forms that drivers and the kernel use."""
    memory = target.memory
    data = memory.read(address, 4)
    if data is None:
        return None
    if data[1] == 0 and data[0]:
        string = _wide(target, address)
        if string is not None:
            return string
    head = memory.read(address, 2 * memory.pointer_size)
    if head is not None:
        length, most = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
        if 0 < length <= most and length % 2 == 0 and length <= 2 * _LONGEST_TEXT:
            string = memory.unicode_string(address)
            if string and _printable(string):
                return string
    string = memory.c_string(address, _LONGEST_TEXT)
    return string if string and _printable(string) else None


def _wide(target: Target, address: int) -> str | None:
    parts: list[str] = []
    for index in range(_LONGEST_TEXT):
        unit = target.memory.unsigned(address + 2 * index, 2)
        if unit is None:
            return None
        if unit == 0:
            break
        parts.append(chr(unit))
    string = "".join(parts)
    return string if len(string) > 1 and _printable(string) else None


def _printable(text: str) -> bool:
    return all(0x20 <= ord(character) < 0x7F for character in text)


def _nothing(case: Case, number: int, meaning: str) -> Named | None:
    return None


def _driver_name(case: Case, number: int, meaning: str) -> Named | None:
    """A driver's name: the module of that name is the culprit."""
    address = case.pointer(number)
    if address is None:
        return None
    driver_name = text_at(case.target, address)
    if driver_name is None:
        return _symbolised(case, number, meaning)
    finding = Finding("DRIVER_NAME", driver_name, address, _note(number, meaning))
    wanted = driver_name.rsplit("\\", 1)[-1].lower()
    for module in case.target.modules:
        if module.image_name.lower() == wanted:
            return Named((finding,), module_culprit(module, module.base, f"P{number} names {driver_name}"), 5)
    for unloaded in case.target.unloaded_modules:
        if unloaded.name.lower() == wanted:
            stem = unloaded.name.rsplit(".", 1)[0]
            return Named((finding,), Culprit(unloaded.name, stem, unloaded.start, f"P{number} names {driver_name}"), 5)
    return Named((finding,))


def _rule_text(case: Case, number: int, meaning: str) -> Named | None:
    named = _text(case, number, meaning)
    if named is None:
        return None
    return Named(tuple(Finding("RULE", finding.value, finding.address, finding.note) for finding in named.findings))


#: How each kind of argument that ``bugchecks.jsonl`` names is read. ``plain`` ones are numbers, flags and addresses of
#: no interest, whatever they look like.
KINDS: Mapping[str, _Reader] = {
    "plain": _nothing,
    "irql": _irql,
    "pool_type": _pool_type,
    "pool_tag": _tag,
    "status": _status,
    "rule_text": _rule_text,
    "driver_name": _driver_name,
    "driver_object": _driver,
    "code": _code,
    "device_node": _node,
    "power_device": _power_device,
    "device_object": _device,
    "irp": _irp,
    "thread": _thread,
    "process": _process,
    "text": _text,
}


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
