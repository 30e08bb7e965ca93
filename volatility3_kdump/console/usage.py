"""What ``.help`` says: every command in a line, and one with its options, arguments and examples. 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Protocol

from volatility3_kdump.console.syntax import Syntax


class Described(Protocol):
    """What help needs to know of a command."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def help(self) -> str: ...
    @property
    def syntax(self) -> Syntax: ...
    @property
    def plugin(self) -> str | None: ...


WIDTH = 79
#: Where the words begin that say what a command does.
_COLUMN = 28


def _titled(title: str, explanation: str, column: int, indent: int = 0) -> Iterator[str]:
    """A title, and words in the column behind it, wrapped."""
    title = " " * indent + title
    lines = textwrap.wrap(explanation, WIDTH - column, break_long_words=False, break_on_hyphens=False) or [""]
    if len(title) + 1 < column:
        yield f"{title:<{column}}{lines.pop(0)}".rstrip()
    else:
        yield from textwrap.wrap(
            title, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4), break_long_words=False
        )
    yield from (f"{'':<{column}}{line}" for line in lines)


def listed(entries: Iterable[Described]) -> Iterator[str]:
    """Every command with what it does."""
    for entry in dict.fromkeys(sorted(entries, key=lambda entry: _sorting(entry.names[0]))):
        names = " ".join(entry.names)
        yield from _titled(names if len(names) < WIDTH else f"{entry.names[0]} ...", entry.help, _COLUMN)


def _sorting(name: str) -> tuple[int, str]:
    return (2 if name[0] == "!" else 1 if name[0] == "." else 0, name.lower())


def described(entry: Described) -> Iterator[str]:
    """One command: how it is typed, what each option and argument means, an example, where the values are in rows."""
    syntax = entry.syntax
    yield from textwrap.wrap(
        f"{' '.join(entry.names)} {syntax.usage}".rstrip(),
        WIDTH,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from textwrap.wrap(entry.help, WIDTH, initial_indent="    ", subsequent_indent="    ")
    yield from _parts(syntax)
    if syntax.examples:
        yield ""
        for example in syntax.examples:
            yield from _titled(example.line, example.help, 44, 4)
    if entry.plugin:
        yield ""
        yield f"    the same values in rows: vol -f DUMP kdump.{entry.plugin}"


def _parts(syntax: Syntax) -> Iterator[str]:
    if syntax.arguments or syntax.options:
        yield ""
    for argument in syntax.arguments:
        yield from _titled(argument.name, argument.help, 20, 4)
        for bit in argument.bits:
            help_text = f"{bit.help} ({bit.note})" if bit.note else bit.help
            yield from _titled(f"{bit.value:x}", help_text, 20, 8)
    for option in syntax.options:
        help_text = option.help
        if option.refused or option.note:
            help_text = f"{help_text} ({option.refused or option.note})"
        names = " ".join([*option.spellings[1:], option.usage]) if option.value else option.names
        yield from _titled(names, help_text, 20, 4)
