"""The contents of memory."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import TargetNames, parse_bounds
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.memory import FORMATS, memory_grid, search_grid


class Memory(KdumpPlugin):
    """Shows or searches virtual memory (KD: db, dd, dq, dps, da, du, s). Bytes that the dump lacks are marked absent.

    Addresses are expressions: fffff800`60da1981, nt!KiBugCheckData, poi(@rsp+8).
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(
                name="address",
                description="Where it starts; 'ADDRESS L20' and 'ADDRESS END' give the length as KD does",
                optional=True,
            ),
            requirements.StringRequirement(
                name="length", description="How many units (an expression, hexadecimal)", optional=True
            ),
            requirements.ChoiceRequirement(
                name="layout",
                description="Letters of KD's d command",
                choices=list(FORMATS),
                default="b",
                optional=True,
            ),
            requirements.StringRequirement(name="find", description="Search for this text (ASCII)", optional=True),
            requirements.StringRequirement(
                name="find-wide", description="Search for this text (UTF-16)", optional=True
            ),
            requirements.StringRequirement(
                name="find-bytes", description="Search for these bytes (hexadecimal)", optional=True
            ),
        ]

    def grid(self, target):
        wanted = self._range(target)
        searches = [name for name in ("find", "find-wide", "find-bytes") if self.option(name)]
        if len(searches) > 1:
            raise KdumpError("choose one of --find, --find-wide and --find-bytes")
        if not searches:
            return memory_grid(target, wanted, self.option("layout") or "b")
        wanted_text = self.option(searches[0])
        try:
            if searches[0] == "find-bytes":
                return search_grid(target, wanted, "b", bytes.fromhex(wanted_text))
            kind, encoding = ("a", "latin-1") if searches[0] == "find" else ("u", "utf-16-le")
            return search_grid(target, wanted, kind, wanted_text.encode(encoding))
        except ValueError:
            raise KdumpError(f"{wanted_text!r} is nothing that --{searches[0]} can search for") from None

    def _range(self, target):
        bounds = self.option("address")
        if not bounds:
            raise KdumpError("name an --address")
        if self.option("length"):
            bounds = f"{bounds} L?({self.option('length')})"
        wanted, rest = parse_bounds(bounds, TargetNames(target))
        if wanted is None or rest:
            raise KdumpError(f"{bounds!r} is not a range: ADDRESS, ADDRESS Lcount")
        return wanted
