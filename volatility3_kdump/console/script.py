"""The grammar of command programs: where commands end, blocks, aliases, and what ends a loop. Runs nothing.

Commands are separated by ``;`` and by ends of lines, outside of double quotes and, behind tokens such as ``.if`` and
``.foreach``, outside of their parentheses and braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from volatility3_kdump.errors import KdumpError

#: Commands whose text is all of the rest of the line, ``;`` included.
_WHOLE_LINE = re.compile(r"\*|\.shell\b|\.hh\b|\$>?<|as\s+(?!/(e|ma|mu|msa|msu|x)\b)", re.IGNORECASE)
_PHRASE_ALIAS = re.compile(r"aS\b")
#: Commands whose text is a path, and what begins an element of one behind a ``;``.
_TAKES_PATH = re.compile(r"\.(sym|exe)path\+?\s", re.IGNORECASE)
_PATH_ELEMENT = re.compile(r"\s*((sym)?srv\*|cache\*|https?://|[A-Za-z]:[\\/]|[\\/~]|\.\.?[\\/])", re.IGNORECASE)
_SCRIPT = re.compile(r"\$\$(<|>a?<)")
_TOKEN = re.compile(r"\.(if|elsif|else|for|while|do|foreach|block|catch)(?![\w.])", re.IGNORECASE)
_FOLLOWS = re.compile(r"[\s;]*\.(elsif|else)(?![\w.])", re.IGNORECASE)
_GAP = re.compile(r"[\s;]*")
_BLANK = re.compile(r"\s*")
#: A condition may say whose expression it is: ``.if @@(@$t0->Level) { ... }``.
_EVALUATOR = re.compile(r"@@(?:masm|c\+\+)?(?=\()", re.IGNORECASE)
_TWO_COMMANDS = re.compile(r"j\s", re.IGNORECASE)
_LOOP = re.compile(r"z\s*\(", re.IGNORECASE)
#: What each token is followed by: an argument in parentheses, a block in braces.
_SHAPES = {"if": "({", "elsif": "({", "else": "{", "for": "({", "while": "({", "do": "{("}
_SHAPES |= {"foreach": "({", "block": "{", "catch": "{"}
_CLOSING = {"(": ")", "{": "}"}


# what leaves a block --------------------------------------------------------------------------------------------------


class Leaving(Exception):
    """A token that leaves a block or a loop; ``token`` is how it was written."""

    def __init__(self, token: str) -> None:
        self.token = token
        super().__init__(token)


class Break(Leaving):
    """``.break``: the loop ends."""


class Continue(Leaving):
    """``.continue``: the loop goes on with its next round."""


class Leave(Leaving):
    """``.leave``: a ``.catch`` block ends."""


class Again(Leaving):
    """``z``: the commands of this line once more."""


class StepsSpent(KdumpError):
    """A program has run as many commands as it may."""


# text -----------------------------------------------------------------------------------------------------------------


class Partial(str):
    """A piece of a line that the next text continues."""

    __slots__ = ()


#: No line is longer.
_LONGEST_PIECE = 1 << 16


def whole_lines(pieces: Iterable[str]) -> Iterator[str]:
    """Lines out of lines and pieces of lines."""
    begun: str | None = None
    for piece in pieces:
        if not isinstance(piece, Partial):
            yield piece if begun is None else begun + piece
            begun = None
            continue
        *done, left = ((begun or "") + piece).split("\n")
        yield from done
        begun = left or None
        if len(left) > _LONGEST_PIECE:
            yield left
            begun = None
    if begun is not None:
        yield begun


# where things end -----------------------------------------------------------------------------------------------------


def closing(text: str, start: int) -> int:
    """Behind the bracket that closes the one at ``start``. Raises :class:`KdumpError` where there is none."""
    opener, closer = text[start], _CLOSING[text[start]]
    depth = 0
    # Inside of an argument in quotes, \" begins and ends a text; inside of a text it is a part of it.
    quoted: str | None = None
    position = start
    while position < len(text):
        character = text[position]
        quote = '\\"' if text[position - 1 : position + 1] == '\\"' else character
        if character == '"' and quoted in (None, quote):
            quoted = quote if quoted is None else None
        elif quoted:
            pass
        elif opener == "(" and character == "{":
            position = closing(text, position)
            continue
        elif character == opener:
            depth += 1
        elif character == closer:
            depth -= 1
            if not depth:
                return position + 1
        position += 1
    raise KdumpError(f"the {opener} has no {closer}: {text[start : start + 40]!r}")


def part(text: str, start: int, opener: str) -> tuple[str, int] | None:
    """(what is in the brackets that follow, where they end); ``None`` where none follow."""
    gap = _GAP.match(text, start)
    begin = gap.end() if gap else start
    evaluator = _EVALUATOR.match(text, begin) if opener == "(" else None
    if evaluator is not None:
        end = closing(text, evaluator.end())
        return text[begin:end], end
    if text[begin : begin + 1] != opener:
        return None
    end = closing(text, begin)
    return text[begin + 1 : end - 1], end


def token_end(text: str, start: int) -> int | None:
    """Where the program token at ``start`` ends, with the blocks that belong to it; ``None`` where it is incomplete."""
    match = _TOKEN.match(text, start)
    if match is None:
        return None
    word, position = match[1].lower(), match.end()
    if word == "foreach":
        position = text.find("(", position)
        if position < 0:
            return None
    for opener in _SHAPES[word]:
        block = part(text, position, opener)
        if block is None:
            return None
        position = block[1]
    following = _FOLLOWS.match(text, position) if word in ("if", "elsif") else None
    if following is not None:
        return token_end(text, following.start(1) - 1) or position
    return position


def split(line: str) -> Iterator[str]:
    """The commands of a text, stripped; comments and empty commands are left out."""
    position = 0
    while position < len(line):
        begin = _gap_end(line, position)
        if _WHOLE_LINE.match(line, begin) and not _PHRASE_ALIAS.match(line, begin):
            end = line.find("\n", begin)
            end = len(line) if end < 0 else end
            if line[begin] != "*":
                yield line[begin:end].rstrip()
            position = end + 1
            continue
        end = token_end(line, begin) or 0
        if end:
            yield line[begin:end].strip()
            # What stands behind the brace is a command of its own.
            position = end
            continue
        end = _end_of_command(line, begin if begin < len(line) else position)
        takes_path = _TAKES_PATH.match(line, begin)
        while takes_path and end < len(line) and _PATH_ELEMENT.match(line, end + 1):
            end = _end_of_command(line, end + 1)
        if _TWO_COMMANDS.match(line, begin) and end < len(line):
            end = _end_of_command(line, end + 1)
        command = line[begin:end].strip()
        if command and not (command.startswith("$$") and not _SCRIPT.match(command)):
            yield command
        position = end + 1


def _gap_end(text: str, start: int) -> int:
    gap = _BLANK.match(text, start)
    return gap.end() if gap else start


def _end_of_command(line: str, start: int) -> int:
    quoted = False
    # Single quotes hold commands together behind j alone; elsewhere they are apostrophes.
    grouped = bool(_TWO_COMMANDS.match(line, start)) or line[start - 1 : start] == ";"
    single = False
    for index in range(start, len(line)):
        character = line[index]
        # \" inside of quotes, as in arguments of !list, is a part of them, if others follow that close them.
        if character == '"' and quoted and line[index - 1] == "\\" and '"' in line[index + 1 :]:
            continue
        if character == '"' and not single:
            quoted = not quoted
        elif character == "'" and grouped and not quoted and (single or line.count("'", index + 1)):
            single = not single
        elif character == "\n" or (character == ";" and not quoted and not single):
            return index
    return len(line)


def split_outside(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand outside of quotes and brackets, stripped."""
    parts, begin, depth, quoted = [], 0, 0, False
    for index, character in enumerate(text):
        if character == '"' and text[index - 1 : index] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif character in "({[":
            depth += 1
        elif character in ")}]":
            depth -= 1
        elif character == separator and depth <= 0:
            parts.append(text[begin:index].strip())
            begin = index + 1
    return [*parts, text[begin:].strip()]


