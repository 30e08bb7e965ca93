"""Commands over objects of the kernel that processes share: jobs, ALPC ports."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number
from volatility3_kdump.errors import KdumpError

_LARGEST_ID = 1 << 26


@command(
    "!job",
    help="a job: limits, counters, and the processes in it",
    arguments=(
        number("PROCESS", "a process, a thread or a job; by default the current process"),
        flags(Bit(1, "settings and counters"), Bit(2, "its processes")),
    ),
    examples=(Example("!job"), Example("!job ffff9189`4f200080 3", "with the processes")),
    plugin="job",
)
def job(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.jobs import job_text
    from volatility3_kdump.windows.listing.handles import process_named
    from volatility3_kdump.windows.processes.jobs import job_of

    address = arguments.number("PROCESS") or session.current.process
    if address is None:
        raise KdumpError("no process is current: name one, !job PROCESS")
    if address < _LARGEST_ID:
        address = process_named(session.target, address)
    chosen = arguments.number("FLAGS")
    return job_text(session.target, job_of(session.target, address), 1 if chosen is None else chosen)


@command(
    "!alpc",
    help="ALPC ports and messages",
    options=(
        Option("/lpp", "the ports of a process, and those it is connected to", value="PROCESS"),
        Option("/p", "one port", value="PORT"),
        Option("/m", "one message", value="MESSAGE"),
        Option("/v", "more", note="all is always shown"),
        Option("/g", "global state", refused="its structures are in no public symbols"),
        Option("/r", "resources", refused="dt nt!_KALPC_REGION shows one"),
    ),
    examples=(
        Example("!alpc /lpp ffff9189`4f200080", "who is connected to a process"),
        Example("!alpc /p ffff9189`4ef50010"),
        Example("!alpc /m ffffd802`4a600010"),
    ),
    plugin="alpc",
)
def local_calls(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.jobs import message_text, port_text, ports_grid
    from volatility3_kdump.windows.listing.handles import process_named

    target = session.target
    for name in ("/p", "/m", "/lpp"):
        typed = arguments.option(name)
        if typed is None:
            continue
        address = session.evaluate(typed)
        if name == "/lpp":
            return ports_grid(target, process_named(target, address)).kd_lines()
        return (port_text if name == "/p" else message_text)(target, address)
    raise KdumpError("!alpc takes /lpp PROCESS, /p PORT or /m MESSAGE (.help !alpc)")
