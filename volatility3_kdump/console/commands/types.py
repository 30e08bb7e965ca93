"""``dt``: types, and memory seen through them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option
from volatility3_kdump.errors import KdumpError

_OPTION = re.compile(r"-([A-Za-z])([0-9]*)")
#: What ``-r`` and ``-a`` mean without a number.
_DEPTH, _ELEMENTS = 10, 16


@dataclass
class _Wanted:
    """The arguments of ``dt``: the type, fields, and what else is no option, which is the address."""

    type_name: str = ""
    words: list[str] = field(default_factory=list)
    prefix: bool = False
    depth: int = 0
    blocks: bool = False
    elements: int = 0
    link: str | None = None
    offsets: bool = True
    verbose: bool = False


@command(
    "dt",
    help="a type, or memory as one",
    usage="[-r[N]] [-b] [-a[N]] [-y] [-o] [-v] [-l FIELD] [MODULE!]TYPE [FIELDS] [ADDRESS]",
    own=True,
    options=(
        Option("-r", "types inside of it, N levels deep", value="N", glued=True),
        Option("-b", "blocks: types inside of it that stand in it"),
        Option("-a", "elements of arrays, N of them", value="N", glued=True),
        Option("-y", "FIELDS are beginnings of names"),
        Option("-o", "without offsets"),
        Option("-v", "sizes too"),
        Option("-l", "each element of a list that FIELD links", value="FIELD"),
        Option("-e -i", "accepted, as in KD; they change nothing here"),
    ),
    examples=(
        Example("dt nt!_EPROCESS @$proc ImageFileName"),
        Example("dt nt!_KTHREAD -y Wait", "fields that begin with Wait"),
    ),
    plugin="type",
)
def display_type(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.type import TypeView, names_lines
    from volatility3_kdump.windows.typed_values import Options

    wanted = _parse(arguments)
    if not wanted.type_name:
        raise KdumpError("dt needs a type: dt nt!_EPROCESS")
    target = session.target
    name = wanted.type_name
    if any(character in name.rpartition("!")[2] for character in "*?[#") or name.endswith("!"):
        yield from names_lines(target, name)
        return
    members = _member_names(session, name)
    fields: list[str] = []
    rest: list[str] = []
    for word in wanted.words:
        first = word.split(".")[0]
        is_member = first in members or (wanted.prefix and any(member.startswith(first) for member in members))
        (fields if is_member or (len(word) > 1 and "*" in word) else rest).append(word)
    at = session.evaluate(" ".join(rest)) if rest else None
    options = Options(tuple(fields), wanted.prefix, wanted.depth, wanted.blocks, wanted.elements)
    memory = session.current.memory
    yield from TypeView(target, name, at, options, memory, wanted.link, wanted.offsets, wanted.verbose).lines()


def _member_names(session: Session, name: str) -> set[str]:
    from volatility3_kdump.views.type import split_name, types_of

    module, type_name = split_name(session.target, name)
    table = types_of(session.target, module)
    description = table.describe(table.find(type_name) or "")
    return {member.name for member in description.members} if description is not None else set()


def _parse(arguments: Arguments) -> _Wanted:
    wanted = _Wanted()
    operands = iter(arguments.text.split())
    for word in operands:
        match = _OPTION.fullmatch(word)
        if match is None:
            if word.startswith("/") or re.match(r"-[A-Za-z]{2}", word):
                raise arguments.unknown(word)
            if wanted.type_name:
                wanted.words.append(word)
            else:
                wanted.type_name = word
            continue
        letter, number = match[1], int(match[2][:4]) if match[2] else None
        if letter == "r":
            wanted.depth = _DEPTH if number is None else number
        elif letter == "a":
            wanted.elements = _ELEMENTS if number is None else number
        elif letter == "b":
            wanted.blocks = True
        elif letter == "y":
            wanted.prefix = True
        elif letter == "o":
            wanted.offsets = False
        elif letter == "v":
            wanted.verbose = True
        elif letter == "l":
            wanted.link = next(operands, None)
            if wanted.link is None:
                raise KdumpError("dt -l needs a field")
        elif letter not in "ei":
            raise arguments.unknown(word)
    return wanted
