"""Commands on what waits: executive work queues, timers, queued spin locks."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, flags
from volatility3_kdump.views.queues import exqueue_grid, queued_locks_grid, timers_grid

#: Flags of !exqueue.
_WAITS, _STACKS = 2, 4
_QUEUES = ((0x10, "Critical"), (0x20, "Delayed"), (0x40, "HyperCritical"))


@command(
    "!exqueue",
    help="the executive's work queues, their threads, and the items that wait",
    arguments=(
        flags(
            Bit(1, "times and priorities of the threads", "not shown here: 6 shows them"),
            Bit(_WAITS, "what the threads wait for"),
            Bit(_STACKS, "with 2, their stacks too"),
            Bit(8, "stacks without arguments", "they have none"),
            *(Bit(value, f"only the queue {name}, of Windows 7 and 8") for value, name in _QUEUES),
        ),
    ),
    examples=(Example("!exqueue 6", "with stacks"),),
    plugin="exqueue",
)
def work_queues(session: Session, arguments: Arguments) -> Iterable[str]:
    wanted = arguments.number("FLAGS") or 0
    threads = "stacks" if wanted & _WAITS and wanted & _STACKS else "waits" if wanted & _WAITS else ""
    return exqueue_grid(session.target, [name for value, name in _QUEUES if wanted & value], threads).kd_lines()


@command("!timer", help="the timers that are set", plugin="cpu")
def timers(session: Session, arguments: Arguments) -> Iterable[str]:
    return timers_grid(session.target).kd_lines()


@command("!qlocks", help="the queued spin locks: who owns each, who waits", plugin="cpu")
def queued_spin_locks(session: Session, arguments: Arguments) -> Iterable[str]:
    return queued_locks_grid(session.target).kd_lines()
