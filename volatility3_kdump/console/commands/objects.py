"""Commands over objects: ``!object`` and ``!handle``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.crashed import crash_process

#: Bit of the flags of ``!handle`` that asks for the objects.
_OBJECTS, _DEFAULT_FLAGS = 2, 3


@command("!object", help="an object's header, or a directory's objects", usage="ADDRESS | \\PATH")
def show_object(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.objects import directory_lines, object_lines
    from volatility3_kdump.windows.processes.namespace import read_directory
    from volatility3_kdump.windows.processes.objects import find_object, read_object

    target, text = session.target, arguments.text
    if not text:
        raise KdumpError("!object needs an address, or a path such as \\Driver")
    size = target.memory.pointer_size
    if not text.startswith("\\"):
        found = read_object(target, session.evaluate(text.split()[0]))
        yield from object_lines(found, size)
        if found.type_name == "Directory" and found.path is not None:
            yield from directory_lines(read_directory(target, found.path or "\\"), size)
        return
    address = find_object(target, text) if text.strip("\\") else None
    if address is not None:
        found = read_object(target, address)
        yield from object_lines(found, size)
        if found.type_name != "Directory":
            return
    elif text.strip("\\"):
        problems = read_directory(target, text).problems
        raise KdumpError(f"Object {text} not found" + (f" ({problems[0]})" if problems else ""))
    yield from directory_lines(read_directory(target, text), size)


@command("!handle", help="the handles of a process", usage="[HANDLE [FLAGS [PROCESS]]]")
def show_handles(session: Session, arguments: Arguments) -> Iterator[str]:
    """HANDLE 0 is all of them; FLAGS 1 leaves out what the objects are; PROCESS is an EPROCESS or a process id."""
    from volatility3_kdump.text.addresses import pointer
    from volatility3_kdump.text.objects import handle_line, object_lines
    from volatility3_kdump.windows.processes.objects import read_handles, read_object
    from volatility3_kdump.windows.processes.processes import read_process

    target = session.target
    given = [session.evaluate(word) for word in arguments.words[:3]]
    wanted, flags, process = given + [0, _DEFAULT_FLAGS, 0][len(given) :]
    address = _process_named(session, process) if process else session.current.process
    if address is None:
        raise KdumpError("no process is current: name one, !handle 0 3 PROCESS")
    table = read_process(target, address).object_table
    if table is None:
        raise KdumpError(f"the handle table of process {address:x} is not known: its EPROCESS is not in the dump")
    if not table:
        raise KdumpError(f"process {address:x} has no handle table any more")
    size = target.memory.pointer_size
    problems: list[str] = []
    handles = list(read_handles(target, table, problems))
    yield f"PROCESS {pointer(address, size, tick=False)}"
    yield f"Handle table at {pointer(table, size, tick=False)} with {len(handles)} entries in use" + (
        " that can be read" if problems else ""
    )
    for handle in handles:
        if wanted and handle.value != wanted & ~3:
            continue
        yield ""
        yield handle_line(handle, size)
        if flags & _OBJECTS:
            try:
                yield from object_lines(read_object(target, handle.object), size)
            except KdumpError as error:
                yield f"    {error}"
    for problem in problems:
        yield f"NOTE: {problem}"


def _process_named(session: Session, number: int) -> int:
    """The EPROCESS of an address or a process id. Raises :class:`KdumpError` for an id that no process has."""
    from volatility3_kdump.windows.processes.processes import process_addresses, read_process

    target = session.target
    if target.is_kernel_address(number):
        return number
    crashed = crash_process(target)
    known = process_addresses(target) or ([crashed.address] if crashed is not None else [])
    for address in known:
        if read_process(target, address).pid == number:
            return address
    raise KdumpError(f"{target.name}: no process with the id {number:x} is in the dump")
