"""A device stack with the names and device nodes of its devices, and where it does not agree with itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.io.devices import DeviceNode, DeviceObject, device_stack, read_node
from volatility3_kdump.windows.processes.namespace import object_name

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class ListedDevice:
    """A device of a stack: its name, its device node or why that is not known, and what is wrong with its links."""

    device: DeviceObject
    name: str | None
    asked_for: bool
    node: DeviceNode | None
    node_problem: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DeviceStack:
    """The devices, topmost first, and every note on the stack as a whole."""

    devices: tuple[ListedDevice, ...]
    notes: tuple[str, ...]


def listed_stack(target: Target, at: int) -> DeviceStack:
    """The device stack that a device belongs to. Raises :class:`KdumpError` if there is no device."""
    stack = device_stack(target, at)
    notes = tuple(_stack_notes(stack))
    return DeviceStack(tuple(_listed(target, device, device.address == at, notes) for device in stack), notes)


def _listed(target: Target, device: DeviceObject, asked_for: bool, notes: Sequence[str]) -> ListedDevice:
    node, problem = None, None
    if device.node:
        try:
            node = read_node(target, device.node)
        except KdumpError as error:
            problem = str(error)
    own = tuple(note for note in notes if f"{device.address:#x}" in note)
    return ListedDevice(device, object_name(target, device.address), asked_for, node, problem, own)


def _stack_notes(stack: Sequence[DeviceObject]) -> list[str]:
    """Where a device stack is torn or does not agree with itself."""
    notes = []
    addresses = [device.address for device in stack]
    for upper, lower in itertools.pairwise(stack):
        if lower.above is not None and lower.above != upper.address:
            notes.append(f"{lower.address:#x} has {lower.above:#x} attached, not {upper.address:#x}")
        if upper.below is not None and upper.below != lower.address:
            notes.append(f"{upper.address:#x} is attached to {upper.below:#x}, not to {lower.address:#x}")
    for end, link, word in ((stack[0], stack[0].above, "above"), (stack[-1], stack[-1].below, "below")):
        if link:
            why = "the stack is cyclic" if link in addresses else "which is no device in the dump"
            notes.append(f"{word} {end.address:#x} lies {link:#x}: {why}")
    return notes
