"""The registry of the prompt's commands, and KD's grammar of command lines.

A command is a function of a :class:`Session` and its :class:`Arguments` that yields lines of text::

    @command(
        "!irql",
        help="IRQL before the bug check",
        arguments=(number("PROCESSOR", "a processor; that of the crash if it is left out"),),
        examples=(Example("!irql 1", "of processor 1"),),
    )
    def irql(session: Session, arguments: Arguments) -> Iterable[str]:
        return irql_lines(session.target, arguments.number("PROCESSOR"))

What it takes is declared in the words of :mod:`~volatility3_kdump.console.syntax`, and read by that declaration before
the function is called: an option or argument that is not declared is an error. A command with a grammar of its own is
declared ``own``, reads ``arguments.text``, and raises ``arguments.unknown(word)`` for what it does not know. A command
raises :class:`~volatility3_kdump.errors.KdumpError` with one line where it cannot answer. Whoever shows the lines
escapes them for the terminal. Modules of this package are imported by :func:`registry`; nothing else lists them.

Grammar: commands are separated as :mod:`~volatility3_kdump.console.script` says; behind ``.sympath`` and ``.exepath``
``;`` separates elements of a path where one follows. ``*`` comments out the rest of the line, ``$$`` up
to the next ``;``. A command whose name is made of letters may have its options glued to it (``kvn``, ``lmvm``), if it
is registered with ``glued``; names that begin with ``.`` or ``!`` end where a word ends, and the name of an extension
library may stand in front (``!kdext*.locks``); names made of other
characters (``~``, ``||``, ``?``) may be followed by anything (``~2s``).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from volatility3_kdump.console.kd_names import pointer
from volatility3_kdump.console.script import MARK, Again, Leave, Leaving, StepsSpent, split, unmarked, whole_lines
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Argument, Example, Given, Kind, Option, Syntax
from volatility3_kdump.console.usage import described
from volatility3_kdump.errors import KdumpError, ReadLimit

_WORD = re.compile(r'"([^"]*)"?|([^\s"]+)')
#: The name of the extension library in front of its command: ``!kdexts.locks``, ``!kdext*.locks``.
_EXTENSION = re.compile(r"^![\w*]+\.(?=\w)")
#: A command on another processor: ``1k``, ``2r`` ("Multiprocessor Syntax").
_ON_PROCESSOR = re.compile(r"^(\d{1,4})\s*((?:k[bcdfnpPvL]*|r[MXF.]?|dt)(?:\s.*)?)$", re.DOTALL)
#: ``dt_EPROCESS``: a type may be glued to its command.
_GLUED_TYPE = re.compile(r"^dt(?=_[A-Za-z])", re.IGNORECASE)
_NAME = re.compile(r"[.!]?[A-Za-z_][\w.]*|[^\w\s]+")


_NOTE = "NOTE: "
#: How deep blocks of commands and scripts may stand inside each other.
MOST_NESTED = 40
#: No more of a text that is no command is repeated.
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Arguments:
    """What follows a command's name: ``name`` is the one that was typed, as registered, ``text`` the rest, stripped.

    ``given`` is the text as the command's declaration reads it; empty where the command reads it itself.
    """

    name: str
    text: str
    given: Given = field(default_factory=Given)
    syntax: Syntax = field(default_factory=Syntax)

    @property
    def words(self) -> list[str]:
        """The text in words; double quotes keep one together and are taken off."""
        return [quoted or plain for quoted, plain in _WORD.findall(self.text)]

    def has(self, option: str) -> bool:
        """Whether an option was given."""
        return option in self.given.options

    def option(self, option: str) -> str | None:
        """The value of an option, ``None`` where it was not given."""
        return self.given.options.get(option)

    def word(self, argument: str) -> str | None:
        """An argument as it was typed, without its quotes; ``None`` where it was not."""
        return self.given.words.get(argument)

    def number(self, argument: str) -> int | None:
        """The value of an argument; ``None`` where it was not given."""
        return self.given.numbers.get(argument)

    def unknown(self, word: str) -> KdumpError:
        """The error for an option or argument that the command does not know."""
        return self.syntax.unknown(self.name, word)


Function = Callable[[Session, Arguments], Iterable[str]]


@dataclass(frozen=True)
class Command:
    """A command: its names, what it does in a few words (``help``), what it takes (``syntax``), the plugin whose values
    it shows (``plugin``), whether letters may be glued to its name, and whether ``.help`` leaves it out."""

    names: tuple[str, ...]
    function: Function
    help: str
    syntax: Syntax = field(default_factory=Syntax)
    plugin: str | None = None
    glued: bool = False
    hidden: bool = False


_COMMANDS: dict[str, Command] = {}


def command(
    *names: str,
    help: str,
    usage: str = "",
    options: tuple[Option, ...] = (),
    arguments: tuple[Argument, ...] = (),
    examples: tuple[Example, ...] = (),
    own: bool = False,
    plugin: str | None = None,
    glued: bool = False,
    hidden: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a command by these names. A name that is taken is a mistake: ``ValueError``.

    A ``usage`` without options and arguments is that of a command which reads its text itself.
    """
    syntax = Syntax(options, arguments, examples, own or bool(usage and not options and not arguments), usage)

    def register(function: Function) -> Function:
        entry = Command(names, function, help, syntax, plugin, glued, hidden)
        for name in names:
            if name in _COMMANDS and _COMMANDS[name].function.__qualname__ != function.__qualname__:
                raise ValueError(f"two commands are named {name}")
            _COMMANDS[name] = entry
        return function

    return register


