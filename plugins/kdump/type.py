"""Types of the kernel and of drivers, and memory seen through them."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.type import type_grid
from volatility3_kdump.windows.typed_values import Options


class Type(KdumpPlugin):
    """Shows a type's fields, or the values of the structure at an address (KD: dt).

    Types are named module!type (the kernel's may leave out nt!); wildcards list names. Addresses are expressions.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="type", description="module!type, or a pattern: _EPR*", optional=True),
            requirements.StringRequirement(name="address", description="Where a structure of it lies", optional=True),
            list_option("field", "Only these fields: names, wildcards, dotted into structures (Pcb.Header.)"),
            requirements.IntRequirement(
                name="depth", description="Levels of structures that are expanded (KD: -r)", optional=True, default=0
            ),
            requirements.IntRequirement(
                name="elements", description="Elements of arrays that are shown (KD: -a)", optional=True, default=0
            ),
            requirements.StringRequirement(
                name="link", description="The field that leads to the next structure of a list (KD: -l)", optional=True
            ),
        ]

    def grid(self, target):
        name = self.option("type")
        if not name:
            raise KdumpError("name a --type: nt!_EPROCESS")
        depth, elements = self.option("depth") or 0, self.option("elements") or 0
        if depth < 0 or elements < 0:
            raise KdumpError("--depth and --elements are not negative")
        address = parse_address(self.option("address"), target) if self.option("address") else None
        options = Options(tuple(self.option("field") or ()), depth=depth, elements=elements)
        return type_grid(target, name, address, options, link=self.option("link") or None)
