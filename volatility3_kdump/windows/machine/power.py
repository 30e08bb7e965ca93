"""What the power manager does: the action under way, the power IRPs that are not completed, and who serves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.structures import read_fields, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_IRPS, _MOST_WORKERS = 1 << 14, 1 << 12


@dataclass(frozen=True)
class PowerAction:
    """``nt!PopAction``: numbers as they are, names by the kernel's enumerations."""

    address: int
    state: int | None
    updates: int | None
    action: int | None
    action_name: str | None
    lightest: int | None
    lightest_name: str | None
    flags: int | None
    minor: int | None
    system: int | None
    system_name: str | None
    hiber_context: int | None


@dataclass(frozen=True)
class PowerIrp:
    """An entry of ``nt!PopIrpList``. Without the kernel's type for entries only ``irp`` and ``pdo`` are known.

    ``system`` says that the request is for a system power state, not for one of the device. ``notify`` is the
    PO_DEVICE_NOTIFY that a system request is at.
    """

    entry: int
    irp: int | None
    pdo: int | None
    current: int | None = None
    target: int | None = None
    minor: int | None = None
    system: bool | None = None
    state: int | None = None
    notify: int | None = None


@dataclass(frozen=True)
class PowerWorker:
    """An entry of ``nt!PopIrpThreadList``: a thread, and the IRP and device that it serves, 0 for none."""

    thread: int | None
    irp: int | None
    device: int | None
    static: bool | None


@dataclass(frozen=True)
class PowerState:
    """What the power manager does; ``problems`` say what is not known of it."""

    action: PowerAction | None
    irps: tuple[PowerIrp, ...]
    irp_list: int | None
    workers: tuple[PowerWorker, ...]
    worker_list: int | None
    problems: tuple[str, ...]


def power_state(target: Target) -> PowerState:
    """What the power manager does. Raises :class:`KdumpError` without the kernel's symbols."""
    require_symbols(target, "the power manager's lists", names=True)
    problems: list[str] = []
    action = _action(target, problems)
    irp_list, worker_list = target.symbol("PopIrpList"), target.symbol("PopIrpThreadList")
    irps = tuple(_irps(target, irp_list, problems))
    return PowerState(
        action, irps, irp_list, tuple(_workers(target, worker_list, problems)), worker_list, tuple(problems)
    )


def _action(target: Target, problems: list[str]) -> PowerAction | None:
    nt, address = target.nt, target.symbol("PopAction")
    if nt is None or address is None or not nt.has_type("_POP_POWER_ACTION"):
        problems.append("the kernel's symbols do not describe nt!PopAction")
        return None
    paths = {
        "state": "State",
        "updates": "Updates",
        "action": "Action",
        "lightest": "LightestState",
        "flags": "Flags",
        "minor": "IrpMinor",
        "system": "SystemState",
        "hiber": "HiberContext",
    }
    try:
        fields = read_fields(target, "_POP_POWER_ACTION", address, paths)
    except KdumpError as error:
        problems.append(f"nt!PopAction: {error}")
        return None
    actions, systems = nt.enum("POWER_ACTION"), nt.enum("_SYSTEM_POWER_STATE")
    return PowerAction(
        address,
        fields["state"],
        fields["updates"],
        fields["action"],
        actions.get(fields["action"], "").removeprefix("PowerAction") or None,
        fields["lightest"],
        systems.get(fields["lightest"], "").removeprefix("PowerSystem") or None,
        fields["flags"],
        fields["minor"],
        fields["system"],
        systems.get(fields["system"], "").removeprefix("PowerSystem") or None,
        fields["hiber"],
    )


def _entries(target: Target, head: int | None, most: int, what: str, problems: list[str]) -> tuple[int, ...]:
    if head is None:
        problems.append(f"the kernel has no {what}")
        return ()
    walk = walk_list(target.memory, head, most, what)
    problems += walk.problems
    return walk.entries


def _irps(target: Target, head: int | None, problems: list[str]) -> list[PowerIrp]:
    nt, memory = target.nt, target.memory
    typed = nt is not None and nt.has_type("_POP_IRP_DATA")
    irps: list[PowerIrp] = []
    for entry in _entries(target, head, _MOST_IRPS, "nt!PopIrpList", problems):
        if not typed:
            step = memory.pointer_size
            irps.append(PowerIrp(entry, memory.pointer(entry + 2 * step), memory.pointer(entry + 3 * step)))
            continue
        paths = {
            "irp": "Irp",
            "pdo": "Pdo",
            "current": "CurrentDevice",
            "target": "TargetDevice",
            "minor": "MinorFunction",
            "kind": "PowerStateType",
            "state": "PowerState",
            "notify": "System.NotifyDevice",
        }
        try:
            fields: dict[str, Any] = read_fields(target, "_POP_IRP_DATA", entry, paths)
        except KdumpError as error:
            problems.append(f"nt!PopIrpList: {error}")
            continue
        state = fields["state"]
        field = nt.find("_POP_IRP_DATA", "PowerState") if nt is not None else None
        if not isinstance(state, int):
            state = memory.unsigned(entry + field.offset, 4) if field is not None else None
        system = None if fields["kind"] is None else fields["kind"] == 0
        irps.append(
            PowerIrp(
                entry,
                fields["irp"],
                fields["pdo"],
                fields["current"],
                fields["target"],
                fields["minor"],
                system,
                state,
                fields["notify"] if system else None,
            )
        )
    return irps


def _workers(target: Target, head: int | None, problems: list[str]) -> list[PowerWorker]:
    nt = target.nt
    if nt is None or not nt.has_type("_POP_IRP_WORKER_ENTRY"):
        problems.append("the kernel's symbols do not describe the entries of nt!PopIrpThreadList")
        return []
    workers: list[PowerWorker] = []
    for entry in _entries(target, head, _MOST_WORKERS, "nt!PopIrpThreadList", problems):
        try:
            paths = {"thread": "Thread", "irp": "Irp", "device": "Device", "static": "Static"}
            fields = read_fields(target, "_POP_IRP_WORKER_ENTRY", entry, paths)
        except KdumpError as error:
            problems.append(f"nt!PopIrpThreadList: {error}")
            continue
        static = None if fields["static"] is None else bool(fields["static"])
        workers.append(PowerWorker(fields["thread"], fields["irp"], fields["device"], static))
    return workers
