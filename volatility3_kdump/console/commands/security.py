"""Commands on security descriptors, access control lists, SIDs, and sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number
from volatility3_kdump.errors import KdumpError

if TYPE_CHECKING:
    from volatility3_kdump.windows.processes.processes import Process

_NAMES = Bit(1, "names of the SIDs", "the names are not in a dump of the kernel")
_CURRENT = (1 << 64) - 1
_DETAIL = 7


@command(
    "!sd",
    help="a security descriptor",
    arguments=(
        number("ADDRESS", "of the descriptor; of an object's, without its lowest four bits", required=True),
        flags(_NAMES),
    ),
    examples=(Example("!sd poi(@rcx-8) & -10", "of the object at rcx"),),
)
def descriptor(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.security import descriptor_lines
    from volatility3_kdump.windows.processes.security import read_descriptor

    return descriptor_lines(read_descriptor(session.target, arguments.number("ADDRESS") or 0))


@command(
    "!acl",
    help="an access control list",
    arguments=(number("ADDRESS", "of the ACL", required=True), flags(_NAMES)),
    examples=(Example("!acl ffffd802`41c13070"),),
)
def access_list(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.security import acl_lines
    from volatility3_kdump.windows.processes.security import read_acl

    return acl_lines(read_acl(session.target, arguments.number("ADDRESS") or 0))


@command(
    "!sid",
    help="a security identifier",
    arguments=(number("ADDRESS", "of the SID", required=True), flags(_NAMES)),
    examples=(Example("!sid ffffd802`41c13070"),),
)
def identifier(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.windows.processes.tokens import read_sid

    sid = read_sid(session.target, arguments.number("ADDRESS") or 0)
    if sid.text is None:
        raise KdumpError(f"{session.target.name}: {sid.problem}")
    yield f"SID is: {sid.text}"


@command(
    "!session",
    help="the sessions that processes are in, or makes one current",
    options=(Option("-s /s", "its first process is the current one from now on; -1: that of the crash", value="N"),),
    examples=(Example("!session"), Example("!session -s 1", "session space is read as session 1 has it")),
)
def sessions(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.mex import processes_named
    from volatility3_kdump.windows.processes.processes import read_process

    processes = processes_named(session.target, None)
    wanted = arguments.option("-s")
    if wanted is not None:
        yield from _choose_session(session, wanted, processes)
        return
    numbers = sorted({process.session for process in processes if process.session is not None})
    yield f"Sessions on machine: {len(numbers)}"
    yield f"Valid Sessions: {' '.join(map(str, numbers))}"
    current = session.current.process
    own = read_process(session.target, current).session if current is not None else None
    yield f"Current Session {'?' if own is None else own}"


def _choose_session(session: Session, wanted: str, processes: list[Process]) -> Iterator[str]:
    """Its first process becomes the current one. Raises :class:`KdumpError` where no process is in it."""
    number = _CURRENT if wanted == "-1" else session.evaluate(wanted)
    first = next((process for process in processes if process.session == number), None)
    if number != _CURRENT and first is None:
        raise KdumpError(f"{session.target.name}: no process is in session {number:x}")
    session.current.choose_process(None if first is None else first.address)
    yield f"Sessions on machine: {len({process.session for process in processes if process.session is not None})}"
    yield "Using that of the crash" if first is None else f"Using session {number}"


@command(
    "!sprocess",
    help="the processes of a session; by default of the current process's",
    arguments=(
        number("SESSION", "its number; -1 for the current one"),
        flags(Bit(1, "statistics"), Bit(2, "threads"), Bit(4, "stacks")),
    ),
    examples=(Example("!sprocess 1 0", "one line and a half for each"),),
)
def session_processes(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.process import process_grid
    from volatility3_kdump.windows.listing.processes import ProcessChoice
    from volatility3_kdump.windows.processes.processes import read_process

    wanted = arguments.number("SESSION")
    if wanted is None or wanted == _CURRENT:
        current = session.current.process
        wanted = read_process(session.target, current).session if current is not None else None
    if wanted is None:
        raise KdumpError(f"{session.target.name}: the session of the current process is not known: name one")
    detail = (arguments.number("FLAGS") or 0) & _DETAIL
    return process_grid(session.target, ProcessChoice(session=wanted), detail, session.progress).kd_lines()
