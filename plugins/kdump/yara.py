"""YARA scans of what a dump holds."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.findings.yara_search import Scope
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.yara import yara_grid


class Yara(KdumpPlugin):
    """Scans memory with YARA rules and says whose memory each hit is; by default every kernel page in the dump.

    Compiled rules are code: load only files that you compiled yourself. Addresses are hexadecimal or
    module!symbol+offset.
    """

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(
                name="rules",
                description='YARA rules, or one string: "text", { hex bytes } or /expression/',
                optional=True,
            ),
            requirements.StringRequirement(name="rules-file", description="A file of YARA rules", optional=True),
            requirements.StringRequirement(
                name="compiled-file", description="A file of rules that you compiled, which is code", optional=True
            ),
            # Not an empty list by default: without names, the option means all.
            requirements.ListRequirement(
                name="modules",
                element_type=str,
                description="Images of loaded drivers: all, or those of these names, * allowed",
                optional=True,
            ),
            requirements.BooleanRequirement(name="pool", description="The pools", optional=True),
            requirements.BooleanRequirement(
                name="stacks", description="The kernel stacks of all threads and processors", optional=True
            ),
            requirements.StringRequirement(name="driver", description="The image of one driver", optional=True),
            requirements.StringRequirement(
                name="pid", description="The user pages of a process, decimal or 0x...", optional=True
            ),
            requirements.ListRequirement(
                name="range",
                element_type=str,
                description="Only addresses from START up to END, without END itself",
                optional=True,
            ),
            requirements.IntRequirement(name="limit", description="Stop after so many hits", optional=True),
        ]

    def grid(self, target):
        modules = self.option("modules")
        if self.option("driver"):
            modules = [*(modules or []), self.option("driver")]
        limits = self.option("range") or None
        if limits is not None and len(limits) != 2:
            raise KdumpError("--range takes two addresses: START and END")
        pid = self.option("pid")
        scope = Scope(
            modules=None if modules is None else tuple(modules),
            pool=bool(self.option("pool")),
            stacks=bool(self.option("stacks")),
            pid=None if pid is None else parse_id(pid),
            limits=None if limits is None else tuple(parse_address(limit, target) for limit in limits),
        )
        return yara_grid(
            target,
            self.option("rules"),
            self.option("rules-file"),
            self.option("compiled-file"),
            scope,
            self.option("limit"),
            self._progress_callback,
        )
