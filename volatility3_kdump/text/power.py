"""The power manager's lists in the words of KD's ``!poaction``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.windows.machine.power import PowerAction, PowerIrp, PowerState, PowerWorker

#: POWER_ACTION_ bits as published listings name them.
_FLAGS = {0x1: "QueryApps", 0x2: "UIAllowed"}
_MINORS = {0: "wait-wake", 1: "power-sequence", 2: "set", 3: "query"}
_IDLE = 0


def action_lines(action: PowerAction, size: int = 8) -> Iterator[str]:
    """What the power manager is about to do."""
    flags = "?" if action.flags is None else f"{action.flags:08x}"
    named = "|".join(name for bit, name in _FLAGS.items() if (action.flags or 0) & bit)
    yield f"PopAction: {pointer(action.address, size, tick=False)}"
    yield f"  State..........: {decimal(action.state)}{' - Idle' if action.state == _IDLE else ''}"
    yield f"  Updates........: {decimal(action.updates)}"
    yield f"  Action.........: {action.action_name or decimal(action.action)}"
    yield f"  Lightest State.: {action.lightest_name or decimal(action.lightest)}"
    yield f"  Flags..........: {flags} {named}".rstrip()
    yield f"  Irp minor......: {_MINORS.get(action.minor or 0, '??') if action.minor else '??'}"
    yield f"  System State...: {action.system_name or decimal(action.system)}"
    yield f"  Hiber Context..: {pointer(action.hiber_context, size, tick=False)}"


def request(irp: PowerIrp) -> str | None:
    """``set/D3,`` for a device, ``wait-wake/S0`` for the system; ``None`` where it is not known."""
    if irp.minor is None or irp.system is None or irp.state is None:
        return None
    minor = _MINORS.get(irp.minor, f"minor {irp.minor:#x}")
    # SYSTEM_POWER_STATE and DEVICE_POWER_STATE count from unspecified.
    state = f"S{irp.state - 1}" if irp.system else f"D{irp.state - 1},"
    if not irp.state:
        state = "unspecified"
    return f"{minor}/{state}"


def irp_line(irp: PowerIrp, size: int = 8) -> str:
    asked = request(irp)
    line = f"  IRP: {pointer(irp.irp, size, tick=False)}"
    if asked is not None:
        line += f" ({asked})"
    line += f", PDO: {pointer(irp.pdo, size, tick=False)}"
    if irp.current:
        line += f", CURRENT: {pointer(irp.current, size, tick=False)}"
    if irp.notify:
        line += f", NOTIFY: {pointer(irp.notify, size, tick=False)}"
    return line


def worker_line(worker: PowerWorker, size: int = 8) -> str:
    kind = {True: " (static)", False: " (dynamic)", None: ""}[worker.static]
    line = f"  THREAD: {pointer(worker.thread, size, tick=False)}{kind}"
    if worker.irp:
        line += f", IRP: {pointer(worker.irp, size, tick=False)}, DEVICE: {pointer(worker.device, size, tick=False)}"
    return line


def state_lines(state: PowerState, with_action: bool, size: int = 8) -> Iterator[str]:
    """``!poaction``; 2 leaves out the action."""
    if with_action and state.action is not None:
        yield from action_lines(state.action, size)
    yield ""
    yield f"Allocated power irps (PopIrpList - {pointer(state.irp_list, size, tick=False)})"
    yield from (irp_line(irp, size) for irp in state.irps)
    if not state.irps:
        yield "  None"
    yield ""
    yield f"Irp worker threads (PopIrpThreadList - {pointer(state.worker_list, size, tick=False)})"
    yield from (worker_line(worker, size) for worker in state.workers)
    if not state.workers:
        yield "  None"
    for problem in state.problems:
        yield f"NOTE: {problem}"
