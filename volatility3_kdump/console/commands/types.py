"""``dt``: types, and memory seen through them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command, registry
from volatility3_kdump.console.commands.evaluate import cpp_names
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option
from volatility3_kdump.console.usage import described
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.listing.places import variable_at

if TYPE_CHECKING:
    from volatility3_kdump.expressions.cpp_values import CppValue
    from volatility3_kdump.memory import Memory
    from volatility3_kdump.symbols.types import TypeDescription

_OPTIONS = re.compile(r"-(?:[A-Za-z]\d*)+$")
_LETTER = re.compile(r"([A-Za-z])(\d*)")
_KNOWN = "abcdehilnoprstvy"
#: What ``-r`` means without a number; ``-a`` means all.
_DEPTH, _ELEMENTS = 10, 4096
_WILD = "*?[#"
_FIELD = re.compile(r"[A-Za-z_]\w*(\[\d+\])?\.*(\.[A-Za-z_]\w*(\[\d+\])?)*\.*$")
#: What no name of a type has, but expressions have.
_EXPRESSION = re.compile(r"[@()+*/\[\]]")
#: Words of expressions that are no fields.
_OPERATORS = frozenset({"and", "or", "xor", "not", "mod", "shl", "shr", "hi", "low", "by", "wo", "dwo", "qwo", "poi"})


@dataclass
class _Wanted:
    """The arguments of ``dt``: the type, fields, and what else is no option, which is the address."""

    type_name: str = ""
    words: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    letters: str = ""
    depth: int = 0
    elements: int = 0
    link: str | None = None
    size: str | None = None

    @property
    def wild(self) -> bool:
        """Whether types are asked for by a pattern."""
        name = self.type_name.rpartition("!")[2]
        return not name or any(character in name for character in _WILD)


@command(
    "dt",
    help="a type, a variable, or memory as a type",
    usage="[-OPTIONS] [MODULE!]NAME [FIELDS] [ADDRESS] [-l FIELD]",
    own=True,
    options=(
        Option("-r", "types inside of it, N levels deep", value="N", glued=True),
        Option("-b", "blocks: types inside of it that stand in it"),
        Option("-a", "elements of arrays, N of them or all", value="N", glued=True),
        Option("-c", "on one line"),
        Option("-d", "each type that fits a pattern, with its fields"),
        Option("-i", "without indents"),
        Option("-l", "each element of a list that FIELD links", value="FIELD"),
        Option("-n", "NAME is a name, even if it could be a number", value="NAME"),
        Option("-o", "without offsets"),
        Option("-p", "ADDRESS is a physical address"),
        Option("-s", "types of SIZE bytes alone, where NAME is a pattern", value="SIZE"),
        Option("-v", "sizes too"),
        Option("-y", "FIELDS are beginnings of names"),
        Option("-h", "this help"),
        Option("-e -t", "accepted, as in KD: a pattern lists types, never variables"),
    ),
    examples=(
        Example("dt nt!_EPROCESS @$proc ImageFileName"),
        Example("dt nt!_KTHREAD @$thread WaitBlock[0].", "the first element, with its fields"),
        Example("dt nt!_KTHREAD -y Wait", "fields that begin with Wait"),
        Example("dt -ca4 ULONG @rsp", "four numbers"),
    ),
    plugin="type",
)
def display_type(session: Session, arguments: Arguments) -> Iterator[str]:
    wanted = _parse(arguments)
    if "h" in wanted.letters:
        yield from described(registry()["dt"])
        return
    if not wanted.type_name:
        raise KdumpError("dt needs a type: dt nt!_EPROCESS")
    if wanted.type_name == ".":
        if session.state.type_name is None:
            raise KdumpError("dt . repeats the last type: there is none yet")
        wanted.type_name = session.state.type_name
        yield f"Using sym {wanted.type_name.rpartition('!')[2]}"
    if wanted.wild:
        yield from _matching(session, wanted)
        return
    description = _description(session, wanted.type_name)
    if description is None:
        variable = _swapped(session, wanted) or _variable(session, wanted)
        if variable is not None and (wanted.words or wanted.letters):
            _as_structure(session, wanted, variable)
        elif variable is not None:
            from volatility3_kdump.views.type import variable_lines

            yield from variable_lines(variable, session.seen.memory.pointer_size)
            return
        description = _description(session, wanted.type_name)
    session.state.type_name = wanted.type_name
    yield from _shown(session, wanted, description)


def _shown(session: Session, wanted: _Wanted, description: TypeDescription | None) -> Iterator[str]:
    from volatility3_kdump.views.type import TypeView
    from volatility3_kdump.windows.typed_values import Options

    fields, rest, unknown = _sorted(session, wanted, description)
    at = session.evaluate(" ".join(rest)) if rest else None
    memory: Memory = session.seen.physical_memory if "p" in wanted.letters else session.current.memory
    if description is not None and description.kind in ("base", "enum") and wanted.elements and at is not None:
        yield from _array(session, wanted, memory, at)
        return
    if unknown and not fields:
        raise KdumpError(f"Cannot find specified field members: {wanted.type_name} has no field {unknown[0]}")
    letters = wanted.letters
    options = Options(tuple(fields), "y" in letters, wanted.depth, "b" in letters, wanted.elements)
    view = TypeView(
        session.seen, wanted.type_name, at, options, memory, wanted.link, "o" not in letters, "v" in letters
    )
    lines = view.lines()
    if "c" in letters:
        yield " ".join(line.strip() for line in lines)
    elif "i" in letters:
        yield from (f"   {line.lstrip()}" for line in lines)
    else:
        yield from lines
    for name in unknown:
        yield f"Cannot find specified field members: {wanted.type_name} has no field {name}"


def _array(session: Session, wanted: _Wanted, memory: Memory, at: int) -> Iterator[str]:
    """``-a10 ULONG ADDRESS``: an array of numbers."""
    from volatility3_kdump.views.type import TypeView

    first = TypeView(session.seen, wanted.type_name, at, None, memory)
    for index in range(wanted.elements):
        place = (at + index * first.description.size) % (1 << 64)
        line = next(TypeView(session.seen, wanted.type_name, place, None, memory).lines())
        yield f"[{index}] {line}"
        if line == "??" and wanted.elements == _ELEMENTS:
            return


def _matching(session: Session, wanted: _Wanted) -> Iterator[str]:
    """The types that fit a pattern: names, sizes, or all of them with their fields."""
    from volatility3_kdump.expressions.type_names import sized_names
    from volatility3_kdump.views.type import TypeView, names_lines

    name, target = wanted.type_name, session.seen
    size = None if wanted.size is None else session.calculate(wanted.size)
    if "d" in wanted.letters:
        for type_name, _ in sized_names(target, name, size):
            yield from TypeView(target, type_name, None, None, None, verbose=True).lines()
        return
    if next(sized_names(target, name, size), None) is None:
        of_size = "" if size is None else f" of {size:#x} bytes"
        raise KdumpError(f"no type{of_size} fits {name}: x {name} lists functions and variables")
    if size is None and "v" not in wanted.letters:
        yield from names_lines(target, name)
        return
    yield f"Enumerating symbols matching {name}{'' if size is None else f', Size = {size:#x}'}"
    yield "Address   Size Symbol"
    for type_name, bytes_ in sized_names(target, name, size):
        yield f"           {bytes_:03x} {type_name}"


def _sorted(
    session: Session, wanted: _Wanted, description: TypeDescription | None
) -> tuple[list[str], list[str], list[str]]:
    """(fields, words of the address, names that are neither) of what stands behind the type."""
    members = {member.name.lower() for member in description.members} if description is not None else set()
    prefix = "y" in wanted.letters
    fields: list[str] = []
    rest: list[str] = []
    unknown: list[str] = []
    for word in wanted.words:
        first = re.split(r"[.\[]", word)[0].lower()
        is_member = first in members or (prefix and any(member.startswith(first) for member in members))
        if is_member or (len(word) > 1 and "*" in word) or word in wanted.named:
            fields.append(word)
        elif members and _FIELD.match(word) and word.lower() not in _OPERATORS and not _has_value(session, word):
            unknown.append(word)
        else:
            rest.append(word)
    return fields, rest, unknown


def _has_value(session: Session, word: str) -> bool:
    try:
        session.evaluate(word)
    except KdumpError:
        return False
    return True


def _swapped(session: Session, wanted: _Wanted) -> CppValue | None:
    """``dt ADDRESS TYPE``: put the type first where it stands second."""
    for word in wanted.words:
        if (
            not word.startswith("@")
            and _description(session, word) is not None
            and _has_value(session, wanted.type_name)
        ):
            wanted.words[wanted.words.index(word)] = wanted.type_name
            wanted.type_name = word
            break
    return None


def _variable(session: Session, wanted: _Wanted) -> CppValue | None:
    """``dt nt!PsActiveProcessHead``, ``dt ADDRESS``: a variable by its name or its address; ``None`` for no such."""
    if _description(session, wanted.type_name) is not None:
        return None
    try:
        at = session.evaluate(wanted.type_name)
    except KdumpError:
        return None
    name = variable_at(session.seen, at)
    if name is None:
        if _FIELD.match(wanted.type_name) or "!" in wanted.type_name:
            return None
        raise KdumpError(f"{at:x} is no variable with a name: dt TYPE ADDRESS shows memory as a type")
    return cpp_names(session).symbol(name)


def _as_structure(session: Session, wanted: _Wanted, variable: CppValue) -> None:
    """``dt nt!Variable Field``: ask for the structure that a variable is or points to."""
    from volatility3_kdump.expressions.cpp_values import pointee

    structure = pointee(variable) if variable.type.kind == "pointer" else variable
    if structure.type.kind not in ("struct", "union") or not structure.address:
        raise KdumpError("no structure is known for it: dt TYPE ADDRESS shows it as one")
    module = wanted.type_name.rpartition("!")[0] or "nt"
    wanted.type_name = f"{module}!{structure.type.name}"
    wanted.words.append(f"0x{structure.address:x}")


def _description(session: Session, name: str) -> TypeDescription | None:
    from volatility3_kdump.expressions.cpp_names import header_base
    from volatility3_kdump.expressions.type_names import split_name, types_of

    if _EXPRESSION.search(name):
        return None
    module, type_name = split_name(session.seen, name)
    table = types_of(session.seen, module)
    base = header_base(type_name, session.seen.memory.pointer_size)
    return table.describe(table.find(type_name) or table.find(base or "") or "")


def _parse(arguments: Arguments) -> _Wanted:
    wanted = _Wanted()
    operands = iter(arguments.text.split())
    for word in operands:
        if not _OPTIONS.match(word):
            if word.startswith("/"):
                raise arguments.unknown(word)
            if wanted.type_name:
                wanted.words.append(word)
            else:
                wanted.type_name = word
            continue
        for letter, number in _LETTER.findall(word):
            if letter not in _KNOWN:
                raise arguments.unknown(word)
            wanted.letters += letter
            if letter == "r":
                wanted.depth = int(number[:4]) if number else _DEPTH
            elif letter == "a":
                wanted.elements = min(int(number[:6]), _ELEMENTS) if number else _ELEMENTS
            elif letter in "lsn":
                value = number if letter == "s" and number else next(operands, None)
                if value is None:
                    raise KdumpError(f"dt -{letter} needs {({'l': 'a field', 's': 'a size', 'n': 'a name'})[letter]}")
                if letter == "l":
                    wanted.link = value
                elif letter == "s":
                    wanted.size = value
                elif wanted.type_name:
                    wanted.words.append(value)
                    wanted.named.add(value)
                else:
                    wanted.type_name = value
    return wanted
