"""Rows of ``kdump.power``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text import device_tree as node_words
from volatility3_kdump.text import power as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, FLAG, POINTER, TEXT, Column, table
from volatility3_kdump.windows.io.device_tree import DeviceTree, root_address
from volatility3_kdump.windows.machine.power import PowerState, power_state

POWER = table(
    "kdump.power",
    keys.KIND(more="`action` of the power manager; `irp`, a power request; `worker`, a thread that serves them"),
    keys.IRP(more="of a request, or the one that the thread serves"),
    keys.TEXT(more="what is asked for; the action and the system's state"),
    Column("Pdo", POINTER, "the physical device object that the request is for"),
    keys.DEVICE_OBJECT(more="the device that has the request now"),
    keys.THREAD(),
    Column("Static", FLAG, "whether the power manager keeps the thread always"),
    Column("Notify", POINTER, "the PO_DEVICE_NOTIFY that a system request is at"),
    Column("System", TEXT, "state of the system that is being entered"),
    keys.NOTES(),
)


def power_grid(target: Target, with_action: bool = True) -> KdumpGrid:
    """What the power manager does (``!poaction``). Raises :class:`KdumpError`."""
    state = power_state(target)
    return POWER.grid(_rows(state), lambda: words.state_lines(state, with_action, target.memory.pointer_size))


def _rows(state: PowerState) -> Iterator[Row]:
    action = state.action
    if action is not None:
        yield POWER.row(0, Kind="action", Text=action.action_name, System=action.system_name)
    for irp in state.irps:
        yield POWER.row(
            0,
            Kind="irp",
            Irp=irp.irp,
            Text=words.request(irp),
            Pdo=irp.pdo,
            DeviceObject=irp.current,
            Notify=irp.notify or BLANK,
        )
    for worker in state.workers:
        yield POWER.row(
            0,
            Kind="worker",
            Irp=worker.irp or BLANK,
            DeviceObject=worker.device,
            Thread=worker.thread,
            Static=worker.static,
        )
    for problem in state.problems:
        yield POWER.row(0, Notes=[problem])


def triage_lines(target: Target) -> Iterator[str]:
    """``!powertriage``: the action, the power requests with their threads, and devices that have problems."""
    yield from words.state_lines(power_state(target), True, target.memory.pointer_size)
    yield ""
    yield "Device nodes that are not started or have a problem"
    count = 0
    try:
        tree = DeviceTree(target, root_address(target))
        for placed in tree.nodes():
            if placed.node.has_problem or not placed.node.started:
                count += 1
                yield from node_words.node_lines(placed.node, 1)
    except KdumpError as error:
        yield f"NOTE: {error}"
        return
    if not count:
        yield "  None"
    for problem in tree.problems:
        yield f"NOTE: {problem}"
