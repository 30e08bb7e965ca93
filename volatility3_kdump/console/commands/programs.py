"""Command programs: ``.if`` and its like, loops, ``.printf``, aliases, script files."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from volatility3_kdump.console import script
from volatility3_kdump.console.commands import Arguments, command, run
from volatility3_kdump.console.printf import Reading, printed, read_string
from volatility3_kdump.console.script import Again, Break, Continue, Leave, Partial
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, rest
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_first
from volatility3_kdump.files import FileFailure, read_bytes, read_lines
from volatility3_kdump.windows.listing.places import name_at
from volatility3_kdump.windows.memory.contents import why_no_string

_LONGEST_LINE, _LONGEST_SCRIPT = 1 << 16, 16 << 20
_SKIPS = re.compile(r"\s*/(pS|ps|s|f)\b\s*", re.ASCII)
_VARIABLE = re.compile(r"\s*([^\s{\"]+)\s*")
_FILE_COMMAND = re.compile(
    r"\.log(open|append)|\.opendump|\.writemem|!kdump\.report|\.dump|\$\$?(<|>a?<)", re.IGNORECASE
)
#: What separates words: other characters that are blank to Python may be part of a name.
_BLANK = re.compile(r"[ \t\r\n]+")
_PATH_CHARACTERS = re.compile(r"[/\\]")


def _argument(text: str, position: int, opener: str, usage: str) -> tuple[str, int]:
    block = script.part(text, position, opener)
    if block is None:
        raise KdumpError(f"the {opener} is missing: {usage}")
    return block


# blocks and conditions ------------------------------------------------------------------------------------------------


@command(
    ".if",
    help="commands under a condition",
    usage="(CONDITION) { COMMANDS } [.elsif (CONDITION) { COMMANDS }] [.else { COMMANDS }]",
    own=True,
    examples=(Example(".if (@$t0 > 5) { .echo more } .else { .echo less }"),),
)
def choose(session: Session, arguments: Arguments) -> Iterator[str]:
    program, usage, position = arguments.text, ".if (CONDITION) { COMMANDS }", 0
    while True:
        condition, position = _argument(program, position, "(", usage)
        block, position = _argument(program, position, "{", usage)
        if session.evaluate(condition):
            yield from run(session, block)
            return
        following = re.match(r"[\s;]*\.(elsif|else)\b", program[position:], re.IGNORECASE)
        if following is None:
            return
        position += following.end()
        if following[1].lower() == "else":
            block, position = _argument(program, position, "{", ".else { COMMANDS }")
            yield from run(session, block)
            return


@command(".elsif", ".else", help="stands behind .if", usage="{ COMMANDS }", own=True, hidden=True)
def stray_branch(session: Session, arguments: Arguments) -> Iterable[str]:
    raise KdumpError(f"{arguments.name} stands behind the block of an .if")


@command(
    "j",
    help="one of two commands, by a condition",
    usage="EXPRESSION ['COMMANDS'] ; ['COMMANDS']",
    own=True,
    examples=(Example("j (@$t0 > 5) '.echo more' ; '.echo less'"),),
)
def choose_one(session: Session, arguments: Arguments) -> Iterator[str]:
    typed = arguments.text
    # A blank for each mark: the commands have theirs still.
    value, commands = parse_first(typed.replace(script.MARK, " "), session.names, session.state.radix)
    begin = len(typed) - len(commands)
    # The blanks behind the expression belong to it.
    begin = len(typed[:begin].rstrip(f" \t{script.MARK}"))
    first, second = _two(typed[begin:].strip())
    yield from run(session, first if value else second)


def _two(operands: str) -> tuple[str, str]:
    """The two commands of ``j``: each in single quotes, or up to the semicolon."""
    if operands.startswith("'"):
        first, _, operands = operands[1:].partition("'")
        operands = operands.lstrip().removeprefix(";")
    else:
        first, _, operands = operands.partition(";")
    second = operands.strip()
    return first, second[1:].partition("'")[0] if second.startswith("'") else second


@command(
    ".block",
    help="commands as a block of their own, whose aliases are replaced when it begins",
    usage="{ COMMANDS }",
    own=True,
    examples=(Example("aS /x five 2+3; .block { .echo five }"),),
)
def block_of_commands(session: Session, arguments: Arguments) -> Iterator[str]:
    yield from run(session, _argument(arguments.text, 0, "{", ".block { COMMANDS }")[0])


@command(
    ".catch",
    help="commands as a block that ends with the first command that fails, or with .leave",
    usage="{ COMMANDS }",
    own=True,
    examples=(Example(".catch { dd 0; .echo not reached }"),),
)
def caught(session: Session, arguments: Arguments) -> Iterator[str]:
    block = _argument(arguments.text, 0, "{", ".catch { COMMANDS }")[0]
    failed = session.failed
    session.catching += 1
    try:
        yield from run(session, block)
    except Leave:
        session.failed = failed
    finally:
        session.catching -= 1


_LEAVING = {".break": Break, ".continue": Continue, ".leave": Leave}


@command(*_LEAVING, help="leaves a loop, goes on with its next round, leaves a .catch block")
def leave_block(session: Session, arguments: Arguments) -> Iterable[str]:
    raise _LEAVING[arguments.name](arguments.name)


# loops ----------------------------------------------------------------------------------------------------------------


def _round(session: Session, block: str) -> Iterator[str]:
    """One round of a loop; ``.continue`` ends it."""
    session.step()
    try:
        yield from run(session, block)
    except Continue:
        return


@command(
    ".for",
    help="a loop with a beginning, a condition and a step",
    usage="(COMMAND ; CONDITION ; COMMANDS) { COMMANDS }",
    own=True,
    examples=(Example('.for (r $t0=0; @$t0 < 5; r $t0=@$t0+1) { .printf "%d\\n", @$t0 }'),),
)
def counted(session: Session, arguments: Arguments) -> Iterator[str]:
    usage = ".for (COMMAND ; CONDITION ; COMMANDS) { COMMANDS }"
    head, position = _argument(arguments.text, 0, "(", usage)
    block, _ = _argument(arguments.text, position, "{", usage)
    begin, *others = script.split_outside(head, ";")
    if len(others) < 2:
        raise KdumpError(f"a semicolon is missing: {usage}")
    condition, steps = others[0], "; ".join(others[1:])
    yield from run(session, begin)
    try:
        while not condition or session.evaluate(condition):
            yield from _round(session, block)
            yield from run(session, steps)
    except Break:
        return


@command(
    ".while",
    help="a loop while a condition holds",
    usage="(CONDITION) { COMMANDS }",
    own=True,
    examples=(Example(".while (@$t0 < 5) { r $t0=@$t0+1 }"),),
)
def while_it_holds(session: Session, arguments: Arguments) -> Iterator[str]:
    condition, position = _argument(arguments.text, 0, "(", ".while (CONDITION) { COMMANDS }")
    block, _ = _argument(arguments.text, position, "{", ".while (CONDITION) { COMMANDS }")
    try:
        while session.evaluate(condition):
            yield from _round(session, block)
    except Break:
        return


@command(
    ".do",
    help="a loop that runs once at least",
    usage="{ COMMANDS } (CONDITION)",
    own=True,
    examples=(Example(".do { r $t0=@$t0+1 } (@$t0 < 5)"),),
)
def do_while(session: Session, arguments: Arguments) -> Iterator[str]:
    block, position = _argument(arguments.text, 0, "{", ".do { COMMANDS } (CONDITION)")
    condition, _ = _argument(arguments.text, position, "(", ".do { COMMANDS } (CONDITION)")
    try:
        while True:
            yield from _round(session, block)
            if not session.evaluate(condition):
                return
    except Break:
        return


@command(
    "z",
    help="the commands of this line once more, while a condition holds",
    usage="(CONDITION)",
    own=True,
    examples=(Example("r $t0=@$t0+1; z (@$t0 < 5)"),),
)
def while_true(session: Session, arguments: Arguments) -> Iterator[str]:
    if session.evaluate(arguments.text):
        session.step()
        raise Again("z")
    yield from ()


@command(
    ".foreach",
    help="commands for each word of what other commands, a text or a file say",
    usage='[/pS N] [/ps N] [/s | /f] (VARIABLE { COMMANDS } | "TEXT") { COMMANDS }',
    own=True,
    options=(
        Option("/pS", "words that are left out at the beginning", value="N"),
        Option("/ps", "words that are left out behind each", value="N"),
        Option("/s", "the words of a text in double quotes"),
        Option("/f", "the words of a file in double quotes"),
    ),
    examples=(
        Example(".foreach (module { lm 1m }) { .echo module }"),
        Example('.foreach /s (place "rip rsp") { ? ${place} }', "words of a text"),
    ),
)
def for_each(session: Session, arguments: Arguments) -> Iterator[str]:
    program, position = arguments.text, 0
    skips = {"pS": 0, "ps": 0}
    source = ""
    while (option := _SKIPS.match(program, position)) is not None:
        position = option.end()
        if option[1] in skips:
            number = re.compile(r"[^\s(]+\s*").match(program, position)
            if number is None:
                raise KdumpError(f".foreach /{option[1]} needs the number of words that are left out")
            skips[option[1]], position = session.evaluate(number[0]), number.end()
        else:
            source = option[1]
    if program[position : position + 1] == "/":
        raise arguments.unknown(program[position:].split(maxsplit=1)[0])
    usage = ".foreach (VARIABLE { COMMANDS }) { COMMANDS }"
    head, position = _argument(program, position, "(", usage)
    block, _ = _argument(program, position, "{", usage)
    variable = _VARIABLE.match(head)
    if variable is None:
        raise KdumpError(f"the variable is missing: {usage}")
    left_out = skips["pS"]
    try:
        with _closing(_words(session, source, head[variable.end() :], usage)) as tokens:
            for token in tokens:
                if left_out:
                    left_out -= 1
                    continue
                left_out = skips["ps"]
                yield from _round(session, script.with_token(block, variable[1], _safe(token, source, block)))
    except Break:
        return


@contextmanager
def _closing(tokens: Iterator[str]) -> Iterator[Iterator[str]]:
    try:
        yield tokens
    finally:
        close = getattr(tokens, "close", None)
        if close is not None:
            close()


def _safe(token: str, source: str, block: str) -> str:
    """A word as part of commands. Those that a dump gave become neither commands nor paths."""
    if source:
        return token
    token = script.marked(token)
    return _PATH_CHARACTERS.sub("_", token) if _FILE_COMMAND.search(block) else token


def _words(session: Session, source: str, text: str, usage: str) -> Iterator[str]:
    if source:
        quoted = re.fullmatch(r'\s*"([^"]*)"\s*', text)
        if quoted is None:
            raise KdumpError(
                f'.foreach /{source} takes a text in double quotes: .foreach /{source} (VARIABLE "TEXT") {{}}'
            )
        if source == "s":
            yield from _BLANK.split(quoted[1].strip(" \t\r\n"))
            return
        for line in _lines_of(script.unmarked(quoted[1])):
            yield from filter(None, _BLANK.split(line))
        return
    commands, _ = _argument(text, 0, "{", usage)
    for line in script.whole_lines(run(session, commands)):
        yield from filter(None, _BLANK.split(line))


def _lines_of(path: str) -> Iterator[str]:
    try:
        yield from read_lines(os.path.expanduser(path), _LONGEST_LINE, _LONGEST_SCRIPT)
    except FileFailure as failure:
        raise KdumpError(f"{path}: the file {failure}") from failure


# text -----------------------------------------------------------------------------------------------------------------


@command(
    ".printf",
    help="text by a format as in C, without an end of line",
    usage='[/D] "FORMAT" [, VALUE]...',
    own=True,
    options=(
        Option("/D", "with links in KD: they are shown as they stand"),
        Option("/o", "colours in KD; they change nothing here", value="d|D|e|n|p|P|s|v|w", glued=True),
    ),
    examples=(
        Example('.printf "%p is %y\\n", @rip, @rip', "an address and its symbol"),
        Example('.printf "%mu\\n", ADDRESS', "UTF-16; %ma 8-bit, %msu UNICODE_STRING"),
    ),
)
def print_formatted(session: Session, arguments: Arguments) -> Iterator[str]:
    operands = re.sub(r"^(/(D|o[dDenpPsvw])(\s+|$))+", "", arguments.text)
    if operands.startswith("/"):
        raise arguments.unknown(operands.split(maxsplit=1)[0])
    parts = script.split_outside(operands, ",")
    layout = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', parts[0], re.DOTALL)
    if layout is None:
        raise KdumpError('.printf takes a format in double quotes: .printf "%p\\n", VALUE')
    values = [session.evaluate(value) for value in parts[1:]]
    reading = Reading(session.current.memory, functools.partial(name_at, session.seen)) if session.dumps else None
    if reading is None and "%" in layout[1]:
        raise KdumpError("no dump is open: .opendump FILE opens one")
    yield Partial(printed(layout[1], values, reading) if reading is not None else f"{layout[1]}")


# aliases --------------------------------------------------------------------------------------------------------------

_KINDS = ("x", "ma", "mu", "msa", "msu", "e", "f", "c")
_DEFINITION = re.compile(r"(?:/(?P<kind>[A-Za-z]+)\s+)?(?P<name>\S+)(?:\s+(?P<text>.*))?", re.DOTALL)
_LITERAL = re.compile(r"\$\{/v:(\S+)\}")


@command(
    "as",
    "aS",
    help="gives a text a name: as takes the rest of the line, aS up to a semicolon",
    usage="[/x | /ma | /mu | /msa | /msu | /e | /f | /c] NAME TEXT",
    own=True,
    options=(
        Option("/x", "the value of an expression"),
        Option("/ma /mu", "a string at an address, of 8 or 16 bits"),
        Option("/msa /msu", "an ANSI_STRING or UNICODE_STRING at an address"),
        Option("/e", "a variable of the environment"),
        Option("/f", "a file"),
        Option("/c", "what commands say"),
    ),
    examples=(Example("as nn !process 0 0", "nn is that command"), Example("aS /x five 2+3; .block { ? five }")),
)
def set_alias(session: Session, arguments: Arguments) -> Iterator[str]:
    definition = _DEFINITION.fullmatch(arguments.text)
    if definition is None or (definition["text"] is None and definition["kind"] is None):
        raise KdumpError(f"{arguments.name} takes a name and a text: {arguments.name} NAME TEXT (.help as)")
    kind, name, definition_text = definition["kind"], script.unmarked(definition["name"]), definition["text"] or ""
    literal = _LITERAL.fullmatch(name)
    name = literal[1] if literal else name
    if kind is not None and kind.lower() not in _KINDS:
        raise arguments.unknown(f"/{kind}")
    if re.match(r"a[lsSd]", name):
        raise KdumpError(f"{name}: the name of an alias does not begin with al, as, aS or ad")
    session.aliases.named[name] = _value(session, kind.lower() if kind else "", definition_text, arguments.name)
    yield from ()


def _value(session: Session, kind: str, text: str, name: str) -> str:
    """What an alias stands for. Texts of the dump can begin no commands."""
    if not kind:
        quoted = re.fullmatch(r'"([^"]*)"', text)
        return quoted[1] if quoted and name == "aS" else text
    if kind != "c":
        text = script.unmarked(text)
    if kind == "x":
        return f"0x{session.evaluate(text):x}"
    if kind == "e":
        if text.strip() not in os.environ:
            raise KdumpError(f"the environment has no variable {text.strip()}")
        return os.environ[text.strip()]
    if kind == "f":
        try:
            return read_bytes(os.path.expanduser(text.strip()), _LONGEST_LINE).decode("utf-8", "replace").rstrip("\r\n")
        except FileFailure as failure:
            raise KdumpError(f"{text.strip()}: the file {failure}") from failure
    if kind == "c":
        lines: list[str] = []
        for line in script.whole_lines(run(session, text.strip().strip('"'))):
            lines.append(line)
            if sum(map(len, lines)) > _LONGEST_LINE:
                raise KdumpError("these commands say more than 65,536 characters: an alias holds no more")
        return script.marked(" ".join(lines))
    address = session.evaluate(text)
    memory = session.current.memory
    string = read_string(kind, address, memory)
    if string is None:
        raise KdumpError(f"there is no such string at {address:x}: {why_no_string(memory, address)}")
    return script.marked(string)


@command(
    "ad",
    help="forgets an alias",
    usage="[/q] NAME | *",
    own=True,
    options=(Option("/q", "without a word if there is none"),),
    examples=(Example("ad *", "forgets all"),),
)
def delete_alias(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = arguments.text.split()
    quiet = operands[:1] == ["/q"]
    names = operands[1:] if quiet else operands
    if len(names) != 1 or (names[0].startswith("/") and not quiet):
        raise (
            KdumpError("ad takes the name of an alias, or * for all")
            if len(names) != 1
            else arguments.unknown(names[0])
        )
    literal = _LITERAL.fullmatch(names[0])
    name = literal[1] if literal else names[0]
    if name == "*":
        session.aliases.named.clear()
    elif session.aliases.named.pop(name, None) is None and not quiet:
        raise KdumpError(f"no alias is named {name}: al lists them")
    return ()


@command("al", help="lists the aliases")
def list_aliases(session: Session, arguments: Arguments) -> Iterator[str]:
    if not session.aliases.named:
        yield "No aliases"
        return
    width = max(5, *map(len, session.aliases.named))
    yield f"  {'Alias':<{width}}   Value"
    yield f"  {'-' * width}   {'-' * 5}"
    for name, value in sorted(session.aliases.named.items()):
        yield f"  {name:<{width}}   {script.unmarked(value)}"


# script files ---------------------------------------------------------------------------------------------------------

_ARGUMENT = re.compile(r'"([^"]*)"|(\S+)')


@command(
    *("$<", "$><", "$$<", "$$><"),
    help="commands of a file: line by line, with > as one block",
    arguments=(rest("FILE", "a file of commands; behind $< and $>< also one with a semicolon in its name", True),),
    examples=(Example("$$><case.txt"),),
)
def run_script(session: Session, arguments: Arguments) -> Iterator[str]:
    path = (arguments.word("FILE") or "").strip('"')
    if arguments.name.endswith("><"):
        yield from run(session, "\n".join(_lines_of(path)))
        return
    for line in _lines_of(path):
        yield f"{session.prompt}{line}"
        yield from run(session, line)
        if session.finished:
            return


@command(
    "$$>a<",
    help="commands of a file as one block, with arguments: ${$arg1} and so on",
    arguments=(rest("FILE", "a file of commands, and the arguments behind it; with spaces in double quotes", True),),
    examples=(Example("$$>a<case.txt ffff9189`527e9080", "${$arg1} is the address"),),
)
def run_script_with_arguments(session: Session, arguments: Arguments) -> Iterator[str]:
    operands = [quoted or plain for quoted, plain in _ARGUMENT.findall(arguments.word("FILE") or "")]
    values = {f"$arg{number}": value for number, value in enumerate(operands)}
    program = "\n".join(_lines_of(operands[0]))
    yield from run(session, script.interpreted(program, values))
