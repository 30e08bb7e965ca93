"""Device nodes in the words of KD's ``!devnode``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from volatility3_kdump.windows.io.device_tree import TreeNode

#: DNF_ bits of DEVICE_NODE.Flags that published listings name.
_FLAGS = {
    0x1: "DNF_MADEUP",
    0x2: "DNF_DUPLICATE",
    0x4: "DNF_HAL_NODE",
    0x8: "DNF_REENUMERATE",
    0x10: "DNF_ENUMERATED",
    0x20: "DNF_IDS_QUERIED",
    0x40: "DNF_HAS_BOOT_CONFIG",
    0x80: "DNF_BOOT_CONFIG_RESERVED",
    0x100: "DNF_NO_RESOURCE_REQUIRED",
    0x2000: "DNF_HAS_PROBLEM",
    0x4000: "DNF_HAS_PRIVATE_PROBLEM",
    0x4000000: "DNF_NO_LOWER_DEVICE_FILTERS",
    0x8000000: "DNF_NO_LOWER_CLASS_FILTERS",
    0x20000000: "DNF_NO_UPPER_DEVICE_FILTERS",
    0x40000000: "DNF_NO_UPPER_CLASS_FILTERS",
}


def _pointer(value: int | None) -> str:
    return "?" if value is None else f"{value:#x}" if value else "0000000000"


def _state(name: str | None, value: int | None) -> str:
    return "not in the dump" if value is None else f"{name or 'Unknown State'} ({value:#x})"


def head_line(node: TreeNode) -> str:
    """``DevNode 0x... for PDO 0x...``."""
    return f"DevNode {_pointer(node.address)} for PDO {_pointer(node.device)}"


def node_lines(node: TreeNode, depth: int) -> Iterator[str]:
    """A node of a tree."""
    indent = "  " * depth
    yield indent + head_line(node)
    yield from (f"{indent}  {line}" for line in _common(node))


def _common(node: TreeNode) -> Iterator[str]:
    yield f'InstancePath is "{"?" if node.instance_path is None else node.instance_path}"'
    if node.service:
        yield f'ServiceName is "{node.service}"'
    yield f"State = {_state(node.state_name, node.state)}"
    yield f"Previous State = {_state(node.previous_name, node.previous)}"
    if node.problem:
        status = f", status {node.problem_status & 0xFFFFFFFF:#x}" if node.problem_status else ""
        yield f"Problem = {node.problem:#x}{status}"


def detail_lines(node: TreeNode) -> Iterator[str]:
    """One node by itself, with its history and flags."""
    yield head_line(node)
    links = (node.parent, node.sibling, node.child)
    parent, sibling, child = (_pointer(link) for link in links)
    yield f"  Parent {parent}   Sibling {sibling}   Child {child}"
    yield from (f"  {line}" for line in _common(node))
    count = len(node.history)
    for index, (state, name) in enumerate(node.history):
        yield f"  StateHistory[{count - 1 - index:02}] = {_state(name, state)}"
    if node.flags is not None:
        named = ", ".join(name for bit, name in _FLAGS.items() if node.flags & bit)
        title = f"  Flags (0x{node.flags & 0xFFFFFFFF:08x})  "
        lines = textwrap.wrap(named, 60) or [""]
        yield (title + lines[0]).rstrip()
        yield from (" " * len(title) + line for line in lines[1:])
    if node.user_flags:
        yield f"  UserFlags (0x{node.user_flags:08x})"
    if node.capabilities:
        yield f"  CapabilityFlags (0x{node.capabilities:08x})"
    if node.dependents:
        yield f"  DisableableDepends = {node.dependents}"
