"""Processes."""

from volatility3.framework.configuration import requirements
from volatility3.plugins import timeliner

from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.process import DETAILS, events, process_grid
from volatility3_kdump.windows.listing.processes import ProcessChoice


class Process(KdumpPlugin, timeliner.TimeLinerInterface):
    """Lists processes, with statistics, threads and stacks as far as asked for (KD: !process).

    Every process is looked for in several places, and marked where one of them lacks it. Ids are decimal, or
    hexadecimal with 0x; addresses are hexadecimal.
    """

    @classmethod
    def options(cls):
        return [
            list_option("pid", "Process ids, decimal or 0x..."),
            list_option("address", "EPROCESS addresses"),
            list_option("name", "Parts of image names"),
            requirements.ChoiceRequirement(
                choices=[str(detail) for detail in DETAILS],
                name="detail",
                description="0 ids, 1 statistics, 3 threads, 7 stacks; by default 0 for a list, 7 for one process",
                optional=True,
                default=None,
            ),
        ]

    def grid(self, target):
        chosen = ProcessChoice(
            [parse_address(address, target) for address in self.option("address") or []],
            [parse_id(pid) for pid in self.option("pid") or []],
            self.option("name") or [],
        )
        one = len(chosen.addresses) + len(chosen.pids) == 1
        detail = self.option("detail")
        return process_grid(
            target, chosen, (7 if one else 0) if detail is None else int(detail), self._progress_callback
        )

    def generate_timeline(self):
        for description, created, time in events(self._open()):
            kind = timeliner.TimeLinerType.CREATED if created else timeliner.TimeLinerType.MODIFIED
            yield description, kind, time
