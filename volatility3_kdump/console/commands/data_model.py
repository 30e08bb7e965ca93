"""``dx``: the debugger's data model."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.commands.stacks import current_start
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option
from volatility3_kdump.errors import KdumpError

if TYPE_CHECKING:
    from volatility3_kdump.cpu.context import Context
    from volatility3_kdump.expressions.names import Scope
    from volatility3_kdump.memory import Memory

_TYPED = re.compile(
    r"(-r(?P<depth>\d{1,3})\s+)?(?P<unknown>[-/]\S+)?\s*(?P<type>[\w!:<>,]+)\s+(?P<address>\S.*)$", re.DOTALL
)
_OPTION = re.compile(
    r"-(id\s*(?P<id>\d+,\d+(,[0-9a-fA-F]+)?)|gc\s*(?P<cells>\d+)|c\s*(?P<skip>\d+)|r(?P<depth>\d*)"
    r"|nv|vn|[gnvhid?]+)(?=\s|$)"
)


@command(
    "dx",
    help="an expression of the data model: C++, objects, queries",
    usage="[-g | -gc WIDTH] [-c COUNT] [-n] [-v] [-rDEPTH] EXPRESSION[,FORMAT]",
    own=True,
    options=(
        Option("-g", "a grid: a row for each element, a column for each of its properties"),
        Option("-gc", "a grid with cells of that width", value="WIDTH"),
        Option("-c", "leaves out the first elements", value="COUNT"),
        Option("-n", "members alone, not what is made of the few structures that are known"),
        Option("-v", "methods, too"),
        Option("-id", "the place of a link that is pasted: memory is that of its process", value="N,N,PROCESS"),
        Option("-r", "levels that are shown, by default one", value="DEPTH", glued=True),
        Option(",FORMAT", "x d o b for numbers; s sb s8 su sub c for text; en, !; NUMBER or [EXPRESSION] of elements"),
    ),
    examples=(
        Example("dx -r2 @$curprocess"),
        Example("dx ((nt!_EPROCESS *)@$proc)->ImageFileName"),
        Example('dx @$cursession.Processes.Where(p => p.Name == "lsass.exe")'),
        Example("dx -g @$cursession.Modules"),
        Example('dx Debugger.Utility.Collections.FromListEntry(HEAD, "nt!_X", "Links")'),
    ),
    plugin="dx",
)
def display_expression(session: Session, arguments: Arguments) -> Iterable[str]:
    """Queries are evaluated element by element: Ctrl-C ends them."""
    from volatility3_kdump.views.dx import DEEPEST, DxOptions, DxView

    expression, grid, cells, depth, skip, native, verbose = arguments.text, False, None, 1, 0, False, False
    scope: Scope = session.current
    notes: list[str] = []
    while match := _OPTION.match(expression):
        expression = expression[match.end() :].lstrip()
        letters = match[1]
        if match["id"]:
            scope = _of_link(session, match["id"], notes)
        elif match["cells"]:
            grid, cells = True, int(match["cells"][:6])
        elif match["skip"]:
            skip = int(match["skip"][:9])
        elif match["depth"] is not None:
            depth = int(match["depth"][:6] or 1)
        elif letters in ("?", "h"):
            from volatility3_kdump.console.commands import registry
            from volatility3_kdump.console.usage import described

            return described(registry()["dx"])
        elif "i" in letters or "d" in letters or "h" in letters or "?" in letters:
            raise arguments.unknown(match[0].strip())
        else:
            grid, native, verbose = grid or "g" in letters, native or "n" in letters, verbose or "v" in letters
    if expression.startswith("-") and re.match(r"-[A-Za-z?]+(\s|$)", expression):
        raise arguments.unknown(expression.split()[0])
    if not expression:
        raise KdumpError("dx needs an expression: dx @$curprocess; dx -h shows more")
    depth = min(depth, DEEPEST)
    dump = session.current
    try:
        view = DxView(
            dump.target,
            expression,
            DxOptions(depth, skip, native, verbose),
            scope,
            functools.partial(current_start, session),
            dump.state.objects,
            session.names_in(scope),
            _title(session),
        )
        assigned = re.match(r"@\$\w+\s*=(?!=)", expression)
        return () if assigned else chain(notes, _told(view.grid(cells) if grid else view.lines()))
    except KdumpError as error:
        raise KdumpError(f"Error: {error}") from error


@dataclass(frozen=True)
class _LinkScope:
    """The current place, but for the process."""

    memory: Memory
    registers: Context | None
    process: int | None
    thread: int | None
    processor: int | None


def _of_link(session: Session, link: str, notes: list[str]) -> Scope:
    """The place of a link of the debugger's window, which names the process that it was shown in."""
    from volatility3_kdump.windows.processes.processes import read_process
    from volatility3_kdump.windows.processes.user_mode import process_memory

    dump = session.current
    typed = link.split(",")[2:]
    if not typed or int(typed[0], 16) in (0, dump.process):
        return dump
    address = int(typed[0], 16)
    try:
        memory = process_memory(session.target, read_process(session.target, address))
    except KdumpError:
        memory = None
    if memory is None:
        notes.append(f"NOTE: dx -id: the process {typed[0]} is not in the dump: user mode is that of the current one")
        return dump
    return _LinkScope(memory, dump.registers, address, dump.thread, dump.processor)


@command(
    "dtx",
    help="memory as a type, in the form of dx",
    usage="[-rDEPTH] [MODULE!]TYPE ADDRESS",
    own=True,
    options=(Option("-r", "levels that are shown, by default one", value="DEPTH", glued=True),),
    examples=(Example("dtx nt!_EPROCESS @$proc"),),
    plugin="dx",
)
def display_type(session: Session, arguments: Arguments) -> Iterable[str]:
    match = _TYPED.match(arguments.text)
    if match is None:
        raise KdumpError("dtx needs a type and an address: dtx nt!_EPROCESS @$proc")
    if match["unknown"]:
        raise arguments.unknown(match["unknown"])
    expression = f"(*(({match['type']} *)0x{session.evaluate(match['address']):x}))"
    typed = f"-r{match['depth']} {expression}" if match["depth"] else expression
    return display_expression(session, replace(arguments, text=typed))


def _told(lines: Iterator[str]) -> Iterator[str]:
    try:
        yield from lines
    except KdumpError as error:
        raise KdumpError(f"Error: {error}") from error


def _title(session: Session) -> str:
    from volatility3_kdump.text.banner import kind

    return f"{kind(session.target.header)}: {session.current.path}"
