"""The tree of devices that Plug and Play keeps: DEVICE_NODEs below ``nt!IopRootDeviceNode``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.windows.structures import read_fields, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_TYPE = "_DEVICE_NODE"
#: More than any machine has.
_MOST_NODES = 1 << 16
_STATES = 20
#: DNF_HAS_PROBLEM and DNF_HAS_PRIVATE_PROBLEM of DEVICE_NODE.Flags.
_PROBLEMS = 0x6000
_STARTED = "DeviceNodeStarted"


@dataclass(frozen=True)
class TreeNode:
    """A DEVICE_NODE. Addresses are 0 for none; what the dump or the kernel's symbols lack is ``None``.

    ``history`` are earlier states, the latest first; ``problem`` is a CM_PROB_ number, 0 for none.
    """

    address: int
    device: int | None
    parent: int | None
    sibling: int | None
    child: int | None
    instance_path: str | None
    service: str | None
    state: int | None
    state_name: str | None
    previous: int | None
    previous_name: str | None
    history: tuple[tuple[int, str | None], ...]
    flags: int | None
    user_flags: int | None
    problem: int | None
    problem_status: int | None
    capabilities: int | None
    dependents: int | None

    @property
    def started(self) -> bool:
        return self.state_name == _STARTED

    @property
    def has_problem(self) -> bool:
        return bool((self.flags or 0) & _PROBLEMS or self.problem)


@dataclass(frozen=True)
class PlacedNode:
    """A node and how many nodes stand above it in what was asked for."""

    depth: int
    node: TreeNode


def root_address(target: Target) -> int:
    """What ``nt!IopRootDeviceNode`` points at. Raises :class:`KdumpError`."""
    require_symbols(target, "device nodes", f"{_TYPE}.Child", names=True)
    variable = target.symbol("IopRootDeviceNode")
    root = target.memory.pointer(variable) if variable else None
    if not root:
        why = target.memory.why_unreadable(variable) if variable else "the kernel has no nt!IopRootDeviceNode"
        raise KdumpError(f"{target.name}: the root of the device tree is not in the dump: {why}")
    return root


def read_tree_node(target: Target, address: int) -> TreeNode:
    """The node at an address. Raises :class:`KdumpError` where there is none."""
    nt = require_symbols(target, "device nodes", f"{_TYPE}.Child")
    fields = read_fields(
        target,
        _TYPE,
        address,
        {
            "device": "PhysicalDeviceObject",
            "parent": "Parent",
            "sibling": "Sibling",
            "child": "Child",
            "state": "State",
            "previous": "PreviousState",
            "at": "StateHistoryEntry",
            "flags": "Flags",
            "user_flags": "UserFlags",
            "problem": "Problem",
            "problem_status": "ProblemStatus",
            "capabilities": "CapabilityFlags",
            "dependents": "DisableableDepends",
        },
    )
    parent = fields["parent"]
    if parent and not target.is_kernel_address(parent):
        raise Unreadable(f"no device node at {address:#x}: its parent would be {parent:#x}")
    names = nt.enum("_PNP_DEVNODE_STATE")

    def text(path: str) -> str | None:
        field = nt.find(_TYPE, path)
        return None if field is None else target.memory.unicode_string(address + field.offset)

    history: list[tuple[int, str | None]] = []
    array = nt.find(_TYPE, "StateHistory")
    if array is not None and array.count and fields["at"] is not None and array.count <= _STATES:
        step = array.size // array.count
        for back in range(1, array.count + 1):
            place = (fields["at"] - back) % array.count
            state = target.memory.unsigned(address + array.offset + step * place, step)
            if state:
                history.append((state, names.get(state)))
    return TreeNode(
        address,
        fields["device"],
        parent,
        fields["sibling"],
        fields["child"],
        text("InstancePath"),
        text("ServiceName"),
        fields["state"],
        names.get(fields["state"]),
        fields["previous"],
        names.get(fields["previous"]),
        tuple(history),
        fields["flags"],
        fields["user_flags"],
        fields["problem"],
        fields["problem_status"],
        fields["capabilities"],
        fields["dependents"],
    )


class DeviceTree:
    """A walk over the nodes below one; ``problems`` say where it ended early."""

    def __init__(self, target: Target, root: int) -> None:
        self._target, self._root = target, root
        self.problems: list[str] = []

    def nodes(self) -> Iterator[PlacedNode]:
        """Each node before its children, those of one parent in the order of the list."""
        seen: set[int] = set()
        # Children wait here while what stands below them is walked.
        waiting: list[tuple[int, int]] = [(0, self._root)]
        while waiting:
            depth, address = waiting.pop()
            if address in seen:
                self.problems.append(f"the device tree leads back to the node {address:#x}")
                continue
            if len(seen) >= _MOST_NODES:
                self.problems.append(f"the device tree has more than {_MOST_NODES} nodes")
                return
            seen.add(address)
            try:
                node = read_tree_node(self._target, address)
            except KdumpError as error:
                self.problems.append(f"a part of the device tree is not known: {error}")
                continue
            if node.sibling and depth:
                waiting.append((depth, node.sibling))
            if node.child:
                waiting.append((depth + 1, node.child))
            yield PlacedNode(depth, node)


def driven_by(nodes: Iterator[PlacedNode], service: str, below: bool) -> Iterator[PlacedNode]:
    """The nodes of a service, and with ``below`` all that stand below them; their depth counts from there."""
    inside: int | None = None
    for placed in nodes:
        if inside is not None and placed.depth > inside:
            if below:
                yield PlacedNode(placed.depth - inside, placed.node)
            continue
        inside = None
        if (placed.node.service or "").lower() == service.lower():
            inside = placed.depth if below else None
            yield PlacedNode(0, placed.node)
