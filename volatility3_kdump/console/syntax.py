"""What a command takes, declared once: options, arguments, the bits of its flags, examples.

``.help`` shows it, and the arguments are read by it: nothing that a user typed is dropped in silence. A command whose
grammar is its own (``k``, ``dt``, ``s``) declares it all the same, and refuses what it does not know by
:meth:`Syntax.unknown`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from volatility3_kdump.errors import KdumpError

_WORD = re.compile(r'"([^"]*)"?|([^\s"]+)')
#: What makes one expression of two words: an operator at the end of the first or at the begin of the second.
_GOES_ON = re.compile(r"([-+*/&|^<>=(,%]|\b(and|or|xor|not|by|wo|dwo|qwo|poi|low|hi))$", re.IGNORECASE)
_CONTINUES = re.compile(r"^(\+|[-*/&|^<>=,%]+([0-9(@$]|$)|\)|(and|or|xor)$)", re.IGNORECASE)
_OPTION = re.compile(r"^[-/][A-Za-z?]")
_SIMPLE_OPTION = re.compile(r"^[-/][A-Za-z?]\w*$")
_MINUS_ONE = (1 << 64) - 1
_LONGEST = 40


class Kind(enum.Enum):
    """How an argument is read: as a ``NUMBER`` (an expression; -1 is all ones), as ``FLAGS`` (a number whose bits are
    declared), as a ``WORD``, as a ``FILE`` (``/tmp/a.log`` is no option, ``/nosuch`` is), or as ``TEXT``: all that
    follows, as it was typed."""

    NUMBER = enum.auto()
    FLAGS = enum.auto()
    WORD = enum.auto()
    FILE = enum.auto()
    TEXT = enum.auto()


@dataclass(frozen=True)
class Bit:
    """A bit of a flags word. ``note`` says why it does nothing here, and is shown when it is asked for."""

    value: int
    help: str
    note: str = ""


@dataclass(frozen=True)
class Option:
    """An option by its names. ``value`` names what follows it, in the next word or, where the name ends with ``:`` or
    ``glued`` is set, in the same. ``note`` is shown where it does nothing here; ``refused`` is why it cannot be."""

    names: str
    help: str
    value: str = ""
    glued: bool = False
    note: str = ""
    refused: str = ""

    @property
    def spellings(self) -> list[str]:
        """Every name of it."""
        return self.names.split()

    @property
    def key(self) -> str:
        """The name that the command knows it by."""
        return self.spellings[0]

    @property
    def usage(self) -> str:
        """``-t COUNT``: as it is typed."""
        if not self.value:
            return self.key
        return f"{self.key}{'' if self.glued or self.key.endswith(':') else ' '}{self.value}"


@dataclass(frozen=True)
class Argument:
    """An argument by its place. ``bits`` are those of :attr:`Kind.FLAGS`."""

    name: str
    help: str
    kind: Kind = Kind.NUMBER
    required: bool = False
    bits: tuple[Bit, ...] = ()

    @property
    def known_bits(self) -> int:
        """All declared bits."""
        mask = 0
        for bit in self.bits:
            mask |= bit.value
        return mask


def number(name: str, help: str, required: bool = False) -> Argument:
    """An argument that is an expression."""
    return Argument(name, help, Kind.NUMBER, required)


def word(name: str, help: str, required: bool = False) -> Argument:
    """An argument that is a word, or several in double quotes."""
    return Argument(name, help, Kind.WORD, required)


def file(name: str, help: str, required: bool = False) -> Argument:
    """An argument that is a path."""
    return Argument(name, help, Kind.FILE, required)


def rest(name: str, help: str, required: bool = False) -> Argument:
    """The last argument: all of the rest."""
    return Argument(name, help, Kind.TEXT, required)


def flags(*bits: Bit, name: str = "FLAGS", help: str = "the sum of") -> Argument:
    """A number that is a sum of bits."""
    return Argument(name, help, Kind.FLAGS, False, bits)


@dataclass(frozen=True)
class Example:
    """A line as it is typed, and what it shows."""

    line: str
    help: str = ""


@dataclass
class Given:
    """What was typed: values of options by their first name (``""`` for those without one), arguments by name."""

    options: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Syntax:
    """Options, arguments and examples of a command. ``own`` says that the command reads its text itself; ``written``
    is the usage line where it says more than what is made of options and arguments."""

    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    examples: tuple[Example, ...] = ()
    own: bool = False
    written: str = ""

    @property
    def usage(self) -> str:
        """What follows the command's name: ``[-v] ADDRESS [FLAGS]``."""
        if self.written:
            return self.written
        parts = [f"[{option.usage}]" for option in self.options if not option.refused and not option.note]
        # All that stand behind an argument that may be left out are inside its brackets.
        closing = 0
        for argument in self.arguments:
            closing += not argument.required
            parts.append(argument.name if argument.required else f"[{argument.name}")
        return " ".join(parts) + "]" * closing

    @property
    def takes(self) -> str:
        """``[-v] ADDRESS [FLAGS]``, or that it takes nothing."""
        return f"takes {self.usage}" if self.usage else "takes no arguments"

    def unknown(self, command: str, typed: str) -> KdumpError:
        """The error for an option or argument that the command does not know."""
        shown = typed if len(typed) <= _LONGEST else f"{typed[:_LONGEST]}..."
        what = "option" if _OPTION.match(typed) else "argument"
        return KdumpError(f"{command} knows no {what} {shown}: it {self.takes} (.help {command})")

    def refuse_unknown(self, command: str, typed: str) -> None:
        """Raise :class:`KdumpError` where a text begins with a slash and a letter that begin no option.

        No expression begins so: it can be said of every command whose text is its own.
        """
        if typed.startswith("/") and not any(
            typed.startswith(name) for option in self.options for name in option.spellings
        ):
            raise self.unknown(command, typed.split(maxsplit=1)[0])

    def read(self, command: str, typed: str, evaluate: Callable[[str], int]) -> Given:
        """Read what was typed behind a command. Raises :class:`KdumpError` for what it does not take."""
        given = Given()
        left = list(self.arguments)
        position = 0
        while (token := _next(typed, position)) is not None:
            typed_word, quoted, start, position = token
            option, value = (None, "") if quoted else self._option(typed_word)
            if option is not None:
                if option.value and not value and not option.glued:
                    value, position = self._value(command, option, typed, position)
                self._accept(command, option, value, given, typed_word)
                continue
            cluster = [] if quoted else self._cluster(typed_word)
            for option in cluster:
                self._accept(command, option, "", given, "")
            if cluster:
                continue
            if not left or (not quoted and _is_option(typed_word, left[0].kind)):
                raise self.unknown(command, typed_word)
            argument = left.pop(0)
            if argument.kind is Kind.TEXT:
                given.words[argument.name] = typed[start:].strip()
                break
            if argument.kind in (Kind.NUMBER, Kind.FLAGS) and not quoted:
                # What continues the expression belongs to it.
                position = _end_of_expression(typed, position)
                typed_word = typed[start:position].strip()
            given.words[argument.name] = typed_word
        missing = next((argument for argument in left if argument.required and argument.name not in given.words), None)
        if missing is not None:
            raise KdumpError(f"{command} needs {missing.name}, {missing.help}: it {self.takes} (.help {command})")
        for argument in self.arguments:
            if argument.name in given.words and argument.kind in (Kind.NUMBER, Kind.FLAGS):
                value_text = given.words[argument.name]
                given.numbers[argument.name] = _MINUS_ONE if value_text == "-1" else evaluate(value_text)
                if argument.kind is Kind.FLAGS:
                    given.notes += self._flags(command, argument, given.numbers[argument.name])
        return given

    def _option(self, typed_word: str) -> tuple[Option | None, str]:
        for fold in (False, True):
            compared = typed_word.lower() if fold else typed_word
            for option in self.options:
                for name in option.spellings:
                    wanted = name.lower() if fold else name
                    if compared == wanted and not name.endswith(":"):
                        return option, ""
                    if option.value and (name.endswith(":") or option.glued) and compared.startswith(wanted):
                        return option, typed_word[len(name) :]
        return None, ""

    def _cluster(self, typed_word: str) -> list[Option]:
        """The options of letters behind one dash: ``-it``."""
        if not re.fullmatch(r"[-/][A-Za-z]{2,8}", typed_word):
            return []
        options = [self._option(typed_word[0] + letter)[0] for letter in typed_word[1:]]
        plain = [option for option in options if option is not None and not option.value]
        return plain if len(plain) == len(typed_word) - 1 else []

    @staticmethod
    def _value(command: str, option: Option, typed: str, position: int) -> tuple[str, int]:
        token = _next(typed, position)
        if token is None:
            raise KdumpError(f"{command} {option.key} needs {option.value}: {option.help}")
        return token[0], token[3]

    @staticmethod
    def _accept(command: str, option: Option, value: str, given: Given, typed_word: str) -> None:
        shown = typed_word if typed_word in option.spellings else option.key
        if option.refused:
            raise KdumpError(f"{command} {shown}: {option.refused}")
        if option.note:
            given.notes.append(f"NOTE: {command} {shown}: {option.note}")
        given.options[option.key] = value

    def _flags(self, command: str, argument: Argument, value: int) -> Iterator[str]:
        """Notes on bits that do nothing. Raises :class:`KdumpError` for those that are not declared."""
        unknown = value & ~argument.known_bits
        if unknown and value != _MINUS_ONE:
            flags = ", ".join(f"{bit.value:x} {bit.help}" for bit in argument.bits)
            raise KdumpError(f"{command} knows no flag {unknown:x}: {argument.name} is the sum of {flags}")
        for bit in argument.bits:
            if bit.note and value & bit.value and value != _MINUS_ONE:
                yield f"NOTE: {command} flag {bit.value:x}: {bit.note}"


