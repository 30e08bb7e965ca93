"""Stack backtraces."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.text.stacks import LAYOUTS
from volatility3_kdump.views.stack import stack_grid
from volatility3_kdump.windows.listing.stacks import Request, all_threads, request_thread
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.stacks.frames import MOST_FRAMES, NoStack
from volatility3_kdump.windows.stacks.starts import context_start, crash_start, processor_start, trap_start


class Stack(KdumpPlugin):
    """Shows stack backtraces, every frame with how it is known (KD: k, kb, kn, kv, kc after .thread, .trap, .cxr).

    Without options it is the stack of the crash. Addresses are expressions as KD has them.
    """

    @classmethod
    def options(cls):
        return [
            list_option("thread", "ETHREAD addresses"),
            list_option("pid", "All threads of these processes, decimal or 0x..."),
            list_option("cpu", "What these processors ran", int),
            requirements.BooleanRequirement(name="all-cpus", description="What every processor ran", optional=True),
            requirements.BooleanRequirement(name="all", description="All threads of all processes", optional=True),
            requirements.BooleanRequirement(
                name="unique", description="Show equal stacks once, with their number", optional=True
            ),
            requirements.StringRequirement(name="trap", description="Start from this trap frame", optional=True),
            requirements.StringRequirement(name="context", description="Start from this context record", optional=True),
            requirements.IntRequirement(
                name="frames", description="Frames to show at most", optional=True, default=256
            ),
            requirements.ChoiceRequirement(
                choices=list(LAYOUTS), name="layout", description="Layout of -r windbg", optional=True, default="kv"
            ),
        ]

    def grid(self, target):
        most = self.option("frames")
        most = 256 if most is None else most
        if not 1 <= most <= MOST_FRAMES:
            raise KdumpError(f"--frames is {most}: use a number from 1 to {MOST_FRAMES}")
        return stack_grid(
            target,
            self._requests(target),
            self.option("layout") or "kv",
            most,
            bool(self.option("unique")),
            self._progress_callback,
        )

    def _requests(self, target):
        try:
            return list(self._chosen(target))
        except NoStack as error:
            raise KdumpError(f"{target.name}: {error}") from error

    def _chosen(self, target):
        last = "  *** Stack trace for last set context - .thread/.cxr resets it"
        if self.option("trap"):
            yield Request(last, None, trap_start(target, parse_address(self.option("trap"), target)))
        elif self.option("context"):
            yield Request(last, None, context_start(target, parse_address(self.option("context"), target)))
        elif self.option("thread"):
            for address in self.option("thread"):
                yield request_thread(target, parse_address(address, target), last)
        elif self.option("all") or self.option("pid"):
            threads = all_threads(target, [parse_id(pid) for pid in self.option("pid") or []] or None)
            if not threads:
                raise KdumpError(
                    f"{target.name}: no threads found: a small memory dump holds only the crashing one, "
                    f"other dumps need the kernel's symbols ({target.symbol_status})"
                )
            for thread in threads:
                yield request_thread(target, thread, f"THREAD {thread:x}")
        elif self.option("cpu") or self.option("all-cpus"):
            numbers = self.option("cpu") or [processor.number for processor in processors(target)]
            for number in numbers:
                yield self._processor(target, number)
        else:
            thread = crash_thread(target)
            yield Request(None, thread.address if thread else None, crash_start(target))

    @staticmethod
    def _processor(target, number):
        chosen = next((processor for processor in processors(target) if processor.number == number), None)
        thread = chosen.current_thread if chosen else None
        try:
            return Request(f"Processor {number}", thread, processor_start(target, number))
        except NoStack as error:
            return Request(f"Processor {number}", thread, None, str(error))
