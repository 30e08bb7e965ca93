"""Linked lists, and commands for each element, process or thread."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from volatility3_kdump.console.commands import Arguments, command, execute, one_budget
from volatility3_kdump.console.script import unmarked
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number, rest
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import Range
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.links import MOST_ELEMENTS, Links, disagreements, next_link

_MOST_NESTED = 3
_DEFAULT_COUNT, _DEFAULT_SIZE, _MOST_SIZE = 0x20, 2, 0x100
_WORD = re.compile(r'"([^"]*)"?|([^\s"]+)')
_VARIABLE = re.compile(r"@?\$extret\b", re.IGNORECASE)
#: In an argument in quotes a backslash stands before quotes and before itself.
_ESCAPED = re.compile(r'\\(["\\])')
_PLACE = re.compile(r"@#(process|thread)\b", re.IGNORECASE)


@contextmanager
def _nested(session: Session, name: str) -> Iterator[None]:
    session.depth += 1
    try:
        if session.depth > _MOST_NESTED:
            raise KdumpError(f"{name} inside of itself is too deep")
        with one_budget(session):
            yield
    finally:
        session.depth -= 1


# lists ----------------------------------------------------------------------------------------------------------------


@command(
    "dl",
    "dlb",
    help="a linked list: a line for each element; dlb backwards",
    arguments=(
        number("ADDRESS", "the first element, which begins with its link", required=True),
        number("COUNT", "at most so many elements"),
        number("SIZE", "pointers that are shown of each"),
    ),
    examples=(Example("dl nt!PsLoadedModuleList 5 2"),),
)
def display_list(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.memory import MemoryView

    memory = session.current.memory
    size = min(arguments.number("SIZE") or _DEFAULT_SIZE, _MOST_SIZE)
    most = min(arguments.number("COUNT") or _DEFAULT_COUNT, MOST_ELEMENTS)
    # Blink of an element is the address of the one before it, not of that one's Blink.
    backwards = arguments.name == "dlb"
    address: int | None = arguments.number("ADDRESS") or 0
    seen: set[int] = set()
    while address and address not in seen and len(seen) < most:
        seen.add(address)
        yield from MemoryView(session.seen, Range(address, size), "p", memory).lines()
        address = next_link(memory, address, backwards)
    if address is None:
        yield "NOTE: the next link cannot be read"


@command(
    "!list",
    help="commands for each element of a linked list; @$extret is the element",
    own=True,
    usage='[-t [MODULE!]TYPE.FIELD] [-x "COMMANDS"] [-a "ARGUMENTS"] [-e] [-m MAX] ADDRESS',
    options=(
        Option("-t", "the type and field that links them; else they begin with the link", value="TYPE.FIELD"),
        Option("-x", "commands for each; dp is the default", value='"COMMANDS"'),
        Option("-a", "what follows the address behind the commands", value='"ARGUMENTS"'),
        Option("-e", "shows each command"),
        Option("-m", "at most so many elements", value="MAX"),
    ),
    examples=(Example('!list -t nt!_LIST_ENTRY.Flink -x "dp" -a "L2" @rcx'),),
)
def for_each_element(session: Session, arguments: Arguments) -> Iterator[str]:
    remaining = arguments.text
    if remaining.startswith('"') and '\\"' in remaining:
        remaining = remaining.strip()[1:].removesuffix('"').replace('\\"', '"')
    options: dict[str, str] = {}
    tokens = [(quoted or plain) for quoted, plain in _WORD.findall(remaining)]
    operands: list[str] = []
    while tokens:
        given = tokens.pop(0)
        if given in ("-t", "-x", "-a", "-m"):
            if not tokens:
                raise KdumpError(f"!list {given} needs a value")
            options[given] = tokens.pop(0)
        elif given == "-e":
            options[given] = ""
        elif given.startswith("-"):
            raise arguments.unknown(given)
        else:
            operands.append(given)
    if not operands:
        raise KdumpError("!list needs the address of the first element (.help !list)")
    most = min(session.evaluate(options["-m"]), MOST_ELEMENTS) if "-m" in options else MOST_ELEMENTS
    offset = _offset(session, unmarked(options["-t"])) if "-t" in options else 0
    links = Links(session.current.memory, session.evaluate(" ".join(operands)), offset, most)
    commands = options.get("-x", "dp")
    with _nested(session, "!list"):
        for element in links.elements():
            session.state.variables["extret"] = element
            line = commands
            if not _VARIABLE.search(commands):
                line = f"{commands} 0x{element:x} {options.get('-a', '')}".rstrip()
            if "-e" in options:
                yield line
            yield from execute(session, line)
            yield ""
    if not links.closed and not links.last_is_null:
        yield f"NOTE: {links.end}"


def _offset(session: Session, name: str) -> int:
    """Where a field lies: ``nt!_ETHREAD.ThreadListEntry.Flink``."""
    from volatility3_kdump.expressions.type_names import split_name, types_of

    type_name, _, path = name.partition(".")
    if not path:
        raise KdumpError(f"!list -t needs a field: {name}.Flink")
    module, plain = split_name(session.seen, type_name)
    layouts = types_of(session.seen, module).layouts
    field = layouts.find(plain, path)
    if field is None:
        raise KdumpError(f"{name}: there is no such type or field ({layouts.origin})")
    return field.offset


@command(
    "!validatelist",
    help="whether both directions of a doubly linked list agree",
    arguments=(number("ADDRESS", "of the list's head", required=True),),
    examples=(Example("!validatelist nt!PsActiveProcessHead"),),
)
def validate_list(session: Session, arguments: Arguments) -> Iterator[str]:
    memory = session.current.memory
    size = memory.pointer_size
    count, wrong, links = disagreements(memory, arguments.number("ADDRESS") or 0)
    for one in wrong:
        entry, following = (pointer(place, size, tick=False) for place in (one.entry, one.following))
        if one.blink is None:
            yield f"Blink of {following}, to which {entry} leads, is not in the dump"
        else:
            yield f"Blink of {following} is {pointer(one.blink, size, tick=False)}, but {entry} leads to it"
    if links.closed and not wrong:
        yield f"Found list end after {count} entries"
    elif all(one.blink is None for one in wrong) and (links.closed or links.absent is not None):
        what = "checked as a whole" if links.closed else "followed to its end"
        yield f"List cannot be {what}: {count - len(wrong)} entries agree; {links.end}"
    else:
        disagreeing = sum(one.blink is not None for one in wrong)
        yield f"List is damaged: {disagreeing} links disagree in {count} entries; {links.end}"


@command(
    "!dflink",
    "!dblink",
    help="addresses of a list's entries, by Flink; !dblink by Blink",
    arguments=(number("ADDRESS", "of an entry", required=True), number("COUNT", "at most so many")),
    examples=(Example("!dflink nt!PsActiveProcessHead"),),
)
def links_of(session: Session, arguments: Arguments) -> Iterator[str]:
    memory = session.current.memory
    most = min(arguments.number("COUNT") or _DEFAULT_COUNT, MOST_ELEMENTS)
    # The first is the one that was typed.
    links = Links(memory, arguments.number("ADDRESS") or 0, backwards=arguments.name == "!dblink")
    for entry in itertools.islice(links.elements(), 1, most + 1):
        yield pointer(entry, memory.pointer_size, tick=False)
    if links.absent is not None:
        yield f"NOTE: the link at {links.absent:x} cannot be read"


# for each -------------------------------------------------------------------------------------------------------------


def _command(arguments: Arguments) -> str:
    typed = (arguments.word("COMMANDS") or "").strip()
    if typed.startswith('"') and '\\"' in typed:
        return _ESCAPED.sub(r"\1", typed[1:].removesuffix('"'))
    return typed.strip('"')


@command(
    "!for_each_process",
    help="commands for each process; @#Process is its address",
    arguments=(rest("COMMANDS", "by default !process @#Process 0"),),
    examples=(Example('!for_each_process ".process @#Process; !peb"'),),
)
def for_each_process(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.windows.processes.process_lists import process_addresses
    from volatility3_kdump.windows.structures import require_symbols

    require_symbols(session.target, "the processes", "_EPROCESS")
    body = _command(arguments) or "!process @#Process 0"
    with _nested(session, "!for_each_process"):
        for address in process_addresses(session.target):
            yield from execute(session, _filled(body, {"process": address}))


@command(
    "!for_each_thread",
    help="commands for each thread; @#Thread is its address, @#Process that of its process",
    arguments=(rest("COMMANDS", "by default !thread @#Thread 0"),),
    examples=(Example('!for_each_thread "dt nt!_KTHREAD @#Thread State"'),),
)
def for_each_thread(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
    from volatility3_kdump.windows.structures import require_symbols

    require_symbols(session.target, "the threads", "_ETHREAD")
    body = _command(arguments) or "!thread @#Thread 0"
    with _nested(session, "!for_each_thread"):
        for process in process_addresses(session.target):
            for thread in thread_addresses(session.target, process):
                yield from execute(session, _filled(body, {"process": process, "thread": thread}))


def _filled(body: str, values: dict[str, int]) -> str:
    def value(match: re.Match[str]) -> str:
        address = values.get(match[1].lower())
        if address is None:
            raise KdumpError(
                f"{match[0]} means nothing here: use {', '.join(f'@#{name.capitalize()}' for name in values)}"
            )
        return f"0x{address:x}"

    return _PLACE.sub(value, body)
