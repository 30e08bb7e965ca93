"""Commands over objects: ``!object`` and ``!handle``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number, word
from volatility3_kdump.errors import KdumpError

#: Bit of the flags of ``!handle`` that asks for the objects.
_OBJECTS, _DEFAULT_FLAGS = 2, 3
_DEFAULT_OF_OBJECT = 9


@command(
    "!object",
    help="an object's header, or a directory's objects",
    options=(Option("-p", "private name spaces", refused="they are not walked: !object PATH shows the directories"),),
    arguments=(
        word("ADDRESS|PATH", "an object, or a path such as \\Driver; 0 and a NAME is not there", required=True),
        flags(
            Bit(1, "names and counts too: 0 is the type alone"),
            Bit(8, "with 1: the contents of a directory, where a symbolic link leads"),
            Bit(0x10, "optional headers", "optional headers are not shown"),
            Bit(0x20, "with 1: the name with its path"),
        ),
    ),
    examples=(Example("!object \\Driver", "a directory"), Example("!object ffffd48f`77af9698")),
    plugin="object",
)
def show_object(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.objects import object_grid

    operand = arguments.word("ADDRESS|PATH") or ""
    wanted = arguments.number("FLAGS")
    what = operand if operand.startswith("\\") else session.evaluate(operand)
    return object_grid(session.target, what, _DEFAULT_OF_OBJECT if wanted is None else wanted).kd_lines()


@command(
    "!handle",
    help="the handles of a process",
    arguments=(
        number("HANDLE", "one handle, 0 for all"),
        flags(
            Bit(1, "the handles"),
            Bit(_OBJECTS, "what the objects are"),
            Bit(4, "free entries", "free entries are not listed"),
            Bit(0x10, "the kernel's handle table", "the table of PROCESS is shown: name process 4 instead"),
        ),
        number("PROCESS", "an EPROCESS or a process id; by default the current process, 0 with a TYPE for all"),
        word("TYPE", "only handles of this type of objects, such as File"),
    ),
    examples=(Example("!handle 0 3 4", "those of process 4"),),
    plugin="object",
)
def show_handles(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.objects import handles_grid
    from volatility3_kdump.windows.listing.handles import process_named

    wanted = arguments.number("HANDLE") or 0
    chosen = arguments.number("FLAGS")
    process = arguments.number("PROCESS") or 0
    kind = arguments.word("TYPE")
    if kind is not None and not process:
        yield from _of_all(session, wanted, kind)
        return
    address = process_named(session.target, process) if process else session.current.process
    if address is None:
        raise KdumpError("no process is current: name one, !handle 0 3 PROCESS")
    with_objects = bool((_DEFAULT_FLAGS if chosen is None else chosen) & _OBJECTS)
    yield from handles_grid(session.target, address, wanted, with_objects, kind).kd_lines()


def _of_all(session: Session, wanted: int, kind: str) -> Iterator[str]:
    """The handles of one type in every process. What is wrong with one process is a line."""
    from volatility3_kdump.views.objects import handles_grid
    from volatility3_kdump.windows.processes.process_lists import process_addresses

    for address in process_addresses(session.target):
        try:
            yield from handles_grid(session.target, address, wanted, True, kind).kd_lines()
        except KdumpError as error:
            yield f"NOTE: {error}"
        yield ""
