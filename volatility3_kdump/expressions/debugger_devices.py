"""The tree of devices for ``dx``: ``@$cursession.Devices.DeviceTree``.

Properties are those of "Debugging Plug and Play Example" in the debugger's documentation. The resources of a node are
left out: their structures are in no public symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError
from volatility3_kdump.expressions.data_model import Failure, Items, Key, Model
from volatility3_kdump.windows.io.device_tree import read_tree_node, root_address

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_CHILDREN = 1 << 16


class Devices:
    """The devices of a dump. ``typed`` gives a structure of the kernel at an address."""

    def __init__(self, target: Target, typed: Callable[[str, int], CppValue]) -> None:
        self._target = target
        self._typed = typed

    def model(self) -> Model:
        """``Devices``: the tree, whose only element is its root."""
        return Model({"DeviceTree": lambda: Items(lambda: [(0, self._node(root_address(self._target)))])})

    def _node(self, address: int) -> Model:
        def field(name: str) -> CppValue:
            return cpp.member(self._typed("_DEVICE_NODE", address), name)

        def text(name: str) -> str:
            string = cpp.text_of(field(name))
            if string is None:
                raise EvaluationError(f"its {name} is not in the dump")
            return string

        def title() -> str:
            path, service = text("InstancePath"), text("ServiceName")
            return f"{path} ({service})" if service else path

        return Model(
            {
                "DeviceNodeObject": lambda: self._typed("_DEVICE_NODE", address),
                "InstancePath": lambda: text("InstancePath"),
                "ServiceName": lambda: text("ServiceName"),
                "PhysicalDeviceObject": lambda: field("PhysicalDeviceObject"),
                "State": lambda: field("State"),
                "Children": lambda: Items(lambda: self._children(address)),
            },
            title,
            identity=("device", address),
        )

    def _children(self, address: int) -> Iterator[tuple[Key, Any]]:
        child = read_tree_node(self._target, address).child
        seen: set[int] = set()
        while child and child not in seen and len(seen) < _MOST_CHILDREN:
            seen.add(child)
            try:
                sibling = read_tree_node(self._target, child).sibling
            except KdumpError as error:
                yield len(seen) - 1, Failure(error)
                return
            yield len(seen) - 1, self._node(child)
            child = sibling
