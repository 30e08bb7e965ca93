"""Rows of ``kdump.devnode``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text import device_tree as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import HEX, NUMBER, POINTER, TEXT, Column, table
from volatility3_kdump.windows.io.device_tree import (
    DeviceTree,
    PlacedNode,
    TreeNode,
    driven_by,
    read_tree_node,
    root_address,
)

NODES = table(
    "kdump.devnode",
    Column("Devnode", POINTER, "the DEVICE_NODE", lambda node: node.address),
    keys.DEVICE_OBJECT(lambda node: node.device, "the physical device object"),
    Column("Instance", TEXT, "instance path of the device node", lambda node: node.instance_path),
    Column("Service", TEXT, "service of the device node", lambda node: node.service),
    keys.STATE(lambda node: node.state_name, "name in PNP_DEVNODE_STATE"),
    Column("PreviousState", TEXT, "the state before", lambda node: node.previous_name),
    keys.FLAGS(lambda node: node.flags, "DNF_..."),
    Column("Problem", NUMBER, "CM_PROB_..., 0 for none", lambda node: node.problem),
    Column("ProblemStatus", HEX, "an NTSTATUS", lambda node: _status(node.problem_status)),
    Column("Parent", POINTER, "the DEVICE_NODE above", lambda node: node.parent),
    keys.NOTES(),
)


def _status(value: int | None) -> int | None:
    return None if value is None else value & 0xFFFFFFFF


def tree_grid(
    target: Target,
    root: int | None = None,
    service: str | None = None,
    below: bool = True,
    only_stopped: bool = False,
    only_problems: bool = False,
) -> KdumpGrid:
    """The nodes below one, by default all of them; only those of a service, that are not started, or have problems.

    Raises :class:`KdumpError`.
    """
    start = root_address(target) if root is None else root
    tree = DeviceTree(target, start)

    def nodes() -> Iterator[PlacedNode]:
        chosen = tree.nodes() if service is None else driven_by(tree.nodes(), service, below)
        for placed in chosen:
            if only_stopped and placed.node.started:
                continue
            if only_problems and not placed.node.has_problem:
                continue
            yield placed

    def rows() -> Iterator[Row]:
        for placed in nodes():
            yield NODES.row(placed.depth, placed.node)
        for problem in tree.problems:
            yield NODES.row(0, Notes=[problem])

    def lines() -> Iterator[str]:
        if root is None:
            yield f"Dumping IopRootDeviceNode (= {start:#x})"
        count = 0
        for placed in nodes():
            count += 1
            yield from words.node_lines(placed.node, placed.depth)
        if not count:
            yield "No device node is like that"
        for problem in tree.problems:
            yield f"NOTE: {problem}"

    return NODES.grid(rows(), lines)


def node_grid(target: Target, address: int) -> KdumpGrid:
    """One node with its history. Raises :class:`KdumpError` where there is none."""
    node: TreeNode = read_tree_node(target, address)
    if node.device is None and node.state is None:
        raise KdumpError(f"{target.name}: the device node {address:#x} is not in the dump")
    return NODES.grid([NODES.row(0, node)], lambda: words.detail_lines(node))
