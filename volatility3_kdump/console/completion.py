"""What Tab offers: commands, modules, symbols, types, fields, names of objects, files.

Nothing here fails: what cannot be read has no completions. Names of the dump are escaped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from volatility3_kdump.console.commands import registry
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable

_MOST = 200
_LAST_WORD = re.compile(r"[^\s;=(),+\[\]\"*/-]*$")
_FIRST_WORD = re.compile(r"(?:^|;)\s*(\S*)$")
_COMMAND = re.compile(r"(?:^|;)\s*([^;]*)$")
_FILE = re.compile(
    r"(?:\.logopen|\.logappend|\.opendump|\.writemem|!kdump\.report)(?:\s+/\w+)*\s+(.*)|\$\$?(?:<|>a?<)\s*(.*)"
)
_TYPED = re.compile(r"(?:dtx?|!ddt|!mex\.ddt)\s+(?:-\w+\s+)*(?P<type>\S*)(?P<fields>\s+(?:.*\s)?(?P<field>\S*))?$")
_OBJECT = re.compile(r"(?:!object|!drvobj|!devobj|!devstack)\s+(\S*)$")

#: Where a completion begins, and what stands there then.
Candidate = tuple[int, str]


def candidates(session: Session, before: str) -> Iterator[Candidate]:
    """What may stand at the end of a text that is typed so far."""
    try:
        yield from _candidates(session, before)
    except KdumpError:
        return


def _candidates(session: Session, before: str) -> Iterator[Candidate]:
    command = _COMMAND.search(before)
    typed, begin = (command[1], command.start(1)) if command is not None else ("", 0)
    file = _FILE.match(typed)
    if file is not None:
        group = 1 if file[1] is not None else 2
        yield from _files(begin + file.start(group), file[group])
        return
    first = _FIRST_WORD.search(before)
    if first is not None:
        wanted = first[1].lower()
        names = sorted(name for name in registry() if name.lower().startswith(wanted))
        yield from ((first.start(1), name) for name in names)
    if not session.dumps:
        return
    object_ = _OBJECT.match(typed)
    if object_ is not None:
        yield from _objects(session, object_[0].startswith("!drv"), begin + object_.start(1), object_[1])
        return
    of_type = _TYPED.match(typed)
    if of_type is not None and of_type["fields"] is not None:
        yield from _fields(session, of_type["type"], begin + of_type.start("field"), of_type["field"])
        return
    yield from _symbols(session, before, first is not None, of_type is not None)


def _symbols(session: Session, before: str, is_command: bool, types_alone: bool) -> Iterator[Candidate]:
    """Modules, and behind ``!`` symbols and types; for commands that take a type, types."""
    last = _LAST_WORD.search(before)
    if last is None or (is_command and "!" not in last[0][1:]):
        return
    module, mark, symbol = last[0].partition("!")
    prefix = module.lstrip("@")
    target = session.seen
    if not mark:
        if prefix:
            modules = sorted(named_module.name for named_module in target.modules)
            yield from ((last.start(), printable(name)) for name in modules if name.lower().startswith(prefix.lower()))
        if types_alone and prefix:
            yield from _types(session, "nt", prefix, last.start())
        return
    begin = last.start() + len(module) + 1
    named_module = next((entry for entry in target.modules if entry.name.lower() == prefix.lower()), None)
    if named_module is None or not symbol:
        return
    if not types_alone:
        for name in target.names.starting_with(named_module, symbol, _MOST):
            yield begin, printable(name)
    yield from _types(session, named_module.name, symbol, begin)


def _types(session: Session, module: str, prefix: str, begin: int) -> Iterator[Candidate]:
    from volatility3_kdump.expressions.type_names import split_name, types_of

    table = types_of(session.seen, split_name(session.seen, f"{module}!")[0])
    for count, name in enumerate(table.names(f"{_literal(prefix)}*")):
        if count == _MOST:
            return
        yield begin, printable(name)


def _literal(prefix: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in prefix)


def _fields(session: Session, type_name: str, begin: int, typed: str) -> Iterator[Candidate]:
    """Fields of a type, and of the structures in it behind points."""
    from volatility3_kdump.expressions.type_names import split_name, types_of

    module, plain = split_name(session.seen, type_name)
    table = types_of(session.seen, module)
    described = table.describe(table.find(plain) or "")
    path, _, last = typed.rpartition(".")
    for part in path.split(".") if path else ():
        member = next((each for each in (described.members if described else ()) if each.name == part), None)
        described = table.describe(member.type.name or "") if member is not None else None
    for member in described.members if described is not None else ():
        if member.name.lower().startswith(last.lower()):
            yield begin + len(typed) - len(last), printable(member.name)


def _objects(session: Session, drivers: bool, begin: int, typed: str) -> Iterator[Candidate]:
    """Names in the directory that a path has come to; of drivers without a path those in ``\\Driver``."""
    from volatility3_kdump.windows.processes.namespace import read_directory

    path, mark, last = typed.rpartition("\\")
    if not mark and not (drivers and typed):
        return
    directory = read_directory(session.target, path or ("\\" if mark else "\\Driver"))
    names = sorted(named.name for named in directory.objects if named.name)
    matching = [name for name in names if name.lower().startswith(last.lower())]
    yield from ((begin + len(typed) - len(last), printable(name)) for name in matching[:_MOST])


def _files(begin: int, typed: str) -> Iterator[Candidate]:
    """Files and, with a slash behind them, directories."""
    directory, last = os.path.split(typed)
    try:
        with os.scandir(os.path.expanduser(directory) or ".") as entries:
            file_names = sorted(f"{entry.name}{'/' if entry.is_dir() else ''}" for entry in entries)
    except (OSError, ValueError):
        return
    matching = [name for name in file_names if name.startswith(last) and (last or not name.startswith("."))]
    yield from ((begin + len(typed) - len(last), printable(name)) for name in matching[:_MOST])