def _is_option(typed_word: str, kind: Kind) -> bool:
    """Whether a word is an option where an argument of this kind could stand."""
    if kind is Kind.TEXT:
        return False
    return bool((_SIMPLE_OPTION if kind is Kind.FILE else _OPTION).match(typed_word))


def _next(typed: str, position: int) -> tuple[str, bool, int, int] | None:
    """(word, whether it was quoted, where it begins, where it ends)."""
    match = _WORD.search(typed, position)
    if match is None:
        return None
    quoted = typed[match.start()] == '"'
    return (match[1] if quoted else match[2]), quoted, match.start(), match.end()


def _end_of_expression(typed: str, position: int) -> int:
    """Where an expression ends that a word ended at ``position`` of."""
    while True:
        token = _WORD.search(typed, position)
        if token is None:
            return position
        before = typed[:position]
        open_brackets = before.count("(") > before.count(")")
        if not (open_brackets or _GOES_ON.search(before) or _CONTINUES.match(token[0])):
            return position
        # A number below zero behind a complete expression is an argument of its own, as in "0 -1".
        if token[0].startswith("-") and len(token[0]) > 1 and not open_brackets and not _GOES_ON.search(before):
            return position
        position = token.end()


NOTHING = Syntax()


def joined(parts: Sequence[str]) -> str:
    """``-a, -b or -c``: for sentences."""
    return " or ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
