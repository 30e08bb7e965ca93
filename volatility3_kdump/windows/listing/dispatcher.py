"""What every processor runs and what is ready on it, with the names of those threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer
from volatility3_kdump.windows.processes.ready import processor_states, shared_queues
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


class Dispatcher:
    """The processors of a target and the threads that they have to do with.

    Raises :class:`KdumpError` where no processor's control block can be read.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.states = processor_states(target)
        if not self.states:
            require_symbols(target, "ready queues")
            raise KdumpError(f"{target.name}: no processor's control block is in the dump")
        self.shared = shared_queues(target, self.states)
        namer = ThreadNamer(target)
        addresses = [thread for state in self.states for thread in (state.current, state.next, state.idle_thread)]
        for queue in (*(state.queue for state in self.states), *self.shared):
            addresses += [thread for _, thread in queue.threads]
        #: Every thread that is named by them, by its address.
        self.listed: dict[int, ListedThread] = {address: namer.at(address) for address in addresses if address}
        self.threads = {address: listed.thread for address, listed in self.listed.items()}
