"""Commands over objects: ``!object`` and ``!handle``."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError

#: Bit of the flags of ``!handle`` that asks for the objects.
_OBJECTS, _DEFAULT_FLAGS = 2, 3


@command("!object", help="an object's header, or a directory's objects", usage="ADDRESS | \\PATH", plugin="object")
def show_object(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.objects import object_grid

    operand = arguments.text
    if not operand:
        raise KdumpError("!object needs an address, or a path such as \\Driver")
    what = operand if operand.startswith("\\") else session.evaluate(operand.split()[0])
    return object_grid(session.target, what).kd_lines()


@command("!handle", help="the handles of a process", usage="[HANDLE [FLAGS [PROCESS]]]", plugin="object")
def show_handles(session: Session, arguments: Arguments) -> Iterable[str]:
    """HANDLE 0 is all of them; FLAGS 1 leaves out what the objects are; PROCESS is an EPROCESS or a process id."""
    from volatility3_kdump.views.objects import handles_grid
    from volatility3_kdump.windows.listing.handles import process_named

    given = [session.evaluate(word) for word in arguments.words[:3]]
    wanted, flags, process = given + [0, _DEFAULT_FLAGS, 0][len(given) :]
    address = process_named(session.target, process) if process else session.current.process
    if address is None:
        raise KdumpError("no process is current: name one, !handle 0 3 PROCESS")
    return handles_grid(session.target, address, wanted, bool(flags & _OBJECTS)).kd_lines()
