"""Commands over objects: ``!object`` and ``!handle``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number, word
from volatility3_kdump.errors import KdumpError

if TYPE_CHECKING:
    from volatility3_kdump.windows.listing.handles import HandleChoice

#: Bit of the flags of ``!handle`` that asks for the objects.
_OBJECTS, _DEFAULT_FLAGS = 2, 3
_FREE, _KERNEL, _ID = 4, 0x10, 0x20
_ALL = (1 << 64) - 1
_DEFAULT_OF_OBJECT = 9


@command(
    "!object",
    help="an object's header, or a directory's objects",
    options=(Option("-p", "private name spaces", refused="they are not walked: !object PATH shows the directories"),),
    arguments=(
        word("ADDRESS|PATH", "an object, or a path such as \\Driver; 0 for the objects of a type", required=True),
        flags(
            Bit(1, "names and counts too: 0 is the type alone"),
            Bit(8, "with 1: the contents of a directory, where a symbolic link leads"),
            Bit(0x10, "optional headers"),
            Bit(0x20, "with 1: the name with its path"),
            name="FLAGS|TYPE",
            help="a type of objects behind 0, else the sum of",
        ),
    ),
    examples=(
        Example("!object \\Driver", "a directory"),
        Example("!object 0 Event", "the objects of a type"),
        Example("!object ffffd48f`77af9698"),
    ),
    usage="ADDRESS|PATH [FLAGS] | 0 TYPE",
    own=True,
    plugin="object",
)
def show_object(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.objects import object_grid, typed_grid

    typed = arguments.words
    if typed[:1] == ["0"] and len(typed) == 2 and not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,2}", typed[1]):
        return typed_grid(session.target, typed[1]).kd_lines()
    given = arguments.syntax.read(arguments.name, arguments.text, session.evaluate)
    operand, wanted = given.words["ADDRESS|PATH"], given.numbers.get("FLAGS|TYPE")
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
            Bit(_FREE, "free entries"),
            Bit(8, "what a type has of its own", "only in user mode: !object and dt show an object"),
            Bit(_KERNEL, "the kernel's handle table"),
            Bit(_ID, "HANDLE is the id of a process or thread"),
        ),
        number("PROCESS", "an EPROCESS or a process id; by default the current process, 0 for all"),
        word("TYPE", "only handles of this type of objects, such as File"),
    ),
    examples=(
        Example("!handle 0 3 4", "those of process 4"),
        Example("!handle 0 3 0 File", "files of all"),
    ),
    plugin="object",
)
def show_handles(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.objects import handles_grid, identified_grid
    from volatility3_kdump.windows.listing.handles import HandleChoice, process_named

    wanted = arguments.number("HANDLE") or 0
    wanted = 0 if wanted == _ALL else wanted
    chosen = arguments.number("FLAGS")
    chosen = _DEFAULT_FLAGS if chosen is None else chosen
    process = arguments.number("PROCESS")
    kind = arguments.word("TYPE")
    if chosen & _ID:
        yield from identified_grid(session.target, wanted).kd_lines()
        return
    if process == 0:
        objects = kind is not None or bool(chosen & _OBJECTS)
        yield from _of_all(session, HandleChoice(wanted, objects, kind, bool(chosen & _FREE)))
        return
    address = session.current.process if process in (None, _ALL) else process_named(session.target, process or 0)
    if address is None:
        raise KdumpError("no process is current: name one, !handle 0 3 PROCESS")
    choice = HandleChoice(wanted, bool(chosen & _OBJECTS), kind, bool(chosen & _FREE), bool(chosen & _KERNEL))
    yield from handles_grid(session.target, address, choice).kd_lines()


def _of_all(session: Session, choice: HandleChoice) -> Iterator[str]:
    """The handles of every process. What is wrong with one process is a line."""
    from volatility3_kdump.views.objects import handles_grid
    from volatility3_kdump.windows.processes.process_lists import process_addresses

    for address in process_addresses(session.target):
        try:
            yield from handles_grid(session.target, address, choice).kd_lines()
        except KdumpError as error:
            yield f"NOTE: {error}"
        yield ""
