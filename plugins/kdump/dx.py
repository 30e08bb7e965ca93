"""Expressions of the debugger's data model: typed values, processes, threads, queries."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.dx import DEEPEST, DxOptions, dx_grid


class Dx(KdumpPlugin):
    """Evaluates an expression of the debugger's data model (KD: dx, ??).

    C++ with the types of the dump, @$curprocess, @$cursession.Processes, and queries: .Where(p => ...), .Select(...).
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(
                name="expression", description="What to evaluate: @$cursession.Processes", optional=True
            ),
            requirements.IntRequirement(
                name="depth", description="Levels that are shown below the value (KD: -r)", optional=True, default=1
            ),
            requirements.IntRequirement(
                name="skip", description="Elements that are left out (KD: -c)", optional=True, default=0
            ),
        ]

    def grid(self, target):
        expression = self.option("expression")
        if not expression:
            raise KdumpError("name an --expression: nt!PsInitialSystemProcess, @$cursession.Processes")
        depth, skip = self.option("depth"), self.option("skip") or 0
        depth = 1 if depth is None else depth
        if depth < 0 or skip < 0:
            raise KdumpError("--depth and --skip are not negative")
        return dx_grid(target, expression, DxOptions(min(depth, DEEPEST), skip))