def registry() -> dict[str, Command]:
    """Every command by each of its names."""
    _import_all()
    return _COMMANDS


@functools.cache
def _import_all() -> None:
    """Import the modules of commands, which register them; once, since programs run commands by the thousand."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


@functools.lru_cache(maxsize=2)
def _folded(names: tuple[str, ...]) -> tuple[dict[str, list[str]], int]:
    """Names by their lower-case form, in their order, and how long the longest is."""
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.lower(), []).append(name)
    return folded, max(map(len, folded), default=0)


def find(typed_line: str) -> tuple[Command, Arguments]:
    """The command that a text begins with: the longest name that fits. Raises :class:`KdumpError` for none."""
    commands = registry()
    typed_line = _ON_PROCESSOR.sub(r"~\1 \2", _GLUED_TYPE.sub("dt ", typed_line))
    plain = _EXTENSION.sub("!", typed_line)
    # A command may be registered with its library, where another has the name without it.
    for typed in dict.fromkeys((typed_line, plain)):
        for fold in (False, True):
            name = _longest(typed, commands, fold)
            if name is not None:
                entry = commands[name]
                return entry, Arguments(name, typed[len(name) :].strip(), syntax=entry.syntax)
    documented = pointer(typed_line)
    if documented is not None:
        raise KdumpError(f"{documented[0]} is not there: {documented[1]}")
    raise KdumpError(_unknown(plain, commands))


def _longest(text: str, commands: dict[str, Command], fold: bool) -> str | None:
    """The longest name, in the case that it is registered in, or in any (``fold``)."""
    names, longest = _folded(tuple(commands))
    given = text[:longest].lower()
    for length in range(len(given), 0, -1):
        for name in names.get(given[:length], ()):
            if (fold or text.startswith(name)) and _may_end(name, commands[name], text):
                return name
    return None


def _may_end(name: str, entry: Command, text: str) -> bool:
    following = text[len(name) : len(name) + 1]
    if not following or following.isspace() or not (name[-1].isalnum() or name[-1] == "_"):
        return True
    if following.isalnum() or following == "_":
        return entry.glued
    return name[0] not in ".!" or following not in ".:"


def _unknown(text: str, commands: dict[str, Command]) -> str:
    match = _NAME.match(text)
    name = match[0] if match else text.split(maxsplit=1)[0]
    if len(name) > _LONGEST_NAME:
        return f"{name[:_LONGEST_NAME]}...: no such command here; .help lists the commands"
    shown = [command_name for command_name, entry in commands.items() if not entry.hidden]
    near = difflib.get_close_matches(name.lower(), shown, 3, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else ".help lists the commands"
    return f"{name}: no such command here; {hint}"


def _told(session: Session, line: str) -> bool:
    """Whether a line is a note that repeats a warning from before the command."""
    return line.startswith(_NOTE) and bool(session.dumps) and line[len(_NOTE) :] in session.current.told


def _asked(session: Session) -> Iterator[str]:
    """``!sym noisy``: the places that were asked for symbols and images since the last command."""
    for dump in session.dumps if session.noisy else ():
        for attempt in dump.target.places.attempts[dump.heard :]:
            outcome = "OK" if attempt.found else attempt.outcome
            yield f"SYMSRV:  {attempt.place}: {attempt.name} {attempt.key} - {outcome}"
        dump.heard = len(dump.target.places.attempts)


#: What they take runs as commands, or is kept for such: what is of the dump stays marked in it.
_HOLD_COMMANDS = frozenset(
    {".if", ".for", ".while", ".do", ".foreach", ".block", ".catch", "j", "~", "~*", "!list", "as", "aS", "r"}
    | {f"!for_each_{each}" for each in ("process", "thread", "module", "frame", "register", "function")}
)


def _answer(session: Session, entry: Command, arguments: Arguments) -> Iterator[str]:
    """What one command says, after its arguments are read."""
    syntax = entry.syntax
    if arguments.name not in _HOLD_COMMANDS:
        arguments = replace(arguments, text=unmarked(arguments.text))
    of_extension = arguments.name.startswith("!")
    whole = not of_extension and syntax.arguments[:1] and syntax.arguments[0].kind is Kind.TEXT
    asked = arguments.text in ("-?", "/?") or (arguments.text == "-h" and of_extension)
    if asked and not whole:
        yield from described(entry)
        return
    if syntax.own:
        syntax.refuse_unknown(arguments.name, arguments.text)
    else:
        arguments = replace(arguments, given=syntax.read(arguments.name, arguments.text, session.evaluate))
    yield from arguments.given.notes
    yield from entry.function(session, arguments)


def execute(session: Session, line: str) -> Iterator[str]:
    """The text of every command of a line, line by line. A command that fails gives one line, and the next follow."""
    if not session.depth:
        session.steps = 0
    try:
        yield from whole_lines(run(session, line))
    except Leaving as leaving:
        yield f"{leaving.token}: there is nothing here that it could leave"
    except KdumpError as error:
        session.failed = True
        yield str(error)


def run(session: Session, typed_line: str) -> Iterator[str]:
    """The text of a block of commands, in lines and pieces of lines; its aliases are replaced first.

    Raises :class:`Leaving` where a command of it leaves the block.
    """
    if session.depth >= MOST_NESTED:
        raise StepsSpent(f"programs and scripts nest deeper than {MOST_NESTED}")
    session.depth += 1
    try:
        typed_line = session.aliases.expand(typed_line)
        repeat = True
        while repeat:
            repeat = False
            try:
                for command in split(typed_line):
                    yield from _run_one(session, command)
                    if session.finished:
                        return
            except Again:
                repeat = True
    finally:
        session.depth -= 1


def without_quotes(typed_commands: str) -> str:
    """Commands that quotes around all of them hold together; those of the commands themselves are theirs."""
    body = typed_commands.strip()
    if len(body) > 1 and body[0] == body[-1] == '"':
        return body[1:-1].replace('\\"', '"')
    return body


@contextmanager
def one_budget(session: Session) -> Iterator[None]:
    """What commands in here read is read by the one around them: how many they are is said by lists of the dump."""
    session.sharing += 1
    try:
        yield
    finally:
        session.sharing -= 1


@contextmanager
def looping(session: Session, name: str, most: int) -> Iterator[None]:
    """Where a loop runs commands, which may be such loops too, ``most`` deep. Raises :class:`KdumpError` below that."""
    session.loops += 1
    try:
        if session.loops > most:
            raise KdumpError(f"{name} inside of itself is too deep")
        with one_budget(session):
            yield
    finally:
        session.loops -= 1


def _run_one(session: Session, command: str) -> Iterator[str]:
    session.step()
    for dump in session.dumps:
        if not session.sharing:
            dump.target.memory.budget.begin()
        # What an earlier command found wrong is nothing that this one has to say.
        dump.told.update(dump.target.warnings)
    failed = False
    try:
        if command.startswith(MARK):
            raise KdumpError(f"{unmarked(command)}: a word of the dump is no command; put a command in front of it")
        if session.guard is not None:
            session.guard(unmarked(command))
        for shown in _answer(session, *find(command)):
            if not _told(session, shown):
                yield shown
    except StepsSpent:
        raise
    except (KdumpError, ReadLimit) as error:
        if session.sharing and isinstance(error, ReadLimit):
            raise
        failed = True
        yield unmarked(str(error))
    except (Leaving, RecursionError):
        raise
    except Exception as error:  # a mistake of ours ends the command, not the session
        failed = True
        if session.verbose:
            yield from traceback.format_exc().splitlines()
        yield f"This command failed by a mistake of kdump: {type(error).__name__}: {error}"
    session.failed = session.failed or failed
    yield from _asked(session)
    if failed and session.catching:
        raise Leave(".catch")