# aliases --------------------------------------------------------------------------------------------------------------

_INTERPRETED = re.compile(r"\$\{(?:/([dfnv]):)?([^{}\s]+)\}")
_OF_ALIASES = re.compile(r"\s*(as|aS|ad|al)\b")
_FIXED = re.compile(r"\$u([0-9])")
_SPACED = re.compile(r"(?<!\S)\S+(?!\S)")
#: No more text comes out of a line by its aliases.
_LONGEST_LINE = 1 << 16
#: What would make commands of a text that comes from a dump.
_ACTIVE = re.compile(r"[;\"'{}\x00-\x1f\x7f\ue000]")
#: Stands before a text from the dump as long as commands go from hand to hand; what begins with it is no command.
MARK = "\ue000"


def inert(text: str) -> str:
    """A text from the dump as part of a command: it can end no command."""
    return _ACTIVE.sub("_", text)


def marked(text: str) -> str:
    """A text from the dump as part of a command: it can end no command and begin none."""
    return MARK + inert(text)


def unmarked(text: str) -> str:
    """A text of which no part will run as a command."""
    return text.replace(MARK, "")


class Aliases:
    """Names for texts, as ``as`` gives them."""

    def __init__(self) -> None:
        self.named: dict[str, str] = {}
        #: ``$u0`` to ``$u9``, by their digit: they are replaced first, wherever they stand.
        self.fixed: dict[str, str] = {}

    def expand(self, text: str) -> str:
        """A text with its aliases replaced: names that stand alone, ``${name}`` wherever it stands.

        Blocks in braces are left as they are: their aliases are replaced when they begin.
        """
        if _TOKEN.search(text) is None:
            return self._replaced(text)
        parts, position = [], 0
        for match in re.finditer(r"(?<!\$)\{", text):
            if match.start() >= position:
                end = closing(text, match.start())
                parts += [self._replaced(text[position : match.start()]), text[match.start() : end]]
                position = end
        return "".join([*parts, self._replaced(text[position:])])

    def _replaced(self, line: str) -> str:
        before = len(line)
        if self.fixed and "$u" in line:
            line = _FIXED.sub(lambda match: self.fixed.get(match[1], match[0]), line)
        if self.named and not _OF_ALIASES.match(line):
            line = _SPACED.sub(lambda match: self.named.get(match[0], match[0]), line)
        if "${" in line:
            line = interpreted(line, self.named)
        if len(line) > max(before, _LONGEST_LINE):
            raise KdumpError("the aliases make more than 65,536 characters of this line")
        return line


def interpreted(text: str, named: dict[str, str]) -> str:
    """A text with ``${name}``, ``${/d:name}``, ``${/f:name}`` and ``${/n:name}`` replaced."""

    def value(match: re.Match[str]) -> str:
        how, name = match[1], match[2]
        defined = name in named
        if how == "d":
            return "1" if defined else "0"
        if how == "f":
            return named.get(name, "")
        if how == "v" or not defined:
            return match[0]
        return name if how == "n" else named[name]

    return _INTERPRETED.sub(value, text)


def with_token(body: str, variable: str, token: str) -> str:
    """The commands of ``.foreach`` for one token: its name stands alone, or in ``${}``."""
    body = interpreted(body, {variable: token}) if "${" in body else body
    return _SPACED.sub(lambda match: token if match[0] == variable else match[0], body)
